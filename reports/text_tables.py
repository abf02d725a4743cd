"""The tables of a comparison for the terminal: cells that never wrap, at the width there is."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dataset_builder.printable import printable
from dataset_builder.wordings import FAMILIES, UNIT_FAMILIES
from evals.arms import BASE
from evals.scorers import apart
from reports import figures
from reports.beside import Beside
from reports.figures import METRICS, MINUS, NOTHING, TRIVIAL, Metric
from reports.findings import (
    ArmFindings,
    Effect,
    Findings,
    effect,
    limits_stated,
    mean,
    median_words,
    prompts_compared,
    stopped_share,
    trivial_answerers,
)
from reports.rows import (
    UP,
    Place,
    arrow,
    fit_rows,
    funnel_rows,
    metric_places,
    place_name,
    trivial_name,
)

# A line under the header and between sections, and nothing else.
LINES = box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")

# A verdict in a column; `this run` is said in the sentence above.
SHORT = {"this run beats": "run beats", "this run loses": "run loses"}

NAMES = 18  # the least columns for who answered
NUMBER = 7
VERDICT = 11

Rows = list[tuple[str, list[str]]]


def violations_table(findings: Findings, width: int) -> RenderableType:
    """Violations by answerer and limit: arms and how they differ, then the trivial rows."""
    return metric_table(findings, METRICS["violation"], metric_places(findings, False), width)


def metric_table(
    findings: Findings, metric: Metric, places: list[Place], width: int
) -> RenderableType:
    """A metric by answerer and limit; each arm but the baseline with its difference from it.

    A verdict stands only where the comparison gives one: it rests on the last column.
    """
    arms = [arm.label for arm in findings.arms]
    effects = {
        name: [effect(findings, name, metric.name, *place) for place in places]
        for name in [*arms, *trivial_answerers(findings)]
    }
    has_verdict = any(row and row.verdict for name in arms for row in effects[name])
    table = answerer_table(places, has_verdict)

    def values(name: str, style: str = "") -> list[Text]:
        found = [mean(findings, name, metric.name, *place) for place in places]
        return [
            _value(metric, value, row, style)
            for value, row in zip(found, effects[name], strict=True)
        ]

    def said(name: str, line: int) -> list[Text]:
        """The last column beside an arm's lines: the verdict, and what holds of its margin."""
        decided = next((row for row in effects[name] if row and row.verdict), None)
        if not has_verdict or decided is None:
            return []
        verdict = decided.verdict or ""
        lines = [SHORT.get(verdict, verdict), decided.equivalence or ""]
        return [shown(lines[line])] if line < len(lines) else []

    room = (width - NAMES - 1 - (VERDICT + 1 if has_verdict else 0)) // max(1, len(places)) - 1
    for arm in findings.arms:
        label = Text.assemble(
            shown(arm.label, "bold"), " (baseline)" if arm.arm.is_baseline else ""
        )
        table.add_row(label, *values(arm.label, "bold"), *said(arm.label, 0))
        for line, (name, cells) in enumerate(
            _difference_lines(effects[arm.label], metric, room), start=1
        ):
            table.add_row(name, *cells, *said(arm.label, line))
    table.add_section()
    for name in trivial_answerers(findings):
        table.add_row(shown(trivial_name(findings, name, metric.name)), *values(name))
    table.add_section()
    compared = [prompts_compared(findings, metric.name, *place) for place in places]
    table.add_row("prompts compared", *(figures.count(n) for n in compared))
    legend = _legend(metric, effects, arms, has_verdict)
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


def following_table(findings: Findings) -> RenderableType | None:
    """How far answers fill their limit, and how much they grow with it; None where a comparison
    does not say.
    """
    curves, slopes = findings.comparison.curves, findings.comparison.slopes
    limits = limits_stated(findings.comparison)
    table = answerer_table([(limit, False) for limit in limits])
    table.add_column("slope", justify="right", no_wrap=True, min_width=NUMBER)
    table.add_column("95 %", justify="right", no_wrap=True, min_width=NUMBER)
    rows = 0
    for name in [*(arm.label for arm in findings.arms), BASE]:
        shares = [
            [row["share_median"] for row in curves if (row["arm"], row["limit"]) == (name, limit)]
            for limit in limits
        ]
        found = [row for row in slopes if row["arm"] == name and row["slope"] is not None]
        if not any(shares) and not found:
            continue
        rows += 1
        cells = [figures.percent(fmean(each) if each else None) for each in shares]
        slope = f"{fmean(row['slope'] for row in found):.2f}" if found else NOTHING
        # Of several seeds, the widest.
        lows = [row["low"] for row in found if row["low"] is not None]
        highs = [row["high"] for row in found if row["high"] is not None]
        between = f"{min(lows):.2f}…{max(highs):.2f}" if lows and highs else NOTHING
        numbers = [each.replace("-", MINUS) for each in (slope, between)]
        table.add_row(shown(TRIVIAL.get(name, name)), *cells, *numbers)
    legend = (
        "slope 1: twice the words for twice the limit; 0: the same whatever is asked; of prompts"
        " whose answers all ended by themselves"
    )
    about = "share of it used, by the median answer"
    return titled("Following the limit", about, table, legend) if rows else None


