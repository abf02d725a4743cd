"""R11: builds, evaluations and readers side by side in one folder of artefacts."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pyarrow.parquet as pq
import pytest

from dataset_builder.manifest import find_variant
from tests.builds import assert_whole, halves
from tests.campaign import Attempt, Campaign, Outcome
from tests.evaluations import SUITE
from tests.runs import tiny_run
from tests.tiny import example, tiny_llama, tiny_preset, write_variant
from tests.trainings import LIGHT
from tests.warm import ALL, DATASET_BUILDER, EVALS, REPORTS, Warm

BUILDERS, EVALUATIONS, READERS = 8, 4, 8
SECONDS = 600  # a round


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Two arms that are evaluated and compared, to be read while more is made."""
    suites = Lock()
    process = Warm(shared / "warm", os.getpid(), ALL)
    before, sources = shared / "artifacts", [str(path) for path in halves(shared)]

    def done(artifacts: Path, code: str, *arguments: object) -> None:
        ran = process.start(code, *arguments, ARTIFACTS=str(artifacts))
        status, said = ran.wait(), ran.said()
        assert status == 0, f"{' '.join(map(str, arguments))}: status {status}: {said}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(before))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(8)])
        model = tiny_llama(shared / "model")
        runs = [
            tiny_run(tiny_preset(shared / f"{name}.toml", model, base=LIGHT, lora=f"alpha = {n}"))
            for n, name in enumerate(("one", "two"), start=8)
        ]
    arms = [str(run.relative_to(before / "runs")) for run in runs]
    suite = shared / "first.toml"
    suite.write_text(SUITE)
    done(before, EVALS, "eval", *arms, f"--suite={suite}")
    done(before, REPORTS, "compare", *arms, "--name=mine")

    def attempt(seed: int, folder: Path) -> Outcome:
        artifacts = shutil.copytree(before, folder / "artifacts")
        until = time.monotonic() + SECONDS

        def build(chance: random.Random) -> None:
            source, share = chance.choice(sources), chance.choice(("0.2", "0.3"))
            names = chance.sample(["full", "capped", "rank0"], 2)
            arguments = ("build", *names, "--held-out", share, "--source", source)
            done(artifacts, DATASET_BUILDER, *arguments)

        def evaluate(chance: random.Random) -> None:
            # Of few suites, so that two often make the same evaluation.
            n = chance.randrange(4) + int(until - time.monotonic()) // 20 * 4
            other = folder / f"suite-{n}.toml"
            with suites:
                if not other.exists():
                    other.write_text(f"{SUITE}seed = {n + 1}\n")
            done(artifacts, EVALS, "eval", *arms, f"--suite={other}", "--batch=2")

        def read(chance: random.Random) -> None:
            code, *arguments = chance.choice(
                [
                    (REPORTS, "list"),
                    (REPORTS, "compare", *arms, f"--suite={suite}", "--name=mine"),
                    (REPORTS, "export", "mine", folder / f"{chance.random()}.csv"),
                    (EVALS, "eval", *arms, f"--suite={suite}"),
                ]
            )
            done(artifacts, code, *arguments)

        def act(number: int, what: Callable[[random.Random], None]) -> int:
            chance, times = random.Random(f"{seed} {number}"), 0
            while time.monotonic() < until:
                what(chance)
                times += 1
            return times

        acts = [build] * BUILDERS + [evaluate] * EVALUATIONS + [read] * READERS
        with ThreadPoolExecutor(len(acts)) as actors:
            ended = [actors.submit(act, number, what) for number, what in enumerate(acts)]
        faults = [fault for each in ended if (fault := each.exception())]
        if faults:
            raise ExceptionGroup(f"{len(faults)} of {len(acts)} ended", faults)
        _assert_nothing_is_corrupt(artifacts)
        return Outcome(sum(each.result() for each in ended))

    yield attempt


def _assert_nothing_is_corrupt(artifacts: Path) -> None:
    assert not list(artifacts.rglob(".*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(artifacts))
        for path in (artifacts / "variants").glob("*-*"):
            if not path.name.startswith("tiny"):
                assert_whole(*find_variant(path.name))
    met = {}
    for path in artifacts.glob("*/*/*/evals/*/generations.parquet"):
        rows = pq.read_table(path).to_pylist()
        keys = [(row["prompt_id"], row["limit"]) for row in rows]
        assert len(set(keys)) == len(keys) == 9, path
        met[path] = keys
    assert met


CAMPAIGN = Campaign(
    code="R11",
    promise="8 builds, 4 evaluations and 8 readers of one folder neither corrupt nor wait for ever",
    counted="commands",
    aim=1000,
    prepare=prepare,
)
