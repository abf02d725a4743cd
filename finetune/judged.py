"""Answers and what they were found worth, and what is told of a step's."""

from collections.abc import Sequence

from dataset_builder.fit import FittedPrompt
from dataset_builder.words import count_words
from finetune.rewards import Reward
from finetune.rollout import Made

# What is told of each step's answers beside its loss: means over them.
OF_ANSWERS = (
    "reward",
    "reward_kept",
    "reward_quality",
    "degenerate",
    "keeps_limit",  # by all that was asked: in words, and ended by itself
    "stopped",  # the rest was clipped at the tokens it may have
    "words",
    "flat",  # in a group whose answers are all worth the same, which teaches nothing
)

Judged = tuple[FittedPrompt, Made, Reward]


def grouped(rows: Sequence[Judged], size: int) -> list[list[Judged]]:
    """The answers to each prompt, of which `size` stand side by side."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def summed(groups: Sequence[Sequence[Judged]]) -> tuple[dict[str, float], int]:
    """What is told of the answers, each term summed, and over how many."""
    sums = dict.fromkeys(OF_ANSWERS, 0.0)
    for group in groups:
        is_flat = len({reward.total for *_, reward in group}) == 1
        for prompt, made, reward in group:
            words = count_words(made.text)
            keeps = made.is_stopped and 0 < words <= (prompt.limit or words)
            values = (
                reward.total,
                reward.kept,
                reward.quality,
                reward.is_degenerate,
                keeps,
                made.is_stopped,
                words,
                is_flat,
            )
            for name, value in zip(OF_ANSWERS, values, strict=True):
                sums[name] += float(value)
    return sums, sum(map(len, groups))
