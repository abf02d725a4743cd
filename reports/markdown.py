"""A comparison as Markdown: a table for a paper, a pull request or a card. Foreign text is shown as
text, whatever renders it.
"""

import re
from collections.abc import Sequence

from dataset_builder.printable import printable
from reports import figures
from reports.figures import METRICS, TRIVIAL, Metric
from reports.findings import (
    Effect,
    Findings,
    doubts,
    effect,
    headlines,
    mean,
    prompts_compared,
    trivial_answerers,
)
from reports.rows import Place, arrow, metric_places, task_metrics

# What Markdown, or the HTML in it, could take for anything but text.
_SPECIAL = re.compile(r"([\\*_\[\]#|~<>&$])")


def comparison_markdown(findings: Findings) -> str:
    """The verdicts, a table of each metric they rest on, and what to doubt."""
    parts = [
        f"**{plain(said.verdict)}** {plain(said.because)}".rstrip() for said in headlines(findings)
    ]
    for metric in shown_metrics(findings):
        places = metric_places(findings, metric.name != "violation")
        parts.append(metric_markdown(findings, metric, places))
    parts.append(plain(_conditions(findings)))
    warnings = "\n".join(f"- {plain(line)}" for line in doubts(findings))
    if warnings:
        parts.append(f"To doubt:\n\n{warnings}")
    return "\n\n".join(parts) + "\n"


def shown_metrics(findings: Findings) -> list[Metric]:
    """The metrics that the verdicts rest on."""
    headline = findings.comparison.notes.get("headline", ["violation"])
    known = METRICS | {metric.name: metric for metric in task_metrics(findings)}
    return [known[name] for name in headline if name in known]


def metric_markdown(findings: Findings, metric: Metric, places: Sequence[Place]) -> str:
    """A metric by answerer and limit; of an arm, its difference from the baseline with the 95 %
    interval below it.
    """
    names = [
        "all limits" if is_pooled else figures.limit_name(limit) for limit, is_pooled in places
    ]
    lines = [row([plain(metric.title), *names]), row(["---", *("---:" for _ in places)])]
    for arm in findings.arms:
        values = [mean(findings, arm.label, metric.name, *place) for place in places]
        said = " (baseline)" if arm.arm.is_baseline else ""
        lines.append(
            row([f"{code(arm.label)}{said}", *(figures.value(metric, value) for value in values)])
        )
        effects = [effect(findings, arm.label, metric.name, *place) for place in places]
        if any(effects):
            cells = [_difference(metric, each) for each in effects]
            lines.append(row(["difference, 95 % interval", *cells]))
    for name in trivial_answerers(findings):
        values = [mean(findings, name, metric.name, *place) for place in places]
        lines.append(row([TRIVIAL[name], *(figures.value(metric, value) for value in values)]))
    compared = [prompts_compared(findings, metric.name, *place) for place in places]
    lines.append(row(["prompts", *map(figures.count, compared)]))
    about = f"{metric.title}: {metric.about}. Differences from the baseline in {metric.unit}"
    return "\n".join([*lines, "", plain(f"{about}; in bold where the interval leaves out zero.")])


def row(cells: Sequence[str]) -> str:
    """A line of a table; its cells are Markdown already.

    >>> row(["a", "b"])
    '| a | b |'
    """
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    r"""Foreign text in Markdown, on one line: nothing in it is obeyed, and what stands between
    backticks is code.

    >>> plain("`full` is <b>better</b>")
    '`full` is \\<b\\>better\\</b\\>'
    """
    parts = _line(text).split("`")
    if len(parts) % 2 == 0:  # a backtick too many opens nothing
        parts[-2:] = [f"{parts[-2]}'{parts[-1]}"]
    return "".join(
        code(part) if place % 2 and part else _SPECIAL.sub(r"\\\1", part)
        for place, part in enumerate(parts)
    )


def code(text: str) -> str:
    """Foreign text as a code span, fit for a cell of a table.

    >>> code("a|b")
    '`a\\\\|b`'
    """
    return "`" + (_line(text).replace("`", "'").replace("|", "\\|").strip() or " ") + "`"


def _conditions(findings: Findings) -> str:
    """On what it was measured, in one line."""
    comparison = findings.comparison
    seeds = {arm.label: len(arm.runs) for arm in findings.arms if arm.runs}
    told = sorted(set(seeds.values()))
    each = (
        f"{told[0]}" if len(told) == 1 else ", ".join(f"{n} of `{arm}`" for arm, n in seeds.items())
    )
    return (
        f"Suite `{comparison.suite}` ({comparison.suite_digest[:8]}), comparison "
        f"`{comparison.name}` of {comparison.created[:10]}; seeds of each arm: {each or 'none'}."
    )


def _line(text: str) -> str:
    return " ".join(printable(text).split())


def _difference(metric: Metric, each: Effect | None) -> str:
    if each is None:
        return figures.NOTHING
    text = figures.difference(metric, each.difference)
    if each.low is not None:
        text += (
            f" [{figures.difference(metric, each.low)}, {figures.difference(metric, each.high)}]"
        )
    return f"**{text}**" if arrow(each) else text
