"""What rows share with other texts: prompt files, and each other. The last rules before the cap,
which see only what every other rule keeps.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.artifacts import hash_order
from dataset_builder.contamination import EXACT, NEARLY, Against, Meeting, meetings
from dataset_builder.gather import Texts
from dataset_builder.neighbours import near_repeats
from dataset_builder.paths import above, path_to, selected
from dataset_builder.recipe import Keep, Recipe
from dataset_builder.shingles import Units
from dataset_builder.threads import Threads

# Of near repeats the first in the order that this salt draws is kept.
ORDER = "order of near repeats"

RULES = {"prompts": "near_duplicate_prompt", "rows": "near_duplicate_row"}


def screening_rules(keep: Keep, against: Against | None) -> list[str]:
    """The rules by which `screened` drops threads, in its order."""
    names = ["contamination"] if against and against.drop else []
    return names + ([RULES[keep.near_duplicates]] if keep.near_duplicates != "keep" else [])


class Screened(NamedTuple):
    """What these rules decided."""

    decided: pl.DataFrame  # as given, with these rules among the reasons
    # Of each prompt file: how each training row meets it that all rules before keep.
    met: list[dict[str, str]]
    notes: dict[str, Any]  # for the manifest


def screened(
    decided: pl.DataFrame, threads: Threads, recipe: Recipe, against: Against | None
) -> Screened:
    """`decided` (thread_id, split, dropped_by, …) held against the files and itself.

    Rows are read as they are written, before a limit is stated: without what came before the
    question where the recipe keeps the last turn only. Near repeats are looked for within train and
    within validation: `near_held_out` keeps the two apart.
    """
    notes: dict[str, Any] = {}
    kinds: list[dict[str, str]] = []
    if against:
        asked, prompts = _prompts_of(_left(decided, threads), threads, recipe)
        found = meetings(asked, against.files)
        notes["contamination"], kinds = _contamination(found, prompts, against)
        if against.drop:
            met = prompts.filter(pl.col("asked").is_in({meeting.text for meeting in found}))
            decided = _without(decided, met["thread_id"], "contamination")
    if recipe.keep.near_duplicates != "keep":
        left = _left(decided, threads)
        key = "prompt_id" if recipe.keep.near_duplicates == "prompts" else "thread_id"
        names = threads.facts.select(["thread_id", "prompt_id", "split"]).take(pa.array(left))
        repeats = [
            name
            for side in ("train", "validation")
            for name in _repeats(threads, left, names, key, side, recipe)
        ]
        is_dropped = pc.is_in(names[key], value_set=pa.array(repeats, pa.string()))
        dropped = pl.Series(names["thread_id"].filter(is_dropped))
        decided = _without(decided, dropped, RULES[recipe.keep.near_duplicates])
    return Screened(decided, kinds, notes)


def with_written(
    notes: dict[str, Any], met: list[dict[str, str]], kept: set[str]
) -> dict[str, Any]:
    """`notes` with how many of the rows that meet each file are written: those among `kept`."""
    if "contamination" not in notes:
        return notes
    files = [
        file
        | {"written_rows": _by_kind((name, kind) for name, kind in kinds.items() if name in kept)}
        for file, kinds in zip(notes["contamination"]["files"], met, strict=True)
    ]
    return notes | {"contamination": notes["contamination"] | {"files": files}}


def _left(decided: pl.DataFrame, threads: Threads) -> np.ndarray:
    """Where in `threads` those stand that no rule has dropped."""
    ids = decided.filter(pl.col("dropped_by").is_null())["thread_id"].to_arrow().cast(pa.string())
    return np.sort(threads.places_of(ids))


def _before(threads: Threads, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The messages in the histories of the threads `rows`, by number; of each, whose."""
    prompts = above(threads.forest, threads.replies[rows])
    turns, offsets = path_to(threads.forest, above(threads.forest, prompts))
    return turns, np.repeat(np.arange(len(rows)), np.diff(offsets))


def _distinct(threads: Threads, numbers: np.ndarray) -> tuple[Texts, np.ndarray]:
    """The text of each message of `numbers`, once; and of each of those, which it is."""
    found, places = np.unique(numbers, return_inverse=True)
    return selected(threads.forest, found), places


