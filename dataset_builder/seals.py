"""A Parquet file that vouches for itself: among the names and values of its footer stands the
digest of all its other bytes. The format's own checksums cover pages, and neither their headers nor
the footer, in which a bit can rename a field or turn a number's type.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

_NAME = "treetune.sha256"
_UNSEALED = "0" * 64
# As Thrift writes the name and the value; the footer ends with names and values, who wrote it, and
# some bytes a column, so what rows hold stands before.
_SEAL = re.compile(re.escape(_NAME.encode()) + rb"\x18\x40([0-9a-f]{64})")
_END_BYTES = 4096
_CHUNK_BYTES = 2**20


class _Seal(NamedTuple):
    """Where the digest stands in the file, and the digest."""

    place: int
    digest: bytes


def reserve(writer: pq.ParquetWriter) -> None:
    """Leave room for the seal in what `writer` will end with."""
    writer.add_key_value_metadata({_NAME: _UNSEALED})


def seal(out: Path) -> None:
    """Write the digest into the finished file `out`, in which room was left."""
    with out.open("r+b") as file:
        found = _find(file)
        assert found, "no room was left"
        digest = _digest(file, found.place)
        file.seek(found.place)
        file.write(digest)


def is_sealed(file: BinaryIO) -> bool:
    """Whether the file has the bytes it was sealed with; False where it never was, as those that
    older versions wrote. Raises ValueError where it has others.
    """
    found = _find(file)
    if found and _digest(file, found.place) != found.digest:
        raise ValueError("changed since it was written")
    return found is not None


def _find(file: BinaryIO) -> _Seal | None:
    begin = max(file.seek(0, 2) - _END_BYTES, 0)
    file.seek(begin)
    seals = list(_SEAL.finditer(file.read()))
    return _Seal(begin + seals[-1].start(1), seals[-1][1]) if seals else None


def _digest(file: BinaryIO, place: int) -> bytes:
    """Of all bytes but those of the seal's digest at `place`."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(min(place - file.tell(), _CHUNK_BYTES)):
        digest.update(chunk)
    file.seek(place + len(_UNSEALED))
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest().encode()
