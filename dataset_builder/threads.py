"""Messages become threads and held-out prompts: runs `sql/*.sql`, and writes tables/<digest12>/.

A SQL file is one select, named for the table it makes. It sees the frames it is given and nothing
else: no file, no Python variable. It decides over messages by number (dataset_builder.paths); ids
and texts are put to the numbers at the end.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from threading import Event

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import artifacts_root, building, write_json
from dataset_builder.digest import rows_digest
from dataset_builder.errors import InputError
from dataset_builder.export import Export
from dataset_builder.forest import Forest, join_exports
from dataset_builder.manifest import Sources
from dataset_builder.neighbours import near_prompts
from dataset_builder.paths import (
    Numbered,
    above,
    batches_of,
    carried,
    chunked_texts,
    distinct_on_paths,
    histories,
    numbered,
    sorted_labels,
    taken,
    whole,
)
from dataset_builder.split import side
from dataset_builder.tables import HELDOUT, MESSAGES, REJECTS, THREADS, checked, write_beside
from dataset_builder.words import WORD_COUNTER

SQL = Path(__file__).parent / "sql"

# The columns of threads that are columns of the reply, by their names there; the others hold facts
# about its path.
_OF_REPLY = {
    "message_id": "thread_id",
    "tree_id": "tree_id",
    "parent_id": "prompt_id",
    "tree_state": "tree_state",
    "lang": "lang",
    "rank": "rank",
    "words": "reply_words",
    "review_result": "review_result",
}
_TEXTS = ("history", "question", "reply")
_OF_PATH = ("turns", "standing", "worst_standing", "is_complete", "has_deleted", "has_synthetic")


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in memory that reads what is registered with it, and nothing else."""
    # What is registered is seen by its own connection alone, and goes with it.
    connection = _engine(os.getpid()).cursor()
    try:
        yield connection
    finally:
        connection.close()


@cache
def _engine(process: int) -> duckdb.DuckDBPyConnection:
    """What all connections of a process share: opening one takes as long as a small forest."""
    connection = duckdb.connect(":memory:")
    connection.execute("set python_enable_replacements = false")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


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


# Threads that are given their texts at once.
BATCH = 2**13


@dataclass(frozen=True)
class Threads:
    """The table `threads` without its texts, which stand once, in the messages, and are put to rows
    when those are written: many times over they would be most of what is held.
    """

    facts: pa.Table  # all columns but `history`, `question` and `reply`
    forest: Numbered
    replies: np.ndarray  # the number of each thread's reply

    def rows(self, places: np.ndarray) -> pa.Table:
        """The rows of the table `threads` at `places`."""
        replies = self.replies[places]
        prompts = above(self.forest, replies)
        history = THREADS.schema.field("history").type
        table = self.facts.take(pa.array(places))
        table = table.append_column(
            "history", histories(self.forest, above(self.forest, prompts), history)
        )
        table = table.append_column("question", chunked_texts(self.forest, prompts))
        table = table.append_column("reply", chunked_texts(self.forest, replies))
        return table.select(THREADS.schema.names).cast(THREADS.schema)

    def places_of(self, ids: pa.Array) -> np.ndarray:
        """Where the threads with these ids stand."""
        return pc.index_in(ids, value_set=self.facts["thread_id"]).to_numpy()

    def heads(self, places: np.ndarray, n: int) -> list[str]:
        """The first `n` characters of each reply at `places`."""
        rows = self.forest.rows[self.replies[places]]
        # Some at a time: a head is a small part of its text.
        starts = range(0, len(rows), BATCH)
        taken = (self.forest.texts.take(rows[start : start + BATCH]) for start in starts)
        return [
            head for texts in taken for head in pc.utf8_slice_codeunits(texts, 0, n).to_pylist()
        ]

    def batches(self) -> Iterator[pa.Table]:
        """The table `threads`, some rows at a time."""
        for start, end in [*batches_of(self.forest, self.replies, BATCH)] or [(0, 0)]:
            yield self.rows(np.arange(start, end))


