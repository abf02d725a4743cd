"""The lines of a foreign file, unpacked: bounded, so that what is held never grows with what a file
says of itself.
"""

import gzip
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from dataset_builder.errors import InputError

# No line of an export comes near it; a gzip of one endless line does.
LINE_BYTES = 16 * 2**20

CHUNK_BYTES = 2**20

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


class Line(NamedTuple):
    """A line of an unpacked file; `content` is None where it is longer than LINE_BYTES."""

    at: Place
    content: bytes | None


def lines_of(file: Any) -> Iterator[Line]:
    """The lines of an unpacked file, blank ones aside, without ever holding more than LINE_BYTES of
    one.
    """
    number, start, held = 1, 0, 0
    pieces: list[bytes] = []
    while chunk := file.read(CHUNK_BYTES):
        begin = 0
        while begin < len(chunk):
            end = chunk.find(b"\n", begin) + 1
            piece = chunk[begin : end or len(chunk)]
            begin += len(piece)
            held += len(piece)
            pieces = [*pieces, piece] if held <= LINE_BYTES else []
            if end:
                yield from _line(Place(number, start), pieces, held)
                number, start, held, pieces = number + 1, start + held, 0, []
    yield from _line(Place(number, start), pieces, held)


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


def _line(at: Place, pieces: list[bytes], held: int) -> Iterator[Line]:
    content = b"".join(pieces)
    if at.line == 1:
        content = content.removeprefix(b"\xef\xbb\xbf")
    if held > LINE_BYTES:
        yield Line(at, None)
    elif content.strip():
        yield Line(at, content)
