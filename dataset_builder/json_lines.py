"""Lines of JSON that are added one after another, each of which vouches for itself: its last key is
the checksum of what stands before it. One that a kill tore or a disk changed is none.
"""

import re
import zlib
from typing import TypeVar

import msgspec

Record = TypeVar("Record", bound=msgspec.Struct)

_CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{8})"\}\n\Z')


def as_line(record: msgspec.Struct) -> bytes:
    """The line of `record`, which has a field."""
    text = msgspec.json.encode(record)
    return b'%s,"checksum":"%08x"}\n' % (text.removesuffix(b"}"), zlib.crc32(text))


def read_lines(content: bytes, struct: type[Record]) -> list[Record]:
    """The records of the whole lines. One without a checksum, as older versions wrote them, is
    taken for what it says.
    """
    read = (_read(line, struct) for line in content.splitlines(keepends=True))
    return [record for record in read if record is not None]


def _read(line: bytes, struct: type[Record]) -> Record | None:
    found = _CHECKSUM.search(line)
    if found:
        line = line[: found.start()] + b"}"
        if b"%08x" % zlib.crc32(line) != found[1]:
            return None
    elif not line.endswith(b"\n"):
        return None
    try:
        return msgspec.json.decode(line, type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
