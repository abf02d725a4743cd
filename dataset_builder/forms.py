"""What a row is where it is not an answer: a prompt alone, for a trainer that makes the answers.

A prompt stands once: its best-ranked kept reply gives language, turns and the words that a limit
may be taken from; its other kept replies are dropped as `same_prompt`. Here too is what the forms
share: the messages of a prompt, and which rules a form adds to the funnel.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.errors import InputError
from dataset_builder.flags import flags_of
from dataset_builder.recipe import Recipe, Shape
from dataset_builder.rules import is_best_to_its_prompt
from dataset_builder.shape import ROLES, examples_of, limit_above
from dataset_builder.tables import PROMPTS, table_of
from dataset_builder.wordings import state_limit


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


def rows_of(
    threads: Iterable[dict[str, Any]], shape: Shape, stating: Collection[str] | None = None
) -> pa.Table:
    """A row for each of `threads`, in their order: of EXAMPLES, where `stating` is as
    `shape.example` says, or of PROMPTS where that is the form.
    """
    if shape.form == "prompts":
        rows = [prompt_row(thread, shape) for thread in threads]
        for row in rows:
            row["flags"] = flags_of({**row, "completion": []})
        return table_of(rows, PROMPTS)
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


def prompt_row(thread: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The prompt of `thread` as a row of PROMPTS."""
    prompt_id = thread["prompt_id"]
    limit = prompt_limit(prompt_id, thread["reply_words"], shape)
    return {
        "example_id": prompt_id,
        "tree_id": thread["tree_id"],
        "prompt_id": prompt_id,
        "lang": thread["lang"],
        "turns": turns_of(thread, shape),
        "limit": limit,
        "prompt": prompt_messages(thread, limit, prompt_id, shape),
        "reply_id": thread["thread_id"],
        "rank": thread["rank"],
        "reply_words": thread["reply_words"],
    }


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


def turns_of(thread: dict[str, Any], shape: Shape) -> int:
    """Prompts in the conversation as it is written."""
    return 1 if shape.last_turn_only else int(thread["turns"])


def prompt_messages(
    thread: dict[str, Any], limit: int | None, key: str, shape: Shape
) -> list[dict[str, str]]:
    """The conversation up to the question, `limit` stated in the wording that `key` draws."""
    wording = min(shape.wordings, key=lambda name: hash_order(name, key))
    history = [] if shape.last_turn_only else thread["history"]
    return [
        *({"role": ROLES[turn["role"]], "content": turn["text"]} for turn in history),
        {"role": "user", "content": state_limit(thread["question"], limit, wording)},
    ]
