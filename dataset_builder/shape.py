"""Kept threads become examples: a prompt, perhaps with a word limit stated in it, and a completion.

Whether a row states a limit, which one and in which words is fixed by its id, so that a row is
written alike in every variant of the same shape.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.flags import flags_of
from dataset_builder.recipe import Shape
from dataset_builder.tables import CHAT, EXAMPLES, Table, checked
from dataset_builder.wordings import state_limit
from dataset_builder.words import CONCISE_WORDS

# Rows whose hash under it falls below the share state a limit.
STATING = "state a limit"

ROLES = {"prompter": "user", "assistant": "assistant"}

# So many rows are written together: bounds memory, and no chunk outgrows Arrow's plain strings.
ROWS = 2**14


class Rows(Protocol):
    """Rows of the table `threads`, or what makes them once they are asked for."""

    @property
    def num_rows(self) -> int: ...
    def slice(self, offset: int, length: int) -> pa.Table: ...


def examples_of(threads: Rows, shape: Shape, stating: Collection[str] | None = None) -> pa.Table:
    """One row of EXAMPLES for each of `threads` (rows of that table), in their order. Where the ids
    `stating` are given, just those state a limit, as in a control; else the shape's share of the
    concise.
    """

    def columns(threads: pa.Table) -> dict[str, Any]:
        ids, words = threads["thread_id"].to_pylist(), threads["reply_words"].to_pylist()
        limit_of = stated_limit if stating is None else kept_limit
        limits = [
            limit_of(name, n, shape) if stating is None or name in stating else None
            for name, n in zip(ids, words, strict=True)
        ]
        prompts = prompts_of(threads, limits, ids, shape)
        replies = said("assistant", threads["reply"])
        return {
            "example_id": threads["thread_id"],
            **{name: threads[name] for name in ("tree_id", "prompt_id", "lang", "rank")},
            "turns": turns_of(threads, shape),
            "reply_words": threads["reply_words"],
            "limit": pa.array(limits, pa.int32()),
            "prompt": prompts,
            "completion": replies,
            "flags": flags_of(threads["lang"], prompts, [replies]),
        }

    return in_slices(threads, columns, EXAMPLES)


def in_slices(
    threads: Rows, columns: Callable[[pa.Table], dict[str, Any]], declared: Table
) -> pa.Table:
    """The table `declared` that `columns` makes of `threads`, ROWS of them at a time."""
    starts = range(0, max(1, threads.num_rows), ROWS)
    made = (pa.table(columns(threads.slice(start, ROWS))) for start in starts)
    names = declared.schema.names
    return checked(
        pa.concat_tables([each.select(names).cast(declared.schema) for each in made]), declared
    )


def prompts_of(
    threads: pa.Table, limits: Sequence[int | None], keys: Sequence[str], shape: Shape
) -> pa.Array:
    """The conversation of each of `threads` up to its question, where a limit is given stated in
    the wording that its key draws; chat messages.
    """
    questions = _one(threads["question"])
    stated = [place for place, limit in enumerate(limits) if limit is not None]
    if stated:
        told = [
            state_limit(question, limits[place], _wording(keys[place], shape))
            for place, question in zip(
                stated, questions.take(pa.array(stated)).to_pylist(), strict=True
            )
        ]
        is_stated = np.zeros(len(questions), bool)
        is_stated[stated] = True
        questions = pc.replace_with_mask(questions, is_stated, pa.array(told, pa.string()))
    if shape.last_turn_only:
        return said("user", questions)
    histories = _one(threads["history"])
    turns = histories.flatten()
    lengths = pc.list_value_length(histories).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    # The turns of each row, and behind them its question.
    is_question = np.zeros(offsets[-1], bool)
    is_question[offsets[1:] - 1] = True
    order = np.empty(offsets[-1], np.int64)
    order[~is_question] = np.arange(len(turns))
    order[is_question] = np.arange(len(questions)) + len(turns)
    by_user = pc.equal(turns.field("role"), "prompter").to_numpy(zero_copy_only=False)
    is_user = np.ones(offsets[-1], bool)
    is_user[~is_question] = by_user
    contents = pa.concat_arrays([turns.field("text"), questions]).take(pa.array(order))
    roles = pc.if_else(pa.array(is_user), ROLES["prompter"], ROLES["assistant"])
    return _chat(roles, contents, offsets)


def said(role: str, texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Each of `texts` as a conversation of one chat message by `role`."""
    contents = _one(texts)
    roles = pa.repeat(pa.scalar(role), len(contents))
    return _chat(roles, contents, np.arange(len(contents) + 1))


def turns_of(threads: pa.Table, shape: Shape) -> pa.Array | pa.ChunkedArray:
    """Prompts in each conversation as it is written."""
    if shape.last_turn_only:
        return pa.repeat(pa.scalar(1, pa.int32()), threads.num_rows)
    return threads["turns"]


def stated_limit(thread_id: str, reply_words: int, shape: Shape) -> int | None:
    """The limit that the row states, in words; None where it states none. The reply always keeps
    it.
    """
    if not shape.state_word_limit or reply_words > CONCISE_WORDS:
        return None
    if hash_share(STATING, thread_id) >= shape.state_word_limit:
        return None
    return kept_limit(thread_id, reply_words, shape)


def kept_limit(thread_id: str, reply_words: int, shape: Shape) -> int | None:
    """The limit that the row would state, in words, however long the reply; None where it keeps
    none of the shape's. A reply without a word, a drawing for one, keeps no limit: to evaluation
    such an answer breaks every one.
    """
    if not reply_words:
        return None
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
    # At least ten: the best reply to a prompt may have no word.
    return max(10, math.ceil(reply_words * factor / 10) * 10)


def _wording(key: str, shape: Shape) -> str:
    return min(shape.wordings, key=lambda name: hash_order(name, key))


def _chat(roles: pa.Array, contents: pa.Array, offsets: np.ndarray) -> pa.Array:
    structs = pa.StructArray.from_arrays([roles, contents], fields=list(CHAT.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=CHAT)


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])
