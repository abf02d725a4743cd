"""R7: a disk that is full, fails or denies at any operation of any command that writes."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.builds import assert_same_files, files_of, halves
from tests.campaign import Attempt, Campaign, Outcome
from tests.faults import CAUSES, Fault, failing, failing_warm, met
from tests.reports_fixture import PROMPTS, World, write_artifacts
from tests.runs import tiny_run
from tests.tiny import tiny_llama, tiny_preset, write_variant
from tests.trainings import LIGHT, courses, names
from tests.warm import ALL, DATASET_BUILDER, EVALS, FINETUNE, REPORTS, Started, Warm

SUITE = """
title = "a handful"
limits = [3, 8]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 9
scorers = ["violation", "words", "relevance_controlled", "human_likelihood"]
relevance_others = 1
"""
SHARE_READ = 0.25  # of the faults
EXPORTED = ("answers.csv", "answers.parquet", "differences.md")


@dataclass(frozen=True)
class Job:
    """A command that writes, and what stood before it."""

    code: str
    arguments: tuple[str, ...]  # OUT in them is the folder of artefacts
    before: Path
    operations: int = 0  # that write, where nothing fails
    readings: int = 0  # and that read
    ended: tuple[str, ...] = ()  # the names that are there then

    def start(self, process: Warm, artifacts: Path, fault: Fault) -> Started:
        """The command on such a disk."""
        arguments = [each.replace("OUT", str(artifacts)) for each in self.arguments]
        code = failing(self.code, artifacts, fault)
        return process.start(code, *arguments, ARTIFACTS=str(artifacts))


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Every command has something of its kind to lose."""
    process = failing_warm(shared / "warm", ALL)
    jobs = []
    for number, job in enumerate(_jobs(process, shared)):
        artifacts = shutil.copytree(job.before, shared / f"ended-{number}")
        done = job.start(process, artifacts, Fault())
        assert done.wait() == 0, done.said()
        ended = tuple(names(artifacts))
        operations = met(done).operations
        again = shutil.copytree(job.before, shared / f"read-{number}")
        done = job.start(process, again, Fault(reads=True))
        assert done.wait() == 0, done.said()
        readings = met(done).operations
        jobs.append(replace(job, operations=operations, readings=readings, ended=ended))

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        job = jobs[seed % len(jobs)]
        artifacts = shutil.copytree(job.before, folder / "artifacts")
        before = files_of(artifacts)
        reads = chance.random() < SHARE_READ
        at = chance.randint(1, job.readings if reads else job.operations)
        cause = chance.choice(CAUSES[1:] if reads else CAUSES)
        fault = Fault(at, cause, chance.random() < 0.5, reads)
        failed = job.start(process, artifacts, fault)
        status = failed.wait()
        found = met(failed)
        note = f"{' '.join(job.arguments[:2])}: {os.strerror(found.cause)} at {found.where}"
        if not status:  # whoever met it tried again, and all is there
            assert names(artifacts) == list(job.ended), note
        else:
            assert status == 2, f"{note}, status {status}: {failed.said()}"
            cause = os.strerror(found.cause)
            if (
                reads
                and not fault.lasts
                and ".safetensors" in found.where
                and cause not in failed.said()
            ):
                cause = "No such file"  # safetensors says so of each that it cannot open, just once
            _assert_told(failed.said(), artifacts, cause, note)
            left = files_of(artifacts)
            assert_same_files({name: left.get(name) for name in before}, before)
        again = job.start(process, artifacts, Fault())
        assert again.wait() == 0, f"{note}, and then: {again.said()}"
        assert names(artifacts) == list(job.ended), note
        return Outcome(int(found.cause != 0), note="" if status else f"ended well: {note}")

    yield attempt


def _assert_told(said: str, artifacts: Path, cause: str, note: str) -> None:
    assert "Traceback" not in said, f"{note}: {said}"
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert str(artifacts) in error, f"{note}: {error}"
    assert cause in error, f"{note}: {error}"
    assert "\nhint: " in said, f"{note}: {said}"


def _jobs(process: Warm, shared: Path) -> list[Job]:
    one, two = halves(shared)
    build = ("build", "full", "--held-out", "0.3", "--source")
    built = Job(DATASET_BUILDER, (*build, str(one)), shared / "empty")
    built.before.mkdir()
    before = shared / "built"
    assert built.start(process, before, Fault()).wait() == 0
    trained = courses(process, shared / "trainings")
    evaluated, compared = _evaluated(shared / "evaluated"), _compared(shared / "compared")
    comparing = ("compare", "full", "concise_best", "--name", "mine")
    first = Job(REPORTS, comparing, compared).start(process, compared, Fault())
    assert first.wait() == 0, first.said()
    exported = shutil.copytree(compared, shared / "exported")
    for name in EXPORTED:
        (exported / name).write_text("what was exported before")
    return [
        Job(DATASET_BUILDER, (*build, str(two)), before),
        *(Job(FINETUNE, ("train", *each.arguments, "--resume"), each.before) for each in trained),
        evaluated,
        Job(REPORTS, comparing, compared),
        *(
            Job(
                REPORTS,
                ("export", "mine", f"OUT/{name}", f"--table={name.partition('.')[0]}"),
                exported,
            )
            for name in EXPORTED
        ),
    ]


def _evaluated(folder: Path) -> Job:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        tiny_run(tiny_preset(folder / "tiny.toml", tiny_llama(folder / "model"), base=LIGHT))
    suite = folder / "small.toml"
    suite.write_text(SUITE)
    return Job(EVALS, ("eval", "tiny", f"--suite={suite}"), folder / "artifacts")


def _compared(folder: Path) -> Path:
    write_artifacts(folder, World(PROMPTS, (20, 50, None), seeds=2))
    return folder


CAMPAIGN = Campaign(
    code="R7",
    promise="a disk that is full, fails or denies loses nothing; path and cause are named",
    counted="faults",
    aim=200,
    prepare=prepare,
)
