"""New scores and the record of them take the place of the old ones together, or not at all.

Both are made in a directory of their own beside the old ones, which gets its final name when it is
whole. From then on they count: a kill between the two replacements is mended by whoever reads the
evaluation next. The answers are never touched.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dataset_builder.artifacts import building, write_json
from dataset_builder.tables import write_table
from evals.tables import SCORES, Evaluation

NEXT = "next"


def in_order(parts: Sequence[pa.Table]) -> pa.Table:
    """Scores from several sources as one table, in an order that does not depend on the sources."""
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in SCORES.key])


def replace_scores(directory: Path, scores: pa.Table, record: Evaluation) -> None:
    """Give the evaluation in `directory` new scores and a new record."""
    settle(directory)
    with building(directory / NEXT) as out:
        write_table(scores, SCORES, out / "scores.parquet")
        write_json(record, out / "eval.json")
    settle(directory)


def settle(directory: Path) -> None:
    """Put new scores and their record in place, where they are whole and not there yet."""
    made = directory / NEXT
    if not (made / "eval.json").is_file():
        return
    if (made / "scores.parquet").is_file():
        os.replace(made / "scores.parquet", directory / "scores.parquet")
    os.replace(made / "eval.json", directory / "eval.json")  # last: it is what makes `made` count
    made.rmdir()
