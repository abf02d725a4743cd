"""Runs of words of many texts at once, as hashes in arrays: what makes near pairs and overlaps
cheap to look for.

A hash stands for its words alone, never for what else is read, so that no order matters.
"""

import ctypes
import hashlib
import unicodedata
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rensa import RMinHash, RMinHashDigestMatrix, RMinHashLSH
from unicode_segmentation_rs import unicode_words

from dataset_builder.bounds import pieces, plain, word_bounds
from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer
from dataset_builder.gather import Texts, chunks_of

# 32 bands of 4 find a pair whose sets overlap by 0.8 with all but certainty.
PERMUTATIONS, BANDS, SEED = 128, 32, 1

# So many bytes of text are hashed at a time: bounds memory, changes nothing.
PIECE = 2**20

# So many texts or sketches are brought together at a time.
MEMBERS = 2**12

# Of so many runs the sets are sketched at once, and only those that may have a neighbour unpacked;
# of more, all are, some at a time: slower, in a fifth of the room.
TOGETHER = 2**25

# A word of more bytes is hashed by a library, one at a time.
LONG_WORD = 64

# The hash of what is no word.
_NO_WORD = np.uint64(0)

# The first n bytes of eight, read as a number.
_FIRST = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)

_LOWER = bytes(range(256)).lower()

# Odd 64-bit constants: of Knuth's MMIX generator, and of the finaliser of MurmurHash3.
_MULTIPLY = np.uint64(6364136223846793005)
_FINISH = np.uint64(0xFF51AFD7ED558CCD)


class Shingles(NamedTuple):
    """The runs of words of some texts: those of text k are `hashes[offsets[k]:offsets[k + 1]]`."""

    hashes: np.ndarray  # uint64, (runs,), repeats and all
    offsets: np.ndarray  # int64, (texts + 1,)
    words: np.ndarray  # int64, (texts,): how many words each has

    def of(self, place: int) -> frozenset[int]:
        """The runs of the text at `place`; of one without a word, the run of none."""
        start, end = self.offsets[place : place + 2]
        return frozenset(self.hashes[start:end].tolist())


class Units(NamedTuple):
    """Some sets of texts. A unit's texts stand in one of its parts each (say: history, question),
    of which every unit has as many; those of unit k are `members[offsets[k]:offsets[k + 1]]`.
    """

    texts: Texts
    members: np.ndarray  # int64: places in `texts`, part by part
    parts: np.ndarray  # int64: the part in which each member stands, from 0
    offsets: np.ndarray  # int64, (units + 1,)

    @classmethod
    def single(cls, texts: Texts) -> "Units":
        """Each text a unit of one part."""
        places = np.arange(len(texts) + 1)
        return cls(texts, places[:-1], np.zeros(len(texts), np.int64), places)


def words(text: str) -> list[str]:
    """The words of `text`, case-folded."""
    return unicode_words(unicodedata.normalize("NFKC", text).casefold())


def shingles_of(texts: Texts, size: int) -> Shingles:
    """Every run of `size` words of each of `texts` (strings, none of them null); where one has
    fewer words, all of it as one run.
    """
    code = library() if is_at_hand() else None
    if code is not None:
        return _compiled_shingles(texts, size, code)
    return _joined_shingles(texts, size)


def _joined_shingles(texts: Texts, size: int) -> Shingles:
    found = [_shingles_of(piece, size) for piece in pieces(texts, PIECE)]
    counts = [np.zeros(1, np.int64), *(np.diff(each.offsets) for each in found)]
    hashes = [np.zeros(0, np.uint64), *(each.hashes for each in found)]
    lengths = [np.zeros(0, np.int64), *(each.words for each in found)]
    return Shingles(
        np.concatenate(hashes), np.cumsum(np.concatenate(counts)), np.concatenate(lengths)
    )


def _compiled_shingles(texts: Texts, size: int, code: ctypes.CDLL) -> Shingles:
    """The same by compiled code, where texts are ASCII and have no very long word."""
    words = np.empty(len(texts), np.int32)
    start = 0
    for chunk in chunks_of(texts):
        buffers = map(pointer, buffers_of(chunk))
        code.count_words(*buffers, len(chunk), LONG_WORD, pointer(words[start:]))
        start += len(chunk)
    others = np.flatnonzero(words < 0)
    more = _joined_shingles(texts.take(pa.array(others)), size)
    counted = words.astype(np.int64)
    counted[others] = more.words
    offsets = np.concatenate([[0], np.cumsum(np.maximum(counted, size) - (size - 1))])
    hashes = np.empty(offsets[-1], np.uint64)
    start = 0
    for chunk in chunks_of(texts):
        buffers = map(pointer, buffers_of(chunk))
        here = pointer(words[start:]), pointer(offsets[start:])
        code.hash_runs(*buffers, len(chunk), size, *here, pointer(hashes))
        start += len(chunk)
    hashes[ranges(offsets[others], np.diff(more.offsets))] = more.hashes
    return Shingles(hashes, offsets, counted)


