"""Trainings of tiny models by the command, in processes of their own, to be stopped and resumed."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.tiny import tiny_llama, tiny_preset, write_pairs, write_variant
from tests.training import assert_same_run, trained
from tests.warm import FINETUNE, Started, Warm

STEPS = 6  # of a tiny preset
LIGHT = 'quantization = "none"\nprecision = "fp32"'


@dataclass(frozen=True)
class Course:
    """A run that can be made again and again, and how it ends where nobody stops it."""

    before: Path  # artefacts that hold all it needs
    arguments: tuple[str, ...]
    artifacts: Path  # those with the uninterrupted run
    whole: Path  # that run

    def start(self, process: Warm, artifacts: Path, code: str = FINETUNE) -> Started:
        """The same command every time, whatever is there of the run."""
        arguments = ("train", *self.arguments, "--resume")
        return process.start(code, *arguments, ARTIFACTS=str(artifacts))

    def assert_ended(self, artifacts: Path) -> None:
        """The run stands in `artifacts`, bit by bit the uninterrupted one, and nothing else."""
        assert_same_run(artifacts / self.whole.relative_to(self.artifacts), self.whole)
        assert names(artifacts) == names(self.artifacts)


def names(folder: Path) -> list[str]:
    """All that lies there, by its path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def courses(process: Warm, shared: Path) -> list[Course]:
    """A supervised run with dropout, and a preference run that goes on from another one; each ended
    once.
    """
    shared.mkdir(exist_ok=True)
    before = shared / "artifacts"
    sft, dpo = shared / "sft.toml", shared / "dpo.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(before))
        write_variant()
        write_pairs()
        model = tiny_llama(shared / "model")
        tiny_preset(sft, model, base=LIGHT)
        made = {"top": 'method = "dpo"', "lora": "dropout = 0.0", "dpo": "beta = 0.3"}
        tiny_preset(dpo, model, base=LIGHT, **made)
        trained(sft, seed=1)  # the parent
    found = []
    for arguments in (("tiny", str(sft)), ("pairs", str(dpo), "--from", "sft/tiny")):
        artifacts = shutil.copytree(before, shared / f"ended-{arguments[0]}")
        course = Course(before, arguments, artifacts, Path())
        done = course.start(process, artifacts)
        assert done.wait() == 0, done.said()
        found.append(replace(course, whole=Path(done.printed().strip())))
    return found
