"""Lines for templates that draw them as inline SVG: how long answers are, how a training went.

Lines run in a box of 1,000 by 1,000 that is stretched to its place; what must keep its shape stands
at positions in per cent.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.chart import STEPS, Scale, Tick, tick_step
from reports.figures import MINUS, percent
from reports.findings import Findings, given_words
from reports.training import Training

# A line is drawn through so many points at most: more cannot be seen.
POINTS = 80


@dataclass(frozen=True)
class Mark:
    """Where a line carries its answerer's mark, which tells it apart without colour; per cent."""

    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """One answerer's line."""

    name: str
    path: str
    marks: list[Mark]
    says: str  # in words, for who does not see it


@dataclass(frozen=True)
class Plot:
    """Lines on shared axes."""

    title: str
    about: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    limit_at: float | None = None  # where the limit stands, per cent from the left


def length_plots(findings: Findings, answerers: Sequence[str]) -> list[Plot]:
    """By limit, the share of each answerer's answers that have at most so many words."""
    limits = findings.comparison.limits
    given = {
        (name, limit): sorted(given_words(findings, name, limit))
        for limit in limits
        for name in answerers
    }
    lengths = sorted(max(1, words) for each in given.values() for words in each) or [1, 10]
    stated = [limit for limit in limits if limit is not None]
    # The shortest and longest hundredth would take half the axis.
    low = min([lengths[len(lengths) // 100], *stated]) / 1.15
    high = max([lengths[-1 - len(lengths) // 200], *stated]) * 1.15
    scale = Scale(max(1.0, low), max(high, 10.0), is_log=True)
    ticks = [
        Tick(scale.at(value), f"{value:,}")
        for power in range(5)
        for step in STEPS[:-1]
        if scale.low <= (value := step * 10**power) <= scale.high
    ]
    shares = [Tick(100 - 25 * n, percent(n / 4)) for n in range(5)]
    return [
        Plot(
            "No limit stated" if limit is None else f"At most {limit} words",
            "",
            ticks,
            shares,
            [
                _length_line(name, given[name, limit], limit, scale)
                for name in answerers
                if given[name, limit]
            ],
            None if limit is None else scale.at(limit),
        )
        for limit in limits
    ]


def _length_line(name: str, words: list[int], limit: int | None, scale: Scale) -> Line:
    n = len(words)
    values = sorted(set(words))
    if len(values) > POINTS:
        values = sorted({words[round(place * (n - 1) / POINTS)] for place in range(POINTS + 1)})
    points = [(max(1, value), bisect_right(words, value) / n) for value in values]
    path, before = "M0 1000", 0.0
    for value, share in points:
        x = 10 * scale.at(value)
        path += f"L{x:.0f} {1000 * (1 - before):.0f}V{1000 * (1 - share):.0f}"
        before = share
    median = statistics.median(words)
    within = "" if limit is None else f", {percent(bisect_right(words, limit) / n)} within"
    return Line(
        name,
        f"{path}H1000",
        [Mark(scale.at(max(1, median)), 50.0)],
        f"median {median:g} words of {n:,} answers{within}",
    )


def training_plots(trained: Sequence[tuple[str, Training]]) -> list[Plot]:
    """Loss by step, then what previews said: limits kept, and words where none was stated.

    A pair is an arm's label and one of its runs; every run has its line.
    """
    last = max(
        [step.step for _, run in trained for step in run.steps]
        + [preview.step for _, run in trained for preview in run.previews]
        + [1]
    )
    across = Scale(0, last)
    ticks = [Tick(across.at(value), f"{value:,.0f}") for value in _round_values(0, last, 4, 1)]
    losses = [(name, _thinned([(s.step, s.loss) for s in run.steps])) for name, run in trained]
    kept = [
        (name, [(p.step, p.kept) for p in run.previews if p.kept is not None])
        for name, run in trained
    ]
    words = [
        (name, [(p.step, p.words) for p in run.previews if p.words is not None])
        for name, run in trained
    ]
    plots = [
        _plot("Loss", "of the trained tokens, by step", losses, across, ticks, None),
        _plot("Previews: limits kept", "share, by step", kept, across, ticks, Scale(0, 1)),
        _plot("Previews: words", "median where no limit is stated", words, across, ticks, None),
    ]
    return [plot for plot in plots if plot.lines]


def _plot(
    title: str,
    about: str,
    series: Iterable[tuple[str, list[tuple[int, float]]]],
    across: Scale,
    x_ticks: list[Tick],
    up: Scale | None,
) -> Plot:
    series = [(name, points) for name, points in series if points]
    if up is None:
        values = [value for _, points in series for _, value in points] or [0.0, 1.0]
        step = tick_step(min(values), max(values), 4)
        low = math.floor(min(values) / step) * step
        up = Scale(low, max(math.ceil(max(values) / step) * step, low + step))
        labels = [(value, _plain(value, step)) for value in _round_values(up.low, up.high, 4)]
    else:
        labels = [(n / 4, percent(n / 4)) for n in range(5)]
    lines = [
        Line(
            name,
            "M"
            + "L".join(f"{10 * across.at(x):.0f} {1000 - 10 * up.at(y):.0f}" for x, y in points),
            [Mark(across.at(x), 100 - up.at(y)) for x, y in _marked(points)],
            f"{_plain(points[0][1], 0.01)} at step {points[0][0]}, "
            f"{_plain(points[-1][1], 0.01)} at step {points[-1][0]}",
        )
        for name, points in series
    ]
    return Plot(title, about, x_ticks, [Tick(100 - up.at(v), text) for v, text in labels], lines)


def _marked(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """All of few points, else the last."""
    return points if len(points) <= 12 else points[-1:]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` points: the means of equal stretches."""
    size = math.ceil(len(points) / POINTS) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], statistics.fmean(value for _, value in part)) for part in parts]


def _round_values(low: float, high: float, n: int, smallest: float = 0.0) -> list[float]:
    step = tick_step(low, high, n, smallest)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _plain(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", MINUS)
