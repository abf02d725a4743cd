"""How a number of words is stated: four wordings of an upper limit to train on and twelve more where
a recipe names them, four to evaluate with, and other requests, which only evaluation makes.

A model that keeps limits only in the wording it was tuned on has learnt the wording; one that is
short whatever it is asked keeps every upper limit and no lower one.
"""

from collections.abc import Iterable
from typing import NamedTuple

# {question} and {limit} are filled in. Those for training end the question, as users do.
TRAINING = {
    "at_most": "{question}\n\nAnswer in at most {limit} words.",
    "no_more": "{question} Please use no more than {limit} words.",
    "limit": "{question}\n\n(Limit: {limit} words.)",
    "up_to": "{question} Keep it short: up to {limit} words.",
}

# For a recipe that wants a limit kept however it is put: ahead of the question and behind it, as a
# line, a sentence, an aside.
FURTHER = {
    "no_longer": "Write no more than {limit} words.\n\n{question}",
    "word_limit": "Word limit: {limit}\n\n{question}",
    "reply_in": "Reply with {limit} words at most: {question}",
    "have": "You have at most {limit} words for this. {question}",
    "exceed": "{question}\n\nDo not exceed {limit} words.",
    "brief": "{question} Be brief, {limit} words at the very most.",
    "under": "{question}\n\n[no longer than {limit} words]",
    "only": "{question} I only have time to read {limit} words.",
    # And without a verb, as terse people put it.
    "tops": "{question} {limit} words, tops.",
    "cap": "{question}\n\nUpper limit: {limit} words.",
    "max": "{question} [max. {limit} words]",
    "length": "Length: no more than {limit} words.\n\n{question}",
}

EVALUATION = {
    # The form of LIFT (Yuan et al. 2024, arXiv 2406.17744): one line ahead, a blank line, the prompt.
    "lift": "Answer the following instruction using {limit} words or less.\n\n{question}",
    "within": "{question}\n\nYour answer must stay within {limit} words.",
    "fewer": "In {limit} words or fewer: {question}",
    "maximum": "{question}\n\nMaximum length: {limit} words.",
}

WORDINGS = TRAINING | FURTHER | EVALUATION

# Requests that are no upper limit.
OTHER = {
    "at_least": "{question}\n\nAnswer in at least {limit} words.",
    "between": "{question}\n\nAnswer in {least} to {limit} words.",
    "about": "{question}\n\nAnswer in about {limit} words.",
}

# The prompt states the number itself, as IFEval's do; of words, or of something else.
OWN_UNITS = {
    "own_sentences": "sentences",
    "own_sentences_at_least": "sentences",
    "own_paragraphs": "paragraphs",  # exactly so many
}
OWN = dict.fromkeys(("own", "own_at_least", *OWN_UNITS), "{question}")

ASKED = WORDINGS | OTHER | OWN

# In the order in which a suite is about them: one that asks in the first is about the first.
FAMILIES = ("evaluation", "training", *OTHER)

# Those in which prompts state limits of something else than words, which no suite is about.
UNIT_FAMILIES = tuple(name.removeprefix("own_") for name in OWN_UNITS)

# "About n words" is kept within a fifth of n, either way.
ABOUT = 5


class Bounds(NamedTuple):
    """The words (or what the wording counts) that a request allows, both ends included; None where
    there is no such end."""

    least: int | None
    most: int | None


def bounds(limit: int | None, wording: str | None) -> Bounds:
    """What is asked for where `limit` is stated in that wording; without a wording, at most so many.

    A range reaches from half of its upper end.

    >>> bounds(50, "lift"), bounds(50, "between"), bounds(50, "about")
    (Bounds(least=None, most=50), Bounds(least=25, most=50), Bounds(least=40, most=60))
    """
    if limit is None:
        return Bounds(None, None)
    if wording in ("at_least", "own_at_least", "own_sentences_at_least"):
        return Bounds(limit, None)
    if wording == "own_paragraphs":
        return Bounds(limit, limit)
    if wording == "between":
        return Bounds(max(1, limit // 2), limit)
    if wording == "about":
        return Bounds(limit - limit // ABOUT, limit + limit // ABOUT)
    return Bounds(None, limit)


def unit(wording: str | None) -> str:
    """What the number in this wording counts: `words`, `sentences` or `paragraphs`."""
    return OWN_UNITS.get(wording or "", "words")


def family(wording: str | None) -> str:
    """What answers to this wording are reported with: `evaluation`, `training`, or the request's own
    name where it is no upper limit.

    >>> family("lift"), family("up_to"), family("between"), family("own_at_least"), family(None)
    ('evaluation', 'training', 'between', 'at_least', 'evaluation')
    """
    if wording in OTHER:
        return str(wording)
    if wording == "own_at_least" or wording in OWN_UNITS:
        return str(wording).removeprefix("own_")
    return "training" if wording in {*TRAINING, *FURTHER} else "evaluation"


def main_family(wordings: Iterable[str | None]) -> str:
    """The family that a suite asking in these wordings is about, the others standing apart; always
    one of words."""
    found = {family(wording) for wording in wordings}
    return next((name for name in FAMILIES if name in found), FAMILIES[0])


def state_limit(question: str, limit: int | None, wording: str) -> str:
    """`question` with the limit stated in the wording of that name; unchanged where there is no limit."""
    if limit is None:
        return question
    least = str(bounds(limit, wording).least)
    # Not str.format: a question may hold braces.
    stated = ASKED[wording].replace("{limit}", str(limit)).replace("{least}", least)
    return stated.replace("{question}", question)


def unstated(question: str, limit: int | None) -> str:
    """`question` as it was before `limit` was stated in it; unchanged where it was in no wording.

    >>> unstated(state_limit("Why?", 50, "up_to"), 50)
    'Why?'
    """
    for wording in WORDINGS:
        before, _, after = WORDINGS[wording].replace("{limit}", str(limit)).partition("{question}")
        if question.startswith(before) and question.endswith(after):
            return question[len(before) : len(question) - len(after)]
    return question
