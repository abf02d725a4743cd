"""What rows share with other texts: prompt files, and each other. The last rules before the cap,
which see only what every other rule keeps.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import polars as pl

from dataset_builder.artifacts import hash_order
from dataset_builder.contamination import EXACT, NEARLY, Against, Meeting, meetings
from dataset_builder.neighbours import near_repeats
from dataset_builder.recipe import Keep, Recipe

# Of near repeats the first in the order that this salt draws is kept.
ORDER = "order of near repeats"

RULES = {"prompts": "near_duplicate_prompt", "rows": "near_duplicate_row"}


def screening_rules(keep: Keep, against: Against | None) -> list[str]:
    """The rules by which `screened` drops threads, in its order."""
    names = ["contamination"] if against and against.drop else []
    return names + ([RULES[keep.near_duplicates]] if keep.near_duplicates != "keep" else [])


def screened(
    decided: pl.DataFrame, threads: pl.DataFrame, recipe: Recipe, against: Against | None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """`decided` (thread_id, split, dropped_by, …) with these rules among the reasons, and what the
    manifest notes about them.

    Rows are read as they are written, before a limit is stated: without what came before the
    question where the recipe keeps the last turn only. Near repeats are looked for within train and
    within validation: `near_held_out` keeps the two apart.
    """
    notes: dict[str, Any] = {}
    if against:
        prompts = _prompts_of(_left(decided, threads, recipe))
        asked = prompts.select("message_id", "text").unique("message_id").sort("message_id")
        found = meetings(asked["text"].to_list(), against.files)
        notes["contamination"] = _contamination(found, asked, prompts, against)
        if against.drop:
            ids = asked["message_id"].gather([meeting.text for meeting in found]).unique()
            dropped = prompts.filter(pl.col("message_id").is_in(ids.implode()))["thread_id"]
            decided = _without(decided, dropped, "contamination")
    if recipe.keep.near_duplicates != "keep":
        left = _left(decided, threads, recipe)
        key = "prompt_id" if recipe.keep.near_duplicates == "prompts" else "thread_id"
        repeats = [
            name
            for side in ("train", "validation")
            for name in _repeats(left.filter(pl.col("split") == side), key)
        ]
        dropped = left.filter(pl.col(key).is_in(repeats))["thread_id"]
        decided = _without(decided, dropped, RULES[recipe.keep.near_duplicates])
    return decided, notes


def _left(decided: pl.DataFrame, threads: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """The threads that no rule has dropped, as they will be written."""
    ids = decided.filter(pl.col("dropped_by").is_null()).select("thread_id")
    left = threads.join(ids, on="thread_id", how="semi")
    if recipe.shape.last_turn_only:
        left = left.with_columns(pl.col("history").list.head(0))
    return left


def _prompts_of(left: pl.DataFrame) -> pl.DataFrame:
    """(thread_id, split, message_id, text): every prompt of every thread."""
    before = (
        left.select("thread_id", "split", "history")
        .explode("history")
        .drop_nulls("history")
        .unnest("history")
        .filter(pl.col("role") == "prompter")
        .select("thread_id", "split", "message_id", "text")
    )
    last = left.select(
        "thread_id",
        "split",
        pl.col("prompt_id").alias("message_id"),
        pl.col("question").alias("text"),
    )
    return pl.concat([before, last])


def _contamination(
    found: list[Meeting], asked: pl.DataFrame, prompts: pl.DataFrame, against: Against
) -> dict[str, Any]:
    """Per file: its prompts, how many of them are met, and in how many training rows, by kind. A
    prompt or row that is met both ways is an exact one.
    """
    ids = asked["message_id"].to_list()
    train = prompts.filter(pl.col("split") == "train")
    threads_of = dict(
        train.group_by("message_id").agg("thread_id").select("message_id", "thread_id").iter_rows()
    )
    files = []
    for at, file in enumerate(against.files):
        # Only what training rows hold: prompts of validation rows alone are no contamination.
        here = [
            (each, threads_of[ids[each.text]])
            for each in found
            if each.file == at and ids[each.text] in threads_of
        ]
        files.append(
            {
                "name": file.name,
                "sha256": file.sha256,
                "prompts": len(file.prompts),
                "refused": file.refused,
                "met": _by_kind((each.line, each.kind) for each, _ in here),
                "rows": _by_kind((name, each.kind) for each, names in here for name in names),
            }
        )
    return {"dropped": against.drop, "files": files}


def _by_kind(found: Iterable[tuple[Any, str]]) -> dict[str, int]:
    # "exact" before "overlap": the stronger kind is met last, and stays.
    kinds = dict(sorted(found, key=lambda each: each[1], reverse=True))
    counts = Counter(kinds.values())
    return {kind: counts[kind] for kind in (EXACT, NEARLY)}


def _repeats(left: pl.DataFrame, key: str) -> list[str]:
    said = pl.col("history").list.eval(pl.element().struct.field("text"))
    texts = [pl.col("question"), *([pl.col("reply")] if key == "thread_id" else [])]
    units = {
        name: (tuple(before), *((text,) for text in parts))
        for name, before, *parts in left.unique(key).select(key, said, *texts).iter_rows()
    }
    return near_repeats({name: units[name] for name in sorted(units, key=_order)})


def _order(name: str) -> str:
    return hash_order(ORDER, name)


def _without(decided: pl.DataFrame, dropped: pl.Series, reason: str) -> pl.DataFrame:
    is_dropped = pl.col("dropped_by").is_null() & pl.col("thread_id").is_in(dropped.implode())
    return decided.with_columns(
        pl.when(is_dropped).then(pl.lit(reason)).otherwise("dropped_by").alias("dropped_by")
    )
