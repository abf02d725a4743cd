"""Comparisons and variants that show themselves in a notebook, as plain tables in its own style.

    from reports.notebook import load_comparison, load_variant
    load_comparison("demo")

Jupyter and marimo call `_repr_html_` and trust what comes back with all that the notebook may do:
so every text is escaped, and the markup holds no script, no style sheet, no link and no image.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
from jinja2 import Environment
from rich.console import RenderableType

from dataset_builder.manifest import Manifest, find_variant, read_variant
from dataset_builder.pages import page_environment
from dataset_builder.words import CONCISE_WORDS
from reports import export, figures
from reports.figures import METRICS, TRIVIAL, Metric
from reports.findings import (
    Findings,
    doubts,
    effect,
    find_comparison,
    headlines,
    limits_stated,
    mean,
    median_words,
    read_findings,
    trivial_answerers,
)
from reports.html import ticked
from reports.rows import (
    Place,
    arrow,
    fit_rows,
    funnel_rows,
    metric_places,
    task_metrics,
    trivial_name,
)
from reports.terminal import comparison_report

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One number, and under it how it differs from the baseline's."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Row:
    """One answerer's numbers."""

    name: str
    cells: list[Cell]
    is_arm: bool


@dataclass(frozen=True)
class Block:
    """A table of answerers by limits."""

    title: str
    about: str
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True, repr=False)
class ShownComparison:
    """A comparison in a notebook: shows its verdicts and tables, gives its rows."""

    findings: Findings

    @property
    def differences(self) -> pa.Table:
        """The rows of comparison.parquet: arm minus baseline, with intervals."""
        return export.differences(self.findings)

    @property
    def answers(self) -> pa.Table:
        """A row per answer, as `reports.export.ANSWERS` declares them."""
        return export.answers(self.findings)

    def __repr__(self) -> str:
        return f"load_comparison({str(self.findings.directory)!r})"

    def __rich__(self) -> RenderableType:
        return comparison_report(self.findings)

    def _repr_html_(self) -> str:
        return comparison_html(self.findings)


@dataclass(frozen=True, repr=False)
class ShownVariant:
    """A variant in a notebook: shows what it kept and dropped, gives its rows."""

    directory: Path
    manifest: Manifest

    def rows(self, split: str = "train") -> pa.Table:
        """The rows of `split`, train or validation."""
        return read_variant(self.directory, self.manifest, split)

    def __repr__(self) -> str:
        return f"load_variant({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return variant_html(self.manifest)


def load_comparison(name: str) -> ShownComparison:
    """The comparison that `name` means: its directory, its name, or a unique beginning of one.

    Raises InputError where there is none, or what it names is gone.
    """
    return ShownComparison(read_findings(find_comparison(name)))


def load_variant(name: str) -> ShownVariant:
    """The current build of the variant `name`, or the build whose path or full name it is.

    Raises InputError where there is none.
    """
    return ShownVariant(*find_variant(name))


def comparison_html(findings: Findings) -> str:
    """The fragment that shows a comparison."""
    trained = [arm for arm in findings.arms if arm.runs]
    return (
        _environment()
        .get_template("comparison_fragment.html.jinja")
        .render(
            comparison=findings.comparison,
            directory=str(findings.directory),
            headlines=headlines(findings),
            blocks=_blocks(findings),
            labels=[arm.label for arm in findings.arms],
            trained=[arm.label for arm in trained],
            rows=[*funnel_rows(trained), *fit_rows(trained)] if trained else [],
            gates=[figures.gate_note(gate) for gate in findings.comparison.gates],
            warnings=doubts(findings),
        )
    )


def variant_html(manifest: Manifest) -> str:
    """The fragment that shows a variant."""
    return (
        _environment()
        .get_template("variant_fragment.html.jinja")
        .render(
            manifest=manifest,
            recipe=json.dumps(manifest.recipe, indent=2, ensure_ascii=False),
            concise_words=CONCISE_WORDS,
        )
    )


def _blocks(findings: Findings) -> list[Block]:
    blocks = []
    for metric in [*task_metrics(findings), *METRICS.values()]:
        gate = next((g for g in findings.comparison.gates if g.metric == metric.name), None)
        has_rows = any(row.metric == metric.name for row in findings.effects)
        if has_rows and (gate is None or gate.passed):
            needs_limit = metric.name in ("violation", "overshoot")
            blocks.append(_metric_block(findings, metric, metric_places(findings, not needs_limit)))
    blocks.insert(1 if limits_stated(findings.comparison) else 0, _words_block(findings))
    return blocks


def _metric_block(findings: Findings, metric: Metric, places: list[Place]) -> Block:
    arms, trivial = [arm.label for arm in findings.arms], trivial_answerers(findings)

    def cell(name: str, place: Place) -> Cell:
        row = effect(findings, name, metric.name, *place)
        value = figures.value(metric, mean(findings, name, metric.name, *place))
        if row is None:
            return Cell(value)
        below = figures.difference(metric, row.difference)
        if row.low is not None:
            below += f" ({figures.interval(metric, row.low, row.high)})"
        return Cell(f"{arrow(row)} {value}".strip(), below)

    return Block(
        metric.title,
        f"{metric.about}; below it the difference from the baseline in {metric.unit}, with its "
        "95 % interval",
        [_column(place) for place in places],
        [
            Row(
                trivial_name(findings, name, metric.name) if name in trivial else name,
                [cell(name, place) for place in places],
                name in arms,
            )
            for name in [*arms, *trivial]
        ],
    )


def _words_block(findings: Findings) -> Block:
    limits = findings.comparison.limits
    arms, trivial = [arm.label for arm in findings.arms], trivial_answerers(findings)
    return Block(
        "Words given",
        "median of an answer",
        [figures.limit_name(limit) for limit in limits],
        [
            Row(
                TRIVIAL.get(name, name) if name in trivial else name,
                [Cell(figures.count(median_words(findings, name, limit))) for limit in limits],
                name in arms,
            )
            for name in [*arms, *trivial]
        ],
    )


def _column(place: Place) -> str:
    limit, is_pooled = place
    return "all limits" if is_pooled else figures.limit_name(limit)


@cache
def _environment() -> Environment:
    made = page_environment(TEMPLATES)
    made.filters.update(count=figures.count, setting=figures.setting, ticked=ticked)
    return made
