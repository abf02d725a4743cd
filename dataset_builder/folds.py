"""Which of many texts are the same, letters and digits alone: `split.normalised`, in arrays."""

import numpy as np
import pyarrow as pa

from dataset_builder.bounds import pieces, plain
from dataset_builder.split import FOLDED, NEITHER, normalised

_IS_KEPT = bytes(sign not in NEITHER for sign in range(256))


def fold_codes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each of `texts` (strings, none of them null), int64: equal where `normalised`
    is.
    """
    folded: list[pa.Array] = [pa.array([], pa.string())]
    places = [np.zeros(0, np.int64)]
    start = 0
    for piece in pieces(texts):
        ascii_texts, is_plain = plain(piece)
        signs = ascii_texts.signs.tobytes()
        is_kept = np.frombuffer(signs.translate(_IS_KEPT), bool)
        ends = np.concatenate([[0], np.cumsum(is_kept, dtype=np.int32)])[ascii_texts.offsets]
        # What is left empty stands for itself, and so do texts that are not ASCII.
        is_folded = ends[1:] > ends[:-1]
        kept = signs.translate(FOLDED, NEITHER)
        offsets = pa.py_buffer(ends.astype(np.int32))
        plain_places = np.flatnonzero(is_plain)
        whole = pa.StringArray.from_buffers(len(plain_places), offsets, pa.py_buffer(kept))
        folded.append(whole if is_folded.all() else whole.filter(pa.array(is_folded)))
        others = np.concatenate([plain_places[~is_folded], np.flatnonzero(~is_plain)])
        folded.append(pa.array([normalised(piece[int(at)].as_py()) for at in others], pa.string()))
        places += [start + plain_places[is_folded], start + others]
        start += len(piece)
    found = np.empty(start, np.int64)
    codes = pa.chunked_array(folded, pa.string()).dictionary_encode().chunks
    numbers = [np.zeros(0, np.int64), *(each.indices.to_numpy() for each in codes)]
    found[np.concatenate(places)] = np.concatenate(numbers)
    return found
