"""New scores and the record of them take the place of the old ones together, or not at all.

Both are made in a directory of their own beside the old ones, which gets its final name when it is
whole. From then on they count: a kill between the two replacements is mended by whoever reads the
evaluation next. The answers are never touched.
"""

from collections.abc import Mapping, Sequence
from os import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import building, read_json, write_json
from dataset_builder.tables import read_table, table_of, write_table
from dataset_builder.words import WORD_COUNTER
from evals.likelihood import LIKELIHOOD_TABLE, likelihood_scores
from evals.scorers import FROZEN
from evals.tables import GENERATIONS, SCORES, Evaluation
from finetune import launch

if TYPE_CHECKING:
    from evals.plan import Planned
    from evals.scoring import Judge, Scored, Scorer

NEXT = "next"
READ_FILE = "likelihoods.parquet"


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
        replace(made / "scores.parquet", directory / "scores.parquet")
    replace(made / "eval.json", directory / "eval.json")  # last: it is what makes `made` count
    made.rmdir()


def rescore(
    each: "Planned",
    judge: "Judge",
    frozen: Sequence[str],
    others: "Mapping[str, Scorer]",
    rewarded: Mapping[str, Any] = {},
) -> None:
    """Score stored answers again: scores.parquet and eval.json are replaced together, generations
    stay. What the frozen model said stays too, but for the metrics `frozen`; `rewarded` is the note
    of the reward model that scores now."""
    stored = read_json(each.directory / "eval.json", Evaluation)
    generations = read_table(each.directory / "generations.parquet", GENERATIONS).to_pylist()
    kept = [name for name in each.suite.scorers if name in FROZEN and name not in frozen]
    scorers = tuple(name for name in each.suite.scorers if name not in kept)
    suite = msgspec.structs.replace(each.suite, scorers=scorers)
    from evals.scoring import score  # it loads scipy, which readers do without

    scored: Scored = score(
        suite, each.prompts, generations, judge, is_base=each.run is None, others=others
    )
    if not launch.is_first():
        return
    parts = [scored.table]
    if kept:
        before = read_table(each.directory / "scores.parquet", SCORES)
        parts.append(before.filter(pc.is_in(before["metric"], value_set=pa.array(kept))))
    if (each.directory / READ_FILE).is_file():
        read = read_table(each.directory / READ_FILE, LIKELIHOOD_TABLE).to_pylist()
        parts.append(table_of(likelihood_scores(read, each.suite.scorers), SCORES))
    record = msgspec.structs.replace(
        stored,
        suite=msgspec.to_builtins(each.suite),
        unscored=scored.unscored | {name: n for name, n in stored.unscored.items() if name in kept},
        gates=[*scored.gates, *(gate for gate in stored.gates if gate.metric in kept)],
        versions=stored.versions | {"words": WORD_COUNTER},
        notes={k: v for k, v in stored.notes.items() if k != "reward"} | dict(rewarded),
    )
    replace_scores(each.directory, in_order(parts), record)
