"""The digest of a table's rows: of values, never of a file's bytes.

Chunking, compression, slices, the width of an integer or of an offset, and the library that wrote
the file do not change it; a value, a null, a column's name or order does.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What one array is fed to.
Hash = Any


def rows_digest(table: pa.Table) -> str:
    """The sha256 of a table's rows in their order, in hexadecimal.

    Column by column: which values are null, then the values, with lengths before what is variable.
    The bytes are defined here and not by Arrow's layout, so that no version of it changes them.
    Raises TypeError at a type that no table of ours has.
    """
    digest = hashlib.sha256(json.dumps([table.column_names, table.num_rows]).encode())
    for column in table.columns:
        _feed(digest, column.chunks or [pa.array([], column.type)])
    return digest.hexdigest()


def _feed(digest: Hash, values: list[pa.Array]) -> None:
    """Feeds an array that comes in pieces; of what is long no piece is copied."""
    digest.update(np.packbits(_whole(each.is_valid() for each in values)).tobytes())
    kind = values[0].type
    if pa.types.is_null(kind):
        return
    if pa.types.is_boolean(kind):
        digest.update(np.packbits(_numbers(values, False)).tobytes())
    elif pa.types.is_integer(kind):
        digest.update(_numbers(values, 0).astype("<i8").tobytes())
    elif pa.types.is_floating(kind):
        digest.update(_numbers(values, 0.0).astype("<f8").tobytes())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _feed_texts(digest, values)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = _whole(pc.fill_null(pc.list_value_length(each), 0) for each in values)
        digest.update(lengths.astype("<i8").tobytes())
        _feed(digest, [each.flatten() for each in values])
    elif pa.types.is_struct(kind):
        digest.update(json.dumps([field.name for field in kind]).encode())
        for fields in zip(*(each.flatten() for each in values), strict=True):
            _feed(digest, list(fields))
    else:
        raise TypeError(f"no digest for {kind}")


def _whole(arrays: Iterable[pa.Array]) -> np.ndarray:
    return np.concatenate([each.to_numpy(zero_copy_only=False) for each in arrays])


def _numbers(values: list[pa.Array], stand_in: Any) -> np.ndarray:
    return _whole(pc.fill_null(each, stand_in) for each in values)


def _feed_texts(digest: Hash, values: list[pa.Array]) -> None:
    texts = [pc.fill_null(each, "") if each.null_count else each for each in values]
    lengths = _whole(pc.binary_length(each) for each in texts)
    digest.update(lengths.astype("<i8").tobytes())
    for each in texts:
        _, offsets, data = each.buffers()
        if data is not None and len(each):
            width = "<i8" if pa.types.is_large_string(each.type) else "<i4"
            ends = np.frombuffer(offsets, width)[each.offset : each.offset + len(each) + 1]
            digest.update(memoryview(data)[ends[0] : ends[-1]])
