"""What may be concluded from the rows a verdict rests on, as one word and as one plain sentence."""

from collections.abc import Mapping
from typing import Any

from evals.conditions import SEEDS
from evals.statistics import MIN_TREES

ALPHA = 0.05
BETTER, WORSE = "better", "worse"
BEATS, LOSES = "this run beats", "this run loses"
TRADES = "trades"
CANNOT_TELL = "cannot tell"

Row = Mapping[str, Any]


def of_row(row: Row, direction: int, seeds: int) -> str:
    """What one row says: `direction` is -1 where less is better, 1 where more is.

    Few trees, an interval that holds zero or cannot be had, or a p that does not hold over the
    whole family: cannot tell.
    """
    low, high, p = row["low"], row["high"], row["p_holm"]
    if low is None or high is None or p is None or row["trees"] < MIN_TREES:
        return CANNOT_TELL
    if p >= ALPHA or low <= 0 <= high:
        return CANNOT_TELL
    is_better = (row["difference"] > 0) == (direction > 0)
    if seeds >= SEEDS:
        return BETTER if is_better else WORSE
    return BEATS if is_better else LOSES


def of_arm(rows: Mapping[str, Row]) -> str:
    """The verdict on an arm from its headline rows by metric: violations first, then quality.

    Fewer violations at the price of quality, or the other way round, is a trade: which of the two
    matters more is the reader's to say.
    """
    found = {metric: row["verdict"] for metric, row in rows.items()}
    first = found.pop("violation", None)
    quality = set(found.values())
    up, down = quality & {BETTER, BEATS}, quality & {WORSE, LOSES}
    if first is None:
        return next(iter(up or down)) if bool(up) != bool(down) else CANNOT_TELL
    if first in (BETTER, BEATS):
        return first if not down else TRADES
    if first in (WORSE, LOSES):
        return first if not up else TRADES
    return CANNOT_TELL


def sentence(baseline: str, arm: str, verdict: str, rows: Mapping[str, Row], seeds: int) -> str:
    """The verdict in plain words: what was found, over how many prompts, and what those show."""
    row = rows.get("violation")
    if not rows:
        found = "no limit was stated and no quality score passed its gate"
        return f"Cannot tell `{arm}` from `{baseline}`: {found}. {_unseeded(seeds)}".strip()
    ours, theirs = f"This run of `{arm}`", f"this run of `{baseline}`"
    if not seeds:
        ours, theirs = f"This set of answers of `{arm}`", f"that of `{baseline}`"
    opening = {
        BETTER: f"`{arm}` is better than `{baseline}`",
        WORSE: f"`{arm}` is worse than `{baseline}`",
        BEATS: f"{ours} beats {theirs}",
        LOSES: f"{ours} loses to {theirs}",
        TRADES: f"`{arm}` is neither better nor worse than `{baseline}`, it trades",
        CANNOT_TELL: f"Cannot tell `{arm}` from `{baseline}`",
    }[verdict]
    parts = [f"{opening}: {_found(row) if row else _quality(next(iter(rows.values())))}"]
    parts += [_beside(each) for metric, each in rows.items() if metric != "violation" and row]
    if row and len(rows) == 1 and verdict != CANNOT_TELL:
        parts.append("Quality was not judged: no scorer passed its gate.")
    parts.append(_shown(row or next(iter(rows.values()))))
    parts.append(_unseeded(seeds))
    return " ".join(part for part in parts if part)


def _unseeded(seeds: int) -> str:
    """What too few seeds leave open."""
    if seeds >= SEEDS:
        return ""
    if not seeds:
        return "Answers made elsewhere have no seeds: these answers are compared, not variants."
    said = "One seed says" if seeds == 1 else f"{seeds} seeds say"
    return f"{said} nothing about the variants."


def _found(row: Row) -> str:
    """The difference in limits broken, in points, with its interval, prompts and trees."""
    points = 100 * row["difference"]
    size = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'} of its limits"
    found = "as many of its limits" if abs(points) < 0.05 else size
    return f"it breaks {found}{_interval(row, 100, 'points')} over {_over(row)}."


def _quality(row: Row) -> str:
    name = row["metric"].replace("_", " ")
    interval = _interval(row, 1, "nats")
    return f"its {name} differs by {row['difference']:+.2f} nats{interval} over {_over(row)}."


def _beside(row: Row) -> str:
    """One sentence on a quality score beside the violations."""
    name = row["metric"].replace("_", " ").capitalize()
    said = {BETTER: "is higher", BEATS: "is higher", WORSE: "is lower", LOSES: "is lower"}.get(
        row["verdict"], "shows no difference"
    )
    return f"{name} {said} ({row['difference']:+.2f} nats where both kept the limit)."


def _interval(row: Row, scale: float, unit: str) -> str:
    if row["low"] is None:
        return ""
    return f" (95 % interval {scale * row['low']:+.1f} to {scale * row['high']:+.1f} {unit})"


def _over(row: Row) -> str:
    prompts, trees = row["prompts"], row["trees"]
    return f"{prompts} prompt{'s' * (prompts != 1)} of {trees} tree{'s' * (trees != 1)}"


def _shown(row: Row) -> str:
    """The smallest difference that so many prompts could show."""
    n = f"{row['prompts']} prompts" if row["prompts"] != 1 else "One prompt"
    size = None if row["detectable"] is None else _size(row)
    if row["trees"] < MIN_TREES:
        least = f"the least they could show is {size}" if size else "they could show nothing"
        return f"{n} are too few for a verdict, which takes {MIN_TREES} trees; {least}."
    return f"{n} show differences of {size} and more." if size else ""


def _size(row: Row) -> str:
    if row["metric"] == "violation":
        return f"{min(100.0, 100 * row['detectable']):.0f} points"
    return f"{row['detectable']:.2f} nats"
