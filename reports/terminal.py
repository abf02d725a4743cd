"""A comparison for the terminal: the verdict, the numbers it rests on, what differs, where rows
went, what to doubt.

Reads at 80 columns and without colour. Everything foreign (labels, recipe values, sentences that
quote them) is shown as
cleaned `Text`, never as markup.
"""

from collections.abc import Callable, Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dataset_builder.printable import printable
from dataset_builder.summary import rules_in_order
from reports import figures
from reports.figures import METRICS, NOTHING, TRIVIAL, Metric
from reports.findings import (
    ArmFindings,
    Findings,
    doubts,
    effect,
    headlines,
    limits_stated,
    mean,
    median_words,
    prompts_compared,
    stopped_share,
    trivial_answerers,
)

# A line under the header and between sections, and nothing else.
LINES = box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")

# A column of a table of answerers: a limit, or all stated limits pooled.
Place = tuple[int | None, bool]


def comparison_report(findings: Findings) -> RenderableType:
    """The whole report of one comparison, verdict first."""
    parts: list[RenderableType] = [
        Text(),
        *verdict_parts(findings),
        *([violations_table(findings)] if limits_stated(findings.comparison) else []),
        words_table(findings),
        stopped_table(findings),
        *quality_parts(findings),
        *differing_parts(findings),
        *([rows_table(findings.arms)] if any(arm.runs for arm in findings.arms) else []),
        *warning_parts(findings),
    ]
    return Group(*parts)


def verdict_parts(findings: Findings) -> Iterable[RenderableType]:
    """What is said of each arm: the verdict, then what it rests on."""
    for said in headlines(findings):
        yield Text.assemble(shown(said.verdict, "bold"), " ", shown(said.because))
        yield Text()


def violations_table(findings: Findings) -> RenderableType:
    """Violations by answerer and limit: arms and how they differ, then the trivial rows."""
    return metric_table(findings, METRICS["violation"], metric_places(findings, False))


def metric_places(findings: Findings, with_none: bool) -> list[Place]:
    """The stated limits, `no limit` where wanted and asked, and all stated limits pooled."""
    limits = findings.comparison.limits
    places: list[Place] = [(limit, False) for limit in limits if limit is not None or with_none]
    return [*places, (None, True)] if limits_stated(findings.comparison) else places


def metric_table(findings: Findings, metric: Metric, places: list[Place]) -> RenderableType:
    """A metric by answerer and limit; each but the baseline with its difference from it.

    A verdict stands only where the comparison gives one: under all limits.
    """
    table = answerer_table(places)
    for arm in findings.arms:
        label = Text.assemble(
            shown(arm.label, "bold"), " (baseline)" if arm.arm.is_baseline else ""
        )
        values = [mean(findings, arm.label, metric.name, *place) for place in places]
        table.add_row(label, *(Text(figures.value(metric, value), "bold") for value in values))
        _add_differences(table, findings, arm.label, metric, places)
    table.add_section()
    for name in trivial_answerers(findings):
        values = [mean(findings, name, metric.name, *place) for place in places]
        shown_name = shown(trivial_name(findings, name, metric.name))
        table.add_row(shown_name, *(figures.value(metric, value) for value in values))
        _add_differences(table, findings, name, metric, places)
    table.add_section()
    compared = [prompts_compared(findings, metric.name, *place) for place in places]
    table.add_row("prompts compared", *(figures.count(n) for n in compared))
    legend = (
        f"difference: from the baseline, in {metric.unit}, with its 95 % interval; "
        "detectable: the smallest one that so many prompts show with 80 % power"
    )
    return titled(metric.title, metric.about, table, legend)


def words_table(findings: Findings) -> RenderableType:
    """The median words given, by answerer and limit."""
    return _plain_table(
        findings,
        "Words given",
        "median of an answer",
        trivial_answerers(findings),
        lambda answerer, limit: figures.count(median_words(findings, answerer, limit)),
    )


def stopped_table(findings: Findings) -> RenderableType:
    """The share of answers that ended by themselves, by answerer and limit."""
    return _plain_table(
        findings,
        "Stopped by itself",
        "not cut at the tokens allowed",
        [name for name in trivial_answerers(findings) if name == "base"],
        lambda answerer, limit: figures.percent(stopped_share(findings, answerer, limit)),
    )


def quality_parts(findings: Findings) -> Iterable[RenderableType]:
    """A table for each quality metric whose gate passed, and what the gates say."""
    for found in findings.comparison.gates:
        metric = METRICS.get(found.metric)
        scored = any(row.metric == found.metric for row in findings.effects)
        if metric is not None and found.passed and scored:
            yield metric_table(findings, metric, metric_places(findings, True))
    for found in findings.comparison.gates:
        yield shown(figures.gate_note(found))
    if findings.comparison.gates:
        yield Text()


def differing_parts(findings: Findings) -> Iterable[RenderableType]:
    """What differs between the recipes and presets of the arms."""
    differing = findings.comparison.differing
    if not differing:
        yield Text("No key of the recipes or presets differs between the arms.")
        yield Text()
        return
    labels = [arm.label for arm in findings.arms]
    table = _table()
    table.add_column("key", overflow="fold")
    for label in labels:
        table.add_column(shown(label), overflow="fold")
    for key, values in differing.items():
        table.add_row(shown(key), *(shown(figures.setting(values.get(label))) for label in labels))
    yield titled("What differs", "keys of recipe and preset", table)