@dataclass(frozen=True)
class Chosen:
    """Some rows of `threads` in some order: each has its texts once it is asked for."""

    threads: Threads
    places: np.ndarray

    @property
    def num_rows(self) -> int:
        """How many."""
        return len(self.places)

    def slice(self, offset: int, length: int) -> pa.Table:
        """The rows from `offset` on, `length` at most."""
        return self.threads.rows(self.places[offset : offset + length])


@dataclass(frozen=True)
class Tables:
    """What the sources hold, threaded and split, with the record that goes beside it."""

    messages: pa.Table
    by_number: Threads
    heldout: pa.Table
    rejects: pa.Table
    sources: Sources

    @cached_property
    def threads(self) -> pa.Table:
        """The table `threads` whole, for who wants to look at all of a small one."""
        return pa.concat_tables(self.by_number.batches())


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
    with ThreadPoolExecutor(1) as beside:
        # Hashing holds no lock of Python's.
        digests = [beside.submit(rows_digest, each) for each in (forest.messages, forest.rejects)]
        threads, heldout, splits = thread_messages(forest.messages, held_out)
        sources = _sources(
            forest, splits, threads, heldout, held_out, [each.result() for each in digests]
        )
    pa.default_memory_pool().release_unused()
    return Tables(forest.messages, threads, heldout, forest.rejects, sources)


def thread_messages(messages: pa.Table, held_out: float) -> tuple[Threads, pa.Table, pa.Array]:
    """The threads and the table `heldout` of `messages`, and the side of each tree."""
    paths = numbered(messages)
    with ThreadPoolExecutor(1) as beside:
        # What needs no split is decided beside it; neither holds Python's lock for long.
        standing = beside.submit(_standings, paths)
        ends = beside.submit(lambda: _ends(paths, standing.result()))
        labels = beside.submit(_labels, paths)
        with database() as connection:
            frames = {"messages": paths.frame}
            splits = _splits(paths, run_sql(connection, "roots", frames), held_out)
            frames["splits"] = pa.table(
                {"tree_id": np.arange(len(splits), dtype=np.int32), "split": splits}
            )
            facts = frames["paths"] = _path_facts(paths, standing.result())
            heldout = _heldout(paths, facts, run_sql(connection, "heldout", frames))
        near = _near_prompts(paths, splits, heldout)
        threads = _threads(paths, facts, splits, near, ends.result(), labels.result())
    # One row per reply, none lost.
    assert threads.facts.num_rows == (pc.sum(pc.equal(messages["role"], "assistant")).as_py() or 0)
    return threads, heldout, splits


def _standings(forest: Numbered) -> pa.Table:
    with database() as connection:
        return run_sql(connection, "standings", {"messages": forest.frame})


def _ends(forest: Numbered, standings: pa.Table) -> dict[str, pa.Table]:
    """The replies that end conversations, and those that end the best paths."""
    frames = {"messages": forest.frame, "standings": standings}
    with database() as connection:
        return {name: run_sql(connection, name, frames) for name in ("leaves", "best_paths")}


def _labels(forest: Numbered) -> pa.ChunkedArray:
    """The labels of all replies, by name."""
    return sorted_labels(taken(forest.messages["labels"], forest, _replies(forest)))


def _replies(forest: Numbered) -> np.ndarray:
    return np.flatnonzero(_booleans(pc.equal(forest.frame["role"], "assistant")))


def write_tables(tables: Tables) -> Path:
    """The directory of `tables` below the artefacts: written now, or long there."""
    with writing_tables(tables) as out:
        return out


