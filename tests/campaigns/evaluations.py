"""R10: evaluations killed at a random moment, or at one of their operations on files, and begun
again by the same command until they end.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign import Attempt, Campaign, Outcome
from tests.evaluations import not_evaluated, runs_in, tables
from tests.kills import counted, killed
from tests.warm import ALL, EVALS, Started, Warm

KILLS = 3  # before an evaluation is left to end


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A run answers a suite by drawing, is scored by its base, and the base answers too."""
    process = Warm(shared / "warm", os.getpid(), ALL)
    before, suite = not_evaluated(shared)

    def start(artifacts: Path, code: str = EVALS) -> Started:
        arguments = ("eval", *runs_in(artifacts), f"--suite={suite}", "--batch=2")
        return process.start(code, *arguments, ARTIFACTS=str(artifacts))

    artifacts = shutil.copytree(before, shared / "alone")
    began = time.monotonic()
    alone = start(artifacts, counted(EVALS))
    assert alone.wait() == 0, alone.said()
    seconds = time.monotonic() - began
    operations = int(alone.printed().split()[-1])
    wanted = tables(artifacts)

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        artifacts = shutil.copytree(before, folder / "artifacts")
        kills = 0
        for _ in range(KILLS):
            if chance.random() < 0.5:
                running = start(artifacts)
                if running.is_running(seconds * chance.uniform(0.1, 1)):
                    running.kill_all() if chance.random() < 0.5 else running.kill()
            else:
                running = start(artifacts, killed(EVALS, chance.randint(1, operations)))
            status = running.wait()
            assert status in (0, -signal.SIGKILL), running.said()
            kills += status == -signal.SIGKILL
        ended = start(artifacts)
        assert ended.wait() == 0, ended.said()
        assert tables(artifacts) == wanted
        return Outcome(kills)

    yield attempt


CAMPAIGN = Campaign(
    code="R10",
    promise="a killed evaluation resumes: no answer is lost or doubled, the numbers are the same",
    counted="kills",
    aim=100,
    prepare=prepare,
)