def shared_buckets(units: Units, texts: Shingles) -> dict[int, list[int]]:
    """The places of `units` that may be near another, each with the buckets it shares with one.

    A unit's set is every run in its texts (`texts` are those of `units.texts`), told apart by the
    part. Of two units whose sets overlap by 0.8, all but one in twenty million share a bucket. A
    unit that shares none is left out.
    """
    if len(units.offsets) < 3:
        return {}
    places = np.arange(len(units.offsets) - 1)
    if np.diff(texts.offsets)[units.members].sum() <= TOGETHER:
        # Most texts have no neighbour: of them no sketch is ever unpacked.
        flags = RMinHashLSH(0.8, PERMUTATIONS, BANDS).query_duplicate_flags_matrix_one_shot(
            _sketches(*_sets_of(units, texts, places))
        )
        places = np.flatnonzero(np.array(flags, bool))
    if not len(places):
        return {}
    # As lists of Python's they take ten times the room.
    starts = range(0, len(places), MEMBERS)
    keys = np.concatenate(
        [_band_keys(_sets_of(units, texts, places[at : at + MEMBERS])) for at in starts]
    )
    found: dict[int, list[int]] = {}
    numbered = 0
    for band in keys.T:
        _, bucket, members = np.unique(band, return_inverse=True, return_counts=True)
        is_shared = (members > 1)[bucket]
        for place, number in zip(
            places[is_shared].tolist(), (bucket[is_shared] + numbered).tolist(), strict=True
        ):
            found.setdefault(place, []).append(number)
        numbered += len(members)
    return found


def _shingles_of(texts: pa.Array, size: int) -> Shingles:
    """The runs of `texts`."""
    ascii_texts, is_plain = plain(texts)
    starts, ends, lengths = word_bounds(ascii_texts)
    of_words = _word_hashes(ascii_texts.signs.tobytes().translate(_LOWER), starts, ends)
    if is_plain.all():
        return Shingles(*_runs(of_words, lengths, size), lengths)
    # The others by the library, behind the plain ones; then each to its place.
    others = [words(texts[int(place)].as_py()) for place in np.flatnonzero(~is_plain)]
    coded = [word.encode() for word in chain.from_iterable(others)]
    ends = np.cumsum(np.fromiter(map(len, coded), np.int64, len(coded)))
    more = _word_hashes(b"".join(coded), np.append(0, ends)[:-1], ends)
    lengths = np.concatenate([lengths, np.fromiter(map(len, others), np.int64, len(others))])
    hashes, offsets = _runs(np.concatenate([of_words, more]), lengths, size)
    order = np.argsort(np.concatenate([np.flatnonzero(is_plain), np.flatnonzero(~is_plain)]))
    return Shingles(*_some(hashes, offsets, order), lengths[order])


