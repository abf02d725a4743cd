"""Sibling replies become preference pairs: a prompt, the chosen reply, the rejected one.

Both replies pass the recipe's rules and have a rank; of two equal ranks neither is preferred, so
they are no pair. The better rank is chosen. With `length_flips` a pair is written twice, as LIFT
does (Yuan et al. 2024, arXiv 2406.17744):

- `above`: the limit is ten words over the longer reply. Both keep it, the rank decides.
- `between`: the shorter keeps the limit, the longer breaks it, so the shorter is chosen: `flipped`
  where the longer has the better rank, else `kept`. The limit is drawn evenly by hash of the pair
  from all whole numbers from the shorter's words to one below the longer's.

Both rows state it in the same wording, so that only the number tells them apart. Pairs closer than
`flip_gap` words are not augmented. Without flips `state_word_limit` is the share of the pairs
written as `above` rather than `plain`: the control that states limits and never flips.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.flags import flags_of
from dataset_builder.recipe import Recipe, Shape
from dataset_builder.shape import prompts_of, said, turns_of
from dataset_builder.tables import PAIRS, checked
from dataset_builder.threads import Threads

# Over the longer reply's words.
ROOM = 10

# Pairs stand in this order, and a cap takes the first of them.
ORDER = "order of pairs"


class Reply(NamedTuple):
    """What pairing looks at."""

    rank: int
    thread_id: str
    words: int


class Augmentation(NamedTuple):
    """One row of a pair: where its limit lies, the limit in words, and whether it turns the
    preference round.
    """

    place: str  # plain, above or between
    limit: int | None
    is_flipped: bool

    @property
    def name(self) -> str:
        """As the column `augmentation` has it."""
        if self.limit is None:
            return "plain"
        return "flipped" if self.is_flipped else "kept"


class Pair(NamedTuple):
    """Two siblings and the rows they make: none where they are too close."""

    pair_id: str
    better: Reply
    worse: Reply
    rows: tuple[Augmentation, ...]


class Paired(NamedTuple):
    """What became of the threads, the rows of each side, and both in numbers."""

    decided: pl.DataFrame
    sides: dict[str, pa.Table]
    notes: dict[str, Any]


def pair_up(threads: Threads, decided: pl.DataFrame, recipe: Recipe) -> Paired:
    """The pairs among the `threads` that `decided` keeps.

    A thread that stands in no row is dropped: by `cap` or `pair_gap` where a pair of it was, by
    `cap` where both, else as `no_pair`.
    """
    shape = recipe.shape
    kept = decided.filter(pl.col("dropped_by").is_null()).select("thread_id", "split")
    facts = pl.DataFrame(threads.facts.select(["thread_id", "prompt_id", "rank", "reply_words"]))
    kept = kept.join(facts, on="thread_id")
    fates: dict[str, str | None] = {}
    sides, notes = {}, {}
    for side in ("train", "validation"):
        siblings = defaultdict(list)
        for name, prompt_id, rank, words in (
            kept.filter(pl.col("split") == side).drop("split").iter_rows()
        ):
            fates[name] = "no_pair"
            if rank is not None:
                siblings[prompt_id].append(Reply(rank, name, words))
        pairs = [pair for each in siblings.values() for pair in pairs_of(each, shape)]
        written, cut = capped(pairs, recipe.cap.examples if side == "train" else None)
        close = [pair for pair in pairs if not pair.rows]
        for reason, fallen in (("pair_gap", close), ("cap", cut), (None, written)):
            for pair in fallen:
                fates[pair.better.thread_id] = fates[pair.worse.thread_id] = reason
        sides[side] = _table(threads, written, shape)
        notes[side] = _counts(pairs, close, cut, written)
    dropped = [(name, reason) for name, reason in fates.items() if reason]
    update = pl.DataFrame(
        dropped, schema={"thread_id": pl.String, "dropped_by": pl.String}, orient="row"
    )
    return Paired(decided.update(update, on="thread_id", how="left"), sides, notes)


def pairs_of(siblings: Iterable[Reply], shape: Shape) -> list[Pair]:
    """The pairs of one prompt's ranked replies, the better of each first; ties by id."""
    ordered = sorted(siblings)
    chosen: Iterable[tuple[Reply, Reply]]
    if shape.pairs == "all":
        chosen = combinations(ordered, 2)
    elif shape.pairs == "adjacent":
        chosen = pairwise(ordered)
    elif shape.pairs == "best_worst":
        chosen = [(ordered[0], ordered[-1])] if ordered else []
    else:
        firsts = [next((each for each in ordered if each.rank == rank), None) for rank in (0, 1)]
        chosen = [(firsts[0], firsts[1])] if firsts[0] and firsts[1] else []
    return [_pair(better, worse, shape) for better, worse in chosen if better.rank < worse.rank]


