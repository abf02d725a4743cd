"""A comparison for the terminal: the verdict, the numbers it rests on, what differs, where rows
went, what to doubt.

Reads at 80 columns and without colour. Everything foreign (labels, recipe values, sentences that
quote them) is shown as cleaned `Text`, never as markup.
"""

from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evals.arms import BASE
from reports import figures
from reports.answers import Answer
from reports.beside import beside
from reports.figures import METRICS
from reports.findings import Findings, doubts, headlines, limits_stated, reasons
from reports.plots import limit_curve, loss_plot
from reports.rows import metric_places, task_metrics
from reports.text_tables import (
    apart_table,
    beside_table,
    differing_table,
    following_table,
    metric_table,
    rows_table,
    shown,
    stopped_table,
    titled,
    violations_table,
    words_table,
)

# Prose is not set wider: an eye loses its line.
PROSE = 100


class Sized:
    """What is drawn for the width that the console has."""

    def __init__(self, draw: Callable[[int], RenderableType]) -> None:
        self.draw = draw

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(options.max_width)


def comparison_report(findings: Findings) -> RenderableType:
    """The whole report of one comparison, verdict first."""
    return Sized(lambda width: Group(*_parts(findings, width)))


def verdict_parts(findings: Findings) -> Iterable[RenderableType]:
    """What is said of each arm: the verdict, then what it rests on; a reason of several, once."""
    for group, because in reasons(headlines(findings)):
        for said in group[:-1]:
            yield shown(said.verdict, "bold")
        yield Text.assemble(shown(group[-1].verdict, "bold"), " ", shown(because))
        yield Text()


def quality_parts(findings: Findings, width: int) -> Iterable[RenderableType]:
    """A table for each quality metric whose gate passed, and what the gates say."""
    for found in findings.comparison.gates:
        metric = METRICS.get(found.metric)
        scored = any(row.metric == found.metric for row in findings.effects)
        if metric is not None and found.passed and scored:
            yield metric_table(findings, metric, metric_places(findings, True), width)
    for found in findings.comparison.gates:
        yield _prose([shown(figures.gate_note(found))], width)
    if findings.comparison.gates:
        yield Text()


def differing_parts(findings: Findings, width: int) -> Iterable[RenderableType]:
    """What differs between the recipes and presets of the arms."""
    if findings.comparison.differing:
        yield differing_table(findings, width)
    else:
        yield Text("No key of the recipes or presets differs between the arms.")
        yield Text()


def warning_parts(findings: Findings) -> Iterable[RenderableType]:
    """What to doubt, a line each."""
    lines = doubts(findings)
    if lines:
        yield Text("Warnings", "bold")
        for line in lines:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(Text("!", "bold yellow"), shown(line))
            yield Padding(grid, (0, 0, 0, 1))
        yield Text()


def _parts(findings: Findings, width: int) -> Iterable[RenderableType]:
    yield Text()
    yield _prose(verdict_parts(findings), width)
    if limits_stated(findings.comparison):
        yield violations_table(findings, width)
    for metric in task_metrics(findings):
        yield metric_table(findings, metric, metric_places(findings, True), width)
    curve = limit_curve(findings, width)
    if curve is not None:
        yield titled("Limit curve", "words given (up) by words allowed (across), medians", curve)
    following = following_table(findings)
    if following is not None:
        yield following
    otherwise = apart_table(findings)
    if otherwise is not None:
        yield otherwise
    yield words_table(findings)
    if any(answer.is_stopped is not None for answer in _answers(findings)):
        yield stopped_table(findings)
    yield from quality_parts(findings, width)
    for table in beside(findings):
        yield beside_table(table)
    losses = loss_plot(findings, width)
    if losses is not None:
        yield titled("Loss", "of the trained tokens (up) by step (across), all seeds", losses)
    trained = [arm for arm in findings.arms if arm.runs]
    if trained or findings.comparison.differing:
        yield from differing_parts(findings, width)
        yield rows_table(trained, width)
    yield _prose(warning_parts(findings), width)


def _answers(findings: Findings) -> Iterable[Answer]:
    labels = [*(arm.label for arm in findings.arms), BASE]
    return (
        answer
        for question in findings.questions
        for asked in question.asked.values()
        for label in labels
        for answer in asked.answers.get(label, [])
    )


def _prose(parts: Iterable[RenderableType], width: int) -> RenderableType:
    return Padding(Group(*parts), (0, max(0, width - PROSE), 0, 0))
