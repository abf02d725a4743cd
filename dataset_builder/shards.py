"""A file in shards: what one of them holds, read by whoever, and all of them put together.

Nothing here depends on how a file is cut or on who reads what: lines are numbered within a shard
until the shards are put together.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_builder.columns import MET, table_of_met
from dataset_builder.compiled import is_at_hand, library
from dataset_builder.errors import InputError
from dataset_builder.lines import (
    LINE_BYTES,
    Block,
    Chunk,
    Lines,
    Place,
    as_block,
    block_of,
    chunks_of,
    lines_in,
    refuse_bomb,
    unpacked,
)
from dataset_builder.plain import take_plain
from dataset_builder.rows import Form, Found, Met, Refusal, loose_row, read_row, refused
from dataset_builder.scanning import scanned

WANTED = (
    "wanted: Open Assistant trees, messages or threads (.jsonl, .jsonl.gz, .jsonl.zst) "
    "or Hub parquet"
)

# What is read at once of a plain file.
SHARD_BYTES = 8 * 2**20

# A smaller file is read before a compiler is done.
COMPILED_BYTES = 16 * 2**20

# So many of a file's messages may be refused, each of which is kept and told: a third of those that
# OASST2 has in trees that are ready. Lines of two bytes would be told of for hours.
REFUSED = 50_000

_PARQUET, _GZIP, _ZSTD = b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Hopeless(Exception):
    """More than REFUSED messages of a file are refused; this is one of them."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"`{refusal.reason}`: {refusal.detail}")


class Shard(NamedTuple):
    """The lines of a file that begin at or after the byte `begin` and before `end`; all from there
    on where it is None.
    """

    path: str
    begin: int = 0
    end: int | None = None


class Part(NamedTuple):
    """What a piece of a file holds."""

    met: pa.Table  # of MET, in the order of the file; `line` is 1 where the piece begins
    refusals: list[Refusal]  # likewise
    rows: int
    lines: int  # blank ones too: by so many the lines of the next piece are moved
    form: Form


def shards_of(path: Path, size: int = SHARD_BYTES) -> list[Shard]:
    """The shards of the file at `path`, `size` bytes each; a packed or parquet file is one.

    Raises InputError where it cannot be read.
    """
    with reading(path), path.open("rb") as file:
        magic = file.read(4)
        if magic in (_PARQUET, _ZSTD) or magic[:2] == _GZIP:
            return [Shard(str(path))]
        begins = range(0, max(file.seek(0, 2), 1), size)
        ends: list[int | None] = [*begins[1:], None]
        return [Shard(str(path), *pair) for pair in zip(begins, ends, strict=True)]


def read_shard(shard: Shard, report: Callable[[int], None] = lambda rows: None) -> Part:
    """Everything in `shard`, whatever its form: told by content, never by name. `report` is called
    now and then with how many more rows were met.

    Raises InputError where the file cannot be read or unpacked.
    """

    fast = is_compiled(Path(shard.path))

    def parts(file: BinaryIO) -> Iterator[Part]:
        magic = file.read(4)
        file.seek(0)
        if magic == _PARQUET:
            pieces = _of_parquet(file, shard.path)
        else:
            is_packed = magic == _ZSTD or magic[:2] == _GZIP
            block = block_of(file, shard.begin, shard.end) if fast and not is_packed else None
            part = None if block is None else _of_block(block)
            if part is None:
                file.seek(0)
                chunks = chunks_of(unpacked(file, magic, shard.path), shard.begin, shard.end)
                pieces = (
                    part
                    for chunk in chunks
                    for part in (_of_chunk(chunk) if fast else map(_of_lines, lines_in(chunk)))
                )
            else:
                pieces = iter([part])
        for part in pieces:
            report(part.rows)
            yield part

    with reading(Path(shard.path)), open(shard.path, "rb") as file:
        return joined(parts(file))


def is_compiled(path: Path) -> bool:
    """Whether compiled code reads the file at `path`: it is there, or worth waiting for."""
    return (is_at_hand() or path.stat().st_size >= COMPILED_BYTES) and library() is not None


def joined(parts: Iterable[Part]) -> Part:
    """The pieces of one file, in their order, as one. Raises Hopeless as it says."""
    tables, refusals = [MET.empty_table()], []
    form: Form = "messages"
    rows = lines = messages = 0
    for part in parts:
        if form == "messages" and not messages:
            form = part.form
        moved = pc.add(part.met["line"], lines)
        tables.append(part.met.set_column(MET.get_field_index("line"), MET.field("line"), moved))
        refusals += [
            each._replace(at=each.at._replace(line=each.at.line + lines)) for each in part.refusals
        ]
        if len(refusals) > REFUSED:
            raise Hopeless(refusals[0])
        rows, lines, messages = (
            rows + part.rows,
            lines + part.lines,
            messages + part.met.num_rows,
        )
    return Part(_put_together(tables), refusals, rows, lines, form)


