"""Runs of words of many texts at once, as hashes in arrays: what makes near pairs and overlaps
cheap to look for.

A hash stands for its words alone, never for what else is read, so that no order matters.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rensa import RMinHash, RMinHashDigestMatrix, RMinHashLSH
from unicode_segmentation_rs import unicode_words

# 32 bands of 4 find a pair whose sets overlap by 0.8 with all but certainty.
PERMUTATIONS, BANDS, SEED = 128, 32, 1

# So many texts are hashed at a time: bounds memory, changes nothing.
CHUNK = 20_000

# The parts of a row, such as its history, its question and its reply: of each, its texts.
Parts = tuple[tuple[str, ...], ...]

# Odd 64-bit constants: of Knuth's MMIX generator, and of the finaliser of MurmurHash3.
_MULTIPLY = np.uint64(6364136223846793005)
_FINISH = np.uint64(0xFF51AFD7ED558CCD)


class Shingles(NamedTuple):
    """The runs of words of some texts: those of text k are `hashes[offsets[k]:offsets[k + 1]]`."""

    hashes: np.ndarray  # uint64, (runs,), repeats and all
    offsets: np.ndarray  # int64, (texts + 1,)


def words(text: str) -> list[str]:
    """The words of `text`, case-folded."""
    return unicode_words(unicodedata.normalize("NFKC", text).casefold())


def shingles_of(texts: Sequence[str], size: int) -> Shingles:
    """Every run of `size` words of each of `texts`; where one has fewer words, all of it as one
    run.
    """
    pieces = [
        _shingles_of(texts[start : start + CHUNK], size) for start in range(0, len(texts), CHUNK)
    ]
    counts = [np.zeros(1, np.int64), *(runs for _, runs in pieces)]
    hashes = [np.zeros(0, np.uint64), *(hashes for hashes, _ in pieces)]
    return Shingles(np.concatenate(hashes), np.cumsum(np.concatenate(counts)))


def shared_buckets(units: Sequence[Parts], size: int) -> dict[int, list[int]]:
    """The places of `units` that may be near another, each with the buckets it shares with one.

    A unit is some parts, and its set every run of `size` words in their texts, told apart by the
    part. Of two units whose sets overlap by 0.8, all but one in twenty million share
    a bucket. A unit that shares none is left out.
    """
    if len(units) < 2:
        return {}
    sets = _sets_of(units, size)
    # Most texts have no neighbour: of them no sketch is ever unpacked.
    flags = RMinHashLSH(0.8, PERMUTATIONS, BANDS).query_duplicate_flags_matrix_one_shot(
        _sketches(sets)
    )
    places = np.flatnonzero(np.array(flags, bool))
    if not len(places):
        return {}
    rows = np.array(_sketches(_some(sets, places)).to_rows(), np.uint64)
    found: dict[int, list[int]] = {}
    numbered = 0
    for band in np.split(rows, BANDS, axis=1):
        keys = np.zeros(len(places), np.uint64)
        for column in band.T:
            keys = _mixed(keys * _MULTIPLY + column)
        _, bucket, members = np.unique(keys, return_inverse=True, return_counts=True)
        is_shared = (members > 1)[bucket]
        for place, number in zip(
            places[is_shared].tolist(), (bucket[is_shared] + numbered).tolist(), strict=True
        ):
            found.setdefault(place, []).append(number)
        numbered += len(members)
    return found


def _shingles_of(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the runs of `texts`, and how many runs each has."""
    # Filled up to one whole run: an empty string is no word, so no longer text makes the same run.
    found = [each + [""] * (size - len(each)) for each in map(words, texts)]
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    of_words = _word_hashes(list(chain.from_iterable(found)))
    last = len(of_words) - size + 1
    hashes = np.zeros(last, np.uint64)
    for at in range(size):
        hashes = hashes * _MULTIPLY + of_words[at : at + last]
    # Runs that begin in one text and end in the next are none.
    is_run = np.ones(len(of_words), bool)
    ends = np.cumsum(lengths)
    for at in range(1, size):
        is_run[ends - at] = False
    return _mixed(hashes[is_run[:last]]), lengths - (size - 1)


def _word_hashes(flat: list[str]) -> np.ndarray:
    encoded = pa.array(flat, pa.string()).dictionary_encode()
    of_words = [
        int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        for word in encoded.dictionary.to_pylist()
    ]
    return np.array(of_words, np.uint64)[encoded.indices.to_numpy()]


def _sets_of(units: Sequence[Parts], size: int) -> Shingles:
    """The set of each unit: the runs of its texts, each mixed with the part it stands in."""
    # A message that stands in the history of many rows is read once.
    numbers: dict[str, int] = {}
    taken: list[int] = []
    parts: list[int] = []
    counts: list[int] = []
    for unit in units:
        before = len(taken)
        for part, texts in enumerate(unit):
            taken += [numbers.setdefault(text, len(numbers)) for text in texts]
            parts += [part] * len(texts)
        counts.append(len(taken) - before)
    found = _some(shingles_of(list(numbers), size), np.array(taken, np.int64))
    tags = np.repeat(_mixed(np.array(parts, np.uint64)), np.diff(found.offsets))
    ends = np.cumsum([0, *counts])
    return Shingles(_mixed(found.hashes ^ tags), found.offsets[ends])


def _some(shingles: Shingles, places: np.ndarray) -> Shingles:
    """The runs of the texts at `places`, in that order."""
    counts = np.diff(shingles.offsets)[places]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    taken = np.arange(offsets[-1]) + np.repeat(shingles.offsets[places] - offsets[:-1], counts)
    return Shingles(shingles.hashes[taken], offsets)


def _sketches(sets: Shingles) -> RMinHashDigestMatrix:
    return RMinHash.digest_matrix_from_flat_token_hashes(
        sets.hashes, sets.offsets.astype(np.uint64), PERMUTATIONS, SEED
    )


def _mixed(hashes: np.ndarray) -> np.ndarray:
    return (hashes ^ (hashes >> np.uint64(33))) * _FINISH
