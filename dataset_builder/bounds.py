"""Where words begin and end in many plain texts at once, in arrays.

Between ASCII signs, Unicode's rules for words (UAX #29) come to four: letters, digits and
underscores hang together; an apostrophe, a full stop or a colon joins two letters; an apostrophe, a
full stop, a comma or a semicolon joins two digits; nothing else does. The tests hold this against
the library that knows all of the rules, and texts with other signs are left to it.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer
from dataset_builder.gather import Texts, chunks_of

# So many bytes are looked at together: few enough for a processor's cache.
PIECE = 2**19

# What a sign is, and in the bits above 4 what it joins.
_LETTER, _DIGIT, _UNDERSCORE, _JOIN = 1, 2, 4, 8

_KINDS = bytes(
    _LETTER * sign.isalpha()
    | _DIGIT * sign.isdigit()
    | _UNDERSCORE * (sign == "_")
    | _JOIN * _LETTER * (sign in "'.:")
    | _JOIN * _DIGIT * (sign in "'.,;")
    for sign in map(chr, range(128))
) + bytes(128)


class Plain(NamedTuple):
    """Some ASCII texts: text k is `signs[offsets[k]:offsets[k + 1]]`."""

    signs: np.ndarray  # uint8
    offsets: np.ndarray  # int64, (texts + 1,), from 0


class Bounds(NamedTuple):
    """The words of some texts: word i is `signs[starts[i]:ends[i]]`."""

    starts: np.ndarray  # int64, (words,)
    ends: np.ndarray  # int64, (words,)
    counts: np.ndarray  # int64, (texts,): words in each


def word_bounds(texts: Plain) -> Bounds:
    """The words of `texts`, which must hold ASCII alone."""
    signs, offsets = texts
    kinds = np.frombuffer(signs.tobytes().translate(_KINDS), np.uint8)
    # One sign more than there are: the end of the last text begins nothing.
    is_first = np.zeros(len(signs) + 1, bool)
    is_first[offsets] = True
    is_word = np.zeros(len(signs) + 2, bool)  # one sign before and one behind
    inside = is_word[1:-1]
    np.logical_and(kinds > 0, kinds < _JOIN, out=inside)
    joins = np.flatnonzero(kinds >= _JOIN)
    joins = joins[~(is_first[joins] | is_first[joins + 1])]
    joined = kinds[joins - 1] & kinds[np.minimum(joins + 1, len(signs) - 1)] & (kinds[joins] >> 3)
    inside[joins[joined != 0]] = True
    starts = np.flatnonzero(inside & (~is_word[:-2] | is_first[:-1]))
    ends = np.flatnonzero(inside & (~is_word[2:] | is_first[1:])) + 1
    # A run of underscores is no word.
    if (kinds == _UNDERSCORE).any():
        doubtful = np.flatnonzero(kinds[starts] == _UNDERSCORE)
        said = np.flatnonzero((kinds == _LETTER) | (kinds == _DIGIT))
        first = np.searchsorted(said, starts[doubtful])
        empty = doubtful[first == np.searchsorted(said, ends[doubtful])]
        starts, ends = np.delete(starts, empty), np.delete(ends, empty)
    return Bounds(starts, ends, np.diff(np.searchsorted(starts, offsets)))


def pieces(texts: Texts, size: int | None = None) -> Iterator[pa.Array]:
    """`texts` (strings, none of them null) in order, some at a time: of `size` bytes at most, or
    PIECE; or one.
    """
    size = size or PIECE
    for chunk in chunks_of(texts):
        ends = _offsets(chunk)
        at = 0
        while at < len(chunk):
            last = int(np.searchsorted(ends, ends[at] + size, side="right")) - 1
            length = max(1, last - at)
            yield chunk.slice(at, length)
            at += length


def plain(texts: pa.Array) -> tuple[Plain, np.ndarray]:
    """Those of `texts` (none of them null) that are ASCII alone, and of each whether it is."""
    is_plain = pc.string_is_ascii(texts)
    flags = is_plain.to_numpy(zero_copy_only=False)
    kept = texts if flags.all() else texts.filter(is_plain)
    offsets = _offsets(kept)
    data = kept.buffers()[2]
    signs = np.frombuffer(data if data is not None else b"", np.uint8)
    return Plain(signs[offsets[0] : offsets[-1]], offsets - offsets[0]), flags


def counts_of(texts: pa.Array, kinds: Sequence[bytes]) -> np.ndarray:
    """How many signs of each of `kinds` (three sets of ASCII signs) each of `texts` (none of them
    null) holds: (texts, 3).
    """
    code = library() if is_at_hand() else None
    if code is not None:
        counts = np.empty((len(texts), 3), np.int32)
        data, ends = buffers_of(texts)
        table = pointer(_bits(tuple(kinds)))
        code.count_kinds(pointer(data), pointer(ends), len(texts), table, pointer(counts))
        return counts
    offsets = _offsets(texts)
    data = texts.buffers()[2]
    held = bytes(memoryview(data if data is not None else b"")[offsets[0] : offsets[-1]])
    found = []
    for kind in kinds:
        is_one = held.translate(bytes(sign in kind for sign in range(256)))
        places = np.flatnonzero(np.frombuffer(is_one, bool))
        found.append(np.diff(np.searchsorted(places, offsets - offsets[0])))
    return np.stack(found, axis=1)


@cache
def _bits(kinds: tuple[bytes, ...]) -> np.ndarray:
    """Of each sign a bit for every one of `kinds` that it is of."""
    bits = [sum((sign in kind) << n for n, kind in enumerate(kinds)) for sign in range(256)]
    return np.array(bits, np.uint8)


def _offsets(texts: pa.Array) -> np.ndarray:
    if not len(texts):
        return np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    return np.frombuffer(texts.buffers()[1], width)[texts.offset :][: len(texts) + 1].astype(
        np.int64
    )
