"""What a word is: the one place that counts them.

A word is a segment between Unicode word boundaries (UAX #29) that holds a letter or a digit. Two
other conventions stand beside it for comparison with published numbers; no rule, score or report
decides by them.
"""

import ctypes
import re
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from unicode_segmentation_rs import unicode_words

from dataset_builder.bounds import pieces, plain, word_bounds
from dataset_builder.compiled import buffers_of, is_at_hand, library, pointer

# Stored in every manifest: two counts are comparable only when this is equal.
WORD_COUNTER = f"uax29 unicode-segmentation-rs {version('unicode-segmentation-rs')}"

# A reply of at most this many words is concise: the size of the conciseness subset's replies.
CONCISE_WORDS = 100


# Bytes of a word: no text has a longer one.
_ANY = 2**62


def count_words(text: str) -> int:
    """The number of words in `text` by UAX #29.

    >>> count_words("Don't panic: it is 3.5 inches.")
    6
    """
    return len(unicode_words(text))


def words_of(text: str) -> list[str]:
    """The words of `text`, in their order."""
    return list(unicode_words(text))


def word_counts(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """`count_words` of each of `texts` (strings, none of them null), int32: fifteen times as fast
    where they are ASCII.
    """
    code = library() if is_at_hand() else None
    if code is not None:
        return _compiled_counts(texts, code)
    found = [np.zeros(0, np.int32)]
    for piece in pieces(texts):
        texts_of_ascii, is_plain = plain(piece)
        counts = np.zeros(len(piece), np.int32)
        counts[is_plain] = word_bounds(texts_of_ascii).counts
        for place in np.flatnonzero(~is_plain).tolist():
            counts[place] = count_words(piece[place].as_py())
        found.append(counts)
    return np.concatenate(found)


def _compiled_counts(texts: pa.Array | pa.ChunkedArray, code: ctypes.CDLL) -> np.ndarray:
    counts = np.zeros(len(texts), np.int32)
    start = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        here = counts[start : start + len(chunk)]
        code.count_words(*map(pointer, buffers_of(chunk)), len(chunk), _ANY, pointer(here))
        for place in np.flatnonzero(here < 0).tolist():
            here[place] = count_words(chunk[place].as_py())
        start += len(chunk)
    return counts


def runs_of(text: str, n: int) -> list[tuple[str, ...]]:
    """Every run of `n` words that stands in `text`, case aside, in their order."""
    folded = [word.casefold() for word in words_of(text)]
    return list(zip(*(folded[start:] for start in range(n)), strict=False))


def repeated_share(text: str) -> float:
    """The share of the runs of four words in `text` that stood in it before, as seq-rep-4 of
    Welleck et al. 2019 (arXiv 1908.04319) counts tokens; 0 where it has fewer than four words.

    >>> repeated_share("It is very blue. It is very blue. It is")
    0.4285714285714286
    """
    runs = runs_of(text, 4)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def whitespace_words(text: str) -> int:
    """The number of runs between white space, as most scripts count."""
    return len(text.split())


def ifeval_words(text: str) -> int:
    r"""The number of `\w+` runs, as IFEval counts (Zhou et al. 2023, arXiv 2311.07911)."""
    return len(re.findall(r"\w+", text))


def first_words(text: str, n: int) -> str:
    """`text` up to the end of its n-th word, unchanged where it has no more than n words.

    >>> first_words("One, two, three.", 2)
    'One, two'
    """
    end = 0
    for count, word in enumerate(unicode_words(text), start=1):
        if count > n:
            return text[:end]
        end = text.index(word, end) + len(word)
    return text
