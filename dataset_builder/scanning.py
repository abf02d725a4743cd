"""Lines in the usual form as columns, by compiled code: what `plain` makes of them, ten times as
fast and beside other threads.

Where there is no compiler `plain` serves, and the tables are the same.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dataset_builder.columns import MET
from dataset_builder.compiled import library, pointer
from dataset_builder.lines import Block
from dataset_builder.rows import Form

# The `Message` of scan.c, in numbers of four bytes: where each text begins, its bytes, the others.
_TEXTS = (
    "message_id",
    "parent_id",
    "text",
    "lang",
    "model_name",
    "created_date",
    "tree_id",
    "tree_state",
)
_SIZES = len(_TEXTS)
_OTHERS = (
    "unescaped",
    "role",
    "rank",
    "review_count",
    "deleted",
    "synthetic",
    "review_result",
    "labels_at",
    "labels",
    "emojis_at",
    "emojis",
    "nested_place",
    "row",
)
_PLACES = {name: place for place, name in enumerate(_OTHERS, start=2 * _SIZES)}
_WIDTH = 2 * _SIZES + len(_OTHERS)

_ROLES = pa.array(["prompter", "assistant"], pa.string())


class _Found(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("messages", "labels", "emojis", "values")),
        *((name, ctypes.c_void_p) for name in ("inexact", "rows", "left")),
        *((f"room_{name}", ctypes.c_int64) for name in ("messages", "labels", "emojis", "left")),
        *((f"n_{name}", ctypes.c_int64) for name in ("messages", "labels", "emojis")),
        *((f"n_{name}", ctypes.c_int64) for name in ("inexact", "rows", "left", "lines")),
    )


class Scanned(NamedTuple):
    """What a block holds in the usual form, and which of its lines are left to `plain`."""

    met: pa.Table  # of MET; `line` is 1 where the block begins
    forms: list[Form]  # of the lines that were taken
    numbers: np.ndarray  # theirs, from 0
    left: list[tuple[int, int, int]]  # the others that are not blank: number, place, bytes
    lines: int


def scanned(block: Block) -> Scanned | None:
    """The messages of the lines in the usual form; None where most are in another. Asks for a
    library.
    """
    buffer, size = block.buffer, block.size
    # No message, label, emoji or row takes fewer bytes; a line for which there is no room is left.
    messages = np.empty((size // 45 + 64, _WIDTH), np.int32)
    labels, emojis = (np.empty((size // least + 8, 3), np.int32) for least in (23, 8))
    values, inexact = np.empty(len(labels)), np.empty((len(labels), 3), np.int32)
    rows, left = np.empty((len(messages), 3), np.int32), np.empty((size // 1024 + 64, 3), np.int32)
    arrays = (messages, labels, emojis, values, inexact, rows, left)
    found = _Found(
        *(each.ctypes.data for each in arrays), *map(len, (messages, labels, emojis, left))
    )
    if not _code().scan(pointer(buffer), size, ctypes.byref(found)):
        return None
    messages, rows = messages[: found.n_messages], rows[: found.n_rows]
    for entry, at, length in inexact[: found.n_inexact].tolist():
        values[entry] = float(buffer[at : at + length].tobytes())
    columns = {
        name: _strings(buffer, messages[:, place], messages[:, _SIZES + place])
        for place, name in enumerate(_TEXTS)
        if name != "text"
    }
    columns["text"] = _texts(buffer, messages)
    columns["role"] = _ROLES.take(pa.array(_column(messages, "role")))
    for name in ("rank", "review_count", "nested_place"):
        numbers = _column(messages, name)
        columns[name] = pa.array(numbers, pa.int32(), mask=numbers < 0)
    for name in ("deleted", "synthetic", "review_result"):
        flags = _column(messages, name)
        columns[name] = pa.array(flags == 1, pa.bool_(), mask=flags < 0)
    columns["labels"] = _lists(buffer, messages, "labels", labels, values)
    columns["emojis"] = _lists(buffer, messages, "emojis", emojis)
    of_row = rows[_column(messages, "row")].astype(np.int64)
    columns["line"] = pa.array(of_row[:, 0] + 1)
    columns["byte_offset"] = pa.array(of_row[:, 1] + block.offset)
    return Scanned(
        pa.table({name: columns[name] for name in MET.names}, schema=MET),
        ["trees" if nested else "messages" for nested in rows[:, 2].tolist()],
        rows[:, 0],
        [tuple(each) for each in left[: found.n_left].tolist()],
        found.n_lines,
    )


def _code() -> ctypes.CDLL:
    code = library()
    assert code is not None
    return code


def _column(messages: np.ndarray, name: str) -> np.ndarray:
    return messages[:, _PLACES[name]]


def _strings(buffer: np.ndarray, at: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """The strings at `at` of so many bytes, columns of one array; null where that is negative."""
    offsets = _offsets(sizes)
    out = _room(int(offsets[-1]))
    step = at.strides[0] // 4 if len(at) else 1
    _code().copy_strings(
        pointer(buffer),
        pointer(at),
        pointer(sizes),
        step,
        len(at),
        pointer(out),
    )
    return _array(offsets, out, sizes)


def _texts(buffer: np.ndarray, messages: np.ndarray) -> pa.Array:
    sizes = _column(messages, "unescaped")
    offsets = _offsets(sizes)
    out = _room(int(offsets[-1]))
    _code().copy_texts(
        pointer(buffer),
        pointer(messages),
        len(messages),
        pointer(out),
    )
    return _array(offsets, out, sizes)


def _room(size: int) -> np.ndarray:
    # Of Arrow's memory: what stays does not lie between what goes.
    return np.frombuffer(pa.allocate_buffer(size), np.uint8)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(np.maximum(sizes, 0), out=offsets[1:])
    return offsets


def _array(offsets: np.ndarray, out: np.ndarray, sizes: np.ndarray) -> pa.Array:
    is_null = sizes < 0
    nulls = int(is_null.sum())
    valid = pa.py_buffer(np.packbits(~is_null, bitorder="little")) if nulls else None
    buffers = (pa.py_buffer(offsets), pa.py_buffer(out), valid, nulls)
    return pa.StringArray.from_buffers(len(sizes), *buffers)


def _lists(
    buffer: np.ndarray,
    messages: np.ndarray,
    name: str,
    entries: np.ndarray,
    values: np.ndarray | None = None,
) -> pa.Array:
    """The labels or emojis of each message."""
    kind = MET.field(name).type
    begins, sizes = _column(messages, f"{name}_at"), _column(messages, name)
    offsets = _offsets(sizes)
    # In the file they may stand behind those of the replies.
    order = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], np.maximum(sizes, 0))
    entries = entries[order]
    fields = [_strings(buffer, entries[:, 0], entries[:, 1]), pa.array(entries[:, 2])]
    if values is not None:
        fields.insert(1, pa.array(values[order]))
    structs = pa.StructArray.from_arrays(fields, fields=list(kind.value_type))
    mask = pa.array(sizes < 0)
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=kind, mask=mask)
