"""Held-out pairs with what people read of them, and what a reward model's scores of them say.

How often it scores the chosen reply higher says little alone: people prefer longer replies, and so
a model that only counts words is right more often than not. So the rule "the longer one" is held
against the same pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from dataset_builder.fit import FittedPair
from dataset_builder.tables import FORMS, Table, read_table, table_of, write_table

LEVEL = 0.95
FILE = "pairs.parquet"

SCORED_PAIRS = Table(
    "scored_pairs",
    pa.schema(
        [
            ("example_id", pa.string()),
            ("tree_id", pa.string()),
            ("chosen_reward", pa.float64()),
            ("rejected_reward", pa.float64()),
            ("chosen_words", pa.int32()),
            ("rejected_words", pa.int32()),
        ]
    ),
    ("example_id",),
)


@dataclass(frozen=True)
class HeldPair:
    """A held-out pair that fits, as token ids and as people read it."""

    fitted: FittedPair
    tree_id: str
    prompt: str  # its last turn
    chosen: str
    rejected: str


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """In which share of pairs something held; a tie counts half, as a coin would decide it."""

    share: float | None  # None where there are no pairs
    low: float | None  # 95 % interval
    high: float | None
    pairs: int
    ties: int


class PairFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the scores of held-out pairs say."""

    trees: int
    right: Share  # the chosen reply scored higher
    longer_is_chosen: Share  # what "the longer one" would get right; replies of equal length tie
    scores_longer_higher: Share  # over pairs of unequal length
    over_length: float | None  # right less longer_is_chosen
    over_length_low: float | None  # 95 % interval
    over_length_high: float | None
    right_where_longer_is_chosen: Share
    right_where_shorter_is_chosen: Share
    # Spearman's, of the chosen reply's score and words, each less the rejected one's.
    length_correlation: float | None


def read_held_pairs(variant: Path, fitted: Sequence[FittedPair]) -> list[HeldPair]:
    """The pairs of the variant's split `validation` that fit, in the order of `fitted`."""
    rows = read_table(variant / "validation.parquet", FORMS["pairs"]).to_pylist()
    by_id = {row["example_id"]: row for row in rows}
    found = []
    for pair in fitted:
        row = by_id[pair.example_id]
        said = (row[side][-1]["content"] for side in ("prompt", "chosen", "rejected"))
        found.append(HeldPair(pair, row["tree_id"], *said))
    return found


def write_scored(
    held: Sequence[HeldPair], rewards: Sequence[Sequence[float]], out: Path
) -> list[dict[str, Any]]:
    """Write what each held-out pair was scored, chosen and rejected, to `out`; its rows."""
    rows = [
        {
            "example_id": pair.fitted.example_id,
            "tree_id": pair.tree_id,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "chosen_words": pair.fitted.chosen_words,
            "rejected_words": pair.fitted.rejected_words,
        }
        for pair, (chosen, rejected) in zip(held, rewards, strict=True)
    ]
    write_table(table_of(rows, SCORED_PAIRS), SCORED_PAIRS, out)
    return rows


def pair_figures(rows: Sequence[dict[str, Any]]) -> PairFigures:
    """What the rows of `scored_pairs` say."""
    trees = np.array([row["tree_id"] for row in rows], dtype=object)
    margins = _less(rows, "chosen_reward", "rejected_reward")
    words = _less(rows, "chosen_words", "rejected_words")
    right, longer, alike = _won(margins), _won(words), _won(margins * np.sign(words))
    gain, (low, high) = _difference(right, longer, trees)
    return PairFigures(
        trees=len(set(trees)),
        right=share_of(right, trees),
        longer_is_chosen=share_of(longer, trees),
        scores_longer_higher=share_of(alike[words != 0], trees[words != 0]),
        over_length=gain,
        over_length_low=low,
        over_length_high=high,
        right_where_longer_is_chosen=share_of(right[words > 0], trees[words > 0]),
        right_where_shorter_is_chosen=share_of(right[words < 0], trees[words < 0]),
        length_correlation=spearman(margins, words),
    )


