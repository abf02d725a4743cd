"""Trainings of tiny models by the command, in processes of their own, to be stopped and resumed."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.tiny import tiny_llama, tiny_preset, write_pairs, write_prompts, write_variant
from tests.training import assert_same_run, trained
from tests.warm import FINETUNE, Started, Warm

STEPS = 6  # of a tiny preset
LIGHT = 'quantization = "none"\nprecision = "fp32"'
# What a tiny preset of each method has of its own.
METHODS: dict[str, dict[str, str]] = {
    "sft": {},
    "dpo": {"top": 'method = "dpo"', "lora": "dropout = 0.0", "dpo": "beta = 0.3"},
    "grpo": {
        "top": 'method = "grpo"',
        "lora": "dropout = 0.0",
        "grpo": "tokens = 12\ngroup = 4\nbeta = 0.05\nclip = 0.01\nrollout_steps = 2",
        "training": "learning_rate = 5e-3",
    },
    "reward": {
        "top": 'method = "reward"',
        "lora": "dropout = 0.1",
        "reward": "center_rewards_coefficient = 0.02",
    },
}


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
    """A run of each method, each ended once: a supervised one with dropout, a preference run and
    one of GRPO that go on from another run, and a reward model.
    """
    shared.mkdir(exist_ok=True)
    before = shared / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(before))
        write_variant()
        write_pairs()
        write_prompts()
        model = tiny_llama(shared / "model")
        for name, options in METHODS.items():
            tiny_preset(shared / f"{name}.toml", model, base=LIGHT, **options)
        trained(shared / "sft.toml", seed=1)  # the parent
    found = []
    for name, variant, *others in (
        ("sft", "tiny"),
        ("dpo", "pairs", "--from", "sft/tiny"),
        ("grpo", "prompts", "--from", "sft/tiny"),
        ("reward", "pairs"),
    ):
        artifacts = shutil.copytree(before, shared / f"ended-{name}")
        arguments = (variant, str(shared / f"{name}.toml"), *others)
        course = Course(before, arguments, artifacts, Path())
        done = course.start(process, artifacts)
        assert done.wait() == 0, done.said()
        found.append(replace(course, whole=Path(done.printed().strip())))
    return found