def apart_table(findings: Findings) -> RenderableType | None:
    """Violations where limits were stated in wordings that the verdict does not rest on, pooled;
    None where there are none.
    """
    scored = {row.metric for row in findings.effects}
    every = (*FAMILIES, *UNIT_FAMILIES)
    families = [family for family in every if apart("violation", family) in scored]
    if not families:
        return None
    table = _table()
    table.add_column("wording", min_width=NAMES, overflow="fold")
    for family in families:
        heading = family.replace("_", " ")
        table.add_column(heading, justify="right", no_wrap=True, min_width=NUMBER)
    violation = METRICS["violation"]
    for arm in findings.arms:
        metrics = [apart("violation", family) for family in families]
        shares = [mean(findings, arm.label, metric, None, True) for metric in metrics]
        marks = [arrow(effect(findings, arm.label, metric, None, True)) for metric in metrics]
        values = [figures.value(violation, share) for share in shares]
        cells = [f"{mark} {value}".strip() for mark, value in zip(marks, values, strict=True)]
        table.add_row(shown(arm.label, "bold"), *cells)
    return titled("Asked otherwise", "violations over all limits, in no verdict", table)


def stopped_table(findings: Findings) -> RenderableType:
    """The share of answers that ended by themselves, by answerer and limit."""
    return _plain_table(
        findings,
        "Stopped by itself",
        "answers not cut at the tokens allowed",
        [name for name in trivial_answerers(findings) if name == "base"],
        lambda answerer, limit: figures.percent(stopped_share(findings, answerer, limit)),
    )


def differing_table(findings: Findings, width: int) -> RenderableType:
    """What differs between the recipes and presets of the arms: a column per arm, or, where these
    do not fit, a list of values with the arms that have each.
    """
    labels = [arm.label for arm in findings.arms]
    rows = [
        (printable(key), [printable(figures.setting(values.get(label))) for label in labels])
        for key, values in findings.comparison.differing.items()
    ]
    columns = zip(map(printable, labels), *(cells for _, cells in rows), strict=True)
    needed = max(len(key) for key, _ in rows) + sum(max(map(len, each)) + 2 for each in columns)
    table = _table()
    if needed <= width:
        table.add_column("key", no_wrap=True)
        for label in labels:
            table.add_column(Text.assemble(" ", shown(label)), no_wrap=True)
        for key, cells in rows:
            table.add_row(Text(key), *(Text(f" {cell}") for cell in cells))
    else:
        table.add_column("key and value", overflow="fold", ratio=3)
        table.add_column("arms", overflow="fold", ratio=2)
        for key, cells in rows:
            table.add_row(Text(key, "bold"), "")
            for value in dict.fromkeys(cells):
                having = [label for label, cell in zip(labels, cells, strict=True) if cell == value]
                table.add_row(Text(f"  {value}"), shown(", ".join(having)))
    return titled("What differs", "keys of recipe and preset", table)


def rows_table(arms: Sequence[ArmFindings], width: int) -> RenderableType:
    """Where the rows of each arm went: the variant's funnel, the preset's fit, and what was
    trained. So many arms beside each other as there is room for.
    """
    trained = [arm for arm in arms if arm.runs]
    parts = []
    for group in _groups(trained, width):
        table = _table()
        table.add_column("", no_wrap=True)
        for arm in group:
            table.add_column(shown(arm.label), justify="right", overflow="fold", min_width=9)
        for name, values in funnel_rows(group):
            table.add_row(shown(name), *values)
        table.add_section()
        for name, values in fit_rows(group):
            table.add_row(name, *values)
        parts.append(table)
    about = "from threads to rows to training; of an arm's first seed"
    return titled("Where the rows went", about, Group(*parts))


