"""The border: reads every form of an Open Assistant export, bounded and strict, and refuses rows
with a reason.

A foreign file meets nothing but this module. Lines are cut by hand and never grow beyond a bound,
the parser is strict, trees are walked with a stack, and a row that cannot be read costs that row
alone.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.errors import InputError
from dataset_builder.lines import LINE_BYTES, Place, lines_of, refuse_bomb, unpacked
from dataset_builder.messages import Row, may_repeat_a_key, repeated_key
from dataset_builder.rows import Form, Found, Met, Refusal, loose_row, refused, typed_row

WANTED = (
    "wanted: Open Assistant trees, messages or threads (.jsonl, .jsonl.gz, .jsonl.zst) "
    "or Hub parquet"
)


@dataclass
class Export:
    """What one file holds."""

    name: str
    sha256: str
    bytes: int
    form: Form
    rows: int = 0
    messages: list[Met] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read_export(
    path: Path, name: str | None = None, report: Callable[[int], None] = lambda rows: None
) -> Export:
    """Everything in the file at `path`, whatever its form: told by content, never by name.

    `report` is called now and then with the number of rows met so far. Raises InputError where the
    file is missing, cannot be unpacked, or holds nothing.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            export = Export(name or path.name, sha256, file.tell(), "messages")
            file.seek(0)
            magic = file.read(4)
            file.seek(0)
            if magic == b"PAR1":
                export.form = "parquet"
                found = _in_parquet(file, export.bytes, str(path))
            else:
                found = _in_lines(unpacked(file, magic, str(path)))
            for each in found:
                _take(each, export, report)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise InputError(f"{path}: cannot be read: {reason}", WANTED) from error
    if not export.rows:
        raise InputError(f"{path}: holds no rows", WANTED)
    return export


def _take(found: Found, export: Export, report: Callable[[int], None]) -> None:
    form, messages = found
    export.rows += 1
    if export.form == "messages" and not export.messages:
        export.form = form
    for each in messages:
        if isinstance(each, Met):
            export.messages.append(each)
        else:
            export.refusals.append(each)
    if export.rows % 1000 == 0:
        report(export.rows)


def _in_parquet(file: BinaryIO, packed_bytes: int, name: str) -> Iterator[Found]:
    number = 0
    parquet = pq.ParquetFile(file)
    groups = range(parquet.num_row_groups)
    said = sum(parquet.metadata.row_group(group).total_byte_size for group in groups)
    refuse_bomb(said, packed_bytes, name)
    for batch in parquet.iter_batches(batch_size=4096):
        batch.validate(full=True)
        for row in batch.to_pylist():
            number += 1
            yield loose_row(row, Place(number, None))


def _in_lines(file: Any) -> Iterator[Found]:
    decode = msgspec.json.Decoder(Row).decode
    for at, content in lines_of(file):
        if content is None:
            yield refused(at, "too_long", f"more than {LINE_BYTES} bytes")
            continue
        escapes = b"\\u00" in content
        try:
            try:
                row = decode(content)
                suspicious = may_repeat_a_key(content, row, escapes)
            except msgspec.ValidationError:
                row, suspicious = None, True
            key = repeated_key(content) if suspicious else None
            if key is not None:
                yield refused(at, "duplicate_key", f"`{key}` stands twice in one object")
            elif row is not None:
                yield typed_row(row, at, suspicious=escapes and b"\\u0000" in content)
            else:
                # One value of a wrong type costs its message, not the tree around it.
                yield loose_row(msgspec.json.decode(content), at)
        except RecursionError:
            yield refused(at, "too_deep", "more levels than can be parsed")
        except UnicodeDecodeError as error:
            yield refused(at, "utf8", str(error))
        except (msgspec.DecodeError, ValueError) as error:
            yield refused(at, "json", str(error))
