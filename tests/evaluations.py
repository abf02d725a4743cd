"""Evaluations of a tiny run, to be killed and looked over."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.runs import tiny_run
from tests.tiny import example, tiny_llama, tiny_preset, write_variant

SUITE = """
title = "a handful"
limits = [3, 8]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 9
temperature = 0.8
scorers = ["violation", "words", "relevance_controlled", "prefers_better", "human_likelihood"]
relevance_others = 1
"""
TABLES = ("generations", "scores", "likelihoods")


def runs_in(artifacts: Path) -> list[Path]:
    return [path.parent for path in artifacts.glob("runs/*/*/run.json")]


def not_evaluated(folder: Path) -> tuple[Path, Path]:
    """Artefacts with a run that is not evaluated yet, and a suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
        base = 'quantization = "none"'
        tiny_run(tiny_preset(folder / "tiny.toml", tiny_llama(folder / "model"), base=base))
    (folder / "small.toml").write_text(SUITE)
    return folder / "artifacts", folder / "small.toml"


def tables(artifacts: Path) -> list[Any]:
    """All rows of the run's evaluation and the base's but for the seconds, scores to four places:
    batches of other sizes add up in another order. Nothing else lies there."""
    found = []
    homes = [*runs_in(artifacts), *(artifacts / "bases").iterdir()]
    assert len(homes) == 2
    for home in homes:
        (directory,) = (home / "evals").iterdir()
        assert directory.name.startswith("small-")
        for name in TABLES:
            table = pq.read_table(directory / f"{name}.parquet").to_pylist()
            for row in table:
                row.pop("seconds", None)
                for key in ("value", "log_likelihood"):
                    if key in row:
                        row[key] = pytest.approx(row[key], abs=1e-4)
            found.append(table)
        names = {path.name for path in directory.iterdir()}
        assert names == {*(f"{name}.parquet" for name in TABLES), "eval.json"}
    return found
