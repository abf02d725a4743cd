"""Messages become threads and held-out prompts: runs `sql/*.sql`, and writes tables/<digest12>/.

A SQL file is one select, named for the table it makes. It sees the frames it is given and nothing
else: no file, no Python variable.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import artifacts_root, building, write_json
from dataset_builder.digest import rows_digest
from dataset_builder.errors import InputError
from dataset_builder.export import Export
from dataset_builder.forest import Forest, join_exports
from dataset_builder.manifest import Sources
from dataset_builder.neighbours import near_prompts
from dataset_builder.split import split_trees
from dataset_builder.tables import HELDOUT, MESSAGES, REJECTS, THREADS, checked, write_table
from dataset_builder.words import WORD_COUNTER

SQL = Path(__file__).parent / "sql"


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in memory that reads what is registered with it, and nothing else."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("set python_enable_replacements = false")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        yield connection
    finally:
        connection.close()


def run_sql(
    connection: duckdb.DuckDBPyConnection, name: str, frames: dict[str, pa.Table]
) -> pa.Table:
    """The table that `sql/<name>.sql` makes of `frames`."""
    query = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    for frame, table in frames.items():
        connection.register(frame, table)
    try:
        return connection.sql(query).to_arrow_table()
    finally:
        for frame in frames:
            connection.unregister(frame)


@dataclass(frozen=True)
class Tables:
    """What the sources hold, threaded and split, with the record that goes beside it."""

    messages: pa.Table
    threads: pa.Table
    heldout: pa.Table
    rejects: pa.Table
    sources: Sources


def make_tables(exports: Iterable[Export], held_out: float) -> Tables:
    """The tables of `exports`, with the share `held_out` of root texts kept from every variant.
    Nothing is written.

    Raises InputError where `held_out` is no share or most of a file is refused.
    """
    if not 0 <= held_out < 1:
        raise InputError(
            f"held-out share {held_out:g}; wanted at least 0 and below 1",
            "0.1 holds out a tenth of the root texts",
        )
    exports = iter(exports)  # of a list given away, nothing is held here
    forest = join_exports(exports)
    messages = forest.messages
    with database() as connection:
        roots = run_sql(connection, "roots", {"messages": messages})
        splits = split_trees(roots.to_pylist(), held_out)
        sides = {"messages": messages, "splits": splits}
        heldout = checked(run_sql(connection, "heldout", sides), HELDOUT)
        standings = run_sql(connection, "standings", {"messages": messages})
        ranked = {"messages": messages, "standings": standings}
        frames = {
            **sides,
            "standings": standings,
            "leaves": run_sql(connection, "leaves", {"messages": messages}),
            "best_paths": run_sql(connection, "best_paths", ranked),
            "near_prompts": _near_prompts(messages, splits, heldout),
        }
        threads = checked(run_sql(connection, "threads", frames), THREADS)
    # One row per reply, none lost in a join.
    assert threads.num_rows == (pc.sum(pc.equal(messages["role"], "assistant")).as_py() or 0)
    sources = _sources(forest, splits, threads, heldout, held_out)
    return Tables(messages, threads, heldout, forest.rejects, sources)


def write_tables(tables: Tables) -> Path:
    """The directory of `tables` below the artefacts: written now, or long there."""
    out = artifacts_root() / "tables" / tables.sources.digest[:12]
    if not (out / "source.json").is_file():
        with building(out) as directory:
            write_table(tables.messages, MESSAGES, directory / "messages.parquet")
            write_table(tables.threads, THREADS, directory / "threads.parquet")
            write_table(tables.heldout, HELDOUT, directory / "heldout.parquet")
            write_table(tables.rejects, REJECTS, directory / "rejects.parquet")
            write_json(tables.sources, directory / "source.json")
    return out


def _near_prompts(messages: pa.Table, splits: pa.Table, heldout: pa.Table) -> pa.Table:
    sides = dict(zip(splits["tree_id"].to_pylist(), splits["split"].to_pylist(), strict=True))
    columns = (messages[name].to_pylist() for name in ("message_id", "tree_id", "role", "text"))
    prompts = {
        message_id: text
        for message_id, tree_id, role, text in zip(*columns, strict=True)
        if role == "prompter" and sides[tree_id] == "train"
    }
    held = zip(heldout["question"].to_pylist(), heldout["is_root"].to_pylist(), strict=True)
    return pa.table({"message_id": pa.array(near_prompts(prompts, held), pa.string())})


def _sources(
    forest: Forest, splits: pa.Table, threads: pa.Table, heldout: pa.Table, held_out: float
) -> Sources:
    # What follows from the messages alone needs no hashing again: of threads and prompts, the
    # decisions are enough.
    decisions = [
        name
        for name in THREADS.schema.names
        if name not in ("history", "question", "reply", "labels")
    ]
    parts = [
        # A column more is other tables, although its values follow from the messages.
        THREADS.schema.names,
        rows_digest(forest.messages),
        rows_digest(threads.select(decisions)),
        rows_digest(heldout.select(["prompt_id", "split"])),
        rows_digest(forest.rejects),
        held_out,
        [(file.name, file.sha256) for file in forest.files],
        WORD_COUNTER,
    ]
    return Sources(
        digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        files=forest.files,
        held_out=held_out,
        trees=splits.num_rows,
        messages=forest.messages.num_rows,
        threads=threads.num_rows,
        trees_by_split=_counts(splits, ("train", "validation", "test")),
        prompts_by_split=_counts(heldout, ("validation", "test")),
        word_counter=WORD_COUNTER,
    )


def _counts(table: pa.Table, sides: tuple[str, ...]) -> dict[str, int]:
    found = Counter(table["split"].to_pylist())
    return {side: found[side] for side in sides}
