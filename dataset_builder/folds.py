"""Which of many texts are the same, letters and digits alone: `split.normalised`, in arrays."""

import ctypes
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dataset_builder.bounds import pieces, plain
from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer
from dataset_builder.gather import Texts
from dataset_builder.split import FOLDED, NEITHER, normalised

# A folded text of so many bytes is told from others by its digest, which is longer than any that is
# not.
DIGEST = 64

_IS_KEPT = bytes(sign not in NEITHER for sign in range(256))


def fold_codes(texts: Texts) -> np.ndarray:
    """A number for each of `texts` (strings, none of them null), int64: equal where `normalised`
    is.
    """
    folded: list[bytes] = []
    code = library() if is_at_hand() else None
    for piece in pieces(texts):
        held, offsets = _folded(piece) if code is None else _compiled_folds(piece, code)
        for at, (begin, end) in enumerate(pairwise(offsets.tolist())):
            # What is left empty stands for itself, and so do texts that are not ASCII.
            text = held[begin:end] if begin < end else normalised(piece[at].as_py()).encode()
            # Long ones by their digests, so that no second copy of all texts is held.
            folded.append(bytes(text) if len(text) < DIGEST else blake2b(text).digest())
    codes = pa.array(folded, pa.binary()).dictionary_encode()
    return codes.indices.to_numpy().astype(np.int64)


def _folded(texts: pa.Array) -> tuple[memoryview, np.ndarray]:
    """The ASCII ones of `texts` folded, behind each other, nothing for the others; and where each
    begins, and the last ends.
    """
    ascii_texts, is_plain = plain(texts)
    signs = ascii_texts.signs.tobytes()
    is_kept = np.frombuffer(signs.translate(_IS_KEPT), bool)
    ends = np.concatenate([[0], np.cumsum(is_kept)])[ascii_texts.offsets]
    sizes = np.zeros(len(texts), np.int64)
    sizes[is_plain] = np.diff(ends)
    return memoryview(signs.translate(FOLDED, NEITHER)), np.concatenate([[0], np.cumsum(sizes)])


def _compiled_folds(texts: pa.Array, code: ctypes.CDLL) -> tuple[memoryview, np.ndarray]:
    data, offsets = buffers_of(texts)
    out = np.empty(offsets[-1] - offsets[0] + 1, np.uint8)
    ends = np.zeros(len(texts) + 1, np.int32)
    code.fold_texts(pointer(data), pointer(offsets), len(texts), pointer(out), pointer(ends[1:]))
    return out.data, ends