def beside_table(found: Beside) -> RenderableType:
    """Controls, rows that differ or aims."""
    table = _table()
    table.add_column("", min_width=NAMES, overflow="fold")
    for column in found.columns:
        table.add_column(shown(column), justify="right", overflow="fold", min_width=NUMBER)
    for of, cells in found.rows:
        table.add_row(shown(of), *(_lines(cell) for cell in cells))
    return titled(found.title, found.about, table, found.note)


def _lines(cell: str) -> Text:
    """A cell of one line or two, each cleaned."""
    return Text("\n").join(shown(line) for line in cell.split("\n"))


def answerer_table(places: Sequence[Place], has_verdict: bool = False) -> Table:
    """An empty table with a column of names and one per limit."""
    table = _table()
    table.add_column("limit, in words", min_width=NAMES, overflow="fold")
    for place in places:
        table.add_column(place_name(place), justify="right", no_wrap=True, min_width=NUMBER)
    if has_verdict:
        table.add_column("verdict", no_wrap=True)
    return table


def titled(title: str, about: str, body: RenderableType, legend: str = "") -> RenderableType:
    """A table or plot under its title, with a blank line after it."""
    heading = Text.assemble((title, "bold"), f": {about}")
    return Group(heading, body, *([Text(legend, "dim")] if legend else []), Text())


def shown(text: str, style: str = "") -> Text:
    """Foreign text as a cleaned `Text`."""
    return Text(printable(text), style)


def _table() -> Table:
    return Table(header_style="", box=LINES, padding=0, show_edge=False)


def _value(metric: Metric, value: float | None, row: Effect | None, style: str) -> Text:
    """A value, and an arrow before it where it surely differs from the baseline's."""
    mark = arrow(row)
    is_good = (mark == UP) == metric.is_more_better
    colour = "green" if is_good else "red"
    text = Text(figures.value(metric, value), style)
    return Text.assemble((f"{mark} ", colour), text) if mark else text


def _difference_lines(
    effects: Sequence[Effect | None], metric: Metric, room: int
) -> list[tuple[str, list[str]]]:
    """The lines below an arm that say how it differs from the baseline, if it was compared."""
    if not any(effects):
        return []

    def cells(of: Callable[[Effect], str]) -> list[str]:
        return [of(row) if row else NOTHING for row in effects]

    lines = [("  difference", cells(lambda row: figures.difference(metric, row.difference)))]
    between = cells(lambda row: figures.range_of(metric, row.low, row.high))
    if max(map(len, between)) <= room:
        lines.append(("  95 % interval", between))
    else:
        lines.append(("  95 % from", cells(lambda row: figures.difference(metric, row.low))))
        lines.append(("         to", cells(lambda row: figures.difference(metric, row.high))))
    shows = cells(lambda row: figures.value(metric, row.detectable).removesuffix(" %"))
    return [*lines, ("  detectable", shows)]


def _legend(
    metric: Metric, effects: dict[str, list[Effect | None]], arms: list[str], has_verdict: bool
) -> str:
    rows = [row for name in arms for row in effects[name] if row]
    said = [
        f"difference: from the baseline, in {metric.unit}",
        "arrow: its interval leaves out zero",
        "detectable: the smallest that so many prompts show with 80 % power",
    ]
    if has_verdict:
        column = "of the column `all`, " if any(row.is_pooled for row in rows) else ""
        said.append(f"verdict: {column}corrected over arms and scores")
    margins = {row.margin for row in rows if row.margin is not None and row.equivalence}
    said += [
        "below it: whether it is equivalent or no worse within the margin given before, "
        f"{figures.value(metric, margin).removesuffix(' %')} {metric.unit}"
        for margin in sorted(margins)
    ]
    return "; ".join(said) if rows else ""


def _groups(arms: list[ArmFindings], width: int) -> list[list[ArmFindings]]:
    """The arms in groups whose columns fit into `width` beside the column of names."""
    groups: list[list[ArmFindings]] = [[]]
    left = width - 24
    for arm in arms:
        needed = max(9, len(printable(arm.label))) + 1
        if needed > left and groups[-1]:
            groups.append([])
            left = width - 24
        groups[-1].append(arm)
        left -= needed
    return groups


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
