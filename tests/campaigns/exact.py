"""R3: trainings stopped at a random step, in several ways, and what they end in."""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.artifacts import file_digest
from tests.campaign import Attempt, Campaign, Outcome
from tests.trainings import STEPS, courses
from tests.warm import COURSE, FINETUNE, Warm

# How it is stopped, and the status it ends with: a kill, a shutdown, Ctrl-C.
STOPS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGINT": 130}
STOPPED = f"""
import os, signal
from finetune.progress import Display
stepped = Display.stepped

def stop(self, step, steps):
    stepped(self, step, steps)
    if step.step == {{step}}:
        os.kill(os.getpid(), signal.{{name}})

Display.stepped = stop
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
{FINETUNE}
"""
ADAPTER = Path("adapter") / "adapter_model.safetensors"


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """What is stopped is a run of each method, in turn."""
    process = Warm(shared / "warm", os.getpid(), COURSE)
    runs = courses(process, shared)

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        course = runs[seed % len(runs)]
        artifacts = shutil.copytree(course.before, folder / "artifacts")
        # The second time in what was resumed, at a step that it has yet to make.
        steps = sorted(chance.sample(range(1, STEPS + 1), chance.choice((1, 2))))
        for step in steps:
            name = chance.choice(list(STOPS))
            stopped = course.start(process, artifacts, STOPPED.format(step=step, name=name))
            assert stopped.wait() == STOPS[name], f"{name} at step {step}: {stopped.said()}"
        ended = course.start(process, artifacts)
        assert ended.wait() == 0, ended.said()
        course.assert_ended(artifacts)
        run = artifacts / course.whole.relative_to(course.artifacts)
        for each in (ADAPTER, *(path.name for path in course.whole.glob("*.parquet"))):
            assert file_digest(run / each) == file_digest(course.whole / each), each
        return Outcome(len(steps))

    yield attempt


CAMPAIGN = Campaign(
    code="R3",
    promise="a resumed run ends in the adapter that an uninterrupted one ends in, bit by bit",
    counted="stops",
    aim=50,
    prepare=prepare,
)
