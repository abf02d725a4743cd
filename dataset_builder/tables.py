"""Tables as declared once: columns, types, key. Reading and writing both check them.

Declared in Arrow, which every package has, so that a GPU host reads them without Polars or DuckDB.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_builder import seals
from dataset_builder.errors import InputError


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in order, and the columns whose values name a row."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]


# What TRL calls a conversational message.
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

# A message inside a thread's history, oldest first.
_TURNS = pa.list_(
    pa.struct([("message_id", pa.string()), ("role", pa.string()), ("text", pa.string())])
)

MESSAGES = Table(
    "messages",
    pa.schema(
        [
            ("message_id", pa.string()),
            ("parent_id", pa.string()),  # null at a root
            ("tree_id", pa.string()),
            ("tree_state", pa.string()),
            ("role", pa.string()),  # prompter or assistant
            ("lang", pa.string()),
            ("text", pa.string()),
            ("rank", pa.int32()),  # 0 is best; null: not a reply, only child, or not ranked by all
            ("place", pa.int32()),  # among its siblings; roots: 0 (dataset_builder.merge)
            ("deleted", pa.bool_()),
            ("synthetic", pa.bool_()),
            ("model_name", pa.string()),
            ("review_result", pa.bool_()),
            ("review_count", pa.int32()),
            ("created_date", pa.string()),  # as exported, ISO 8601
            (
                "labels",
                pa.list_(
                    pa.struct(
                        [("name", pa.string()), ("value", pa.float64()), ("count", pa.int32())]
                    )
                ),
            ),
            ("emojis", pa.list_(pa.struct([("name", pa.string()), ("count", pa.int32())]))),
            ("words", pa.int32()),  # by dataset_builder.words.count_words
            ("source", pa.string()),  # sha256 of the file it came from
        ]
    ),
    ("message_id",),
)

THREADS = Table(
    "threads",
    pa.schema(
        [
            ("thread_id", pa.string()),  # the reply's message id
            ("tree_id", pa.string()),
            ("prompt_id", pa.string()),  # the message it replies to
            ("split", pa.string()),  # train, validation or test: its tree's
            ("tree_state", pa.string()),
            ("root_lang", pa.string()),
            ("lang", pa.string()),  # the reply's
            ("langs", pa.list_(pa.string())),  # of all its messages: distinct, sorted
            ("turns", pa.int32()),  # prompter messages
            ("history", _TURNS),  # before the question; empty at the first turn
            ("question", pa.string()),
            ("reply", pa.string()),
            ("rank", pa.int32()),  # as exported
            # `rank` with null settled: 0 for an only reply; null only for one left out of its
            # siblings' ranking.
            ("standing", pa.int32()),
            # The largest standing over its replies; null where one of them has none.
            ("worst_standing", pa.int32()),
            ("is_complete", pa.bool_()),  # reaches a root
            ("has_deleted", pa.bool_()),  # any message of it
            ("has_synthetic", pa.bool_()),  # any message of it
            ("review_failed", pa.bool_()),  # the reply's review_result is false
            # Ends a path by Open Assistant's own rule: no follow-up, or its first follow-up was
            # never answered.
            ("is_leaf", pa.bool_()),
            # A leaf whose unanswered follow-up, cut off by that rule, is synthetic.
            ("cuts_synthetic", pa.bool_()),
            ("is_best_path", pa.bool_()),  # the tree's path of lowest rank present, to its end
            ("near_held_out", pa.bool_()),  # a question of it is near a held-out prompt
            ("reply_words", pa.int32()),
            ("question_words", pa.int32()),
            # The reply's, by name; `value` is a mean from 0 to 1. Null where nobody was asked.
            ("labels", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
        ]
    ),
    ("thread_id",),
)

HELDOUT = Table(
    "heldout",
    pa.schema(
        [
            ("prompt_id", pa.string()),
            ("tree_id", pa.string()),
            ("split", pa.string()),  # validation or test
            ("lang", pa.string()),
            ("is_root", pa.bool_()),
            ("turns", pa.int32()),
            ("history", _TURNS),
            ("question", pa.string()),
            # Usable human replies, best first: not deleted, not synthetic, review not failed. May
            # be empty.
            (
                "replies",
                pa.list_(
                    pa.struct(
                        [
                            ("reply_id", pa.string()),
                            ("text", pa.string()),
                            ("rank", pa.int32()),
                            ("words", pa.int32()),
                        ]
                    )
                ),
            ),
        ]
    ),
    ("prompt_id",),
)

EXAMPLES = Table(
    "examples",
    pa.schema(
        [
            ("example_id", pa.string()),  # the thread's id
            ("tree_id", pa.string()),
            ("prompt_id", pa.string()),
            ("lang", pa.string()),
            ("turns", pa.int32()),
            ("rank", pa.int32()),
            ("reply_words", pa.int32()),
            ("limit", pa.int32()),  # words, as stated in the prompt; null where none is
            ("prompt", CHAT),  # ends with the user's message; carries the stated limit
            ("completion", CHAT),  # one assistant message
            ("flags", pa.list_(pa.string())),  # what to look at twice: see dataset_builder.flags
        ]
    ),
    ("example_id",),
)

PAIRS = Table(
    "pairs",
    pa.schema(
        [
            (
                "example_id",
                pa.string(),
            ),  # <pair_id>-plain, -above or -between: where the limit lies
            ("pair_id", pa.string()),  # of the two replies; the same in all augmentations of them
            ("tree_id", pa.string()),
            ("prompt_id", pa.string()),  # the message that both reply to
            ("lang", pa.string()),  # the chosen reply's
            ("turns", pa.int32()),
            # plain: no limit, chosen by rank; kept: a limit, chosen by rank; flipped: a limit that
            # only the lower-ranked reply keeps, which is therefore chosen.
            ("augmentation", pa.string()),
            ("limit", pa.int32()),  # words, as stated in the prompt; null where none is
            ("prompt", CHAT),  # ends with the user's message; carries the stated limit
            ("chosen", CHAT),  # one assistant message
            ("rejected", CHAT),  # one assistant message
            ("chosen_id", pa.string()),  # thread ids
            ("rejected_id", pa.string()),
            ("chosen_rank", pa.int32()),  # as exported, never null
            ("rejected_rank", pa.int32()),
            ("chosen_words", pa.int32()),
            ("rejected_words", pa.int32()),
            ("flags", pa.list_(pa.string())),  # as in `examples`, of the prompt and both replies
        ]
    ),
    ("example_id",),
)

PROMPTS = Table(
    "prompts",
    pa.schema(
        [
            ("example_id", pa.string()),  # the prompt's id
            ("tree_id", pa.string()),
            ("prompt_id", pa.string()),
            ("lang", pa.string()),  # the best kept reply's
            ("turns", pa.int32()),
            ("limit", pa.int32()),  # words, as stated in the prompt; null where none is
            ("prompt", CHAT),  # ends with the user's message; carries the stated limit
            ("reply_id", pa.string()),  # the best kept human reply: a thread id
            ("rank", pa.int32()),  # its rank
            ("reply_words", pa.int32()),  # its words, for reference: a limit may be below them
            ("flags", pa.list_(pa.string())),  # as in `examples`, of the prompt alone
        ]
    ),
    ("example_id",),
)

# What the rows of a variant are, by its form.
FORMS = {"answers": EXAMPLES, "pairs": PAIRS, "prompts": PROMPTS}

LEDGER = Table(
    "ledger",
    pa.schema(
        [
            ("thread_id", pa.string()),
            ("tree_id", pa.string()),
            ("split", pa.string()),
            ("dropped_by", pa.string()),  # the first rule it failed; null where it was kept
        ]
    ),
    ("thread_id",),
)

REJECTS = Table(
    "rejects",
    pa.schema(
        [
            ("source", pa.string()),  # file name
            ("line", pa.int64()),  # from 1; of parquet, the row from 1
            ("byte_offset", pa.int64()),  # of the line in the unpacked file; null for parquet
            ("message_id", pa.string()),  # null where it could not be read
            ("reason", pa.string()),  # a short fixed word
            ("detail", pa.string()),
        ]
    ),
    (),
)


# Checksums of pages are for other readers; `seals` is for ours.
_FORM = {"compression": "zstd", "store_schema": False, "write_page_checksum": True}


def write_table(table: pa.Table, declared: Table, out: Path) -> None:
    """Write `table` as Parquet to `out`, checked against `declared`.

    Raises ValueError (our bug) on a missing or extra column, a type that does not cast, or a
    repeated key.
    """
    write_batches([checked(table, declared)], declared, out)


def write_batches(batches: Iterable[pa.Table], declared: Table, out: Path) -> None:
    """The same for a table that comes some rows at a time, the keys of which are known to be
    unlike.
    """
    with pq.ParquetWriter(out, declared.schema, **_FORM) as writer:
        for batch in batches:
            writer.write_table(batch)
        seals.reserve(writer)
    seals.seal(out)


def write_beside(files: Iterable[tuple[pa.Table | Iterable[pa.Table], Table, Path]]) -> None:
    """Writes each of `files`, two at a time: packing holds no lock of Python's."""

    def write(table: pa.Table | Iterable[pa.Table], declared: Table, out: Path) -> None:
        (write_table if isinstance(table, pa.Table) else write_batches)(table, declared, out)

    with ThreadPoolExecutor(2) as writers:
        for written in [writers.submit(write, *each) for each in files]:
            written.result()