def _runs(of_words: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the runs of texts of so many words, and where each text's begin."""
    short = np.maximum(size - lengths, 0)
    if short.any():
        # Filled up to one whole run with what is no word, so that no longer text makes the same.
        filled = np.full(len(of_words) + short.sum(), _NO_WORD, np.uint64)
        moved = np.repeat(np.cumsum(short) - short, lengths)
        filled[np.arange(len(of_words)) + moved] = of_words
        of_words, lengths = filled, lengths + short
    last = max(0, len(of_words) - size + 1)
    hashes = np.zeros(last, np.uint64)
    for at in range(size):
        hashes = hashes * _MULTIPLY + of_words[at : at + last]
    # Runs that begin in one text and end in the next are none.
    is_run = np.ones(len(of_words), bool)
    ends = np.cumsum(lengths)
    for at in range(1, size):
        is_run[ends - at] = False
    return _mixed(hashes[is_run[:last]]), np.concatenate([[0], np.cumsum(lengths - (size - 1))])


def _word_hashes(signs: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A hash of each word `signs[starts[i]:ends[i]]`, eight bytes at a time; no two words of eight
    bytes or fewer have the same.
    """
    padded = signs + bytes(8)
    eights = np.ndarray(len(signs) + 1, "<u8", padded, strides=(1,))
    lengths = ends - starts
    hashes = _spread(eights[starts] & _FIRST[np.minimum(lengths, 8)])
    longer, at = np.flatnonzero(lengths > 8), 8
    while len(longer):
        left = lengths[longer] - at
        here = eights[starts[longer] + at] & _FIRST[np.minimum(left, 8)]
        hashes[longer] = _spread(hashes[longer] * _MULTIPLY + here)
        longer, at = longer[left > 8], at + 8
        if at >= LONG_WORD:
            # What is no word of a person, such as a coded file: not a step for each eight bytes.
            for place in longer.tolist():
                whole = hashlib.blake2b(signs[starts[place] : ends[place]], digest_size=8).digest()
                hashes[place] = int.from_bytes(whole, "little")
            break
    return hashes


def _sets_of(units: Units, texts: Shingles, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sets of the units at `places`: the runs of their texts, each mixed with the part it
    stands in; and where each set begins.
    """
    sizes = np.diff(units.offsets)[places]
    here = ranges(units.offsets[places], sizes)
    members = np.ascontiguousarray(units.members[here], np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.diff(texts.offsets)[members])])
    tags = _mixed(units.parts[here].astype(np.uint64))
    hashes = np.empty(offsets[-1], np.uint64)
    code = library() if is_at_hand() else None
    if code is not None:
        arrays = map(pointer, (texts.hashes, texts.offsets, members, tags))
        code.tag_runs(*arrays, len(members), pointer(hashes))
    else:
        # Some at a time: arrays that fit a processor's cache.
        for start in range(0, len(members), MEMBERS):
            some = slice(start, start + MEMBERS)
            found, ends = _some(texts.hashes, texts.offsets, members[some])
            of_part = np.repeat(tags[some], np.diff(ends))
            hashes[offsets[start] :][: len(found)] = _mixed(found ^ of_part)
    return hashes, offsets[np.concatenate([[0], np.cumsum(sizes)])]


def _band_keys(sets: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A key for each band of each set's sketch: uint64, (sets, BANDS)."""
    rows = np.array(_sketches(*sets).to_rows(), np.uint64).reshape(len(sets[1]) - 1, BANDS, -1)
    keys = np.zeros(rows.shape[:2], np.uint64)
    for column in range(rows.shape[2]):
        keys = _mixed(keys * _MULTIPLY + rows[:, :, column])
    return keys


def common_runs(texts: Shingles, pairs: np.ndarray) -> np.ndarray:
    """Of each pair of texts (n, 2): how many different runs the one has, the other, and both."""
    counts = np.zeros((len(pairs), 3), np.int64)
    code = library() if is_at_hand() else None
    if code is None:
        for place, (one, other) in enumerate(pairs.tolist()):
            ours, theirs = texts.of(one), texts.of(other)
            counts[place] = len(ours), len(theirs), len(ours & theirs)
        return counts
    most = int(np.diff(texts.offsets)[pairs].sum(axis=1).max(initial=1))
    room = 2 ** (2 * most).bit_length()
    table, sides = np.empty(room, np.uint64), np.empty(room, np.uint8)
    pairs = np.ascontiguousarray(pairs, np.int64)
    code.compare_runs(
        pointer(texts.hashes),
        pointer(texts.offsets),
        pointer(pairs),
        len(pairs),
        pointer(table),
        pointer(sides),
        room,
        pointer(counts),
    )
    return counts


def _some(
    hashes: np.ndarray, offsets: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The runs of the texts at `places`, in that order."""
    counts = np.diff(offsets)[places]
    return hashes[ranges(offsets[places], counts)], np.concatenate([[0], np.cumsum(counts)])


def ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers from each of `begins` on, as many as `sizes` says, behind each other."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - (ends - sizes), sizes)


def _sketches(hashes: np.ndarray, offsets: np.ndarray) -> RMinHashDigestMatrix:
    return RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), PERMUTATIONS, SEED
    )


def _mixed(hashes: np.ndarray) -> np.ndarray:
    return (hashes ^ (hashes >> np.uint64(33))) * _FINISH


def _spread(hashes: np.ndarray) -> np.ndarray:
    hashes = _mixed(hashes)
    return hashes ^ (hashes >> np.uint64(32))
