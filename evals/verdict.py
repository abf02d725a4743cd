"""What may be concluded from the rows a verdict rests on, as one word and as one plain sentence."""

from collections.abc import Mapping
from typing import Any

from evals.conditions import SEEDS
from evals.scorers import FROZEN, SHARES
from evals.statistics import EQUIVALENT, MIN_TREES, NO_WORSE

ALPHA = 0.05
BETTER, WORSE = "better", "worse"
BEATS, LOSES = "this run beats", "this run loses"
TRADES = "trades"
CANNOT_TELL = "cannot tell"

# What metrics that are no shares are told in.
UNITS = dict.fromkeys(FROZEN, " nats")

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
    matters more is the reader's to say. Violations that cannot be told apart leave all open, unless
    a margin given beforehand settles them: no worse by it, better quality decides; equivalent by
    it, worse quality does too.
    """
    settled = rows["violation"].get("equivalence") if "violation" in rows else None
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
    if up and not down and settled in (NO_WORSE, EQUIVALENT):
        return next(iter(up))
    if down and not up and settled == EQUIVALENT:
        return next(iter(down))
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
        CANNOT_TELL: _known(baseline, arm, rows, seeds),
    }[verdict]
    first = row or next(iter(rows.values()))
    parts = [f"{opening}: {_found(row) if row else _quality(first)}"]
    parts += [_beside(each) for each in rows.values() if each is not first]
    parts += [_of_margin(each, seeds) for each in rows.values()]
    if row and len(rows) == 1 and verdict != CANNOT_TELL:
        parts.append("Quality was not judged: no scorer passed its gate.")
    parts.append(_shown(first))
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
    return f"it breaks {found}{_interval(row)} over {_over(row)}."


def _known(baseline: str, arm: str, rows: Mapping[str, Row], seeds: int) -> str:
    """What opens the sentence on arms of which neither is better: all that is known."""
    quality = [
        f"{'higher' if row['difference'] > 0 else 'lower'} in {_name(row)}"
        for metric, row in rows.items()
        if metric != "violation" and row.get("verdict", CANNOT_TELL) != CANNOT_TELL
    ]
    violation = rows.get("violation")
    settled = violation.get("equivalence") if violation else None
    kept = {
        EQUIVALENT: "keeps its limits as well as {0}, by the margin of {1}",
        NO_WORSE: "keeps its limits no worse than {0}, by the margin of {1}",
    }.get(str(settled))
    if not quality and not kept:
        return f"Cannot tell `{arm}` from `{baseline}`"
    ours, theirs = f"`{arm}`", f"`{baseline}`"
    if seeds < SEEDS:
        ours, theirs = f"This run of {ours}", f"this run of {theirs}"
    if not quality:
        assert violation is not None and kept is not None  # noqa: PT018
        return f"{ours} {kept.format(theirs, _amount(violation, violation['margin']))}"
    said = f"{ours} is {' and '.join(quality)} than {theirs}"
    if kept:
        assert violation is not None
        return f"{said}, and {kept.format('it', _amount(violation, violation['margin']))}"
    return f"{said}, and cannot be told from it in limits broken" if violation else said


def _quality(row: Row) -> str:
    return (
        f"its {_name(row)} differs by {_amount(row, row['difference'], '+')}"
        f"{_interval(row)} over {_over(row)}."
    )


def _beside(row: Row) -> str:
    """One sentence on a quality score beside the first row."""
    none = "shows no difference"
    if row["low"] is not None and (row["low"] > 0 or row["high"] < 0):
        none += " that outlasts the correction over arms and scores"
    said = {BETTER: "is higher", BEATS: "is higher", WORSE: "is lower", LOSES: "is lower"}.get(
        row["verdict"], none
    )
    found = f"{_amount(row, row['difference'], '+')}{_interval(row)}"
    return f"{_name(row).capitalize()} {said}: {found} where both kept the limit."


def _of_margin(row: Row, seeds: int) -> str:
    """One sentence on whether the margin that was given beforehand is kept."""
    if row.get("margin") is None:
        return ""
    by = f"by {_amount(row, row['margin'])} or more in {_name(row)}"
    if seeds < SEEDS:
        return f"Whether it is worse {by} takes {SEEDS} seeds of each."
    interval = _interval(row, "_90", "90 %")
    return {
        EQUIVALENT: f"It is neither worse nor better {by}{interval}.",
        NO_WORSE: f"It is not worse {by}{interval}.",
    }.get(row["equivalence"], f"It is not shown that it is not worse {by}{interval}.")


def _name(row: Row) -> str:
    name: str = row["metric"]
    return "limits broken" if name == "violation" else name.replace("_", " ")


def _amount(row: Row, value: float, sign: str = "") -> str:
    """A value of the row's metric in the unit that people read.

    >>> _amount({"metric": "violation"}, 0.03), _amount({"metric": "relevance"}, 2, "+")
    ('3.0 points', '+2.00 nats')
    """
    if row["metric"] in SHARES:
        return f"{100 * value:{sign}.1f} points"
    unit = UNITS.get(row["metric"])
    return f"{value:{sign}.2f}{unit}" if unit else f"{value:{sign}.3f}"


def _interval(row: Row, ends: str = "", level: str = "95 %") -> str:
    low, high = row.get(f"low{ends}"), row.get(f"high{ends}")
    if low is None or high is None:
        return ""
    unit = UNITS.get(row["metric"], "")
    if row["metric"] in SHARES:
        low, high, unit = 100 * low, 100 * high, " points"
    places = 1 if unit else 3
    return f" ({level} interval {low:+.{places}f} to {high:+.{places}f}{unit})"


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
    if row["metric"] in SHARES:
        return f"{min(100.0, 100 * row['detectable']):.0f} points"
    return _amount(row, row["detectable"])
