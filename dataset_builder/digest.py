"""The digest of a table's rows: of values, never of a file's bytes.

Chunking, compression, slices, the width of an integer or of an offset, and the library that wrote
the file do not change it; a value, a null, a column's name or order does.
"""

import hashlib
import json
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
        # One chunk is not copied.
        chunks = column.chunks if column.num_chunks else [pa.array([], column.type)]
        _feed(digest, chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks))
    return digest.hexdigest()


def _feed(digest: Hash, values: pa.Array) -> None:
    digest.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = values.type
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
        lengths = pc.fill_null(pc.list_value_length(values), 0)
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        _feed(digest, values.flatten())
    elif pa.types.is_struct(kind):
        digest.update(json.dumps([field.name for field in kind]).encode())
        for field in values.flatten():
            _feed(digest, field)
    else:
        raise TypeError(f"no digest for {kind}")


def _numbers(values: pa.Array, stand_in: Any) -> np.ndarray:
    return pc.fill_null(values, stand_in).to_numpy(zero_copy_only=False)


def _feed_texts(digest: Hash, values: pa.Array) -> None:
    texts = pc.fill_null(values.cast(pa.large_string()), "")
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    digest.update(lengths.astype("<i8").tobytes())
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, "<i8", count=len(texts) + 1, offset=8 * texts.offset)
    if data is not None and len(texts):
        digest.update(memoryview(data)[ends[0] : ends[-1]])