def read_table(path: Path, declared: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """The table stored at `path`, or these columns of it. Raises InputError where it is absent,
    damaged or another.
    """
    if columns is not None:
        fields = [declared.schema.field(name) for name in columns]
        declared = Table(declared.name, pa.schema(fields), ())
    try:
        # Opened as a file, so that a name with `*` in it is a name.
        with path.open("rb") as file:
            table = pq.read_table(
                file, columns=columns, page_checksum_verification=not seals.is_sealed(file)
            )
        _refuse_other_types(table, declared)
        return checked(table, declared)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}", "build it again") from error
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(
            f"{path}: not the table `{declared.name}`: {error}", "build it again"
        ) from error


def _refuse_other_types(table: pa.Table, declared: Table) -> None:
    """Raise ValueError where a column that was stored is of another type than it was written in:
    nothing vouches for the footer of an old file, and a field whose name lost a bit there would
    read as null.
    """
    for field in table.schema:
        place = declared.schema.get_field_index(field.name)
        if place >= 0 and field.type != declared.schema.field(place).type:
            raise ValueError(f"`{field.name}` is {field.type}")


def checked(table: pa.Table, declared: Table) -> pa.Table:
    """`table` with the declared columns in the declared order and types. Raises ValueError as
    `write_table` says.
    """
    names = declared.schema.names
    if sorted(table.column_names) != sorted(names):
        missing = sorted(set(names) - set(table.column_names))
        extra = sorted(set(table.column_names) - set(names))
        raise ValueError(f"columns missing: {missing}, not declared: {extra}")
    table = table.select(names).cast(declared.schema)
    if declared.key and table.num_rows:
        keys = (
            table.select(list(declared.key))
            .group_by(list(declared.key))
            .aggregate([([], "count_all")])
        )
        if keys.num_rows != table.num_rows:
            repeated = keys.filter(pc.greater(keys["count_all"], 1)).slice(0, 1).to_pylist()[0]
            raise ValueError(f"repeated key in `{declared.name}`: {repeated}")
    return table


def table_of(rows: list[dict], declared: Table) -> pa.Table:
    """`rows` as the declared table; an absent key is null."""
    return checked(pa.Table.from_pylist(rows, schema=declared.schema), declared)