@contextmanager
def writing_tables(tables: Tables) -> Iterator[Path]:
    """Writes `tables` beside what the block does, and gives their directory: there when the block
    has ended well, or long there. Where it has not, nothing is written.
    """
    out = artifacts_root() / "tables" / tables.sources.digest[:12]
    if (out / "source.json").is_file():
        yield out
        return
    with building(out) as directory, ThreadPoolExecutor(1) as beside:
        failed = Event()  # then nobody waits for the rest of a large table
        rows = takewhile(lambda _: not failed.is_set(), tables.by_number.batches())
        # The largest first, so that none of them is waited for alone.
        written = beside.submit(
            write_beside,
            [
                (rows, THREADS, directory / "threads.parquet"),
                (tables.messages, MESSAGES, directory / "messages.parquet"),
                (tables.heldout, HELDOUT, directory / "heldout.parquet"),
                (tables.rejects, REJECTS, directory / "rejects.parquet"),
            ],
        )
        try:
            yield out
        except BaseException:
            failed.set()
            raise
        written.result()
        write_json(tables.sources, directory / "source.json")


def _splits(forest: Numbered, roots: pa.Table, held_out: float) -> pa.Array:
    """The side of each tree, by its number; `roots` has a message for each."""
    texts = chunked_texts(forest, roots["message_id"].to_numpy())
    sides = pa.array((side(text, held_out) for text in texts.to_pylist()), pa.string())
    assert roots["tree_id"].to_pylist() == list(range(len(sides)))
    return sides


def _path_facts(forest: Numbered, standings: pa.Table) -> pa.Table:
    """(message_id, ...), one row a message: what its path says, itself included."""
    frame = forest.frame
    standing = np.full(len(forest.rows), -1)
    is_ranked = standings.filter(pc.is_valid(standings["standing"]))
    standing[is_ranked["message_id"].to_numpy()] = is_ranked["standing"].to_numpy()
    is_reply = _booleans(pc.equal(frame["role"], "assistant"))
    has_unranked = carried(forest, is_reply & (standing < 0), np.logical_or)
    worst = carried(forest, standing, np.maximum)
    return pa.table(
        {
            "message_id": np.arange(len(standing), dtype=np.int32),
            "top": carried(forest, np.arange(len(standing)), _upper),
            "is_complete": carried(forest, _booleans(pc.is_null(frame["parent_id"])), _upper),
            "has_deleted": carried(forest, _booleans(frame["deleted"]), np.logical_or),
            "has_synthetic": carried(forest, _booleans(frame["synthetic"]), np.logical_or),
            "turns": carried(forest, (~is_reply).astype(np.int32), np.add),
            "standing": pa.array(standing, pa.int32(), mask=standing < 0),
            "worst_standing": pa.array(worst, pa.int32(), mask=has_unranked | (worst < 0)),
        }
    )


def _heldout(forest: Numbered, facts: pa.Table, chosen: pa.Table) -> pa.Table:
    """The table `heldout` of the prompts `chosen` (prompt_id, split, replies), all by number."""
    prompts = chosen["prompt_id"].to_numpy()
    replies = pa.concat_arrays([*chosen["replies"].chunks, pa.array([], chosen["replies"].type)])
    numbers = replies.flatten().to_numpy()
    type_ = HELDOUT.schema.field("replies").type
    columns = {"reply_id": "message_id"}
    texts = [
        whole(taken(forest.messages[columns.get(field.name, field.name)], forest, numbers))
        for field in type_.value_type
    ]
    structs = pa.StructArray.from_arrays(texts, fields=list(type_.value_type))
    table = {name: taken(forest.messages[name], forest, prompts) for name in ("tree_id", "lang")}
    table |= {
        "prompt_id": taken(forest.messages["message_id"], forest, prompts),
        "split": chosen["split"],
        "is_root": forest.parents[prompts] < 0,
        "turns": facts["turns"].take(pa.array(prompts)),
        "history": histories(forest, above(forest, prompts), HELDOUT.schema.field("history").type),
        "question": taken(forest.messages["text"], forest, prompts),
        "replies": pa.ListArray.from_arrays(replies.offsets, structs, type=type_),
    }
    return checked(pa.table(table), HELDOUT)


