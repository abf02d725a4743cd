"""The lines of a foreign file, unpacked: bounded, so that what is held never grows with what a file
says of itself.
"""

import gzip
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from dataset_builder.errors import InputError

# No line of an export comes near it; a gzip of one endless line does.
LINE_BYTES = 16 * 2**20

# What is read and decoded at once; what its decoded messages take goes with each such batch.
CHUNK_BYTES = 4 * 2**20
TAIL_BYTES = 2**16

# Behind a block, so that eight bytes can be read at every place of it.
PADDING = 32

_MARK = b"\xef\xbb\xbf"
_END = ord("\n")

# Of every byte, whether `bytes.strip` leaves it.
_SAID = np.array([not bytes([byte]).isspace() for byte in range(256)])
# Lines of fewer bytes than these, on average, are looked at for spaces all at once.
_SHORT = 16

# Lines that become objects at once: a chunk of usual ones holds fewer.
TOGETHER = 2**13

# What a packed file may unpack to: twenty times OASST2 whole, every state.
UNPACKED_BYTES = 8 * 2**30

# Text packs to a fifth or so; gzip reaches 1:1032, zstd more. What unpacks to less than FREE_BYTES
# harms nobody, whatever its ratio.
UNPACKED_RATIO = 200
FREE_BYTES = 64 * 2**20


class Place(NamedTuple):
    """Where a row stands in its file; `byte_offset` is in the unpacked file, None in parquet."""

    line: int
    byte_offset: int | None


class Chunk(NamedTuple):
    """Whole lines that follow each other in an unpacked file, as they stand there."""

    offset: int  # in the file
    held: bytes  # with their ends; the last one of a file may have none
    dropped: int  # bytes of the first line that are not held, since it is too long


class Lines(NamedTuple):
    """Lines of an unpacked file, without their ends; those of spaces alone may be left out.

    A line longer than LINE_BYTES is None.
    """

    numbers: list[int]  # of each, from 0
    offsets: list[int]  # of each, in the file
    contents: list[bytes | None]
    lines: int  # all there are, those that are left out too


class Block(NamedTuple):
    """Whole lines that follow each other in an unpacked file, as they stand there."""

    offset: int  # in the file
    buffer: np.ndarray  # uint8: the lines, a newline, PADDING bytes
    size: int  # bytes of the lines, at most LINE_BYTES


def block_of(file: BinaryIO, begin: int, end: int | None) -> Block | None:
    """The lines of a plain file that `lines_of` has, at once; None where that is too much, or the
    file begins with a mark.
    """
    at = _next_line(file, begin, end) if begin else 0
    if end is None:
        end = file.seek(0, 2)
        file.seek(at)
    tail = TAIL_BYTES
    while (wanted := max(end - at, 0)) + tail <= LINE_BYTES:
        buffer = np.empty(wanted + tail + 1 + PADDING, np.uint8)
        file.seek(at)
        met = file.readinto(buffer[: wanted + tail]) if wanted else 0  # type: ignore[attr-defined]
        newline = buffer[wanted - 1 : met].tobytes().find(b"\n") if wanted else 0
        if newline < 0 and met == wanted + tail:
            tail *= 4  # the last line goes on
            continue
        size = wanted + newline if newline >= 0 else met
        buffer[size:] = 0
        buffer[size] = ord("\n")
        has_mark = not at and buffer[:3].tobytes() == _MARK
        return None if has_mark else Block(at, buffer, size)
    return None


def as_block(chunk: Chunk) -> Block | None:
    """`chunk` as the file has it; None where something was cut from it, or is to be."""
    has_mark = not chunk.offset and chunk.held.startswith(_MARK)
    if chunk.dropped or has_mark or len(chunk.held) > LINE_BYTES:
        return None
    buffer = np.frombuffer(chunk.held + b"\n" + bytes(PADDING), np.uint8)
    return Block(chunk.offset, buffer, len(chunk.held))


def lines_in(chunk: Chunk) -> Iterator[Lines]:
    """The lines of `chunk`, TOGETHER at most at once. Of line ends alone nothing is made: there can
    be millions.
    """
    held = chunk.held
    data = np.frombuffer(held, np.uint8)
    ends = np.flatnonzero(data == _END).astype(np.int32)
    if not held.endswith(b"\n"):
        ends = np.append(ends, np.int32(len(held)))
    begins = np.append(np.int32(0), ends[:-1] + 1)
    numbers = np.flatnonzero(ends > begins).astype(np.int32)
    if len(numbers) * _SHORT > len(held):
        numbers = numbers[_are_said(data, begins[numbers], ends[numbers])]
    if chunk.dropped and (not len(numbers) or numbers[0]):
        numbers = np.append(np.int32(0), numbers)
    for at in range(0, max(len(numbers), 1), TOGETHER):
        some = numbers[at : at + TOGETHER]
        places = zip(begins[some].tolist(), ends[some].tolist(), strict=True)
        contents: list[bytes | None] = [held[begin:end] for begin, end in places]
        sizes = (ends[some] - begins[some]).astype(np.int64)
        offsets = begins[some].astype(np.int64) + chunk.offset + chunk.dropped
        if not at and contents and not some[0]:
            if not chunk.offset:
                contents[0] = (contents[0] or b"").removeprefix(_MARK)
            offsets[0], sizes[0] = chunk.offset, sizes[0] + chunk.dropped
        for place in np.flatnonzero(sizes > LINE_BYTES).tolist():
            contents[place] = None
        # Counted from where the lines before end.
        first = int(some[0]) if at else 0
        behind = numbers[at + TOGETHER] if at + TOGETHER < len(numbers) else len(ends)
        yield Lines((some - first).tolist(), offsets.tolist(), contents, int(behind) - first)


