"""A control: a random draw that matches another variant in all but what its recipe chose.

It tells apart whether concise replies made the difference, or that there were fewer rows or words
of them. The pool is what the target's recipe keeps before it chooses by words or rank; of each
prompt's replies one is drawn where the target has one. Each side of the split is matched to the
target's own rows there.
"""

from fractions import Fraction
from typing import Any, Literal, NamedTuple

import polars as pl
import pyarrow as pa

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.errors import InputError
from dataset_builder.recipe import Recipe, Shape
from dataset_builder.shape import STATING, kept_limit
from dataset_builder.words import CONCISE_WORDS

# Not the salts of the order of examples: a control of a capped variant would be the variant.
ONE_EACH = "control: one reply of several"
DRAW = "control: order of the draw"

# The target's distribution over these is the control's: the reply's language, the conversation's
# length.
STRATUM = ["lang", "turns"]

TOLERANCE = Fraction(1, 100)  # of the target's words

SIDES = ("train", "validation")


class Drawn(NamedTuple):
    """What a draw on one side of the split decided."""

    dropped: pl.DataFrame  # thread_id, dropped_by: of the pool, those not drawn
    stating: list[str]  # those of the drawn that state a limit
    notes: dict[str, Any]  # of target and control: rows, words, limits; rows out of place


class Matched(NamedTuple):
    """A control's draws on both sides."""

    decided: pl.DataFrame  # as given, with the reasons of `control_rules` in `dropped_by`
    stating: frozenset[str]  # the threads that state a limit
    notes: dict[str, Any]


def target_of(recipe: Recipe) -> Recipe:
    """The recipe that a control matches."""
    assert recipe.control is not None
    assert recipe.control.recipe is not None  # load_recipe put it there
    return recipe.control.recipe


def control_rules(recipe: Recipe) -> list[str]:
    """The reasons why a control drops a thread of its pool, in the order the funnel reports."""
    if recipe.control is None:
        return []
    unit = drawn_from(target_of(recipe))
    return ([f"one_per_{unit}"] if unit else []) + ["control_match"]


def drawn_from(target: Recipe) -> Literal["prompt", "tree"] | None:
    """Of what one thread is drawn before matching, as `target` has one of each.

    Told by its keys and not by its rows, so that no source changes it.
    """
    keep = target.keep
    if keep.paths == "best":
        return "tree"
    chooses = keep.best_per_prompt or keep.shortest_of_top is not None
    is_one = chooses or keep.max_rank == 0 or keep.max_path_rank == 0
    return "prompt" if is_one else None


def match_sides(
    name: str,
    recipe: Recipe,
    threads: pl.DataFrame,
    decided: pl.DataFrame,
    ledger: pa.Table,
    limits: dict[str, int],
) -> Matched:
    """The draws of the control `recipe` among the `threads` that were `decided` to stay.

    The target's rows are those its `ledger` keeps; `limits` says how many of them, by side, state
    one. Raises InputError where the control named `name` can have less than half of what it is to
    match in `train`.
    """
    is_kept = pl.col("dropped_by").is_null()
    small = threads.select("thread_id", "tree_id", "prompt_id", "split", *STRATUM, "reply_words")
    target = small.join(pl.DataFrame(ledger).filter(is_kept), on="thread_id", how="semi")
    pool = small.join(decided.filter(is_kept), on="thread_id", how="semi")
    stating: list[str] = []
    notes: dict[str, Any] = {}
    for side in SIDES:
        here = pl.col("split") == side
        drawn = draw(recipe, pool.filter(here), target.filter(here), limits[side])
        decided = decided.update(drawn.dropped, on="thread_id", how="left")
        stating += drawn.stating
        notes[side] = drawn.notes
    _check_size(name, recipe, notes["train"])
    return Matched(decided, frozenset(stating), {"control": notes})


def draw(recipe: Recipe, pool: pl.DataFrame, target: pl.DataFrame, limits: int) -> Drawn:
    """The draw from `pool` that matches `target` (threads both, of one side), `limits` rows of
    which state a limit.
    """
    assert recipe.control is not None
    unit = drawn_from(target_of(recipe))
    left = one_each(pool, f"{unit}_id") if unit else pool
    ordered = in_order(left, target)
    if recipe.control.match == "rows":
        drawn = ordered.head(target.height)
    else:
        drawn = up_to_words(ordered, _words(target))
    wanted = round(Fraction(limits * drawn.height, max(1, target.height)))
    stating = first_to_state(drawn, wanted, recipe.shape)
    reasons = pool.select(
        "thread_id",
        pl.when(~pl.col("thread_id").is_in(left["thread_id"].implode()))
        .then(pl.lit(f"one_per_{unit}"))
        .when(~pl.col("thread_id").is_in(drawn["thread_id"].implode()))
        .then(pl.lit("control_match"))
        .alias("dropped_by"),
    )
    counts = {
        "rows": (target.height, drawn.height),
        "words": (_words(target), _words(drawn)),
        "limits_stated": (limits, len(stating)),
    }
    notes: dict[str, Any] = {
        key: {"target": theirs, "control": ours} for key, (theirs, ours) in counts.items()
    }
    notes["out_of_place"] = out_of_place(drawn, target)
    notes["short"] = short(recipe, notes)
    return Drawn(reasons.filter(pl.col("dropped_by").is_not_null()), stating, notes)