def _threads(
    forest: Numbered,
    facts: pa.Table,
    splits: pa.Array,
    near: np.ndarray,
    found: dict[str, pa.Table],
    labels: pa.ChunkedArray,
) -> Threads:
    """The threads: one row per reply, with the conversation that led to it. Where a message
    above is missing, the conversation begins below the gap and is not complete.
    """
    messages = forest.messages
    replies = _replies(forest)
    prompts = above(forest, replies)
    # A message without a language counts as `und`, undetermined, which no recipe names.
    langs = pc.fill_null(messages["lang"], "und").take(pa.array(forest.rows))
    is_near = np.zeros(len(forest.rows), bool)
    is_near[near] = True
    own = {name: taken(messages[name], forest, replies) for name in _OF_REPLY}
    sides = splits.take(forest.trees.indices.take(pa.array(replies)))
    leaves, ends = found["leaves"], found["best_paths"]["thread_id"].to_numpy()
    cut = leaves.filter(leaves["cuts_synthetic"])["thread_id"].to_numpy()
    told = {name: facts[name].take(pa.array(replies)) for name in _OF_PATH}
    columns = {
        **{_OF_REPLY[name]: column for name, column in own.items()},
        **told,
        "split": sides,
        "root_lang": taken(messages["lang"], forest, facts["top"].to_numpy()[replies]),
        "langs": distinct_on_paths(forest, whole(langs)).take(pa.array(replies)),
        "question_words": taken(messages["words"], forest, prompts),
        "review_failed": pc.fill_null(pc.invert(own["review_result"]), False),
        "is_leaf": np.isin(replies, leaves["thread_id"].to_numpy()),
        "cuts_synthetic": np.isin(replies, cut),
        "is_best_path": np.isin(replies, ends),
        "near_held_out": carried(forest, is_near, np.logical_or)[replies],
        "labels": labels,
    }
    del columns["review_result"]
    names = [name for name in THREADS.schema.names if name not in _TEXTS]
    declared = pa.schema([THREADS.schema.field(name) for name in names])
    facts = pa.table(columns).select(names).cast(declared)
    return Threads(checked(facts, replace(THREADS, schema=declared)), forest, replies)


def _near_prompts(forest: Numbered, splits: pa.Array, heldout: pa.Table) -> np.ndarray:
    """The numbers of the prompts of training trees that are near a held-out one."""
    is_train = pc.equal(splits, "train").take(forest.trees.indices)
    is_prompt = pc.equal(forest.frame["role"], "prompter")
    prompts = np.flatnonzero(_booleans(pc.and_(is_prompt, is_train)))
    texts = chunked_texts(forest, prompts)
    is_root = _booleans(heldout["is_root"])
    return prompts[near_prompts(texts, heldout["question"], is_root)]


def _upper(above: np.ndarray, here: np.ndarray) -> np.ndarray:
    return above


def _booleans(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return whole(values).to_numpy(zero_copy_only=False).astype(bool)


def _sources(
    forest: Forest,
    splits: pa.Array,
    threads: Threads,
    heldout: pa.Table,
    held_out: float,
    digests: list[str],
) -> Sources:
    # What follows from the messages alone needs no hashing again: of threads and prompts, the
    # decisions are enough.
    decisions = [name for name in threads.facts.column_names if name != "labels"]
    parts = [
        # A column more is other tables, although its values follow from the messages.
        THREADS.schema.names,
        digests[0],
        rows_digest(threads.facts.select(decisions)),
        rows_digest(heldout.select(["prompt_id", "split"])),
        digests[1],
        held_out,
        [(file.name, file.sha256) for file in forest.files],
        WORD_COUNTER,
    ]
    return Sources(
        digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        files=forest.files,
        held_out=held_out,
        trees=len(splits),
        messages=forest.messages.num_rows,
        threads=threads.facts.num_rows,
        trees_by_split=_counts(splits, ("train", "validation", "test")),
        prompts_by_split=_counts(heldout["split"], ("validation", "test")),
        word_counter=WORD_COUNTER,
    )


def _counts(split: pa.Array | pa.ChunkedArray, sides: tuple[str, ...]) -> dict[str, int]:
    found = Counter(split.to_pylist())
    return {side: found[side] for side in sides}
