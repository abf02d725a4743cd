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


class Screened(NamedTuple):
    """What these rules decided."""

    decided: pl.DataFrame  # as given, with these rules among the reasons
    # Of each prompt file: how each training row meets it that all rules before keep.
    met: list[dict[str, str]]
    notes: dict[str, Any]  # for the manifest


def screened(
    decided: pl.DataFrame, threads: pa.Table, recipe: Recipe, against: Against | None
) -> Screened:
    """`decided` (thread_id, split, dropped_by, …) held against the files and itself.

    Rows are read as they are written, before a limit is stated: without what came before the
    question where the recipe keeps the last turn only. Near repeats are looked for within train and
    within validation: `near_held_out` keeps the two apart.
    """
    notes: dict[str, Any] = {}
    kinds: list[dict[str, str]] = []
    said = Said.of(threads)
    if against:
        asked, prompts = _prompts_of(said, _left(decided, threads), threads, recipe)
        found = meetings(asked, against.files)
        notes["contamination"], kinds = _contamination(found, prompts, against)
        if against.drop:
            met = prompts.filter(pl.col("asked").is_in({meeting.text for meeting in found}))
            decided = _without(decided, met["thread_id"], "contamination")
    if recipe.keep.near_duplicates != "keep":
        left = _left(decided, threads)
        key = "prompt_id" if recipe.keep.near_duplicates == "prompts" else "thread_id"
        names = threads.select(["thread_id", "prompt_id", "split"]).take(pa.array(left))
        repeats = [
            name
            for side in ("train", "validation")
            for name in _repeats(said, left, names, key, side, recipe)
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


class Said(NamedTuple):
    """The messages of all threads without a copy of one, by position: first those of histories,
    then the questions, then the replies.
    """

    ids: pa.ChunkedArray
    texts: tuple[pa.ChunkedArray, ...]  # of histories, questions, replies
    is_prompt: np.ndarray  # of those of histories
    offsets: np.ndarray  # where each thread's history begins

    @classmethod
    def of(cls, threads: pa.Table) -> "Said":
        """The messages of `threads`."""
        histories = threads["history"]
        turns = [chunk.flatten() for chunk in histories.chunks]
        ids, texts, roles = (
            pa.chunked_array([each.field(name) for each in turns], pa.string())
            for name in ("message_id", "text", "role")
        )
        chunks = [*ids.chunks, *threads["prompt_id"].chunks, *threads["thread_id"].chunks]
        lengths = pc.fill_null(pc.list_value_length(histories), 0).to_numpy()
        return cls(
            pa.chunked_array(chunks, pa.string()),
            (texts, threads["question"], threads["reply"]),
            pc.equal(roles, "prompter").to_numpy(),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    def before(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the messages in the histories of the threads `rows`; of each, whose."""
        lengths = np.diff(self.offsets)[rows]
        owners = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.offsets[rows][owners] + within, owners

    def at(self, rows: np.ndarray, kind: int) -> np.ndarray:
        """The positions of the questions (kind 1) or replies (kind 2) of the threads `rows`."""
        return self.offsets[-1] + (kind - 1) * (len(self.offsets) - 1) + rows

    def distinct(self, positions: np.ndarray) -> tuple[pa.ChunkedArray, np.ndarray]:
        """The text of each message at `positions`, once; and of every position, which it is."""
        codes = self.ids.take(pa.array(positions)).combine_chunks().dictionary_encode()
        places = codes.indices.to_numpy()
        first = np.empty(len(codes.dictionary), np.int64)
        first[places[::-1]] = positions[::-1]
        order = np.argsort(first)
        found, start = [], 0
        for texts in self.texts:
            here = first[order][(first[order] >= start) & (first[order] < start + len(texts))]
            found += texts.take(pa.array(here - start)).chunks
            start += len(texts)
        return pa.chunked_array(found, pa.string()), np.argsort(order)[places]


def _left(decided: pl.DataFrame, threads: pa.Table) -> np.ndarray:
    """Where in `threads` those stand that no rule has dropped."""
    ids = decided.filter(pl.col("dropped_by").is_null())["thread_id"].to_arrow().cast(pa.string())
    return np.sort(pc.index_in(ids, value_set=threads["thread_id"]).to_numpy())


def _prompts_of(
    said: Said, left: np.ndarray, threads: pa.Table, recipe: Recipe
) -> tuple[pa.ChunkedArray, pl.DataFrame]:
    """The text of every prompt, once; and (thread_id, split, asked), every prompt of every thread
    of `left`, by its place among the texts.
    """
    positions, rows = said.at(left, 1), np.arange(len(left))
    if not recipe.shape.last_turn_only:
        before, owners = said.before(left)
        is_prompt = said.is_prompt[before]
        positions = np.concatenate([before[is_prompt], positions])
        rows = np.concatenate([owners[is_prompt], rows])
    asked, places = said.distinct(positions)
    names = pl.DataFrame(threads.select(["thread_id", "split"]).take(pa.array(left[rows])))
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
    said: Said, left: np.ndarray, names: pa.Table, key: str, side: str, recipe: Recipe
) -> list[str]:
    """The values of `key` among the threads `left` of `side` whose units repeat one before them."""
    here = np.flatnonzero(pc.equal(names["split"], side).to_numpy())
    # A prompt stands for all its replies by the first of them.
    named = names[key].take(pa.array(here)).to_pylist()
    rows_of = dict(zip(reversed(named), here[::-1].tolist(), strict=True))
    ordered = sorted(rows_of, key=_order)
    rows = left[[rows_of[name] for name in ordered]] if ordered else left[:0]
    units = _units(said, rows, key == "thread_id", recipe.shape.last_turn_only)
    return [ordered[place] for place in near_repeats(units)]


def _units(said: Said, rows: np.ndarray, with_replies: bool, last_turn_only: bool) -> Units:
    """Each of the threads `rows` as its history, its question and, where it counts, its reply."""
    members = [said.before(rows if not last_turn_only else rows[:0])]
    members += [(said.at(rows, kind), np.arange(len(rows))) for kind in (1, 2)[: 1 + with_replies]]
    owners = np.concatenate([owner for _, owner in members])
    parts = np.repeat(np.arange(len(members)), [len(owner) for _, owner in members])
    # A message that stands in the history of many threads is read once.
    texts, places = said.distinct(np.concatenate([positions for positions, _ in members]))
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