def one_each(pool: pl.DataFrame, unit: str) -> pl.DataFrame:
    """Of the threads with one value of the column `unit`, the first by hash."""
    return _hashed(pool, ONE_EACH).unique(unit, keep="first", maintain_order=True)


def in_order(pool: pl.DataFrame, target: pl.DataFrame) -> pl.DataFrame:
    """`pool` in the order in which a control takes it: any first part has the target's distribution
    over STRATUM as nearly as whole rows can.

    A stratum's rows come by hash; its n-th of the m that the target has stands at (n - 1/2) / m of
    the way. So the first rows, as many as the target's, match it exactly; where a stratum runs out,
    the others go on in their proportions, and strata that the target has not come last.
    """
    wanted = target.group_by(STRATUM).len("wanted")
    nth = pl.int_range(pl.len()).over(STRATUM)
    return (
        _hashed(pool, DRAW)
        .with_columns(nth.alias("nth"))
        .join(wanted, on=STRATUM, how="left", nulls_equal=True)
        .with_columns(((pl.col("nth") + 0.5) / pl.col("wanted")).alias("place"))
        .sort("place", "draw", nulls_last=True)
    )


def up_to_words(ordered: pl.DataFrame, words: int) -> pl.DataFrame:
    """The rows of `ordered`, in turn, until their replies have `words` words within TOLERANCE.

    One that would pass the upper bound is passed over: only the last few are chosen by length.
    """
    low, high = words * (1 - TOLERANCE), words * (1 + TOLERANCE)
    total, taken = 0, []
    for at, more in enumerate(ordered["reply_words"].to_list()):
        if total >= low:
            break
        if total + more <= high:
            total += more
            taken.append(at)
    return ordered[taken]


def first_to_state(rows: pl.DataFrame, wanted: int, shape: Shape) -> list[str]:
    """The ids of `wanted` of `rows`, or of all that can, to state a limit in the target's share.

    Concise replies come first, in the order in which any variant gives them limits. A control has
    fewer of them than its target, and where they run out longer replies state theirs: else the
    target alone would be taught by so many limits.
    """
    able = [
        (words > CONCISE_WORDS, hash_share(STATING, thread_id), thread_id)
        for thread_id, words in rows.select("thread_id", "reply_words").iter_rows()
        if kept_limit(thread_id, words, shape) is not None
    ]
    return [thread_id for *_, thread_id in sorted(able)[:wanted]]


def out_of_place(drawn: pl.DataFrame, target: pl.DataFrame) -> int:
    """How many of the rows `drawn` would have to be of another stratum for the target's exact
    distribution, rounded; 0 where every stratum had enough.
    """
    if not drawn.height or not target.height:
        return 0
    theirs = {tuple(key): n for *key, n in target.group_by(STRATUM).len().iter_rows()}
    ours = {tuple(key): n for *key, n in drawn.group_by(STRATUM).len().iter_rows()}
    scale = Fraction(drawn.height, target.height)
    return round(sum(max(Fraction(0), n - theirs.get(key, 0) * scale) for key, n in ours.items()))


def short(recipe: Recipe, notes: dict[str, Any]) -> float:
    """The share of the target's rows or words that the control lacks; 0 within the tolerance: none
    of its rows, 1 % of its words.
    """
    assert recipe.control is not None
    match = recipe.control.match
    wanted, found = notes[match]["target"], notes[match]["control"]
    allowed = TOLERANCE * wanted if match == "words" else 0
    return round((wanted - found) / wanted, 4) if wanted - found > allowed else 0.0


def _check_size(name: str, recipe: Recipe, notes: dict[str, Any]) -> None:
    assert recipe.control is not None
    match = recipe.control.match
    wanted, found = notes[match]["target"], notes[match]["control"]
    if 2 * found < wanted:
        raise InputError(
            f"recipe `{name}`: its pool has {found:,} {match} of the {wanted:,} "
            f"of `{recipe.control.of}`",
            "add a `--source`, or control a recipe that keeps less",
        )


def _words(threads: pl.DataFrame) -> int:
    return sum(threads["reply_words"].to_list())


def _hashed(threads: pl.DataFrame, salt: str) -> pl.DataFrame:
    """`threads` in the order that `salt` draws, which is their column `draw`."""
    orders = [hash_order(salt, thread_id) for thread_id in threads["thread_id"].to_list()]
    return threads.with_columns(pl.Series("draw", orders, pl.String)).sort("draw")
