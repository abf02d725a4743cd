"""What an answer to a prompt with a word limit is worth, to the policy that gave it.

    reward = kept * (1/2 + quality / 2), and nothing for a degenerate answer

`kept` is about the limit alone: 1 inside it, falling smoothly outside, 0 for an answer that did not
end by itself. `quality` is about the question alone (finetune.rollout reads it). A product, so that
neither buys the other: what breaks its limit is worth little however good, and of two answers that
keep it the better one wins. Words are those of dataset_builder.words; no tokens are counted.
"""

import math
from typing import NamedTuple

from dataset_builder.words import count_words, repeated_share, runs_of

# Of its limit, the share of words beyond it at which an answer keeps half of its worth. Further
# out it falls ever more slowly, so that of two that are far too long the shorter one still wins.
BEYOND = 0.05
# An answer that says more than this share of its runs of four words again is degenerate; so is one
# of whose runs more than this share stands in the question.
REPEATED, COPIED = 0.3, 0.5
# The nats by which an answer must be likelier after its own question for a quality of 1 - 1/e.
NATS = 20.0
# How unlikely, in nats, the end of an answer may be before it costs anything: as in
# evals.relevance, nine in ten of human replies end within this.
END = 8.0


class Reward(NamedTuple):
    """What one answer is worth, and of what that is made; all between 0 and 1."""

    total: float
    kept: float
    quality: float
    is_degenerate: bool


def reward(
    answer: str, question: str, limit: int | None, is_stopped: bool, quality: float
) -> Reward:
    """The worth of `answer`, asked in at most `limit` words; None asked for nothing.

    >>> reward("It is blue because air scatters it.", "Why is the sky blue?", 10, True, 0.5).total
    0.75
    """
    kept = kept_limit(count_words(answer), limit, is_stopped)
    degenerate = is_degenerate(answer, question, limit)
    total = 0.0 if degenerate else kept * (1 + quality) / 2
    return Reward(total, kept, quality, degenerate)


def kept_limit(words: int, limit: int | None, is_stopped: bool) -> float:
    """How well an answer of so many words keeps to `limit`.

    >>> kept_limit(40, 40, True), kept_limit(42, 40, True), kept_limit(30, 40, False)
    (1.0, 0.5, 0.0)
    """
    if not words or not is_stopped:
        return 0.0
    if limit is None:
        return 1.0
    return 1 / (1 + max(0, words - limit) / (BEYOND * limit))


def is_degenerate(answer: str, question: str, limit: int | None) -> bool:
    """Whether an answer is empty, a single word where more were allowed, says itself over and over,
    or gives the question back.

    >>> is_degenerate("Yes.", "Why is the sky blue?", 20)
    True
    """
    words = count_words(answer)
    if words == 0 or (words == 1 and limit != 1):
        return True
    if repeated_share(answer) > REPEATED:
        return True
    runs = runs_of(answer, min(4, words))
    asked = set(runs_of(question, min(4, words)))
    return sum(run in asked for run in runs) > COPIED * len(runs)


def quality_of(own: float, others: float, end: float) -> float:
    """The quality of an answer by how likely a frozen model finds it, all in nats.

    `own` is the log-likelihood of the whole answer after its own question, `others` the mean of
    those after other questions, `end` that of its end after its own. What an answer gains from its
    question, less what its end surprises by; saturating, so that a long answer does not win by
    length alone.

    >>> round(quality_of(-40.0, -60.0, -1.0), 2), quality_of(-60.0, -40.0, -1.0)
    (0.63, 0.0)
    """
    gain = own - others + min(0.0, end + END)
    return 1.0 - math.exp(-max(0.0, gain) / NATS)


def advantages(rewards: list[float]) -> list[float]:
    """How far each answer of one group is above the group's mean, in its standard deviations, as
    TRL scales them (Shao and others 2024, arXiv 2402.03300); 0 where all are worth the same.
    """
    mean = math.fsum(rewards) / len(rewards)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in rewards) / (len(rewards) - 1))
    return [(each - mean) / (spread + 1e-4) for each in rewards]
