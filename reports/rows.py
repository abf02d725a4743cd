"""What stands in the tables of a report, as text: the terminal and the page say the same."""

from collections.abc import Callable, Sequence

from dataset_builder.summary import rules_in_order
from finetune.run import Run
from reports import figures
from reports.figures import NOTHING, TRIVIAL, Metric
from reports.findings import ArmFindings, Effect, Findings, limits_stated, prompts_compared

# A column of a table of answerers: a limit, or all stated limits pooled.
Place = tuple[int | None, bool]

# A difference whose interval leaves out zero.
UP, DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"


def metric_places(findings: Findings, with_none: bool) -> list[Place]:
    """The stated limits, `no limit` where wanted and asked, and all stated limits pooled."""
    limits = findings.comparison.limits
    places: list[Place] = [(limit, False) for limit in limits if limit is not None or with_none]
    return [*places, (None, True)] if limits_stated(findings.comparison) else places


def task_metrics(findings: Findings) -> list[Metric]:
    """What a task of lm-evaluation-harness is judged by; nothing of a suite."""
    named = findings.comparison.notes.get("task_metrics", {})
    return [figures.task_metric(name, way) for name, way in named.items()]


def place_name(place: Place) -> str:
    """How a column of limits is headed, in words.

    >>> place_name((50, False)), place_name((None, False)), place_name((None, True))
    ('50', 'none', 'all')
    """
    limit, is_pooled = place
    return "all" if is_pooled else "none" if limit is None else f"{limit:,}"


def arrow(row: Effect | None) -> str:
    """Which way a difference goes whose 95 % interval leaves out zero; empty of any other."""
    if row is None or row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ""
    return UP if row.difference > 0 else DOWN


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


def funnel_rows(arms: Sequence[ArmFindings]) -> list[tuple[str, list[str]]]:
    """The funnel's steps of all arms in one order, a column per arm; a dash where an arm has no
    such rule.
    """
    funnels = [arm.runs[0].manifest.funnel for arm in arms]
    # What is decided last stands last, wherever another arm's rules come in between.
    steps = rules_in_order([list(funnel) for funnel in funnels])
    return [(step, [figures.count(funnel.get(step)) for funnel in funnels]) for step in steps]


def fit_rows(arms: Sequence[ArmFindings]) -> list[tuple[str, list[str]]]:
    """What template, tokenizer and length did to each arm's rows, and what training followed."""

    def row(
        name: str, of: Callable[[ArmFindings], str], needs_fit: bool = True
    ) -> tuple[str, list[str]]:
        return name, [of(arm) if arm.fits or not needs_fit else NOTHING for arm in arms]

    has_starts = any(run.parent for arm in arms for run in arm.runs[:1])
    methods = [
        row("method", lambda arm: arm.runs[0].method, False),
        row("went on from", lambda arm: _start(arm.runs[0]), False),
    ]
    return [
        *(methods if has_starts else []),
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
        row("training loss", lambda arm: f"{arm.runs[0].train_loss:.3f}", False),
        row("validation loss", lambda arm: _loss(arm.runs[0].validation_loss), False),
        row("seeds", lambda arm: figures.count(len(arm.runs)), False),
    ]


def _start(run: Run) -> str:
    """The variant and the preset of the run that this one went on from; a dash where none."""
    return f"{run.parent.preset_name}/{run.parent.manifest.name}" if run.parent else NOTHING


def _loss(loss: float | None) -> str:
    return NOTHING if loss is None else f"{loss:.3f}"
