"""Strings of a column taken in any order, many times over, by where each lies: copied once, and
never brought together before.

One array of Arrow's strings holds 2 GiB at most, so a column of texts has several, and Arrow joins
them whenever rows are taken.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer


class Strings:
    """The strings of `column`."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.code = library() if is_at_hand() else None
        if self.code is None:
            import polars as pl  # not where rows are only read

            self.views = pl.Series(column)
            return
        # Held, so that the addresses stay true.
        self.chunks = [buffers_of(chunk) for chunk in column.chunks]
        none = np.zeros(0, np.int64)
        found = [data.ctypes.data + ends[:-1].astype(np.int64) for data, ends in self.chunks]
        self.at = np.concatenate([none, *found])
        sizes = [np.diff(ends) for _, ends in self.chunks]
        self.sizes = np.concatenate([none.astype(np.int32), *sizes])
        self.is_null = np.concatenate([none.astype(bool), *map(_is_null, column.chunks)])

    def take(self, rows: np.ndarray) -> pa.Array:
        """The strings in these rows, 2 GiB at most; null where a row is -1."""
        if self.code is None:
            import polars as pl

            taken = self.views.gather(pl.Series(pa.array(rows, mask=rows < 0)))
            return taken.to_arrow().cast(pa.string())
        if not len(rows):
            return pa.array([], pa.string())
        at = self.at[rows]
        is_null = (rows < 0) | self.is_null[rows]
        sizes = np.where(is_null, 0, self.sizes[rows]).astype(np.int32)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        if offsets[-1] >= 2**31:
            raise ValueError(f"{offsets[-1]:,} bytes of text in one array")
        held = pa.allocate_buffer(int(offsets[-1]))
        out = np.frombuffer(held, np.uint8)
        self.code.gather(pointer(at), pointer(sizes), len(at), pointer(out))
        nulls = int(is_null.sum())
        valid = pa.py_buffer(np.packbits(~is_null, bitorder="little")) if nulls else None
        ends = pa.py_buffer(offsets.astype(np.int32))
        return pa.StringArray.from_buffers(len(rows), ends, held, valid, nulls)


class Selected:
    """Some strings of a column, none of them null, taken chunk by chunk whenever they are read:
    where a copy of all would be large.
    """

    def __init__(self, strings: Strings, rows: np.ndarray, bounds: list[tuple[int, int]]) -> None:
        self.strings, self.rows, self.bounds = strings, rows, bounds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> pa.Scalar:
        return self.strings.take(self.rows[place : place + 1])[0]

    @property
    def chunks(self) -> Iterator[pa.Array]:
        """All of them, in pieces."""
        return (self.strings.take(self.rows[start:end]) for start, end in self.bounds)

    def take(self, places: pa.Array) -> pa.Array:
        """Those at `places`, 2 GiB at most."""
        return self.strings.take(self.rows[places.to_numpy()])


# What is read as texts, none of them null.
Texts: TypeAlias = Any  # pa.Array, pa.ChunkedArray or Selected


def chunks_of(texts: Texts) -> Iterable[pa.Array]:
    """The pieces that `texts` come in."""
    return [texts] if isinstance(texts, pa.Array) else texts.chunks


def _is_null(chunk: pa.Array) -> np.ndarray:
    if not chunk.null_count:
        return np.zeros(len(chunk), bool)
    return chunk.is_null().to_numpy(zero_copy_only=False)
