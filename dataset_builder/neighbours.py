"""Prompts that say nearly the same: what a training row must not share with a held-out one.

Candidates come from MinHash; whether they are near is then counted exactly, so that the hashes can
miss a pair (at this banding, one in millions) but never invent one.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from rensa import RMinHash, RMinHashLSH
from unicode_segmentation_rs import unicode_words

from dataset_builder.split import normalised

# Two prompts are near when this share of the word triples that either has is in both.
NEAR = 0.8
SHINGLE_WORDS = 3

# 32 bands of 4 find a pair at 0.8 with all but certainty.
PERMUTATIONS, BANDS, SEED = 128, 32, 1

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
    sets = [shingles(text) for text in texts]
    index = RMinHashLSH(NEAR, PERMUTATIONS, BANDS)
    for key, each in enumerate(sets):
        index.insert(key, _minhash(each))
    found = []
    for message_id, text in prompts.items():
        ours = shingles(text)
        if normalised(text) in equal or any(
            jaccard(ours, sets[key]) >= NEAR for key in index.query(_minhash(ours))
        ):
            found.append(message_id)
    return sorted(found)


def words(text: str) -> list[str]:
    """The words of `text`, case-folded."""
    return unicode_words(unicodedata.normalize("NFKC", text).casefold())


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


def _minhash(each: frozenset[str]) -> RMinHash:
    minhash = RMinHash(PERMUTATIONS, SEED)
    minhash.update(sorted(each))
    return minhash
