"""A comparison as one self-contained page: no server, no network, one small script whose hash the
page's own policy names.

Text of models and of data sets is hostile. Jinja2 escapes every value, `printable` shows what
could reorder or hide text,
and the content-security policy lets nothing run or load beside what this module put there.
"""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from dataset_builder.artifacts import write_text
from dataset_builder.pages import page_environment
from dataset_builder.printable import printable
from dataset_builder.words import WORD_COUNTER
from reports import figures
from reports.answers import HUMAN
from reports.beside import beside
from reports.blocks import Blocks, pack
from reports.chart import forest, words_chart
from reports.curves import length_plots, training_plots
from reports.figures import METRICS, NOTHING, TRIVIAL, Metric
from reports.findings import (
    Findings,
    doubts,
    effect,
    found,
    gate,
    headlines,
    limits_stated,
    mean,
    median_words,
    prompts_compared,
    reasons,
    stopped_share,
    tally,
    trivial_answerers,
    verdict,
)
from reports.rows import fit_rows, funnel_rows, metric_places, task_metrics, trivial_name
from reports.tradeoff import tradeoffs
from reports.training import Training, read_training

TEMPLATES = Path(__file__).parent / "templates"

# More arms than this are counted in the headline, and each spoken of below it.
MANY = 6

# An answerer's look goes by its place; there are so many in the style sheet.
LOOKS = 6


@dataclass(frozen=True)
class Cell:
    """One number of the table, and under it what is said of its difference."""

    text: str
    note: str = ""
    interval: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class TableRow:
    """One answerer's numbers in one metric."""

    answerer: str
    name: str
    cells: list[Cell]
    is_trivial: bool


@dataclass(frozen=True)
class TableGroup:
    """The rows of one metric."""

    title: str
    about: str
    rows: list[TableRow]


def write_report(findings: Findings, out: Path) -> Blocks:
    """Write the page of a comparison to `out`: whole or not at all. Returns what it holds of the
    answers.
    """
    blocks = answer_blocks(findings)
    write_text(comparison_page(findings, blocks), out)
    return blocks


def comparison_page(findings: Findings, blocks: Blocks | None = None) -> str:
    """The whole page of one comparison."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    metrics = [*task_metrics(findings), *METRICS.values()]
    shown_metrics = [metric for metric in metrics if _is_shown(findings, metric)]
    answerers = findings.answerers
    trained = [arm for arm in findings.arms if arm.runs]
    looks = _looks(findings)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            comparison=findings.comparison,
            findings=findings,
            policy=content_policy(script),
            # Ours, from the templates folder; marked safe because escaping would change what the
            # policy's hash names.
            script=Markup(script),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            forests=[forest(metric, findings.effects) for metric in shown_metrics],
            cards=_cards(findings),
            headlines=headlines(findings),
            # So many sentences are no headline.
            tally=tally(findings) if len(findings.arms) > MANY else "",
            reasons=reasons(headlines(findings)),
            headline=findings.comparison.notes.get("headline", ["violation"]),
            violation=METRICS["violation"],
            stated=limits_stated(findings.comparison),
            seeds=_seeds(findings),
            words=words_chart(findings, answerers),
            lengths=length_plots(findings, answerers),
            tradeoffs=tradeoffs(findings),
            places=metric_places(findings, True),
            groups=_groups(findings),
            besides=beside(findings),
            looks=looks,
            marked_looks=list(dict.fromkeys(looks.values())),
            # Of a task that picks among choices the base has numbers alone, and no answer to read.
            names={"base": TRIVIAL["base"]} | _names(findings),
            shown_names={name: TRIVIAL.get(name, name) for name in looks},
            trained=trained,
            funnel=funnel_rows(trained),
            fit=fit_rows(trained),
            training=training_plots(_training(findings)),
            gates=[figures.gate_note(gate) for gate in findings.comparison.gates],
            warnings=doubts(findings),
            word_counter=WORD_COUNTER,
            blocks=blocks or answer_blocks(findings),
            baseline=next((arm.label for arm in findings.arms if arm.arm.is_baseline), ""),
            rivals=[
                {"place": place, "name": arm.label}
                for place, arm in enumerate(findings.arms)
                if place
            ],
            langs=sorted(Counter(question.lang for question in findings.questions).items()),
        )
    )


def answer_blocks(findings: Findings) -> Blocks:
    """The answers of a comparison as the page's script reads them."""
    names, looks = _names(findings), _looks(findings)
    arms = {arm.label: arm.arm.is_baseline for arm in findings.arms}
    shown = {
        name: {
            "name": names[name],
            "look": looks[name],
            "isArm": name in arms,
            "isBaseline": arms.get(name, False),
            "isListed": name != HUMAN,
        }
        for name in findings.answerers
    }
    return pack(findings.questions, findings.comparison.limits, shown)