def augmentations(
    pair_id: str, better_words: int, worse_words: int, shape: Shape
) -> tuple[Augmentation, ...]:
    """The rows of a pair of replies of so many words, `plain` first."""
    shorter, longer = sorted((better_words, worse_words))
    plain = Augmentation("plain", None, is_flipped=False)
    above = Augmentation("above", longer + ROOM, is_flipped=False)
    if not shape.length_flips:
        is_stated = hash_share("state a limit", pair_id) < shape.state_word_limit
        return (above if is_stated else plain,)
    rows = (plain,) if shape.plain_too else ()
    if longer - shorter < shape.flip_gap:
        return rows
    lowest = max(1, shorter)
    drawn = lowest + int(hash_share("limit between two replies", pair_id) * (longer - lowest))
    between = Augmentation("between", drawn, is_flipped=better_words == longer)
    return (*rows, above, between)


def capped(pairs: Iterable[Pair], rows: int | None) -> tuple[list[Pair], list[Pair]]:
    """`pairs` that make rows, in hash order, as those taken and those left.

    The first pairs whose rows together are at most `rows`: a pair is taken whole or not at all, and
    none after one that does not fit, so that a smaller cap lies inside a larger one.
    """
    ordered = sorted(
        (pair for pair in pairs if pair.rows), key=lambda pair: hash_order(ORDER, pair.pair_id)
    )
    taken = 0
    for place, pair in enumerate(ordered):
        taken += len(pair.rows)
        if rows is not None and taken > rows:
            return ordered[:place], ordered[place:]
    return ordered, []


def _pair(better: Reply, worse: Reply, shape: Shape) -> Pair:
    # Hashed, so that no ids, whatever they hold, make two pairs one.
    pair_id = hash_order("pair", json.dumps([better.thread_id, worse.thread_id]))[:32]
    return Pair(pair_id, better, worse, augmentations(pair_id, better.words, worse.words, shape))


def _table(threads: Threads, pairs: Sequence[Pair], shape: Shape) -> pa.Table:
    """The rows of `pairs`, in their order, without one where there is none."""
    rows = [(pair, each) for pair in pairs for each in pair.rows]
    sides = [
        (pair.worse, pair.better) if each.is_flipped else (pair.better, pair.worse)
        for pair, each in rows
    ]
    chosen, rejected = (
        threads.rows(
            threads.places_of(pa.array([side[n].thread_id for side in sides], pa.string()))
        )
        for n in (0, 1)
    )
    pair_ids = [pair.pair_id for pair, _ in rows]
    limits = [each.limit for _, each in rows]
    prompts = prompts_of(chosen, limits, pair_ids, shape)
    replies = [said("assistant", side["reply"]) for side in (chosen, rejected)]
    made = {
        "example_id": [f"{pair.pair_id}-{each.place}" for pair, each in rows],
        "pair_id": pair_ids,
        **{name: chosen[name] for name in ("tree_id", "prompt_id", "lang")},
        "turns": turns_of(chosen, shape),
        "augmentation": [each.name for _, each in rows],
        "limit": pa.array(limits, pa.int32()),
        "prompt": prompts,
        "chosen": replies[0],
        "rejected": replies[1],
        "flags": flags_of(chosen["lang"], prompts, replies),
    }
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        made[f"{name}_id"] = side["thread_id"]
        made[f"{name}_rank"] = side["rank"]
        made[f"{name}_words"] = side["reply_words"]
    return checked(pa.table(made), PAIRS)


def _counts(
    pairs: Sequence[Pair], close: Sequence[Pair], cut: Sequence[Pair], written: Sequence[Pair]
) -> dict[str, int]:
    """Pairs found = too close + cut by the cap + written; the rows by augmentation, and by whether
    the chosen reply is the longer.
    """
    assert len(pairs) == len(close) + len(cut) + len(written)
    kinds: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for pair in written:
        for each in pair.rows:
            kinds[each.name] += 1
            more = pair.better.words - pair.worse.words
            more = -more if each.is_flipped else more
            lengths["longer" if more > 0 else "shorter" if more else "equal"] += 1
    return {
        "pairs": len(pairs),
        "pair_gap": len(close),
        "cap": len(cut),
        "written": len(written),
        "rows": kinds.total(),
        **{name: kinds[name] for name in ("plain", "kept", "flipped")},
        **{f"chosen_{name}": lengths[name] for name in ("longer", "shorter", "equal")},
    }
