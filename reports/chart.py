"""Where the marks of a chart stand: values to positions, for templates that draw them as inline
SVG.

Positions across are per cent of the drawing, so that one drawing fits a wide screen, a telephone
and paper undistorted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from reports.figures import Metric, difference
from reports.findings import Effect, Findings, given_words, median_words

# Steps between ticks, times a power of ten.
STEPS = (1, 2, 5, 10)

# Answers of one strip beyond which dots lie on each other wherever they are put.
MANY = 400

# Dots of one strip spread by multiples of the golden ratio: even, and the same on every machine.
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Tick:
    """A position and what stands beside it."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` as per cent, on a linear or a logarithmic axis."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where `value` stands, 0 to 100; what lies outside stands at the edge."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(100 * (value - low) / (high - low), 2) if high > low else 50.0


@dataclass(frozen=True)
class ForestRow:
    """One difference: its point, its interval, and the band of what so many prompts cannot show."""

    effect: Effect
    point: float
    low: float | None  # None where there is no interval
    high: float | None
    blind_low: float | None
    blind_high: float | None


@dataclass(frozen=True)
class Forest:
    """Differences of one metric on a shared axis."""

    metric: Metric
    rows: list[ForestRow]
    ticks: list[Tick]
    zero: float


@dataclass(frozen=True)
class Strip:
    """The lengths of one answerer's answers at one limit, as dots."""

    answerer: str
    place: int  # of the answerer, for colour and shape
    left: float  # of the strip, per cent of its panel
    width: float
    dots: str  # an SVG path of zero-length strokes in a box of 100 by 1000
    median: float | None  # per cent from the top
    median_words: float | None
    n: int
    over: int  # answers past the limit


@dataclass(frozen=True)
class Panel:
    """One limit with its strips."""

    limit: int | None
    left: float
    width: float
    limit_at: float | None  # per cent from the top
    strips: list[Strip]


@dataclass(frozen=True)
class WordsChart:
    """Requested against given words: a panel per limit on one logarithmic axis."""

    panels: list[Panel]
    ticks: list[Tick]


def forest(metric: Metric, effects: Sequence[Effect]) -> Forest:
    """The differences of `metric` in `effects`: over all limits, which a verdict rests on, then by
    limit; arms in their order in each.
    """
    rows = [row for row in effects if row.metric == metric.name]
    rows.sort(key=lambda row: (not row.is_pooled, row.limit is None, row.limit or 0))
    ends = [0.0] + [
        end for row in rows for end in (row.low, row.high, row.difference) if end is not None
    ]
    step = tick_step(min(ends), max(ends), 5, 10**-metric.decimals / metric.scale)
    scale = Scale(math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step or step)
    values = _steps(scale.low, scale.high, step)
    # As many decimals as the step needs: an axis of whole numbers shows whole numbers.
    decimals = max(0, -math.floor(math.log10(step * metric.scale) + 1e-9))
    ticks = [
        Tick(scale.at(value), difference(replace(metric, decimals=decimals), value))
        for value in values
    ]
    placed = [
        ForestRow(
            row,
            scale.at(row.difference),
            None if row.low is None else scale.at(row.low),
            None if row.high is None else scale.at(row.high),
            None if row.detectable is None else scale.at(-row.detectable),
            None if row.detectable is None else scale.at(row.detectable),
        )
        for row in rows
    ]
    return Forest(metric, placed, ticks, scale.at(0))


def tick_step(low: float, high: float, n: int, smallest: float = 0.0) -> float:
    """The step of 1, 2 or 5 times a power of ten, not below `smallest`, that makes about `n` ticks
    between the two.

    >>> tick_step(-0.31, 0.85, 5)
    0.5
    """
    wanted = max((high - low) / n, smallest) or 1.0
    power = 10 ** math.floor(math.log10(wanted))
    return next(step * power for step in STEPS if step * power >= wanted * 0.999)


def words_chart(findings: Findings, answerers: Sequence[str]) -> WordsChart:
    """Every answer's length by limit and answerer."""
    limits = findings.comparison.limits
    given = {
        (name, limit): given_words(findings, name, limit) for limit in limits for name in answerers
    }
    lengths = sorted(
        [max(1, words) for words in _all(given.values())] + [limit for limit in limits if limit]
    ) or [1, 10]
    # A few answers of one word would push all the others into the upper half.
    shortest = lengths[len(lengths) // 100]
    scale = Scale(max(1.0, shortest / 1.3), lengths[-1] * 1.3, is_log=True)
    width = 100 / max(1, len(limits))
    panels = [
        Panel(
            limit,
            round(number * width, 2),
            round(width, 2),
            None if limit is None else round(100 - scale.at(limit), 2),
            [
                _strip(
                    name,
                    place,
                    len(answerers),
                    given[name, limit],
                    limit,
                    scale,
                    median_words(findings, name, limit),
                )
                for place, name in enumerate(answerers)
            ],
        )
        for number, limit in enumerate(limits)
    ]
    ticks = [
        Tick(round(100 - scale.at(value), 2), f"{value:,}")
        for power in range(5)
        for step in STEPS[:-1]
        if scale.low <= (value := step * 10**power) <= scale.high
    ]
    return WordsChart(panels, ticks)


def _strip(
    name: str,
    place: int,
    of: int,
    words: list[int],
    limit: int | None,
    scale: Scale,
    median: float | None,
) -> Strip:
    width = 88 / of
    # Of many, dots that would cover each other are drawn once; none is moved up or down by more
    # than half a dot.
    columns, rows = (76, 1000) if len(words) <= MANY else (8, 200)
    dots = "".join(
        dict.fromkeys(
            f"M{12 + round(columns * (number * GOLDEN % 1)) * 76 // columns} "
            f"{1000 - round(rows * scale.at(max(1, length)) / 100) * 1000 // rows}h0"
            for number, length in enumerate(words)
        )
    )
    return Strip(
        answerer=name,
        place=place,
        left=round(6 + place * width, 2),
        width=round(width, 2),
        dots=dots,
        median=None if median is None else round(100 - scale.at(max(1, median)), 2),
        median_words=median,
        n=len(words),
        over=0 if limit is None else sum(length > limit for length in words),
    )


def _steps(low: float, high: float, step: float) -> list[float]:
    return [low + number * step for number in range(round((high - low) / step) + 1)]


def _all(lists: Iterable[list[int]]) -> list[int]:
    return [item for items in lists for item in items]