def _prompts_of(left: np.ndarray, threads: Threads, recipe: Recipe) -> tuple[Texts, pl.DataFrame]:
    """The text of every prompt, once; and (thread_id, split, asked), every prompt of every thread
    of `left`, by its place among the texts.
    """
    numbers, rows = above(threads.forest, threads.replies[left]), np.arange(len(left))
    if not recipe.shape.last_turn_only:
        before, owners = _before(threads, left)
        is_prompt = pc.equal(threads.forest.frame["role"], "prompter").to_numpy()[before]
        numbers = np.concatenate([before[is_prompt], numbers])
        rows = np.concatenate([owners[is_prompt], rows])
    asked, places = _distinct(threads, numbers)
    names = pl.DataFrame(threads.facts.select(["thread_id", "split"]).take(pa.array(left[rows])))
    return asked, names.with_columns(pl.Series("asked", places))


def _contamination(
    found: list[Meeting], prompts: pl.DataFrame, against: Against
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Per file: its prompts, how many of them are met, and in how many usable training rows (those
    that every other rule keeps, before share and cap), by kind; and which rows. A prompt or row
    that is met both ways is an exact one.
    """
    is_met = pl.col("asked").is_in({meeting.text for meeting in found})
    train = prompts.filter((pl.col("split") == "train") & is_met)
    threads_of = dict(train.group_by("asked").agg("thread_id").select("asked", "thread_id").rows())
    files, kinds = [], []
    for at, file in enumerate(against.files):
        # Only what training rows hold: prompts of validation rows alone are no contamination.
        here = [
            (each, threads_of[each.text])
            for each in found
            if each.file == at and each.text in threads_of
        ]
        rows = [(name, each.kind) for each, names in here for name in names]
        kinds.append(_strongest(rows))
        files.append(
            {
                "name": file.name,
                "sha256": file.sha256,
                "prompts": len(file.prompts),
                "refused": file.refused,
                "met": _by_kind((each.line, each.kind) for each, _ in here),
                "usable_rows": _by_kind(rows),
            }
        )
    return {"dropped": against.drop, "files": files}, kinds


def _strongest(found: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    # "exact" before "overlap": the stronger kind is met last, and stays.
    return dict(sorted(found, key=lambda each: each[1], reverse=True))


def _by_kind(found: Iterable[tuple[Any, str]]) -> dict[str, int]:
    counts = Counter(_strongest(found).values())
    return {kind: counts[kind] for kind in (EXACT, NEARLY)}


def _repeats(
    threads: Threads, left: np.ndarray, names: pa.Table, key: str, side: str, recipe: Recipe
) -> list[str]:
    """The values of `key` among the threads `left` of `side` whose units repeat one before them."""
    here = np.flatnonzero(pc.equal(names["split"], side).to_numpy())
    # A prompt stands for all its replies by the first of them.
    named = names[key].take(pa.array(here)).to_pylist()
    rows_of = dict(zip(reversed(named), here[::-1].tolist(), strict=True))
    ordered = sorted(rows_of, key=_order)
    rows = left[[rows_of[name] for name in ordered]] if ordered else left[:0]
    with_replies, last_turn_only = key == "thread_id", recipe.shape.last_turn_only
    pa.default_memory_pool().release_unused()
    # Given away: it lets go of the texts when it has read them.
    found = near_repeats(_units(threads, rows, with_replies, last_turn_only))
    return [ordered[place] for place in found]


def _units(threads: Threads, rows: np.ndarray, with_replies: bool, last_turn_only: bool) -> Units:
    """Each of the threads `rows` as its history, its question and, where it counts, its reply."""
    replies, own = threads.replies[rows], np.arange(len(rows))
    members = [_before(threads, rows if not last_turn_only else rows[:0])]
    members += [(above(threads.forest, replies), own), (replies, own)][: 1 + with_replies]
    owners = np.concatenate([owner for _, owner in members])
    parts = np.repeat(np.arange(len(members)), [len(owner) for _, owner in members])
    # A message that stands in the history of many threads is read once.
    texts, places = _distinct(threads, np.concatenate([numbers for numbers, _ in members]))
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(rows) + 1))
    return Units(texts, places[order], parts[order], offsets)


def _order(name: str) -> str:
    return hash_order(ORDER, name)


def _without(decided: pl.DataFrame, dropped: pl.Series, reason: str) -> pl.DataFrame:
    is_dropped = pl.col("dropped_by").is_null() & pl.col("thread_id").is_in(dropped.implode())
    return decided.with_columns(
        pl.when(is_dropped).then(pl.lit(reason)).otherwise("dropped_by").alias("dropped_by")
    )
