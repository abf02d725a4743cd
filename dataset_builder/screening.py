"""What rows share with other texts: prompt files, and each other. The last rules before the cap,
which see only what every other rule keeps.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import hash_order
from dataset_builder.contamination import EXACT, NEARLY, Against, Meeting, meetings
from dataset_builder.neighbours import near_repeats
from dataset_builder.recipe import Keep, Recipe
from dataset_builder.shingles import Units

# Of near repeats the first in the order that this salt draws is kept.
ORDER = "order of near repeats"

RULES = {"prompts": "near_duplicate_prompt", "rows": "near_duplicate_row"}


def screening_rules(keep: Keep, against: Against | None) -> list[str]:
    """The rules by which `screened` drops threads, in its order."""
    names = ["contamination"] if against and against.drop else []
    return names + ([RULES[keep.near_duplicates]] if keep.near_duplicates != "keep" else [])


def screened(
    decided: pl.DataFrame, threads: pa.Table, recipe: Recipe, against: Against | None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """`decided` (thread_id, split, dropped_by, …) with these rules among the reasons, and what the
    manifest notes about them.

    Rows are read as they are written, before a limit is stated: without what came before the
    question where the recipe keeps the last turn only. Near repeats are looked for within train and
    within validation: `near_held_out` keeps the two apart.
    """
    notes: dict[str, Any] = {}
    if against:
        asked, prompts = _prompts_of(_left(decided, threads), recipe)
        found = meetings(asked["text"].combine_chunks(), against.files)
        notes["contamination"] = _contamination(found, prompts, against)
        if against.drop:
            met = prompts.filter(pl.col("asked").is_in({meeting.text for meeting in found}))
            decided = _without(decided, met["thread_id"], "contamination")
    if recipe.keep.near_duplicates != "keep":
        left = _left(decided, threads)
        key = "prompt_id" if recipe.keep.near_duplicates == "prompts" else "thread_id"
        repeats = [
            name
            for side in ("train", "validation")
            for name in _repeats(left.filter(pc.equal(left["split"], side)), key, recipe)
        ]
        is_dropped = pc.is_in(left[key], value_set=pa.array(repeats, pa.string()))
        dropped = pl.Series(left["thread_id"].filter(is_dropped))
        decided = _without(decided, dropped, RULES[recipe.keep.near_duplicates])
    return decided, notes


def _left(decided: pl.DataFrame, threads: pa.Table) -> pa.Table:
    """The threads that no rule has dropped: what of them is written."""
    ids = decided.filter(pl.col("dropped_by").is_null())["thread_id"].to_arrow().cast(pa.string())
    columns = ["thread_id", "split", "prompt_id", "history", "question", "reply"]
    return threads.select(columns).filter(pc.is_in(threads["thread_id"], value_set=ids))


def _prompts_of(left: pa.Table, recipe: Recipe) -> tuple[pa.Table, pl.DataFrame]:
    """(message_id, text), every prompt once, by id; and (thread_id, split, asked), every prompt of
    every thread, by its place in the first.
    """
    ids, texts, rows = left["prompt_id"], left["question"], np.arange(left.num_rows)
    if not recipe.shape.last_turn_only:
        of_turns, turns = turns_of(left["history"])
        is_prompt = pc.equal(turns.field("role"), "prompter")
        turns = turns.filter(is_prompt)
        rows = np.concatenate([rows, of_turns[is_prompt.to_numpy(zero_copy_only=False)]])
        ids = pa.chunked_array([*ids.chunks, turns.field("message_id")])
        texts = pa.chunked_array([*texts.chunks, turns.field("text")])
    first, places = distinct(ids)
    asked = pa.table({"message_id": ids.take(first), "text": texts.take(first)})
    threads = left.select(["thread_id", "split"]).take(pa.array(rows))
    return asked, pl.DataFrame(threads).with_columns(pl.Series("asked", places))


def _contamination(
    found: list[Meeting], prompts: pl.DataFrame, against: Against
) -> dict[str, Any]:
    """Per file: its prompts, how many of them are met, and in how many training rows, by kind. A
    prompt or row that is met both ways is an exact one.
    """
    is_met = pl.col("asked").is_in({meeting.text for meeting in found})
    train = prompts.filter((pl.col("split") == "train") & is_met)
    threads_of = dict(train.group_by("asked").agg("thread_id").select("asked", "thread_id").rows())
    files = []
    for at, file in enumerate(against.files):
        # Only what training rows hold: prompts of validation rows alone are no contamination.
        here = [
            (each, threads_of[each.text])
            for each in found
            if each.file == at and each.text in threads_of
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


def _repeats(left: pa.Table, key: str, recipe: Recipe) -> list[str]:
    """The values of `key` among the threads `left` whose units repeat one before them."""
    first, _ = distinct(left[key])
    names = left[key].take(first).to_pylist()
    order = sorted(range(len(names)), key=lambda place: _order(names[place]))
    rows = left.take(first.take(pa.array(order, pa.int64())))
    repeats = near_repeats(_units(rows, key == "thread_id", recipe.shape.last_turn_only))
    return [names[order[place]] for place in repeats]


def _units(rows: pa.Table, with_replies: bool, last_turn_only: bool) -> Units:
    """Each of `rows` as its history, its question and, where it counts, its reply."""
    of_turns, turns = turns_of(rows["history"])
    if last_turn_only:
        of_turns, turns = of_turns[:0], turns[:0]
    members = [(turns.field("message_id"), turns.field("text"), of_turns)]
    names = [("prompt_id", "question"), ("thread_id", "reply")][: 1 + with_replies]
    members += [(rows[name], rows[text], np.arange(rows.num_rows)) for name, text in names]
    ids, texts = (
        pa.chunked_array(
            [
                chunk
                for each in members
                for chunk in (
                    each[n].chunks if isinstance(each[n], pa.ChunkedArray) else [each[n]]
                )
            ],
            pa.string(),
        )
        for n in (0, 1)
    )
    # A message that stands in the history of many rows is read once.
    first, places = distinct(ids)
    owners = np.concatenate([each[2] for each in members])
    parts = np.repeat(np.arange(len(members)), [len(each[2]) for each in members])
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(rows.num_rows + 1))
    return Units(texts.take(first), places[order], parts[order], offsets)


def turns_of(histories: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """The messages of all `histories` in their order, and in which row each stands."""
    lengths = pc.fill_null(pc.list_value_length(histories), 0).to_numpy()
    turns = [chunk.flatten() for chunk in histories.chunks]
    return np.repeat(np.arange(len(lengths)), lengths), pa.concat_arrays(
        [*turns, pa.array([], histories.type.value_type)]
    )


def distinct(ids: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Where each value of `ids` stands first; and of every one which of them it is."""
    encoded = ids.dictionary_encode()
    places = np.concatenate(
        [np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in encoded.chunks)]
    )
    first = np.empty(int(places.max(initial=-1)) + 1, np.int64)
    first[places[::-1]] = np.arange(len(places))[::-1]
    return pa.array(first), places


def _order(name: str) -> str:
    return hash_order(ORDER, name)


def _without(decided: pl.DataFrame, dropped: pl.Series, reason: str) -> pl.DataFrame:
    is_dropped = pl.col("dropped_by").is_null() & pl.col("thread_id").is_in(dropped.implode())
    return decided.with_columns(
        pl.when(is_dropped).then(pl.lit(reason)).otherwise("dropped_by").alias("dropped_by")
    )