def _are_said(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether each line that lies there in `data` is more than spaces."""
    said = np.append(0, np.cumsum(_SAID[data], dtype=np.int32))
    return said[ends] > said[begins]


def lines_of(file: Any, begin: int = 0, end: int | None = None) -> Iterator[Lines]:
    """The lines of `file` that `chunks_of` gives."""
    return chain.from_iterable(map(lines_in, chunks_of(file, begin, end)))


def chunks_of(file: Any, begin: int = 0, end: int | None = None) -> Iterator[Chunk]:
    """The lines of `file` that begin at or after the byte `begin` and before `end`, some MB at a
    time, without ever holding more than LINE_BYTES of one.

    `file` can seek where `begin` is not 0.
    """
    at = _next_line(file, begin, end) if begin else 0
    held, dropped = b"", 0  # of the line that is not yet whole: what is held, and how much is not
    while end is None or at < end:
        read = file.read(_wanted(at + dropped + len(held), end, len(held)))
        held += read
        whole = held.rfind(b"\n") + 1 if read else len(held)
        if end is not None:
            # What begins at or after it is not wanted.
            whole = held.find(b"\n", max(end - at - dropped - 1, 0), whole) + 1 or whole
        if whole or (dropped and not read):
            yield Chunk(at, held[:whole], dropped)
            at, dropped, held = at + dropped + whole, 0, held[whole:]
        if not read:
            return
        if len(held) > LINE_BYTES:
            held, dropped = b"", dropped + len(held)


def _next_line(file: Any, begin: int, end: int | None) -> int:
    """Moves `file` to where the first line at or after `begin` begins; returns that, or some place
    at or after `end` where none begins before it.

    Nothing is looked for beyond `end`: else each shard of an endless line would read all of it.
    """
    at = begin - 1
    file.seek(at)
    while (end is None or at < end) and (chunk := file.read(TAIL_BYTES)):
        found = chunk.find(b"\n") + 1
        at += found or len(chunk)
        if found:
            break
    file.seek(at)
    return at


def _wanted(at: int, end: int | None, held: int) -> int:
    """How much to read next: up to `end`, and from there bit by bit, to finish its last line; as
    much as is held of that, since all of it is copied each time.
    """
    return CHUNK_BYTES if end is None else min(CHUNK_BYTES, max(end - at, TAIL_BYTES, held))


def unpacked(file: BinaryIO, magic: bytes, name: str) -> Any:
    """`file` as a stream of what was packed into it: gzip, zstd or plain, told by `magic`, its
    first four bytes. Reading from it raises InputError, naming `name`, where a bound is passed.
    """
    if magic[:2] == b"\x1f\x8b":
        return _Bounded(gzip.GzipFile(fileobj=file), file, name)
    if magic == b"\x28\xb5\x2f\xfd":
        return _Bounded(pa.CompressedInputStream(pa.PythonFile(file), "zstd"), file, name)
    return file


def refuse_bomb(unpacked_bytes: int, packed_bytes: int, name: str) -> None:
    """Raises InputError where a file unpacks to more than is allowed."""
    ratio = unpacked_bytes / max(packed_bytes, 1)
    if unpacked_bytes > UNPACKED_BYTES:
        fault = f"unpacks to more than {UNPACKED_BYTES / 2**30:g} GiB"
    elif unpacked_bytes > FREE_BYTES and ratio > UNPACKED_RATIO:
        fault = f"unpacks to more than {UNPACKED_RATIO} times its size"
    else:
        return
    raise InputError(f"{name}: {fault}", "unpack it yourself if you trust it, and name the result")


class _Bounded:
    """The unpacked stream of `packed`, held against the bounds after every chunk."""

    def __init__(self, stream: Any, packed: BinaryIO, name: str) -> None:
        self._stream, self._packed, self._name = stream, packed, name
        self._met = 0

    def read(self, size: int) -> bytes:
        chunk: bytes = self._stream.read(size)
        self._met += len(chunk)
        refuse_bomb(self._met, self._packed.tell(), self._name)
        return chunk
