"""One number about one answer: a function per metric, which needs the answer alone and never the
model that gave it.

A scorer takes the answer's text, the words that were asked for at most (None where no upper end was
stated), whether the answer ended by itself, and the words asked for at least. It returns None where
the metric does not apply. A scorer added here runs over stored answers. `relevance` is no function
of the answer alone: evals.relevance makes it, under a frozen model.
"""

import re
from typing import NamedTuple

from dataset_builder.wordings import FAMILIES, UNIT_FAMILIES
from dataset_builder.words import count_words, ifeval_words, repeated_share, whitespace_words


def violation(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer has more words than asked for or fewer, 0 where it keeps to them; an empty
    answer keeps nothing.

    >>> violation("It is blue because air scatters blue light.", 5, True)
    1.0
    >>> violation("It is blue.", None, True, least=5)
    1.0
    """
    if limit is None and least is None:
        return None
    n = count_words(answer)
    return float(n < (least or 1) or (limit is not None and n > limit))


def overshoot(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The words beyond the limit; 0 where there are none.

    >>> overshoot("It is blue because air scatters blue light.", 5, True)
    3.0
    """
    return None if limit is None else float(max(0, count_words(answer) - limit))


def overshoot_share(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The words beyond the limit as a share of the limit.

    >>> overshoot_share("It is blue because air scatters blue light.", 5, True)
    0.6
    """
    return None if limit is None else max(0, count_words(answer) - limit) / limit


def undershoot(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The words missing to those asked for at least; 0 where none are.

    >>> undershoot("It is blue.", None, True, least=5)
    2.0
    """
    return None if least is None else float(max(0, least - count_words(answer)))


def undershoot_share(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The words missing as a share of those asked for at least.

    >>> undershoot_share("It is blue.", None, True, least=5)
    0.4
    """
    return None if least is None else max(0, least - count_words(answer)) / least


def limit_share(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The words given as a share of those allowed: near 0 is under-length, above 1 a violation.

    >>> limit_share("It is blue.", 6, True)
    0.5
    """
    return None if limit is None else count_words(answer) / limit


def under_length(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer has fewer words than asked for at least; where only an upper limit was
    stated, fewer than a quarter of it, which keeps the limit and may say too little.

    >>> under_length("Yes.", 20, True), under_length("It is blue.", None, True, least=3)
    (1.0, 0.0)
    """
    if limit is None and least is None:
        return None
    return float(count_words(answer) < (least if least is not None else (limit or 0) / 4))


def words(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """Words, as treetune counts them everywhere.

    >>> words("Don't panic.", None, True)
    2.0
    """
    return float(count_words(answer))


def words_whitespace(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """Words between white space, for published numbers.

    >>> words_whitespace("Don't panic - yet.", None, True)
    4.0
    """
    return float(whitespace_words(answer))


def words_ifeval(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """Words as IFEval counts them, for published numbers.

    >>> words_ifeval("Don't panic.", None, True)
    3.0
    """
    return float(ifeval_words(answer))


def stopped(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer ended by itself, 0 where it was cut at the tokens allowed; None where that
    is not known, of answers made elsewhere.

    >>> stopped("It is blue because", None, False)
    0.0
    """
    return None if is_stopped is None else float(is_stopped)


def empty(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer holds no word.

    >>> empty("...", None, True)
    1.0
    """
    return float(count_words(answer) == 0)


def repetition(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """The share of the answer's runs of four words that stood in it before, as seq-rep-4 of Welleck
    et al. 2019 (arXiv 1908.04319) counts tokens; 0 where it has fewer than four words.

    >>> repetition("It is very blue. It is very blue. It is", None, True)
    0.4285714285714286
    """
    return repeated_share(answer)


def refusal(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer opens by declining, in English: an apology and that it cannot, or that it
    is only a language model. What is declined later on is not seen.

    >>> refusal("I'm sorry, but I can't help with that.", None, True)
    1.0
    >>> refusal("Sorry to hear that! Rest, and drink water.", None, True)
    0.0
    """
    return float(
        bool(_REFUSAL.match(answer.lstrip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))
    )


def truncated(
    answer: str, limit: int | None, is_stopped: bool | None, least: int | None = None
) -> float | None:
    """1 where the answer breaks off: cut at the tokens allowed, or ended by itself after a comma, a
    colon or a joining word. 0 of an empty answer.

    >>> truncated("It is blue because the", None, True), truncated("It is blue", None, True)
    (1.0, 0.0)
    """
    if is_stopped is False:
        return 1.0
    return float(bool(_HANGING.search(answer)))


# Openings that decline: an apology or what the writer is, and then that it cannot; or that at once.
_CANNOT = r"\bi(?:'m| am)? (?:can't|cannot|can not|won't|could not|not able|unable|do not|don't)\b"
_REFUSAL = re.compile(
    rf"(?:i (?:can't|cannot|won't) (?:help|assist|provide|answer|comply|fulfill?|support|engage)"
    rf"|(?:i'm |i am )?(?:very |so |really )?sorry, (?:but )?.{{0,40}}?{_CANNOT}"
    rf"|(?:i apologi[sz]e|my apologies|unfortunately),? .{{0,40}}?{_CANNOT}"
    rf"|as an? (?:ai|artificial|(?:large )?language model).{{0,80}}?{_CANNOT})",
    re.IGNORECASE,
)
_HANGING = re.compile(
    r"(?:[,:;(\u2013\u2014-]|\b(?:and|or|but|because|the|a|an|of|to|with|for|in|on|by|that|which|is|are))\s*$"
)


class Relevance(NamedTuple):
    """The scores that evals.relevance makes of one answer, in nats."""

    per_token: float
    total: float
    controlled: float = 0.0  # hardly grows with length


# Read from the answer alone.
PLAIN = {
    scorer.__name__: scorer
    for scorer in (
        violation,
        overshoot,
        overshoot_share,
        undershoot,
        undershoot_share,
        limit_share,
        under_length,
        words,
        words_whitespace,
        words_ifeval,
        stopped,
        empty,
        repetition,
        refusal,
        truncated,
    )
}

# Made under the frozen base model, and the part of `Relevance` that each is.
FROZEN = {
    "relevance": "per_token",
    "relevance_total": "total",
    "relevance_controlled": "controlled",
}

# Made by another model, which a suite or a command names.
ASKED_OF = ("reward", "judge")

# Read off the model that answered, not off its answers: one number a prompt.
LIKELIHOODS = ("prefers_better", "human_likelihood")

# Enter a verdict only through their gate.
QUALITY = (*FROZEN, *ASKED_OF, "repetition", "refusal", "truncated")

# Every metric a suite may name, and which way is better: -1 less, 1 more, 0 neither.
METRICS = {
    **dict.fromkeys(PLAIN, 0),
    "violation": -1,
    "overshoot": -1,
    "overshoot_share": -1,
    "undershoot": -1,
    "undershoot_share": -1,
    "stopped": 1,
    "empty": -1,
    "repetition": -1,
    "refusal": -1,
    "truncated": -1,
    **dict.fromkeys(FROZEN, 1),
    **dict.fromkeys(ASKED_OF, 1),
    "prefers_better": 1,
    "human_likelihood": 0,  # a diagnostic: tuned to other answers, a model finds these less likely
}

# Metrics that apply only where a limit was stated.
OF_LIMITS = (
    "violation",
    "overshoot",
    "overshoot_share",
    "undershoot",
    "undershoot_share",
    "limit_share",
    "under_length",
)

# What is compared of the wordings that a suite is not about: how often they are kept, and in how
# many words.
APART = ("violation", "words")


def apart(metric: str, family: str) -> str:
    """The metric's name where the limit was stated in wordings of that family, and the suite is
    about another.

    >>> apart("violation", "at_least")
    'violation_at_least'
    """
    return f"{metric}_{family}"


_FAMILIES = (*FAMILIES, *UNIT_FAMILIES)

# Every metric of a comparison, and which way is better.
COMPARED = (
    METRICS
    | {
        "combined": 1,
    }
    | {apart(metric, family): METRICS[metric] for family in _FAMILIES for metric in APART}
)

# Metrics of zeros and ones.
SHARES = (
    *("violation", "stopped", "empty", "under_length", "refusal", "truncated", "prefers_better"),
    *(apart("violation", family) for family in _FAMILIES),
)
