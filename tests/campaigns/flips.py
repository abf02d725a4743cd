"""R8, second half: one bit of one artefact is another, and the artefact is loaded."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from dataset_builder.manifest import Manifest, Pointer, Sources
from dataset_builder.tables import EXAMPLES, HELDOUT, LEDGER, MESSAGES, REJECTS, THREADS, read_table
from evals.likelihood import LIKELIHOOD_TABLE
from evals.tables import COMPARISON, GENERATIONS, SCORES, Comparison, Evaluation
from finetune import course
from finetune.base import BaseRecord
from finetune.checkpoints import Guard, newest
from finetune.run import Run, load_run, refuse_changed_adapter
from tests.builds import build, halves
from tests.campaign import Attempt, Campaign, Outcome
from tests.evaluations import runs_in
from tests.tiny import example, tiny_llama, tiny_preset, write_variant
from tests.training import Memory, Stopped, planned, trained
from tests.trainings import LIGHT
from tests.warm import ALL, EVALS, REPORTS, Warm

TABLES = {
    "train": EXAMPLES,
    "validation": EXAMPLES,
    "ledger": LEDGER,
    "messages": MESSAGES,
    "threads": THREADS,
    "heldout": HELDOUT,
    "rejects": REJECTS,
    "generations": GENERATIONS,
    "scores": SCORES,
    "comparison": COMPARISON,
    "likelihoods": LIKELIHOOD_TABLE,
}
RECORDS = {
    "manifest": Manifest,
    "full": Pointer,
    "tiny": Pointer,
    "source": Sources,
    "run": Run,
    "fit": Fit,
    "eval": Evaluation,
    "base": BaseRecord,
    "comparison": Comparison,
    "guard": Guard,
}
CHECKPOINT = {"complete", "adapter_model", "optimizer", "scheduler", "trainer_state", "rng_state"}
FLIPS = 50  # an attempt


def loader(path: Path) -> Callable[[], Any] | None:
    """What reads the artefact at `path`; None of what a person reads, or what logs the way."""
    if path.parents[1].name == "checkpoints":
        return lambda: whole_checkpoint(path.parents[2])
    if path.parent.name == "adapter" and path.name != "README.md":
        run = path.parents[1]
        return lambda: refuse_changed_adapter(run, load_run(run))
    if path.suffix == ".parquet" and path.stem in TABLES:
        return lambda: read_table(path, TABLES[path.stem])
    if path.suffix == ".json" and path.stem in RECORDS:
        return lambda: read_json(path, RECORDS[path.stem])
    return None


def whole_checkpoint(folder: Path) -> Any:
    """The newest checkpoint in `folder`. Raises InputError where one is passed over."""
    said: list[str] = []
    found = newest(folder, said.append)
    if said:
        raise InputError(said[0])
    return found


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Everything from a build to a comparison."""
    process = Warm(shared / "warm", os.getpid(), ALL)
    artifacts = shared / "artifacts"
    assert build(process, artifacts, halves(shared)[0]).wait() == 0
    suite = shared / "small.toml"
    suite.write_text(
        'title = "a handful"\nlimits = [3]\nscorers = ["violation", "words", "human_likelihood"]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(artifacts))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(8)])
        model = tiny_llama(shared / "model")
        for name, rate in (("one", "1e-2"), ("two", "1e-3")):
            training = f"learning_rate = {rate}"
            preset = tiny_preset(shared / f"{name}.toml", model, base=LIGHT, training=training)
            trained(preset)
        with pytest.raises(Stopped):
            course.train(planned(preset, seed=1), Memory(stop_at=5))
        one, two = map(str, runs_in(artifacts))
        for code, *arguments in (
            (EVALS, "eval", one, two, f"--suite={suite}"),
            (REPORTS, "compare", one, two),
        ):
            done = process.start(code, *arguments)
            assert done.wait() == 0, done.said()
    files = [path for path in sorted(artifacts.rglob("*")) if path.is_file() and loader(path)]
    assert {path.stem for path in files} >= {*TABLES, *RECORDS, *CHECKPOINT, "adapter_config"}

    def attempt(seed: int, folder: Path) -> Outcome:
        chance = random.Random(seed)
        unnoticed = []
        for _ in range(FLIPS):
            path = chance.choice(files)
            load, whole = loader(path), path.read_bytes()
            assert load
            wanted = load()
            flipped = bytearray(whole)
            at, bit = chance.randrange(len(whole)), chance.randrange(8)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = load()
                if found != wanted:
                    unnoticed.append(f"{path.relative_to(artifacts)} bit {bit} of byte {at}")
            except InputError:
                pass
            finally:
                path.write_bytes(whole)
        return Outcome(FLIPS, len(unnoticed), "; ".join(unnoticed))

    yield attempt


CAMPAIGN = Campaign(
    code="R8",
    promise="a flipped bit in any artefact is noticed when it is loaded, or changes nothing",
    counted="flips",
    aim=1000,
    prepare=prepare,
)