def _less(rows: Sequence[dict[str, Any]], one: str, other: str) -> np.ndarray:
    return np.array([row[one] - row[other] for row in rows], dtype=float)


def _won(margins: np.ndarray) -> np.ndarray:
    """1 where the margin is above 0, a half where it is 0."""
    return (np.sign(margins) + 1) / 2


def share_of(won: np.ndarray, trees: np.ndarray) -> Share:
    """The mean of `won` (pairs,), of 0, 1/2 and 1, with Wilson's interval (1927, JASA 22) for as
    many independent pairs as those of `trees` are worth.

    Pairs of one tree go together. They count for as many as their number over the design effect,
    which is at least 1: the variance of the mean over trees, over that of independent pairs. Where
    all pairs are alike and nothing shows how they go together, a tree counts for one.
    """
    n, ties = len(won), int((won == 0.5).sum())
    if not n:
        return Share(share=None, low=None, high=None, pairs=0, ties=0)
    mean = float(won.mean())
    alone = mean * (1 - mean) / n
    count = len(set(trees))
    effective = float(count)
    if alone and count > 1:
        effective = n / max(1.0, _variance(won - mean, trees) / alone)
    low, high = _wilson(mean, effective)
    return Share(share=mean, low=low, high=high, pairs=n, ties=ties)


def _variance(residuals: np.ndarray, trees: np.ndarray) -> float:
    """The variance of a mean over pairs, those of one tree together, by linearisation."""
    _, cluster = np.unique(trees.astype(str), return_inverse=True)
    sums = np.bincount(cluster, residuals)
    count = len(sums)
    return float(count / (count - 1) * (sums**2).sum() / len(residuals) ** 2)


def _wilson(share: float, n: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding would leave an end beside 0 or 1 where it is exactly that.
    low = 0.0 if share == 0 else middle - reach
    return low, 1.0 if share == 1 else middle + reach


def _difference(
    ours: np.ndarray, theirs: np.ndarray, trees: np.ndarray
) -> tuple[float | None, tuple[float | None, float | None]]:
    """The mean of `ours - theirs` over the same pairs, and its normal interval over trees."""
    if not len(ours):
        return None, (None, None)
    gaps = ours - theirs
    mean = float(gaps.mean())
    if len(set(trees)) < 2:
        return mean, (None, None)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    reach = z * sqrt(_variance(gaps - mean, trees))
    return mean, (mean - reach, mean + reach)


def spearman(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """The rank correlation of two columns, ties at their mean rank; None where one is constant."""
    ranks = [_ranks(ours), _ranks(theirs)]
    if min((len(set(each)) for each in ranks), default=0) < 2:
        return None
    return float(np.corrcoef(np.stack(ranks))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def told_apart(figures: PairFigures) -> dict[str, str]:
    """The figures as people read them, by what they are of."""
    apart = "none"
    if figures.over_length is not None:
        apart = f"{100 * figures.over_length:+.1f} points"
        if figures.over_length_low is not None and figures.over_length_high is not None:
            low, high = 100 * figures.over_length_low, 100 * figures.over_length_high
            apart += f" ({low:+.1f} to {high:+.1f})"
    correlation = figures.length_correlation
    return {
        "chosen reply scored higher": said(figures.right),
        "the rule: the longer reply": said(figures.longer_is_chosen),
        "more than the rule": apart,
        "right where the longer was chosen": said(figures.right_where_longer_is_chosen),
        "right where the shorter was chosen": said(figures.right_where_shorter_is_chosen),
        "longer reply scored higher": said(figures.scores_longer_higher),
        "rank correlation of score and words": "none"
        if correlation is None
        else f"{correlation:+.2f}",
    }


def said(share: Share) -> str:
    """A share in per cent with its interval and what it is over."""
    if share.share is None or share.low is None or share.high is None:
        return "no pairs"
    ties = f", {share.ties:,} tied" if share.ties else ""
    return (
        f"{100 * share.share:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
        f" of {share.pairs:,}{ties}"
    )
