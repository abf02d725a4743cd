"""One number about one answer: a function per metric, which needs the answer alone and never the
model that gave it.

A scorer takes the answer's text, the limit that was stated (None where none was) and whether the
answer ended by itself. It returns None where the metric does not apply. A scorer added here runs
over stored answers. `relevance` is no function of the answer alone: evals.relevance makes it, under
a frozen model.
"""

from typing import NamedTuple

from dataset_builder.words import count_words, ifeval_words, whitespace_words


def violation(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """1 where the answer breaks the limit, 0 where it keeps it; an empty answer keeps nothing.

    >>> violation("It is blue because air scatters blue light.", 5, True)
    1.0
    >>> violation("", 5, True)
    1.0
    """
    return None if limit is None else float(not 0 < count_words(answer) <= limit)


def overshoot(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """The words beyond the limit; 0 where there are none.

    >>> overshoot("It is blue because air scatters blue light.", 5, True)
    3.0
    """
    return None if limit is None else float(max(0, count_words(answer) - limit))


def overshoot_share(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """The words beyond the limit as a share of the limit.

    >>> overshoot_share("It is blue because air scatters blue light.", 5, True)
    0.6
    """
    return None if limit is None else max(0, count_words(answer) - limit) / limit


def limit_share(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """The words given as a share of those allowed: near 0 is under-length, above 1 a violation.

    >>> limit_share("It is blue.", 6, True)
    0.5
    """
    return None if limit is None else count_words(answer) / limit


def words(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """Words, as treetune counts them everywhere.

    >>> words("Don't panic.", None, True)
    2.0
    """
    return float(count_words(answer))


def words_whitespace(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """Words between white space, for published numbers.

    >>> words_whitespace("Don't panic - yet.", None, True)
    4.0
    """
    return float(whitespace_words(answer))


def words_ifeval(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """Words as IFEval counts them, for published numbers.

    >>> words_ifeval("Don't panic.", None, True)
    3.0
    """
    return float(ifeval_words(answer))


def stopped(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """1 where the answer ended by itself, 0 where it was cut at the tokens allowed; None where that
    is not known, of answers made elsewhere.

    >>> stopped("It is blue because", None, False)
    0.0
    """
    return None if is_stopped is None else float(is_stopped)


def empty(answer: str, limit: int | None, is_stopped: bool | None) -> float | None:
    """1 where the answer holds no word.

    >>> empty("...", None, True)
    1.0
    """
    return float(count_words(answer) == 0)


class Relevance(NamedTuple):
    """The scores that evals.relevance makes of one answer, in nats."""

    per_token: float
    total: float


# Read from the answer alone.
PLAIN = {
    scorer.__name__: scorer
    for scorer in (
        violation,
        overshoot,
        overshoot_share,
        limit_share,
        words,
        words_whitespace,
        words_ifeval,
        stopped,
        empty,
    )
}

# Made under a frozen model, and entering a verdict only through their gate.
QUALITY = ("relevance", "relevance_total")

# Every metric a suite may name, and which way is better: -1 less, 1 more, 0 neither.
METRICS = {
    **dict.fromkeys(PLAIN, 0),
    "violation": -1,
    "overshoot": -1,
    "overshoot_share": -1,
    "stopped": 1,
    "empty": -1,
    "relevance": 1,
    "relevance_total": 1,
}

# Metrics that apply only where a limit was stated.
OF_LIMITS = ("violation", "overshoot", "overshoot_share", "limit_share")
