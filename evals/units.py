"""A plain score where the limit may be one of words, sentences or paragraphs.

Of sentences and paragraphs only whether the limit was kept is scored: how far beyond it an answer
is, and its share, are of words.
"""

from unicode_segmentation_rs import unicode_sentences

from dataset_builder.wordings import bounds, unit
from evals.scorers import OF_LIMITS, PLAIN

DIVIDER = "***"


def plain_score(
    metric: str, answer: str, limit: int | None, wording: str | None, is_stopped: bool | None
) -> float | None:
    """The score of an answer to a request for `limit` in that wording; None where the metric does
    not apply to it.

    >>> plain_score("violation", "It is blue. Why?", 1, "own_sentences", True)
    1.0
    """
    asked, counted = bounds(limit, wording), unit(wording)
    if counted == "words" or metric not in OF_LIMITS:
        return PLAIN[metric](answer, asked.most, is_stopped, asked.least)
    if metric != "violation":
        return None
    n = count_sentences(answer) if counted == "sentences" else count_paragraphs(answer)
    return float(n < (asked.least or 1) or (asked.most is not None and n > asked.most))


def count_sentences(text: str) -> int:
    """The sentences of `text` that hold a letter or a digit, between Unicode's sentence boundaries
    (UAX #29).

    >>> count_sentences("It is 3.5 inches. Don't panic!")
    2
    """
    return len(unicode_sentences(text))


def count_paragraphs(text: str) -> int:
    """The paragraphs of `text`, parted by `***`, Markdown's divider, as IFEval asks for them; 0
    where one between two others is blank. A blank beginning or end is no paragraph.

    >>> count_paragraphs("One. *** Two."), count_paragraphs("One. *** *** Two.")
    (2, 0)
    """
    parts = [part.strip() for part in text.split(DIVIDER)]
    if not all(parts[1:-1]):
        return 0
    return len(parts) - (not parts[0]) - (len(parts) > 1 and not parts[-1])
