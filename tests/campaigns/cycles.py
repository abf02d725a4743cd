"""R9: two lines of work, each a build, a training and an evaluation, interleaved at random; then a
comparison. Variants and runs of the same names are made from two sources and two presets.
"""

import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from dataset_builder.artifacts import read_json
from dataset_builder.manifest import Pointer
from evals.tables import Comparison, Evaluation
from finetune.run import load_run
from tests.builds import build, halves
from tests.campaign import Attempt, Campaign, Outcome
from tests.tiny import QUESTIONS, tiny_llama, tiny_preset
from tests.trainings import LIGHT
from tests.warm import ALL, EVALS, FINETUNE, REPORTS, Warm

SUITE = """
title = "asked of all"
held_out = false
prompt_files = ["{prompts}"]
limits = [5]
tokens_per_word = 2
spare_tokens = 2
unlimited_tokens = 12
scorers = ["violation", "words"]
"""


@dataclass(frozen=True)
class Known:
    """What comes of a source and a preset where nothing else is there."""

    variant: str  # the build's name
    adapter: str  # sha256
    answers: list[Any]


class Line:
    """One line of work in a folder of artefacts."""

    def __init__(self, process: Warm, artifacts: Path, suite: Path) -> None:
        self.process, self.artifacts, self.suite = process, artifacts, suite

    def build(self, source: Path) -> str:
        """The name of the build that is current then."""
        built = build(self.process, self.artifacts, source)
        assert built.wait() == 0, built.said()
        return read_json(self.artifacts / "variants" / "full.json", Pointer).build

    def train(self, preset: Path) -> Path:
        """The run of the current build."""
        return Path(self.command(FINETUNE, "train", "full", preset))

    def evaluate(self, run: Path) -> Path:
        """The evaluation of `run`."""
        printed = self.command(EVALS, "eval", run, f"--suite={self.suite}")
        return Path(printed.splitlines()[0])

    def compare(self, one: Path, other: Path) -> Path:
        """Their comparison's report."""
        arms = [f"{run.parent.name}/{run.name}" for run in (one, other)]
        return Path(self.command(REPORTS, "compare", *arms, "--name=mine"))

    def command(self, code: str, *arguments: object) -> str:
        """What it printed."""
        done = self.process.start(code, *arguments, ARTIFACTS=str(self.artifacts))
        assert done.wait() == 0, done.said()
        return done.printed().strip()


def answers_of(evaluation: Path) -> list[Any]:
    """What was asked and answered there."""
    columns = ["prompt_id", "limit", "answer", "tokens"]
    return pq.read_table(evaluation / "generations.parquet", columns=columns).to_pylist()


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """What is to come out is found for each source and preset alone."""
    process = Warm(shared / "warm", os.getpid(), ALL)
    sources, model = halves(shared), tiny_llama(shared / "model")
    presets = []
    for name, rate in (("one", "1e-2"), ("two", "3e-2")):
        (shared / name).mkdir()
        named = {"top": "length = 512", "training": f"learning_rate = {rate}"}
        presets.append(tiny_preset(shared / name / "tiny.toml", model, base=LIGHT, **named))
    suite, prompts = shared / "all.toml", shared / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps(each)}\n" for each in QUESTIONS[:4]))
    suite.write_text(SUITE.format(prompts=prompts))
    known = {}
    for source, preset in itertools.product(sources, presets):
        alone = Line(process, shared / "alone", suite)
        variant, run = alone.build(source), alone.train(preset)
        answers = answers_of(alone.evaluate(run))
        known[source, preset] = Known(variant, load_run(run).adapter_sha256, answers)
        shutil.rmtree(alone.artifacts)
    assert len({each.adapter for each in known.values()}) == len(known)
    assert len({msgspec.json.encode(each.answers) for each in known.values()}) > 1

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        line = Line(process, folder / "artifacts", suite)
        current, runs = None, {}
        # The steps of two lines, each in its order; the first is a build in any case.
        steps = ["build", "train", "evaluate"]
        order = sorted([0, 0, 0, 1, 1, 1], key=lambda _: chance.random())
        at, made = [0, 0], [None, None]
        for which in order:
            step = steps[at[which]]
            at[which] += 1
            if step == "build":
                current = chance.choice(sources)
                assert line.build(current) == known[current, presets[0]].variant
            elif step == "train":
                made[which] = key = current, chance.choice(presets)
                runs[key] = line.train(key[1])
                found = load_run(runs[key])
                assert found.adapter_sha256 == known[key].adapter
                assert known[key].variant == f"full-{found.manifest.digest[:12]}"
            else:
                evaluation = line.evaluate(runs[made[which]])
                assert answers_of(evaluation) == known[made[which]].answers
                stored = read_json(evaluation / "eval.json", Evaluation)
                assert stored.adapter_sha256 == known[made[which]].adapter
        if made[0] != made[1]:
            report = line.compare(runs[made[0]], runs[made[1]])
            arms = read_json(report.with_name("comparison.json"), Comparison).arms
            assert [arm.runs for arm in arms[:2]] == [[str(runs[key])] for key in made]
        return Outcome(2)

    yield attempt


CAMPAIGN = Campaign(
    code="R9",
    promise="never the wrong variant, never another model's answers",
    counted="cycles",
    aim=500,
    prepare=prepare,
)
