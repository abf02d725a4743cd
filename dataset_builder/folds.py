"""Which of many texts are the same, letters and digits alone: `split.normalised`, in arrays."""

import ctypes
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_builder.bounds import pieces, plain
from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer
from dataset_builder.split import FOLDED, NEITHER, normalised

_IS_KEPT = bytes(sign not in NEITHER for sign in range(256))


def fold_codes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each of `texts` (strings, none of them null), int64: equal where `normalised`
    is.
    """
    folded: list[pa.Array] = [pa.array([], pa.string())]
    places = [np.zeros(0, np.int64)]
    start = 0
    code = library() if is_at_hand() else None
    for piece in pieces(texts):
        held, is_folded = _folded(piece) if code is None else _compiled_folds(piece, code)
        folded.append(held.filter(pa.array(is_folded)))
        # What is left empty stands for itself, and so do texts that are not ASCII.
        others = np.flatnonzero(~is_folded)
        folded.append(pa.array([normalised(piece[int(at)].as_py()) for at in others], pa.string()))
        places += [start + np.flatnonzero(is_folded), start + others]
        start += len(piece)
    found = np.empty(start, np.int64)
    codes = pa.chunked_array(folded, pa.string()).dictionary_encode().chunks
    numbers = [np.zeros(0, np.int64), *(each.indices.to_numpy() for each in codes)]
    found[np.concatenate(places)] = np.concatenate(numbers)
    return found


def _folded(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The ASCII ones of `texts` folded, empty ones for the others; and which are not empty."""
    ascii_texts, is_plain = plain(texts)
    signs = ascii_texts.signs.tobytes()
    is_kept = np.frombuffer(signs.translate(_IS_KEPT), bool)
    ends = np.concatenate([[0], np.cumsum(is_kept, dtype=np.int32)])[ascii_texts.offsets]
    sizes = np.zeros(len(texts), np.int32)
    sizes[is_plain] = np.diff(ends)
    return _strings(sizes, signs.translate(FOLDED, NEITHER)), sizes > 0


def _compiled_folds(texts: pa.Array, code: ctypes.CDLL) -> tuple[pa.Array, np.ndarray]:
    data, offsets = buffers_of(texts)
    out = np.empty(offsets[-1] - offsets[0] + 1, np.uint8)
    ends = np.empty(len(texts), np.int32)
    code.fold_texts(pointer(data), pointer(offsets), len(texts), pointer(out), pointer(ends))
    sizes = np.diff(ends, prepend=np.int32(0))
    return _strings(sizes, out), sizes > 0


def _strings(sizes: np.ndarray, held: Any) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(sizes), pa.py_buffer(offsets), pa.py_buffer(held))
