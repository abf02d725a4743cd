"""R2: trainings killed at a random moment, or at one of their operations on files, and begun again
by the same command until they end.
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
from tests.kills import counted, killed
from tests.trainings import courses
from tests.warm import COURSE, FINETUNE, Warm

KILLS = 3  # before a run is left to end


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """What is killed is a run of each method, in turn."""
    process = Warm(shared / "warm", os.getpid(), COURSE)
    runs = courses(process, shared)
    seconds, operations = [], []
    for course in runs:
        began = time.monotonic()
        artifacts = shutil.copytree(course.before, shared / f"timed-{len(seconds)}")
        done = course.start(process, artifacts, counted(FINETUNE))
        assert done.wait() == 0, done.said()
        seconds.append(time.monotonic() - began)
        operations.append(int(done.printed().split()[-1]))

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        artifacts, which = folder / "artifacts", seed % len(runs)
        course = runs[which]
        shutil.copytree(course.before, artifacts)
        kills = 0
        for _ in range(KILLS):
            if chance.random() < 0.5:
                running = course.start(process, artifacts)
                if running.is_running(seconds[which] * chance.uniform(0.1, 1)):
                    running.kill_all() if chance.random() < 0.5 else running.kill()
            else:
                code = killed(FINETUNE, chance.randint(1, operations[which]))
                running = course.start(process, artifacts, code)
            status = running.wait()
            assert status in (0, -signal.SIGKILL), running.said()
            kills += status == -signal.SIGKILL
        running = course.start(process, artifacts)
        assert running.wait() == 0, running.said()
        course.assert_ended(artifacts)
        return Outcome(kills)

    yield attempt


CAMPAIGN = Campaign(
    code="R2",
    promise="a training run killed at any moment resumes unattended",
    counted="kills",
    aim=200,
    prepare=prepare,
)
