"""What a run's own prompts ask of a card. Of answers that are yet to be made a preset knows only
how long they may be, and few come near it.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from finetune.launch import dealt

if TYPE_CHECKING:
    from finetune.plan import Plan

# Answers made at once: beyond about here an H100 gains little.
ROWS = 512
# Of the memory that is free while answers are made, what their keys and values may take.
CACHED = 0.4
# Of the tokens that answers may have, the share that they are taken to have. In the five runs of
# finetune.memory's table it was 28 to 34 %, at most 50 % in a step.
ANSWERED = 0.4


class Load(NamedTuple):
    """The most that any part of a run holds."""

    packed: int  # tokens of a micro-batch without padding
    padded: int  # the same, every sequence as long as the longest may be
    slots: int  # tokens whose keys and values a batch of answers holds, where there is room


def load_of(plan: "Plan", processes: int) -> Load | None:
    """Of the planned run, for one of `processes`; None where a preset says all there is to know."""
    settings = plan.preset.grpo
    if not settings:
        return None
    size, group = dealt(plan.preset.training, processes), settings.group
    micros = [
        [plan.rows[place] for place in plan.order[start : start + size]]
        for start in range(0, len(plan.order), size)
    ]
    return Load(
        packed=max(
            group * round(sum(len(row.prompt_ids) + ANSWERED * row.allowed for row in micro))
            for micro in micros
        ),
        padded=max(
            group * len(micro) * max(len(row.prompt_ids) + row.allowed for row in micro)
            for micro in micros
        ),
        slots=max(_slots(plan, processes)),
    )


def _slots(plan: "Plan", processes: int) -> Iterator[int]:
    """Of each batch of answers."""
    from finetune.decode import Wanted, batches

    settings, training = plan.preset.grpo, plan.preset.training
    assert settings
    size = dealt(training, processes)
    for start in range(0, len(plan.order), training.batch * settings.rollout_steps):
        rolled = plan.order[start : start + training.batch * settings.rollout_steps]
        for rank in range(processes):
            rows = [
                plan.rows[place]
                for first in range(rank * size, len(rolled), processes * size)
                for place in rolled[first : first + size]
            ]
            wanted = [Wanted(row.prompt_ids, row.allowed) for row in rows]
            every = [each for each in wanted for _ in range(settings.group)]
            # Whatever would fit; how much room there is, the estimate knows.
            for batch in batches(every, sys.maxsize, ROWS):
                width = max(len(each.ids) for each in batch)
                yield len(batch) * (width + max(each.allowed for each in batch))
