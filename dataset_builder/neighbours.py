"""Texts that say nearly the same: what a training row must not share with a held-out one, nor with
another where a recipe says so.

Candidates come from MinHash; whether they are near is then counted exactly, so that the hashes can
miss a pair (at this banding, one in millions) but never invent one.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain

from dataset_builder.shingles import Parts, shared_buckets, words
from dataset_builder.split import normalised

# Two texts are near when this share of the word triples that either has is in both.
NEAR = 0.8
SHINGLE_WORDS = 3

# A follow-up of fewer words ("thanks", "go on please") says nothing without what came before it.
FOLLOW_UP_WORDS = 5


def near_prompts(prompts: Mapping[str, str], held_out: Iterable[tuple[str, bool]]) -> list[str]:
    """The ids of `prompts` (id to text) that equal or nearly equal a held-out text, sorted.

    `held_out` is (text, whether it is a root); follow-ups of a few words are passed over.
    """
    texts = [text for text, is_root in held_out if is_root or len(words(text)) >= FOLLOW_UP_WORDS]
    if not texts:
        return []
    equal = {normalised(text) for text in texts}
    buckets = shared_buckets([((text,),) for text in (*texts, *prompts.values())], SHINGLE_WORDS)
    held_in: dict[int, list[int]] = {}
    for place in range(len(texts)):
        for bucket in buckets.get(place, ()):
            held_in.setdefault(bucket, []).append(place)
    found = []
    for place, (message_id, text) in enumerate(prompts.items(), start=len(texts)):
        held = {key for bucket in buckets.get(place, ()) for key in held_in.get(bucket, ())}
        if normalised(text) in equal or any(_overlap(text, texts[key]) >= NEAR for key in held):
            found.append(message_id)
    return sorted(found)


def near_repeats(rows: Mapping[str, Parts]) -> list[str]:
    """The ids of `rows` that repeat one before them, in their order.

    A row is its parts, equally many for each (say: history, question), a part its texts. Two rows
    are near when each part of one is near its counterpart, or when all are equal, letters and
    digits alone. Greedy: the first row is kept, and each later one unless it is near one that was
    kept. So no two kept ones are near, each repeat is near a kept one, and a chain of small changes
    is not one cluster from end to end.
    """
    ids, units = list(rows), list(rows.values())
    buckets = shared_buckets(units, SHINGLE_WORDS)
    kept_in: dict[int, list[int]] = {}
    equal: set[Parts] = set()
    folds: dict[str, str] = {}
    found = []
    for place, unit in enumerate(units):
        for text in chain.from_iterable(unit):
            if text not in folds:
                folds[text] = normalised(text)
        folded = tuple(tuple(folds[text] for text in texts) for texts in unit)
        before = {key for bucket in buckets.get(place, ()) for key in kept_in.get(bucket, ())}
        if folded in equal or any(_near(unit, units[key]) for key in sorted(before)):
            found.append(ids[place])
            continue
        equal.add(folded)
        for bucket in buckets.get(place, ()):
            kept_in.setdefault(bucket, []).append(place)
    return found


@lru_cache(maxsize=4096)
def shingles(text: str) -> frozenset[str]:
    """Each run of three words in `text`; all of it where it has fewer.

    >>> sorted(shingles("Why is the sky blue?"))
    ['is the sky', 'the sky blue', 'why is the']
    """
    found = words(text)
    last = max(1, len(found) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(found[at : at + SHINGLE_WORDS]) for at in range(last))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of what either holds that both hold."""
    return len(one & other) / len(one | other)


def _near(one: Parts, other: Parts) -> bool:
    return all(
        ours == theirs or _is_near(ours, theirs)
        for ours, theirs in reversed(list(zip(one, other, strict=True)))
    )


def _is_near(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    sets = [frozenset[str]().union(*map(shingles, texts)) - {""} for texts in (one, other)]
    # Texts without a word ("...", an emoji) are near only where they are equal.
    return all(sets) and jaccard(*sets) >= NEAR


def _overlap(one: str, other: str) -> float:
    return 1.0 if one == other else jaccard(shingles(one), shingles(other))
