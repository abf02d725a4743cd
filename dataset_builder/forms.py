"""What a row is where it is not an answer: a prompt alone, for a trainer that makes the answers.

A prompt stands once: its best-ranked kept reply gives language, turns and the words that a limit
may be taken from; its other kept replies are dropped as `same_prompt`. Here too is which
rules a form adds to the funnel.
"""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.errors import InputError
from dataset_builder.flags import flags_of
from dataset_builder.recipe import Recipe, Shape
from dataset_builder.rules import is_best_to_its_prompt
from dataset_builder.shape import Rows, examples_of, in_slices, limit_above, prompts_of, turns_of
from dataset_builder.tables import PROMPTS


def form_rules(shape: Shape) -> list[str]:
    """The reasons for which the form drops threads that every rule keeps, in the funnel's order."""
    if shape.form == "prompts":
        return ["same_prompt"]
    if shape.form == "pairs":
        return ["no_pair", "pair_gap"] if shape.length_flips else ["no_pair"]
    return []


def refuse_texts(recipes: Mapping[str, Recipe]) -> None:
    """Raises InputError where a row of one of `recipes` is not one text."""
    for name, recipe in recipes.items():
        if recipe.shape.form != "answers":
            raise InputError(
                f"recipe `{name}`: a row of the form `{recipe.shape.form}` is not one text",
                "name recipes of the form `answers`, or leave `--text`, `--messages`, `--fit` out",
            )


def rows_of(threads: Rows, shape: Shape, stating: Collection[str] | None = None) -> pa.Table:
    """A row for each of `threads` (rows of that table), in their order: of EXAMPLES, where
    `stating` is as `shape.examples_of` says, or of PROMPTS where that is the form.
    """
    if shape.form == "prompts":
        return in_slices(threads, lambda some: _prompts(some, shape), PROMPTS)
    return examples_of(threads, shape, stating)


def drop_same_prompts(threads: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """`decided` with only the best-ranked kept thread to each prompt; the others fell as
    `same_prompt`.
    """
    kept = decided.filter(pl.col("dropped_by").is_null()).select("thread_id")
    ranked = kept.join(threads.select("thread_id", "prompt_id", "standing"), on="thread_id")
    others = ranked.filter(~is_best_to_its_prompt())
    dropped = others.select("thread_id", pl.lit("same_prompt").alias("dropped_by"))
    return decided.update(dropped, on="thread_id", how="left")


def prompt_limit(prompt_id: str, reply_words: int, shape: Shape) -> int | None:
    """The limit that the prompt states, in words; None in the share that states none.

    Nothing must keep it yet, so `list` draws any of `limits` by hash and, unlike for answers,
    `reply` and `slack` take the best kept reply whatever its length. A longer list changes only the
    prompts that draw what was added.
    """
    if hash_share("state a limit", prompt_id) >= shape.state_word_limit:
        return None
    if shape.limit_from == "list":
        return min(shape.limits, key=lambda limit: hash_order(f"limit {limit}", prompt_id))
    return limit_above(prompt_id, reply_words, shape)


def _prompts(threads: pa.Table, shape: Shape) -> dict[str, Any]:
    ids, words = threads["prompt_id"].to_pylist(), threads["reply_words"].to_pylist()
    limits = [prompt_limit(name, n, shape) for name, n in zip(ids, words, strict=True)]
    prompts = prompts_of(threads, limits, ids, shape)
    return {
        "example_id": threads["prompt_id"],
        **{name: threads[name] for name in ("tree_id", "prompt_id", "lang", "rank", "reply_words")},
        "turns": turns_of(threads, shape),
        "limit": pa.array(limits, pa.int32()),
        "prompt": prompts,
        "reply_id": threads["thread_id"],
        "flags": flags_of(threads["lang"], prompts, []),
    }
