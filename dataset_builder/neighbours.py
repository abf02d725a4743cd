"""Texts that say nearly the same: what a training row must not share with a held-out one, nor with
another where a recipe says so.

Candidates come from MinHash; whether they are near is then counted, over the 64-bit hashes of all
their word triples, so that the sketches can miss a pair (at this banding, one in millions) but
never invent one.
"""

from itertools import chain

import numpy as np
import pyarrow as pa

from dataset_builder.folds import fold_codes
from dataset_builder.shingles import (
    Shingles,
    Units,
    common_runs,
    ranges,
    shared_buckets,
    shingles_of,
)

# Two texts are near when this share of the word triples that either has is in both: as a fraction,
# exact.
NEAR = 0.8
SHINGLE_WORDS = 3

# Pairs in common buckets that are looked at together.
PAIRS = 2**22

# A follow-up of fewer words ("thanks", "go on please") says nothing without what came before it.
FOLLOW_UP_WORDS = 5


def near_prompts(prompts: pa.ChunkedArray, held: pa.ChunkedArray, is_root: np.ndarray) -> list[int]:
    """The places of `prompts` (texts) that equal or nearly equal one of the `held` texts, in order.

    Of the held ones, follow-ups of a few words are passed over.
    """
    if not len(held):
        return []
    texts = pa.chunked_array([*held.chunks, *prompts.chunks], pa.string())
    found = shingles_of(texts, SHINGLE_WORDS)
    counts = np.zeros(len(texts), bool)
    counts[: len(held)] = is_root | (found.words[: len(held)] >= FOLLOW_UP_WORDS)
    held_places = np.flatnonzero(counts).tolist()
    if not held_places:
        return []
    codes = fold_codes(texts)
    is_near = np.isin(codes, codes[held_places])
    buckets = shared_buckets(Units.single(texts), found)
    held_in: dict[int, list[int]] = {}
    for place in held_places:
        for bucket in buckets.get(place, ()):
            held_in.setdefault(bucket, []).append(place)
    for place, shared in buckets.items():
        if place >= len(held) and not is_near[place]:
            others = {key for bucket in shared for key in held_in.get(bucket, ())}
            ours = found.of(place)
            is_near[place] = any(_overlap(ours, found.of(key)) for key in others)
    return np.flatnonzero(is_near[len(held) :]).tolist()


def near_repeats(units: Units) -> list[int]:
    """The places of `units` that repeat one before them.

    Two are near when each part of one is near its counterpart, or when all are equal, letters and
    digits alone. Greedy: the first unit is kept, and each later one unless it is near one that was
    kept. So no two kept ones are near, each repeat is near a kept one, and a chain of small changes
    is not one cluster from end to end.
    """
    shingles = shingles_of(units.texts, SHINGLE_WORDS)
    parts = _Parts(units, shingles)
    n_parts = int(units.parts.max(initial=0)) + 1
    folds = (fold_codes(units.texts)[units.members] * n_parts + units.parts).tolist()
    # From here on the texts, which are large, are not needed.
    units = units._replace(texts=pa.array([], pa.string()))
    buckets = shared_buckets(units, shingles)
    ends = units.offsets.tolist()
    likely = _likely(units, shingles, buckets)
    kept_in: dict[int, list[int]] = {}
    equal: set[tuple[int, ...]] = set()
    found = []
    for place in range(len(ends) - 1):
        folded = tuple(folds[ends[place] : ends[place + 1]])
        shared = buckets.get(place, ())
        before = {key for bucket in shared for key in kept_in.get(bucket, ())}
        if likely is not None:
            before &= likely.get(place, set())
        if folded in equal or any(parts.are_near(place, key) for key in sorted(before)):
            found.append(place)
            continue
        equal.add(folded)
        for bucket in shared:
            kept_in.setdefault(bucket, []).append(place)
    return found


def _likely(
    units: Units, shingles: Shingles, buckets: dict[int, list[int]]
) -> dict[int, set[int]] | None:
    """Of each of `units` those before it that share a bucket with it and whose last text is near
    its own: none other is near it. None where there are too many to look at all at once.
    """
    places = np.repeat(np.array(list(buckets), np.int64), list(map(len, buckets.values())))
    numbers = np.fromiter(chain.from_iterable(buckets.values()), np.int64, len(places))
    order = np.lexsort([places, numbers])
    places, sizes = places[order], np.unique(numbers, return_counts=True)[1]
    if (sizes * (sizes - 1) // 2).sum() > PAIRS:
        return None
    found_pairs = [np.zeros((0, 2), np.int64)]
    begins = np.cumsum(sizes) - sizes
    for ahead in range(1, int(sizes.max(initial=1))):
        here = ranges(begins, np.maximum(sizes - ahead, 0))
        found_pairs.append(np.stack([places[here + ahead], places[here]], axis=1))
    pairs = np.unique(np.concatenate(found_pairs), axis=0)
    last, n = units.offsets[1:] - 1, np.diff(units.offsets)
    # A part of several texts is looked at as a whole, and so is one without a word.
    is_sure = (n > 0) & (shingles.words[units.members[last]] > 0)
    is_sure &= (n == 1) | (units.parts[last] != units.parts[last - 1])
    sure = is_sure[pairs].all(axis=1) & (np.diff(units.parts[last[pairs]], axis=1) == 0)[:, 0]
    counts = common_runs(shingles, units.members[last[pairs]])
    few, many = np.sort(counts[:, :2], axis=1).T
    share = counts[:, 2] / (few + many - counts[:, 2])
    pairs = pairs[~sure | ((few / many >= NEAR) & (share >= NEAR))]
    found: dict[int, set[int]] = {}
    for later, earlier in pairs.tolist():
        found.setdefault(later, set()).add(earlier)
    return found


class _Parts:
    """Whether two units are near, part by part; a part's set is made when it is first asked for."""

    def __init__(self, units: Units, shingles: Shingles) -> None:
        self.shingles = shingles
        wordless = np.flatnonzero(shingles.words == 0).tolist()
        self.texts = {at: units.texts[at].as_py() for at in wordless}
        self.members = units.members.tolist()
        self.parts, self.ends = units.parts.tolist(), units.offsets.tolist()
        self.n_parts = max(self.parts, default=0) + 1
        self.sets: dict[tuple[int, int], frozenset[int]] = {}

    def are_near(self, one: int, other: int) -> bool:
        # The last part differs most.
        return all(self._is_near(one, other, part) for part in reversed(range(self.n_parts)))

    def _is_near(self, one: int, other: int, part: int) -> bool:
        ours, theirs = self._set(one, part), self._set(other, part)
        if ours or theirs:
            return _overlap(ours, theirs)
        # Texts without a word ("...", an emoji) are near only where they are equal.
        said = [[self.texts[at] for at in self._members(unit, part)] for unit in (one, other)]
        return said[0] == said[1]

    def _members(self, unit: int, part: int) -> list[int]:
        here = range(self.ends[unit], self.ends[unit + 1])
        return [self.members[at] for at in here if self.parts[at] == part]

    def _set(self, unit: int, part: int) -> frozenset[int]:
        found = self.sets.get((unit, part))
        if found is None:
            said = [at for at in self._members(unit, part) if self.shingles.words[at]]
            runs = [self.shingles.of(at) for at in said]
            found = runs[0] if len(runs) == 1 else frozenset[int]().union(*runs)
            self.sets[unit, part] = found
        return found


def _overlap(one: frozenset[int], other: frozenset[int]) -> bool:
    few, many = sorted((len(one), len(other)))
    if not few or few / many < NEAR:
        return False
    shared = len(one & other)
    return shared / (few + many - shared) >= NEAR
