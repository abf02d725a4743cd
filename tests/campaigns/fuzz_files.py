"""Files of exports: packed, Parquet, or none of it."""

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.builders import prompt, reply, write
from tests.fuzzing import fuzzing


def seeds() -> Iterator[bytes]:
    """A small file of every kind."""
    rows = [
        prompt("a"),
        reply("b", "a", rank=0, labels={"name": ["spam"], "value": [0.5], "count": [1]}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("x.jsonl", "x.trees.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"):
            yield write(Path(folder) / name, rows).read_bytes()
    yield gzip.compress(b"\n") * 3


CAMPAIGN = fuzzing(
    "files",
    "whatever a file is, it is read or refused by one line",
    seeds,
)