def _put_together(tables: list[pa.Table]) -> pa.Table:
    """One table of `tables`, which are let go of column by column."""
    chunks = {name: [each for table in tables for each in table[name].chunks] for name in MET.names}
    tables.clear()
    columns = {}
    for field in MET:
        column = pa.table({field.name: pa.chunked_array(chunks.pop(field.name), field.type)})
        # Texts, which are most of it, are taken from as many chunks as there are.
        whole = column if field.name == "text" else column.combine_chunks()
        columns[field.name] = whole[field.name]
    pa.default_memory_pool().release_unused()
    return pa.table(columns, schema=MET)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes an InputError of whatever goes wrong with the file at `path`."""
    try:
        yield
    except Hopeless as error:
        raise InputError(
            f"{path}: more than {REFUSED:,} messages refused, the first of them by {error}", WANTED
        ) from error
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise InputError(f"{path}: cannot be read: {reason}", WANTED) from error


def _of_chunk(chunk: Chunk) -> Iterable[Part]:
    block = as_block(chunk)
    part = None if block is None else _of_block(block)
    return map(_of_lines, lines_in(chunk)) if part is None else [part]


def _of_block(block: Block) -> Part | None:
    """What `_of_lines` makes of the same lines; None where that is quicker."""
    found = scanned(block)
    if found is None:
        return None
    form = found.forms[0] if found.forms else "messages"
    part = Part(found.met, [], len(found.forms), found.lines, form)
    if not found.left:
        return part
    # What is unusual here is not yet so to `plain`. The first line in any form says the file's.
    first = int(found.numbers[0]) if found.forms else found.lines
    before = _left(block, [each for each in found.left if each[0] < first])
    behind = _left(block, [each for each in found.left if each[0] > first])
    parts = [before, part, behind]
    met = pa.concat_tables([each.met for each in parts])
    return Part(
        met.take(pc.sort_indices(met["line"])),  # stable
        [refusal for each in parts for refusal in each.refusals],
        sum(each.rows for each in parts),
        found.lines,
        _first_form(parts),
    )


def _left(block: Block, left: list[tuple[int, int, int]]) -> Part:
    """What the lines `left` (number, place, bytes) of a block hold, as they are numbered there."""
    if not left:
        return Part(MET.empty_table(), [], 0, 0, "messages")
    contents = [block.buffer[at : at + size].tobytes() for _, at, size in left]
    numbers, offsets = [number for number, _, _ in left], [block.offset + at for _, at, _ in left]
    return _of_lines(Lines(numbers, offsets, [*contents], len(contents)))


def _first_form(parts: Iterable[Part]) -> Form:
    """The form of the first piece that has one, or a message."""
    form: Form = "messages"
    for part in parts:
        form = part.form
        if form != "messages" or part.met.num_rows:
            break
    return form


def _of_lines(lines: Lines) -> Part:
    taken = take_plain(lines)
    found: dict[int, Found] = {}
    for number in taken.left:
        content = lines.contents[number]
        at = Place(lines.numbers[number] + 1, lines.offsets[number])
        if content is None:
            found[number] = refused(at, "too_long", f"more than {LINE_BYTES} bytes")
        elif content.strip():
            found[number] = read_row(content, at)
    met, refusals = _sorted_out(found.values())
    if met.num_rows:
        met = pa.concat_tables([taken.met, met])
        met = met.take(pc.sort_indices(met["line"]))  # stable
    else:
        met = taken.met
    rows = len(taken.forms) + len(found)
    return Part(met, refusals, rows, lines.lines, _form(taken.forms, found))


def _form(taken: dict[int, Form], found: dict[int, Found]) -> Form:
    """The form of the first line that is no lone message, up to the first of which any was read."""
    for number in sorted(taken.keys() | found.keys()):
        form, messages = found.get(number) or (taken[number], [])
        if form != "messages" or number in taken or any(isinstance(m, Met) for m in messages):
            return form
    return "messages"


def _sorted_out(found: Iterable[Found]) -> tuple[pa.Table, list[Refusal]]:
    each_found = [each for _, messages in found for each in messages]
    mets = [each for each in each_found if isinstance(each, Met)]
    return table_of_met(mets), [each for each in each_found if isinstance(each, Refusal)]


def _of_parquet(file: BinaryIO, name: str) -> Iterator[Part]:
    packed_bytes = file.seek(0, 2)
    parquet = pq.ParquetFile(file)
    metadata = parquet.metadata
    said = (metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    refuse_bomb(sum(said), packed_bytes, name)
    # A text that stands often is stored once, and the footer counts it once: it is not spread out
    # before it is known what that makes.
    columns = map(parquet.schema.column, range(metadata.num_columns))
    texts = [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]
    met = 0
    for batch in pq.ParquetFile(file, read_dictionary=texts).iter_batches(batch_size=4096):
        met += sum(map(_bytes_of, batch.columns))
        refuse_bomb(met, packed_bytes, name)
        batch.validate(full=True)
        rows = enumerate(batch.to_pylist(), start=1)
        found = [loose_row(row, Place(number, None)) for number, row in rows]
        yield Part(*_sorted_out(found), len(batch), len(batch), "parquet")


def _bytes_of(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0)