def rows_table(arms: list[ArmFindings]) -> RenderableType:
    """Where the rows of each arm went: the variant's funnel, the preset's fit, and what was
    trained.
    """
    trained = [arm for arm in arms if arm.runs]
    table = _table()
    table.add_column("")
    for arm in trained:
        table.add_column(shown(arm.label), justify="right", overflow="fold")
    for name, values in funnel_rows(trained):
        table.add_row(shown(name), *values)
    table.add_section()
    for name, values in fit_rows(trained):
        table.add_row(name, *values)
    return titled(
        "Where the rows went", "from threads to rows to training; of an arm's first seed", table
    )


def funnel_rows(arms: list[ArmFindings]) -> list[tuple[str, list[str]]]:
    """The funnel's steps of all arms in one order, a column per arm; a dash where an arm has no
    such rule.
    """
    funnels = [arm.runs[0].manifest.funnel for arm in arms]
    # What is decided last stands last, wherever another arm's rules come in between.
    steps = rules_in_order([list(funnel) for funnel in funnels])
    return [(step, [figures.count(funnel.get(step)) for funnel in funnels]) for step in steps]


def fit_rows(arms: list[ArmFindings]) -> list[tuple[str, list[str]]]:
    """What template, tokenizer and length did to each arm's rows, and what training followed."""

    def row(
        name: str, of: Callable[[ArmFindings], str], needs_fit: bool = True
    ) -> tuple[str, list[str]]:
        return name, [of(arm) if arm.fits or not needs_fit else NOTHING for arm in arms]

    return [
        row("fit: kept", lambda arm: figures.count(arm.fits[0].kept)),
        row("fit: dropped", lambda arm: figures.count(len(arm.fits[0].dropped))),
        row("fit: answer cut", lambda arm: figures.count(arm.fits[0].cut)),
        row("fit: end of text lost", lambda arm: figures.count(arm.fits[0].end_lost)),
        row("concise, before fit", lambda arm: figures.percent(arm.fits[0].concise_share_before)),
        row("concise, after fit", lambda arm: figures.percent(arm.fits[0].concise_share_after)),
        row("examples seen", lambda arm: figures.count(arm.runs[0].examples_seen), False),
        row("epochs", lambda arm: f"{arm.runs[0].epochs:.2f}", False),
        row("steps", lambda arm: figures.count(arm.runs[0].steps), False),
        row("trained tokens", lambda arm: figures.count(arm.runs[0].trained_tokens), False),
        row("seeds", lambda arm: figures.count(len(arm.runs)), False),
    ]


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


def shown(text: str, style: str = "") -> Text:
    """Foreign text as a cleaned `Text`."""
    return Text(printable(text), style)


def answerer_table(places: list[Place]) -> Table:
    """An empty table with a column of names and one per limit."""
    table = _table()
    table.add_column("", width=20, overflow="fold")
    # So narrow that 80 columns hold them all; left alone, Rich would wrap the names first.
    width = min(11, max(6, 54 // max(1, len(places)) - 2))
    for limit, is_pooled in places:
        name = "all limits" if is_pooled else figures.limit_name(limit)
        table.add_column(name, justify="right", min_width=6, max_width=width)
    return table


def titled(title: str, about: str, table: Table, legend: str = "") -> RenderableType:
    """A table under its title, with a blank line after it."""
    heading = Text.assemble((title, "bold"), f": {about}")
    return Group(heading, table, *([Text(legend, "dim")] if legend else []), Text())


def trivial_name(findings: Findings, answerer: str, metric: str) -> str:
    """A trivial row's name, with its number of prompts where that is smaller than the arms'."""
    name = TRIVIAL.get(answerer, answerer)
    rows = [
        row
        for row in findings.comparison.trivial
        if row["answerer"] == answerer and row["metric"] == metric
    ]
    fewer = {
        row["n"]
        for row in rows
        if row["n"] < (prompts_compared(findings, metric, row["limit"]) or 0)
    }
    return f"{name}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{min(fewer)}" if fewer else name


def _table() -> Table:
    return Table(header_style="", box=LINES, padding=(0, 0, 0, 1), show_edge=False)


def _add_differences(
    table: Table, findings: Findings, answerer: str, metric: Metric, places: list[Place]
) -> None:
    """The lines below an answerer that say how it differs from the baseline, if it was compared."""
    effects = [effect(findings, answerer, metric.name, *place) for place in places]
    if not any(effects):
        return
    lines = {
        "  difference": [row and figures.difference(metric, row.difference) for row in effects],
        "  95 % from": [row and figures.difference(metric, row.low) for row in effects],
        "         to": [row and figures.difference(metric, row.high) for row in effects],
    }
    if answerer not in TRIVIAL:
        lines["  detectable"] = [
            row and figures.value(metric, row.detectable).removesuffix(" %") for row in effects
        ]
    for name, cells in lines.items():
        table.add_row(name, *(cell or NOTHING for cell in cells))
    verdicts = [row.verdict if row else None for row in effects]
    if any(verdicts):
        table.add_row("  verdict", *(shown(verdict or "") for verdict in verdicts))


def _plain_table(
    findings: Findings,
    title: str,
    about: str,
    trivial: list[str],
    cell: Callable[[str, int | None], str],
) -> RenderableType:
    limits = findings.comparison.limits
    table = answerer_table([(limit, False) for limit in limits])
    for arm in findings.arms:
        table.add_row(shown(arm.label, "bold"), *(cell(arm.label, limit) for limit in limits))
    table.add_section()
    for name in trivial:
        table.add_row(shown(TRIVIAL.get(name, name)), *(cell(name, limit) for limit in limits))
    return titled(title, about, table)
