"""The lines of a foreign file, unpacked: bounded, so that what is held never grows with what a file
says of itself.
"""

import gzip
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
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


class Lines(NamedTuple):
    """Lines of an unpacked file that follow each other, blank ones among them, without their ends.

    A line longer than LINE_BYTES is None.
    """

    offsets: list[int]  # of each, in the file
    contents: list[bytes | None]


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


def as_block(lines: Lines) -> Block | None:
    """`lines` as they stood in the file; None where something was cut from them."""
    if None in lines.contents:
        return None
    held = b"\n".join([*(content or b"" for content in lines.contents), b"\n" + bytes(PADDING)])
    size = len(held) - PADDING - 1
    ends = lines.offsets[-1] + len(lines.contents[-1] or b"") + 1
    if size != ends - lines.offsets[0] or size > LINE_BYTES:
        return None
    return Block(lines.offsets[0], np.frombuffer(held, np.uint8), size)


def lines_of(file: Any, begin: int = 0, end: int | None = None) -> Iterator[Lines]:
    """The lines of `file` that begin at or after the byte `begin` and before `end`, some MB at a
    time, without ever holding more than LINE_BYTES of one.

    `file` can seek where `begin` is not 0.
    """
    at = _next_line(file, begin, end) if begin else 0
    held, dropped = b"", 0  # of the line that is not yet whole: what is held, and how much is not
    while end is None or at < end:
        chunk = file.read(_wanted(at + dropped + len(held), end, len(held)))
        pieces = (held + chunk).split(b"\n")
        held = pieces.pop() if chunk else b""
        if not chunk and not pieces[0] and not dropped:
            return
        if pieces:
            lengths = [len(piece) + 1 for piece in pieces]
            lengths[0] += dropped
            lengths[-1] -= not chunk
            offsets = [*accumulate(lengths, initial=at)]
            at, dropped = offsets.pop(), 0
            whole = len(pieces) if end is None else bisect_left(offsets, end)
            yield _lines(offsets[:whole], pieces[:whole], lengths)
        if not chunk:
            return
        if len(held) > LINE_BYTES:
            held, dropped = b"", dropped + len(held)


def _lines(offsets: list[int], pieces: list[bytes], lengths: list[int]) -> Lines:
    if not offsets[0]:
        pieces[0] = pieces[0].removeprefix(_MARK)
    contents: list[bytes | None] = [*pieces]
    if max(lengths) > LINE_BYTES:
        for number in range(len(pieces)):
            if lengths[number] > LINE_BYTES:
                contents[number] = None
    return Lines(offsets, contents)


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
