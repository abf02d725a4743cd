"""Controls beside what they control, rows that two variants differ in, and aims: as text that the
terminal and the page both show.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reports import figures
from reports.figures import METRICS, NOTHING, TRIVIAL, Metric
from reports.findings import Findings


class BesideRow(NamedTuple):
    """What a row is of, and its cells."""

    of: str
    cells: tuple[str, ...]  # of one line or two


@dataclass(frozen=True)
class Beside:
    """A small table of text: what a row is of, then its cells."""

    title: str
    about: str
    columns: tuple[str, ...]  # of the cells
    rows: list[BesideRow]
    note: str = ""


def beside(findings: Findings) -> list[Beside]:
    """The tables that a comparison has something to say in."""
    found = [*_aims(findings), _controls(findings), _overlaps(findings)]
    return [table for table in found if table.rows]


def _controls(findings: Findings) -> Beside:
    """Each arm less its control, pooled over the stated limits where there are any."""
    stated = any(row["is_pooled"] for row in findings.comparison.controls)
    rows: list[BesideRow] = []
    for row in findings.comparison.controls:
        metric = METRICS.get(row["metric"])
        if metric is None or row["is_pooled"] != stated:
            continue
        cells = (
            row["match"],
            metric.title,
            figures.value(metric, row["arm_mean"]),
            figures.value(metric, row["baseline_mean"]),
            figures.difference(metric, row["difference"]),
            figures.range_of(metric, row["low"], row["high"]),
        )
        rows.append(BesideRow(f"{row['arm']} less {row['control']}", cells))
    return Beside(
        "Arms beside their controls",
        "random draws of as many rows or words; over all limits, each by itself and uncorrected",
        ("as many", "", "arm", "control", "difference", "95 % interval"),
        _each_once(rows),
    )


def _overlaps(findings: Findings) -> Beside:
    """In how many training rows each variant and the baseline's differ."""
    rows = []
    unknown: dict[str, list[str]] = {}
    for row in findings.comparison.overlaps:
        if "reason" in row:
            unknown.setdefault(row["reason"], []).append(row["arm"])
        counts = ("rows", "same", "rewritten", "only_arm", "only_baseline")
        rows.append(BesideRow(row["arm"], tuple(figures.count(row.get(key)) for key in counts)))
    baseline = next((row["baseline"] for row in findings.comparison.overlaps), "")
    return Beside(
        "Rows that differ",
        f"training rows of each variant, held against those of {baseline}",
        ("rows", "the same", "rewritten", "only here", f"only in {baseline}"),
        rows,
        "; ".join(f"not known of {', '.join(arms)}: {why}" for why, arms in unknown.items()),
    )


def _aims(findings: Findings) -> Iterator[Beside]:
    """Each aim by arm and limit."""
    aims = findings.comparison.aims
    for key in dict.fromkeys((row["metric"], row["bound"], row["wanted"]) for row in aims):
        name, bound, wanted = key
        metric = METRICS.get(name) or Metric(name, name.replace("_", " "), "", "", decimals=2)
        chosen = [row for row in aims if (row["metric"], row["bound"], row["wanted"]) == key]
        limits = list(dict.fromkeys(row["limit"] for row in chosen))
        rows: list[BesideRow] = []
        for arm in dict.fromkeys(row["arm"] for row in chosen):
            found = {row["limit"]: row for row in chosen if row["arm"] == arm}
            cells = tuple(_reached(metric, found.get(limit)) for limit in limits)
            rows.append(BesideRow(TRIVIAL.get(arm, arm), cells))
        way = "at most" if bound == "at_most" else "at least"
        yield Beside(
            "Aims",
            f"{metric.title} of {way} {figures.value(metric, wanted)}, stated before the first run",
            tuple(figures.limit_name(limit) for limit in limits),
            rows,
            "reached or missed where all of the 95 % interval below it is; else open",
        )


def _reached(metric: Metric, row: dict[str, Any] | None) -> str:
    """A mean and whether it reaches the aim, below it the interval."""
    if row is None:
        return NOTHING
    said = f"{figures.value(metric, row['mean'])} {row['found']}"
    if row["low"] is None:
        return said
    ends = [figures.value(metric, row[end]).removesuffix(metric.suffix) for end in ("low", "high")]
    return f"{said}\n{'…'.join(ends)}"


def _each_once(rows: Sequence[BesideRow]) -> list[BesideRow]:
    """Rows whose name is that of the row before without it."""
    before = [BesideRow("", ()), *rows]
    return [
        row._replace(of="") if row.of == last.of else row
        for last, row in zip(before, rows, strict=False)
    ]
