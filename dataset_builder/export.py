"""The border: reads every form of an Open Assistant export, bounded and strict, and refuses rows
with a reason.

A foreign file meets nothing but this module and those it calls. Lines are cut by hand and never
grow beyond a bound, the parser is strict, trees are walked with a stack, and a row that cannot be
read costs that row alone.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataset_builder.columns import met_of_table
from dataset_builder.compiled import processors
from dataset_builder.errors import InputError
from dataset_builder.rows import Form, Met, Refusal
from dataset_builder.shards import (
    WANTED,
    Part,
    Shard,
    is_compiled,
    joined,
    read_shard,
    reading,
    shards_of,
)


@dataclass
class Export:
    """What one file holds."""

    name: str
    sha256: str
    bytes: int
    form: Form
    rows: int
    met: pa.Table  # its messages, of columns.MET, in the order of the file
    refusals: list[Refusal]
    path: Path | None = None  # as it was named, for whoever is told of the file

    @property
    def messages(self) -> list[Met]:
        """The messages one by one, for whoever looks at a few."""
        return met_of_table(self.met)


def read_export(
    path: Path, name: str | None = None, report: Callable[[int], None] = lambda rows: None
) -> Export:
    """Everything in the file at `path`, whatever its form: told by content, never by name.

    `report` is called now and then with the number of rows met so far. Raises InputError where the
    file is missing, cannot be unpacked, or holds nothing.
    """
    met = 0
    refused: InputError | None = None

    def more(rows: int) -> None:
        nonlocal met
        if refused:
            raise refused  # no other shard is read on
        met += rows
        report(met)

    def read(shard: Shard) -> Part:
        nonlocal refused
        try:
            return read_shard(shard, more)
        except InputError as error:
            refused = error
            raise

    shards = shards_of(path)
    # Only compiled code runs beside other threads.
    n = processors() if is_compiled(path) else 1
    with ThreadPoolExecutor(n) as pool, ThreadPoolExecutor(1) as beside:
        digest = beside.submit(_digest, path)  # hashing holds nobody up
        with reading(path):
            part = joined(pool.map(read, shards))
        return _export(path, name, part, *digest.result())


def export_of(path: Path, name: str | None, part: Part) -> Export:
    """The export at `path`, of which `part` is all. Raises InputError where it holds no rows."""
    return _export(path, name, part, *_digest(path))


def _digest(path: Path) -> tuple[str, int]:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _export(path: Path, name: str | None, part: Part, sha256: str, size: int) -> Export:
    if not part.rows:
        raise InputError(f"{path}: holds no rows", WANTED)
    return Export(
        name or path.name, sha256, size, part.form, part.rows, part.met, part.refusals, path
    )
