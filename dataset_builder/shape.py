"""Kept threads become examples: a prompt, perhaps with a word limit stated in it, and a completion.

Whether a row states a limit, which one and in which words is fixed by its id, so that a row is
written alike in every variant of the same shape.
"""

import math
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.flags import with_flags
from dataset_builder.recipe import Shape
from dataset_builder.tables import EXAMPLES, table_of
from dataset_builder.wordings import TRAINING, state_limit
from dataset_builder.words import CONCISE_WORDS

ROLES = {"prompter": "user", "assistant": "assistant"}


def examples_of(threads: Iterable[dict[str, Any]], shape: Shape) -> pa.Table:
    """One row of EXAMPLES for each of `threads`, in their order."""
    return table_of(with_flags([example(thread, shape) for thread in threads]), EXAMPLES)


def example(thread: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The thread as a row of EXAMPLES."""
    limit = stated_limit(thread["thread_id"], thread["reply_words"], shape)
    question = thread["question"]
    if limit is not None:
        wording = min(TRAINING, key=lambda name: hash_order(name, thread["thread_id"]))
        question = state_limit(question, limit, wording)
    history = [] if shape.last_turn_only else thread["history"]
    return {
        "example_id": thread["thread_id"],
        "tree_id": thread["tree_id"],
        "prompt_id": thread["prompt_id"],
        "lang": thread["lang"],
        "turns": 1 if shape.last_turn_only else thread["turns"],
        "rank": thread["rank"],
        "reply_words": thread["reply_words"],
        "limit": limit,
        "prompt": [
            *({"role": ROLES[turn["role"]], "content": turn["text"]} for turn in history),
            {"role": "user", "content": question},
        ],
        "completion": [{"role": "assistant", "content": thread["reply"]}],
    }


def stated_limit(thread_id: str, reply_words: int, shape: Shape) -> int | None:
    """The limit that the row states, in words; None where it states none. The reply always keeps
    it.
    """
    if (
        reply_words > CONCISE_WORDS
        or hash_share("state a limit", thread_id) >= shape.state_word_limit
    ):
        return None
    if shape.limit_from == "list":
        return min((limit for limit in shape.limits if limit >= reply_words), default=None)
    factor = 1.0
    if shape.limit_from == "slack":
        low, high = shape.slack
        factor = low + (high - low) * hash_share("slack of a limit", thread_id)
    # At least ten: a reply without a word has no other limit.
    return max(10, math.ceil(reply_words * factor / 10) * 10)
