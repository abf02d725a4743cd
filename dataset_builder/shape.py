"""Kept threads become examples: a prompt, perhaps with a word limit stated in it, and a completion.

Whether a row states a limit, which one and in which words is fixed by its id, so that a row is
written alike in every variant of the same shape.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.flags import with_flags
from dataset_builder.recipe import Shape
from dataset_builder.tables import EXAMPLES, table_of
from dataset_builder.wordings import state_limit
from dataset_builder.words import CONCISE_WORDS

# Rows whose hash under it falls below the share state a limit.
STATING = "state a limit"

ROLES = {"prompter": "user", "assistant": "assistant"}


def examples_of(
    threads: Iterable[dict[str, Any]], shape: Shape, stating: Collection[str] | None = None
) -> pa.Table:
    """One row of EXAMPLES for each of `threads`, in their order; `stating` as `example` says."""
    rows = [example(thread, shape, stating) for thread in threads]
    return table_of(with_flags(rows), EXAMPLES)


def example(
    thread: dict[str, Any], shape: Shape, stating: Collection[str] | None = None
) -> dict[str, Any]:
    """The thread as a row of EXAMPLES. Where the ids `stating` are given, just those state a limit,
    as in a control; else the shape's share of the concise.
    """
    thread_id, reply_words = thread["thread_id"], thread["reply_words"]
    if stating is None:
        limit = stated_limit(thread_id, reply_words, shape)
    else:
        limit = kept_limit(thread_id, reply_words, shape) if thread_id in stating else None
    question = thread["question"]
    if limit is not None:
        wording = min(shape.wordings, key=lambda name: hash_order(name, thread["thread_id"]))
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
    if reply_words > CONCISE_WORDS or hash_share(STATING, thread_id) >= shape.state_word_limit:
        return None
    return kept_limit(thread_id, reply_words, shape)


def kept_limit(thread_id: str, reply_words: int, shape: Shape) -> int | None:
    """The limit that the row would state, in words, however long the reply; None where it keeps
    none of the shape's.
    """
    if shape.limit_from == "list":
        return min((limit for limit in shape.limits if limit >= reply_words), default=None)
    return limit_above(thread_id, reply_words, shape)


def limit_above(thread_id: str, reply_words: int, shape: Shape) -> int:
    """A limit that a reply of so many words keeps: with `slack` that many times a factor, and up to
    the next ten.
    """
    factor = 1.0
    if shape.limit_from == "slack":
        low, high = shape.slack
        factor = low + (high - low) * hash_share("slack of a limit", thread_id)
    # At least ten: a reply without a word has no other limit.
    return max(10, math.ceil(reply_words * factor / 10) * 10)
