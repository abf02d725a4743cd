"""Trainings of tiny models for tests: plan, train, interrupt."""

import os
import signal
from pathlib import Path

import torch

from dataset_builder.fit import Fit
from finetune import course
from finetune.plan import Plan, find_target, make_plan
from finetune.previews import Preview
from finetune.progress import Step, read_steps
from finetune.rows import Budget
from finetune.run import Segment, load_run
from tests.tiny import adapter_tensors


class Stopped(Exception):
    """Stands in for a kill."""


class Memory:
    """A watcher that remembers what it was told, and stops the run where it is told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.lines: list[str] = []
        self.steps: list[Step] = []
        self.previews: list[list[Preview]] = []
        self.fit: Fit | None = None

    def say(self, line: str) -> None:
        self.lines.append(line)

    def fitted(self, fit: Fit, budget: Budget) -> None:
        assert not self.steps, "the fit is told before the first step"
        self.fit = fit

    def stepped(self, step: Step, steps: int) -> None:
        self.steps.append(step)
        if step.step == self.stop_at:
            raise Stopped

    def previewed(self, rows: list[Preview]) -> None:
        self.previews.append(rows)


class Killed(Memory):
    """Kills its process at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def stepped(self, step: Step, steps: int) -> None:
        if step.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def planned(preset: Path, variant: str = "tiny", seed: int = 0, start: str = "") -> Plan:
    """The plan of a run under the preset file."""
    return make_plan(find_target(variant, str(preset), seed, start))


def trained(preset: Path, variant: str = "tiny", seed: int = 0, start: str = "", **options) -> Path:
    """The finished run's folder."""
    return course.train(planned(preset, variant, seed, start), Memory(), **options)


def segment(**changes) -> Segment:
    """A stretch of a run on a CPU."""
    values = {
        "after": 0,
        "until": None,
        "device": {"type": "cpu"},
        "versions": {"torch": "2"},
        "precision": "float32",
        "is_fast": False,
        "is_checkpointed": False,
        "processes": 1,
    }
    return Segment(**values | changes)


def assert_same_run(found: Path, wanted: Path) -> None:
    """Two finished runs ended in the same bits, step by step."""
    ours, theirs = adapter_tensors(found), adapter_tensors(wanted)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert (found / "previews.jsonl").read_bytes() == (wanted / "previews.jsonl").read_bytes()
    for ours, theirs in zip(read_steps(found), read_steps(wanted), strict=True):
        assert (ours.step, ours.loss, ours.grad_norm) == (
            theirs.step,
            theirs.loss,
            theirs.grad_norm,
        )
        assert (ours.learning_rate, ours.terms) == (theirs.learning_rate, theirs.terms)
    ours, theirs = load_run(found), load_run(wanted)
    assert ours.validation_loss == theirs.validation_loss
    assert ours.notes.get("validation") == theirs.notes.get("validation")
