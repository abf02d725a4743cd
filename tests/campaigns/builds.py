"""R1: builds killed at a random moment, or at one of their operations on files."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataset_builder.manifest import find_variant
from tests.builds import assert_same_files, assert_whole, build, files_of, halves
from tests.campaign import Attempt, Campaign, Outcome
from tests.kills import counted, killed
from tests.warm import DATA, DATASET_BUILDER, Warm

POINTER = "variants/full.json"
KILLS = 3  # before a build is left to end


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A build of one source stands; what is killed is the build of another one."""
    process = Warm(shared / "warm", os.getpid(), DATA)
    one, two = halves(shared)
    before, wanted = shared / "before", shared / "wanted"
    assert build(process, before, one).wait() == 0
    shutil.copytree(before, wanted)
    done = build(process, wanted, two, counted(DATASET_BUILDER))
    assert done.wait() == 0
    operations = int(done.printed().split()[-1])
    began = time.monotonic()
    assert build(process, shared / "timed", two).wait() == 0
    seconds = time.monotonic() - began
    was, will_be = files_of(before), files_of(wanted)

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        artifacts = folder / "artifacts"
        shutil.copytree(before, artifacts)
        kills = 0
        for at in range(KILLS):
            if (seed + at) % 2:
                running = build(process, artifacts, two)
                if running.is_running(seconds * chance.uniform(0, 1.05)):
                    running.kill_all() if chance.random() < 0.5 else running.kill()
            else:
                code = killed(DATASET_BUILDER, chance.randint(1, operations))
                running = build(process, artifacts, two, code)
            status = running.wait()
            assert status in (0, -signal.SIGKILL), running.said()
            kills += status != 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ARTIFACTS", str(artifacts))
                assert_whole(*find_variant("full"))
            left = files_of(artifacts)
            assert all(left.get(name) == was[name] for name in was if name != POINTER)
            assert left[POINTER] in (was[POINTER], will_be[POINTER])
        assert build(process, artifacts, two).wait() == 0
        assert_same_files(files_of(artifacts), will_be)
        return Outcome(kills)

    yield attempt


CAMPAIGN = Campaign(
    code="R1",
    promise="a build killed at any moment leaves the old one whole, and the next sweeps up",
    counted="kills",
    aim=1000,
    prepare=prepare,
)
