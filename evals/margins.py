"""How much worse is still no worse: margins given beforehand, in the suite or in the command.

A suite states them in the metric's own unit, 0.03 for three points of violations, and they stand in
the record of each evaluation. A command states them as its table prints them, in points.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dataset_builder.errors import InputError
from evals.conditions import SEEDS
from evals.scorers import METRICS, SHARES
from evals.statistics import MIN_TREES, NOT_SHOWN, no_worse
from evals.tables import Evaluation

LEAST_POINTS = 0.1  # less is a share that was meant as points


def read_margins(texts: Sequence[str]) -> dict[str, float]:
    """The margins of a command by metric, in the metric's unit: `3` is three points of violations,
    `relevance_total=2` two nats.

    >>> read_margins(["3", "relevance_total=2"])
    {'violation': 0.03, 'relevance_total': 2.0}

    Raises InputError where a text is no such thing.
    """
    margins: dict[str, float] = {}
    for text in texts:
        found = re.fullmatch(r"(?:([\w,-]+)=)?(\d+(?:\.\d+)?)", text.strip())
        if not found:
            raise InputError(
                f"--margin `{text}`: wanted a number of points, or METRIC=NUMBER",
                "such as `--margin 3` for three points of limits broken",
            )
        metric, value = found[1] or "violation", float(found[2])
        if metric in margins:
            raise InputError(f"--margin gives `{metric}` twice", "give it once")
        if metric in SHARES and value < LEAST_POINTS:
            raise InputError(
                f"--margin `{text}` is {value:g} points of {metric}",
                f"points are hundredths: `--margin {100 * value:g}` is {100 * value:g} points",
            )
        margins[metric] = value / 100 if metric in SHARES else value
    return margins


def refuse_margins(
    margins: Mapping[str, float], where: str, ways: Mapping[str, int] = METRICS
) -> None:
    """Raise InputError where a margin is of no metric that is better one way, or allows nothing or
    everything."""
    for metric, value in margins.items():
        if not ways.get(metric):
            known = ", ".join(name for name, direction in ways.items() if direction)
            problem = "neither more nor less of it is better" if metric in ways else "unknown"
            raise InputError(f"{where}: margin of `{metric}`: {problem}", f"give one of: {known}")
        if not math.isfinite(value) or value <= 0 or (metric in SHARES and value >= 1):
            most = " and below 1, a share" if metric in SHARES else ""
            raise InputError(f"{where}: margin of `{metric}` must be above 0{most}, found {value}")


def wanted_margins(
    given: Mapping[str, float] | None,
    evaluation: Evaluation,
    scored: Mapping[str, Any],
    ways: Mapping[str, int] = METRICS,
) -> dict[str, float]:
    """The margins of a comparison: those given, else those of the suite as it was evaluated.

    Raises InputError where one is of a metric that was not scored, or that is better neither way.
    """
    margins = dict(given or evaluation.suite.get("margins") or {})
    refuse_margins(margins, "--margin" if given else f"suite `{evaluation.suite_name}`", ways)
    for metric in margins:
        if metric not in scored:
            raise InputError(
                f"a margin is given for `{metric}`, which suite `{evaluation.suite_name}` does "
                "not score",
                f"it scores: {', '.join(sorted(scored))}",
            )
    return margins


def settle(
    rows: Sequence[dict[str, Any]],
    margins: Mapping[str, float],
    seeds: int,
    ways: Mapping[str, int] = METRICS,
) -> None:
    """Fill in `margin` and `equivalence` of the rows whose metric has a margin. Of fewer than three
    seeds an arm the second stays open, and few trees show nothing."""
    for row in rows:
        margin = margins.get(row["metric"])
        if margin is None:
            continue
        row["margin"] = margin
        if seeds >= SEEDS:
            is_enough = row["trees"] >= MIN_TREES
            row["equivalence"] = (
                no_worse(row["low_90"], row["high_90"], margin, ways[row["metric"]])
                if is_enough
                else NOT_SHOWN
            )
