"""Answers that a policy gives while it is trained, and what they are worth (finetune.rewards).

What is drawn depends on the run's seed and on how manieth example it is, and on nothing that came
before: a run that is resumed is asked the same by chance.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset_builder.artifacts import hash_order
from dataset_builder.fit import FittedPrompt
from dataset_builder.template import Template, answer_length, answer_text, holds_stop, stop_ids
from dataset_builder.words import count_words
from finetune.decode import Wanted, batches, decode, longest_first
from finetune.groups import Read
from finetune.load import ROWS
from finetune.oom import in_parts
from finetune.rewards import Reward, is_degenerate, kept_limit, quality_of, reward
from finetune.slots import batch_tokens

# Other questions that an answer is read after.
OTHERS = 3


class Made(NamedTuple):
    """One answer to a prompt."""

    ids: list[int]  # up to its end, which is counted
    text: str
    is_stopped: bool  # ended by itself; False where it was cut at the tokens it may have


class Question(NamedTuple):
    """A question without its limit, as token ids."""

    name: str
    tree_id: str
    ids: list[int]


class Answerable(NamedTuple):
    """An answer and the questions that it is read after, as token ids."""

    own: Sequence[int]
    others: Sequence[Sequence[int]]
    answer: Sequence[int]


# Gives each sequence's log-likelihood, and that of its last token alone, in nats.
Likelihoods = Callable[[Sequence[Read]], list[tuple[float, float]]]


def chances(seed: int, example: int, place: int, tokens: int) -> list[float]:
    """The numbers in [0, 1) that draw the tokens of an example's `place`-th answer."""
    drawn = hashlib.sha256(f"rollout {seed} {example} {place}".encode()).digest()
    found: list[float] = np.random.default_rng(list(drawn)).random(tokens).tolist()
    return found


def answers(model: Any, template: Template, tokenizer: Any, wanted: Sequence[Wanted]) -> list[Made]:
    """An answer to each, drawn from the whole distribution or greedily, in the order asked."""
    ends = stop_ids(template, tokenizer)
    is_over = (lambda ids: holds_stop(template, tokenizer, ids)) if template.stops else None

    def ask(part: Sequence[Wanted]) -> list[list[int]]:
        return decode(model, part, ends, top=None, is_over=is_over)

    # As `batches` orders them.
    order = sorted(range(len(wanted)), key=lambda place: longest_first(wanted[place]))
    made: list[list[int]] = []
    for batch in batches(wanted, batch_tokens(model), ROWS):
        made += in_parts(ask, batch, "one answer")
    found: dict[int, Made] = {}
    for place, ids in zip(order, made, strict=True):
        length, is_stopped = answer_length(template, tokenizer, ids)
        text = answer_text(template, tokenizer, ids[:length])
        found[place] = Made(ids[:length], text, is_stopped)
    return [found[place] for place in range(len(wanted))]


def others_of(name: str, tree_id: str, among: Sequence[Question]) -> list[list[int]]:
    """The questions, as token ids, that answers to the one of that `name` are also read after:
    those of other trees that a hash puts first, the same for every answer.
    """
    others = [each for each in among if each.tree_id != tree_id]
    others.sort(key=lambda each: hash_order(f"quality {name}", each.name))
    return [each.ids for each in others[:OTHERS]]


def qualities(asked: Sequence[Answerable], likelihoods: Likelihoods) -> list[float]:
    """The quality of each answer (finetune.rewards); 0 where there is no other question."""
    reads = [Read(question, each.answer) for each in asked for question in (each.own, *each.others)]
    found = iter(likelihoods(reads) if reads else [])
    made = []
    for each in asked:
        own, end = next(found)
        others = [next(found)[0] for _ in each.others]
        made.append(quality_of(own, sum(others) / len(others), end) if others else 0.0)
    return made


def worth(
    prompts: Sequence[FittedPrompt],
    made: Sequence[Made],
    others: Callable[[FittedPrompt], list[list[int]]],
    likelihoods: Likelihoods,
) -> list[Reward]:
    """What each answer to each prompt is worth. The quality of what is worth nothing whatever its
    quality is not read, and is 0.
    """
    counts = [
        kept_limit(count_words(each.text), prompt.limit, each.is_stopped) > 0
        and not is_degenerate(each.text, prompt.question, prompt.limit)
        for prompt, each in zip(prompts, made, strict=True)
    ]
    read = [
        Answerable(prompt.plain_ids, others(prompt), each.ids)
        for prompt, each, does_count in zip(prompts, made, counts, strict=True)
        if does_count
    ]
    found = iter(qualities(read, likelihoods))
    return [
        reward(
            each.text,
            prompt.question,
            prompt.limit,
            each.is_stopped,
            next(found) if does_count else 0.0,
        )
        for prompt, each, does_count in zip(prompts, made, counts, strict=True)
    ]