def environment() -> Environment:
    """Jinja2 with how numbers are written."""
    made = page_environment(TEMPLATES)
    made.filters.update(
        percent=figures.percent,
        count=figures.count,
        limit_name=figures.limit_name,
        setting=figures.setting,
        ticked=ticked,
        value=lambda number, metric: figures.value(metric, number),
        decimal=lambda number: f"{number:.2f}".replace("-", figures.MINUS),
        signed=lambda number, metric: figures.difference(metric, number),
    )
    made.globals.update(interval=figures.interval, NOTHING=NOTHING)
    return made


def content_policy(script: str) -> str:
    """The content-security policy under which nothing is loaded and nothing but `script` runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def ticked(text: str) -> Markup:
    """`text` escaped, with what stands between backticks as code; a number keeps its per cent."""
    parts = re.split(r"`([^`]*)`", printable(text).replace(" %", "\N{NO-BREAK SPACE}%"))
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def _is_shown(findings: Findings, metric: Metric) -> bool:
    judged = gate(findings, metric.name)
    return any(row.metric == metric.name for row in findings.effects) and (
        judged is None or judged.passed
    )


def _looks(findings: Findings) -> dict[str, str]:
    """The mark and colour of every answerer: of an arm by its place, of the others their own."""
    arms = {arm.label: _look(place) for place, arm in enumerate(findings.arms)}
    return {name: f"look-{name}" for name in TRIVIAL} | arms


def _look(place: int) -> str:
    """The colour of an arm and its mark, which go by its place; where colours begin again, each
    with another mark.

    >>> _look(1), _look(7)
    ('look-1', 'look-1-2')
    """
    again, colour = divmod(place, LOOKS)
    return f"look-{colour}-{(colour + again) % LOOKS}" if again else f"look-{colour}"


def _names(findings: Findings) -> dict[str, str]:
    arms = {arm.label for arm in findings.arms}
    return {name: name if name in arms else TRIVIAL.get(name, name) for name in findings.answerers}


def _training(findings: Findings) -> list[tuple[str, Training]]:
    """Every run that wrote down how it went, with its arm's label."""
    root = findings.directory.parent.parent
    return [
        (arm.label, read_training(found(run, root)))
        for arm in findings.arms
        for run in arm.arm.runs
    ]


def _cards(findings: Findings) -> list[dict[str, Any]]:
    """What the head of the page says of each arm: violations over all stated limits, and the
    difference.
    """
    if not limits_stated(findings.comparison):
        return []
    place = (None, True)
    return [
        {
            "label": arm.label,
            "arm": arm.arm.arm,
            "is_baseline": arm.arm.is_baseline,
            "violation": mean(findings, arm.label, "violation", *place),
            "effect": effect(findings, arm.label, "violation", *place),
            "verdict": verdict(findings, arm.label),
        }
        for arm in findings.arms
    ]


def _seeds(findings: Findings) -> str:
    """The number of seeds: one where it is every arm's, else each arm's in turn."""
    seeds = [len(arm.runs) or "none" for arm in findings.arms]
    return str(seeds[0]) if len(set(seeds)) == 1 else ", ".join(map(str, seeds))


def _groups(findings: Findings) -> list[TableGroup]:
    trivial = trivial_answerers(findings)
    arms = [arm.label for arm in findings.arms]
    places = metric_places(findings, True)
    groups = []
    for metric in [*task_metrics(findings), *METRICS.values()]:
        if _is_shown(findings, metric):
            rows = [
                TableRow(
                    name,
                    trivial_name(findings, name, metric.name) if name in trivial else name,
                    [_cell(findings, name, metric, *place) for place in places],
                    name in trivial,
                )
                for name in arms + trivial
            ]
            n = [prompts_compared(findings, metric.name, *place) for place in places]
            cells = [Cell(figures.count(each)) for each in n]
            rows.append(TableRow("", "prompts compared", cells, False))
            groups.append(TableGroup(metric.title, metric.about, rows))

    def plain(title: str, about: str, names: list[str], text: Any) -> TableGroup:
        rows = [
            TableRow(
                name,
                TRIVIAL.get(name, name) if name in trivial else name,
                [
                    Cell("" if is_pooled else text(findings, name, limit))
                    for limit, is_pooled in places
                ],
                name in trivial,
            )
            for name in names
        ]
        return TableGroup(title, about, rows)

    groups.insert(1, plain("Words given", "median of an answer", arms + trivial, _median))
    groups.insert(
        2,
        plain(
            "Stopped by itself",
            "share of answers not cut at the tokens allowed",
            arms + [name for name in trivial if name == "base"],
            _stopped,
        ),
    )
    return groups


def _median(findings: Findings, name: str, limit: int | None) -> str:
    return figures.count(median_words(findings, name, limit))


def _stopped(findings: Findings, name: str, limit: int | None) -> str:
    return figures.percent(stopped_share(findings, name, limit))


def _cell(
    findings: Findings, name: str, metric: Metric, limit: int | None, is_pooled: bool
) -> Cell:
    text = figures.value(metric, mean(findings, name, metric.name, limit, is_pooled))
    row = effect(findings, name, metric.name, limit, is_pooled)
    if row is None:
        return Cell(text)
    between = "" if row.low is None else figures.interval(metric, row.low, row.high)
    return Cell(text, figures.difference(metric, row.difference), between, row.verdict or "")
