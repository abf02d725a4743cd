"""Compliance against quality: where each answerer stands, and where somebody trivial stands as well
or better.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from reports.chart import Scale, Tick, tick_step
from reports.figures import METRICS, NOTHING, TRIVIAL, Metric, percent, value
from reports.findings import (
    Findings,
    effect,
    gate,
    limits_stated,
    mean,
    trivial_answerers,
)

# What a label and a mark take of a drawing on a wide screen, in per cent: a letter's width, a
# line's height, half a mark. On a narrow one labels are left to the key below the drawing.
LETTER, LINE, MARK_X, MARK_Y = 1.4, 5.0, 1.5, 2.4
# A drawing's width by its height.
SHAPE = 1.4
# The share of a label that may lie under marks and other labels; one that would hide more is left
# to the key as well, and to whoever points at the mark.
HIDDEN = 0.08


class Box(NamedTuple):
    """A rectangle in per cent of the drawing."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Point:
    """One answerer; positions in per cent, from the left and from the top."""

    name: str
    x: float
    y: float
    low: float | None  # ends of the interval of its difference in limits kept from the baseline
    high: float | None
    quality_low: float | None
    quality_high: float | None
    label_y: float  # of the label's foot
    label_left: bool  # the label stands to the left of the point
    is_named: bool  # there is room for a label
    says: str
    is_trivial: bool


@dataclass(frozen=True)
class Tradeoff:
    """Limits kept across, one quality metric up."""

    metric: Metric
    is_trusted: bool  # its gate passed
    points: list[Point]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    shade: str  # an SVG path: where some trivial row is at least as good in both


def tradeoffs(findings: Findings) -> list[Tradeoff]:
    """A drawing per quality metric; none where no limit was stated or nothing was scored."""
    if not limits_stated(findings.comparison):
        return []
    judged = [METRICS[each.metric] for each in findings.comparison.gates if each.metric in METRICS]
    drawn = [_tradeoff(findings, metric) for metric in judged]
    return sorted((each for each in drawn if each.points), key=lambda each: not each.is_trusted)


def _tradeoff(findings: Findings, metric: Metric) -> Tradeoff:
    names = [arm.label for arm in findings.arms] + trivial_answerers(findings)
    found = {}
    for name in names:
        broken = mean(findings, name, "violation", None, True)
        quality = mean(findings, name, metric.name, None, True)
        if broken is not None and quality is not None:
            found[name] = (1 - broken, quality)
    ends = [
        quality - row.difference + end
        for name, (_, quality) in found.items()
        if name not in TRIVIAL and (row := effect(findings, name, metric.name, None, True))
        for end in (row.low, row.high)
        if end is not None
    ]
    values = [*ends, *(quality for _, quality in found.values())] or [0.0, 1.0]
    step = tick_step(min(values), max(values), 4, 10**-metric.decimals)
    span = max(values) - min(values) or step
    low, high = min(values) - span / 12, max(values) + span / 12
    # A little room on both sides: points at 0 and 100 % are common, and are no edge cases.
    across, up = Scale(-0.03, 1.03), Scale(low, high)
    trivial = {name: place for name, place in found.items() if name in TRIVIAL}
    found_gate = gate(findings, metric.name)
    return Tradeoff(
        metric,
        found_gate is not None and found_gate.passed,
        _with_labels([_point(findings, metric, name, *found[name], across, up) for name in found]),
        [Tick(across.at(n / 4), percent(n / 4)) for n in range(5)],
        [
            Tick(100 - up.at(k * step), value(metric, k * step))
            for k in range(math.ceil(low / step), math.floor(high / step) + 1)
        ],
        _shade([(across.at(x), 100 - up.at(y)) for x, y in trivial.values()]),
    )


def _point(
    findings: Findings,
    metric: Metric,
    name: str,
    kept: float,
    quality: float,
    across: Scale,
    up: Scale,
) -> Point:
    broken = effect(findings, name, "violation", None, True)
    judged = effect(findings, name, metric.name, None, True)
    low = high = quality_low = quality_high = None
    if name in TRIVIAL:  # where it stands is all that is asked of it
        broken = judged = None
    if broken and broken.low is not None and broken.high is not None:
        low, high = kept + broken.difference - broken.high, kept + broken.difference - broken.low
    if judged and judged.low is not None and judged.high is not None:
        quality_low = quality - judged.difference + judged.low
        quality_high = quality - judged.difference + judged.high
    return Point(
        name,
        across.at(kept),
        round(100 - up.at(quality), 2),
        None if low is None else across.at(low),
        None if high is None else across.at(high),
        None if quality_low is None else round(100 - up.at(quality_low), 2),
        None if quality_high is None else round(100 - up.at(quality_high), 2),
        0.0,
        False,
        True,
        f"{percent(kept)} of limits kept, {metric.title.lower()} "
        f"{value(metric, quality) or NOTHING}",
        name in TRIVIAL,
    )


def _with_labels(points: list[Point]) -> list[Point]:
    """The points, each with the place for its label at which it covers least."""
    taken = [
        Box(point.x - MARK_X, point.y - MARK_Y, point.x + MARK_X, point.y + MARK_Y)
        for point in points
    ]
    placed = []
    for point in points:
        width = LETTER * len(TRIVIAL.get(point.name, point.name)) + 1
        best: tuple[float, bool, float, Box] | None = None
        for down in (-2.0, 6.0, -7.0, 11.0, 2.0):
            for is_left in (False, True):
                left = point.x - MARK_X - width if is_left else point.x + MARK_X
                foot = point.y + down
                box = Box(left, foot - LINE, left + width, foot)
                outside = max(0.0, -box.left, box.right - 103, -box.top, box.bottom - 100)
                cost = sum(_overlap(box, other) for other in taken) + 100 * outside
                # What stands nearer to another mark would be read as that one's name.
                cost += 100 * _is_nearer(point, points, point.x + (-2 if is_left else 2), foot - 2)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, is_left, foot, box)
        assert best is not None
        cost, is_left, foot, box = best
        is_named = cost <= HIDDEN * width * LINE
        if is_named:
            taken.append(box)
        placed.append(replace(point, label_left=is_left, label_y=round(foot, 2), is_named=is_named))
    return placed


def _is_nearer(point: Point, points: list[Point], x: float, y: float) -> bool:
    """Whether a mark of another of `points` lies nearer to (x, y) than this point's own."""

    def away(other: Point) -> float:
        return math.hypot(SHAPE * (other.x - x), other.y - y)

    return any(away(other) < away(point) for other in points if other is not point)


def _overlap(one: Box, other: Box) -> float:
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0.0, across) * max(0.0, down)


def _shade(places: list[tuple[float, float]]) -> str:
    """The union of all that lies to the left of and below a place, as one staircase."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(places, reverse=True):
        if not front or y < front[-1][1]:
            front.append((x, y))
    if not front:
        return ""
    path = f"M{10 * front[0][0]:.0f} 1000"
    for x, y in front:
        path += f"H{10 * x:.0f}V{10 * y:.0f}"
    return f"{path}H0V1000z"
