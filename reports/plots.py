"""Plots for the terminal: the limit curve and the losses, drawn by plotext at a given width.

Who is who is said by the mark and never by colour alone. plotext gets numbers only: names are
foreign text and stand in a legend of ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import plotext
from rich.text import Text

from dataset_builder.printable import printable
from reports.figures import TRIVIAL
from reports.findings import ArmFindings, Findings, found, limits_stated, median_words
from reports.training import Step, read_training

# In the order of the arms; more arms than these begin again, as letters.
# The first four and the base's are the page's too.
MARKS = "■●◆▲○◇△"
BASE_MARK = "□"
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
LIMIT = "·"

# A plot grows no wider than this: a line is followed by the eye, not by its length.
WIDEST = 100
HEIGHT = 13
MARKED = 8  # marks along a curve

STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Line:
    """One line of a plot: its points, left to right, and whose they are."""

    name: str
    points: list[tuple[float, float]]
    marked: list[tuple[float, float]]  # those of the points that carry the arm's mark


def limit_curve(findings: Findings, width: int) -> Text | None:
    """The median words given under each stated limit, by arm and of the base model, on logarithmic
    axes: on the dotted line an answer fills its limit, above it breaks it. None where fewer than
    two limits were stated.
    """
    limits = limits_stated(findings.comparison)
    if len(limits) < 2:
        return None
    names = [arm.label for arm in findings.arms]
    names += [name for name in ("base",) if name in findings.answerers]
    lines = []
    for name in names:
        given = [(limit, median_words(findings, name, limit)) for limit in limits]
        points = [(math.log(limit), math.log(words)) for limit, words in given if words]
        lines.append(Line(TRIVIAL.get(name, name), points, points))
    diagonal = [(math.log(limit), math.log(limit)) for limit in limits]
    words = [y for line in lines for _, y in line.points] + [y for _, y in diagonal]
    return drawn(
        lines,
        width,
        x_ticks=[(math.log(limit), str(limit)) for limit in limits],
        y_ticks=[(math.log(n), f"{n:,}") for n in log_ticks(math.exp(min(words)), max(limits))]
        + [
            (math.log(n), f"{n:,}")
            for n in log_ticks(max(limits), math.exp(max(words)))
            if n > max(limits)
        ],
        reference=Line("the limit itself", diagonal, []),
    )


def loss_plot(findings: Findings, width: int) -> Text | None:
    """The training loss by step, each point the mean over seeds and a few steps; None
    where no run wrote any.
    """
    curves = loss_points(findings, max(MARKED, min(width, WIDEST) // 2))
    if not any(curves.values()):
        return None
    lines = []
    for place, (label, points) in enumerate(curves.items()):
        # Each arm's marks stand elsewhere, so that curves of one course all show theirs.
        first = place * len(points) // (MARKED * len(curves))
        lines.append(Line(label, points, points[first :: max(1, len(points) // MARKED)]))
    last = max(step for points in curves.values() for step, _ in points)
    losses = [y for line in lines for _, y in line.points]
    return drawn(
        lines,
        width,
        # There is no half of a step.
        x_ticks=[(n, f"{n:,.0f}") for n in round_ticks(1, last, 6) if n.is_integer()],
        y_ticks=[(n, f"{n:.2f}") for n in round_ticks(min(losses), max(losses), 5)],
    )


def loss_points(findings: Findings, most: int = 100) -> dict[str, list[tuple[float, float]]]:
    """Step and training loss by arm, at most so many points an arm: each the mean over all seeds
    and over equal stretches of steps, the same for every arm.
    """
    steps = {arm.label: _steps(findings, arm) for arm in findings.arms}
    last = max((step.step for each in steps.values() for step in each), default=0)
    return {label: binned(each, min(last, most), last) for label, each in steps.items()}


def binned(steps: Sequence[Step], bins: int, last: int) -> list[tuple[float, float]]:
    """Mean step and mean loss of each of the `bins` equal stretches from step 1 to `last`; a
    stretch without a step has no point.
    """
    stretches: dict[int, list[Step]] = {}
    for step in steps:
        stretches.setdefault(min(bins - 1, bins * (step.step - 1) // last), []).append(step)
    return [
        (fmean(step.step for step in each), fmean(step.loss for step in each))
        for _, each in sorted(stretches.items())
    ]


def drawn(
    lines: Sequence[Line],
    width: int,
    *,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    reference: Line | None = None,
) -> Text:
    """The lines as text of `width` columns, at most, with a legend below."""
    figure = _figure(min(width, WIDEST))
    if reference:
        figure.draw(_signal(figure, reference.points, LIMIT, None).lines(True))
    shown = [line for line in lines if line.points]
    marks = {
        line.name: BASE_MARK if line.name == TRIVIAL["base"] else _mark(place)
        for place, line in enumerate(lines)
    }
    colours = {line.name: COLOURS[place % len(COLOURS)] for place, line in enumerate(lines)}
    for line in shown:
        figure.draw(_signal(figure, line.points, "braille", colours[line.name]).lines(True))
    for line in shown:  # marks over all lines, so that none hides one
        figure.draw(_signal(figure, line.marked, marks[line.name], colours[line.name]))
    everything = [point for line in shown for point in line.points]
    everything += reference.points if reference else []
    for axis, side, ticks, values in (
        ("x", "lower", x_ticks, [x for x, _ in everything]),
        ("y", "left", y_ticks, [y for _, y in everything]),
    ):
        low, high = min(values), max(values)
        # A mark on the frame would look cut off.
        slack = 0.03 * (high - low) or 0.5
        ruler = figure.ruler(axis, side)
        ruler.lim(low - slack, high + slack)
        inside = [(at, name) for at, name in ticks if low - slack <= at <= high + slack]
        ruler.ticks([at for at, _ in inside], [name for _, name in inside])
    plot = Text.from_ansi(figure.build().string().rstrip("\n"))
    legend = Text()
    for line in shown:
        legend.append(f" {marks[line.name]} ", colours[line.name])
        legend.append(f"{printable(line.name)}  ".replace(" ", "\N{NO-BREAK SPACE}"))
    if reference:
        legend.append(f" {LIMIT}{LIMIT} {reference.name}".replace(" ", "\N{NO-BREAK SPACE}"))
    return Text.assemble(plot, "\n", legend, overflow="fold")


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers between `low` and `high`, a step of 1, 2 or 5 times a power of
    ten apart.

    >>> round_ticks(1.3, 2.4, 4)
    [1.5, 2.0]
    """
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        step
        for step in (times * power for times in (*STEPS, 10, 20, 50))
        if math.floor(high / step) - math.ceil(low / step) < most
    )
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[int]:
    """The numbers 1, 2 and 5 times a power of ten, from 1, that reach from `low` to `high`.

    >>> log_ticks(18, 200)
    [20, 50, 100, 200]
    """
    found = (times * 10**power for power in range(7) for times in STEPS)
    return [n for n in found if low <= n <= high]


def _steps(findings: Findings, arm: ArmFindings) -> list[Step]:
    """The steps of all seeds."""
    root = findings.directory.parent.parent
    return [step for run in arm.arm.runs for step in read_training(found(run, root)).steps]


def _figure(width: int) -> "plotext.figure":
    # plotext has one figure; it would else be cut to the terminal's own size.
    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.axes(False, axis="x", side="upper")
    figure.axes(False, axis="y", side="right")
    figure.legend(False)
    figure.plot_size(width, HEIGHT)
    return figure


def _signal(
    figure: "plotext.figure", points: Sequence[tuple[float, float]], mark: str, colour: str | None
) -> "plotext.figure":
    return figure.signal(
        [x for x, _ in points],
        [y for _, y in points],
        marker=plotext.marker(mark, plotext.pixel(foreground=colour)),
    )


def _mark(place: int) -> str:
    return MARKS[place] if place < len(MARKS) else chr(ord("a") + (place - len(MARKS)) % 26)
