"""A comparison for machines: what `just compare … --json` prints, declared and
documented.

Shares and losses are in their own units, 0 to 1 and nats; nothing is rounded. Text is as it was
found, and escaped to ASCII when written, so that a terminal that shows it obeys nothing.
"""

import json
import statistics
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from finetune.gate import Gate
from reports.findings import (
    ArmFindings,
    Effect,
    Findings,
    doubts,
    given_words,
    headlines,
    mean,
    stopped_share,
    trivial_answerers,
    verdict,
)
from reports.plots import loss_points
from reports.rows import metric_places

# Raised when a field changes its meaning or goes; a new field does not raise it.
VERSION = 1


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison says of one arm against the baseline."""

    arm: str
    verdict: Annotated[
        str | None,
        Meta(
            description=(
                "better, worse, trades, cannot tell, or of fewer than three seeds: this run "
                "beats, this run loses"
            )
        ),
    ]
    sentence: Annotated[str, Meta(description="the verdict and what it rests on, in words")]


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """One answerer's mean in one metric at one limit, over the prompts compared."""

    answerer: Annotated[str, Meta(description="an arm's label, or base, human, one_word, base_cut")]
    metric: str
    limit: Annotated[
        int | None,
        Meta(description="words; null where none was stated, and where limits are pooled"),
    ]
    is_pooled: Annotated[bool, Meta(description="over all stated limits")]
    mean: float


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long one answerer's answers are under one limit, over the prompts compared."""

    answerer: str
    limit: Annotated[int | None, Meta(description="words; null where none was stated")]
    answers: Annotated[int, Meta(description="how many, over all seeds")]
    words_low: Annotated[float, Meta(description="the lower quartile, in words")]
    words_median: float
    words_high: Annotated[float, Meta(description="the upper quartile, in words")]
    stopped_share: Annotated[
        float | None, Meta(description="of answers that ended by themselves; null of humans")
    ]


class LossPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a loss curve: means over a few steps and all seeds."""

    step: float
    loss: Annotated[float, Meta(description="nats per trained token")]


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One trained arm."""

    label: Annotated[
        str, Meta(description="short, unique in this comparison; how the other fields name the arm")
    ]
    arm: Annotated[str, Meta(description="<preset>-<digest8>/<variant>-<digest12>")]
    is_baseline: bool
    seeds: list[int]
    runs: Annotated[list[str], Meta(description="directories, one per seed")]
    evaluations: Annotated[list[str], Meta(description="directories, one per seed")]
    variant: str
    preset: str
    funnel: Annotated[
        dict[str, int], Meta(description="threads, then dropped by each rule in order, then kept")
    ]
    fit: Annotated[
        dict[str, Any] | None,
        Meta(
            description="fit.json of the first seed, dropped rows as a count; null where it is gone"
        ),
    ]
    summary: Annotated[
        dict[str, float],
        Meta(description="steps, examples, epochs, tokens, losses: means over seeds"),
    ]
    loss: list[LossPoint]


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison whole."""

    version: Annotated[int, Meta(description="of this format; a new field does not raise it")] = (
        VERSION
    )
    name: str
    suite: str
    suite_digest: str
    created: Annotated[str, Meta(description="ISO 8601, UTC")]
    directory: Annotated[
        str, Meta(description="comparisons/<name>, with comparison.parquet and comparison.json")
    ]
    report: Annotated[str, Meta(description="the page")]
    sentence: Annotated[str, Meta(description="the verdicts in words")]
    baseline: Annotated[str, Meta(description="the first arm's label")]
    verdicts: list[Verdict]
    headline: Annotated[list[str], Meta(description="the metrics that the verdicts rest on")]
    prompts: Annotated[
        int | None, Meta(description="compared: answered by every arm, trained on by none")
    ]
    trees: Annotated[int | None, Meta(description="clusters of those prompts")]
    not_shared: Annotated[int, Meta(description="prompts left out")]
    limits: Annotated[list[int | None], Meta(description="words; null: no limit stated")]
    arms: list[ArmReport]
    differences: Annotated[
        list[Effect],
        Meta(
            description=(
                "arm minus baseline, as in comparison.parquet; low and high are the 95 % interval, "
                "detectable the smallest difference shown with 80 % power"
            )
        ),
    ]
    means: list[Mean]
    lengths: list[Lengths]
    curves: Annotated[
        list[dict[str, Any]], Meta(description="words given by words allowed, per run and limit")
    ]
    slopes: Annotated[
        list[dict[str, Any]], Meta(description="how much the words follow the limit, per run")
    ]
    margins: Annotated[
        dict[str, float], Meta(description="by metric, what was called no worse beforehand")
    ]
    controls: Annotated[
        list[dict[str, Any]],
        Meta(
            description=(
                "arm less the control that was drawn for it, in the verdict's metrics; each by "
                "itself, uncorrected"
            )
        ),
    ]
    overlaps: Annotated[
        list[dict[str, Any]],
        Meta(description="training rows that an arm's variant shares with the baseline's"),
    ]
    aims: Annotated[
        list[dict[str, Any]],
        Meta(
            description="what was aimed at before the first run, by arm and limit, and if it is so"
        ),
    ]
    gates: list[Gate]
    differing: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="keys of recipes and presets that differ, by arm's label"),
    ]
    warnings: Annotated[list[str], Meta(description="what to doubt")]


def comparison_record(findings: Findings) -> ComparisonReport:
    """The record of a comparison; its numbers are those that the terminal and the page show."""
    comparison = findings.comparison
    notes = comparison.notes
    losses = loss_points(findings)
    baseline = next(arm.label for arm in comparison.arms if arm.is_baseline)
    return ComparisonReport(
        name=comparison.name,
        suite=comparison.suite,
        suite_digest=comparison.suite_digest,
        created=comparison.created,
        directory=str(findings.directory),
        report=str(findings.directory / "report.html"),
        sentence=comparison.sentence,
        baseline=baseline,
        verdicts=[
            Verdict(
                arm=said.arm,
                verdict=verdict(findings, said.arm),
                sentence=f"{said.verdict} {said.because}".strip(),
            )
            for said in headlines(findings)
            if said.arm
        ],
        headline=notes.get("headline", []),
        prompts=notes.get("prompts"),
        trees=notes.get("trees"),
        not_shared=comparison.not_shared,
        limits=comparison.limits,
        arms=[_arm(arm, losses.get(arm.label, [])) for arm in findings.arms],
        differences=findings.effects,
        means=_means(findings),
        lengths=_lengths(findings),
        curves=comparison.curves,
        slopes=comparison.slopes,
        margins=comparison.margins,
        controls=comparison.controls,
        overlaps=comparison.overlaps,
        aims=comparison.aims,
        gates=comparison.gates,
        differing=comparison.differing,
        warnings=doubts(findings),
    )


def schema_text() -> str:
    """The JSON schema of what `--json` prints."""
    return json.dumps(msgspec.json.schema(ComparisonReport), indent=2) + "\n"


def _arm(arm: ArmFindings, losses: list[tuple[float, float]]) -> ArmReport:
    fit = None
    if arm.fits:
        fit = msgspec.to_builtins(arm.fits[0])
        fit["dropped"] = len(fit["dropped"])
    first = arm.runs[0] if arm.runs else None
    return ArmReport(
        label=arm.label,
        arm=arm.arm.arm,
        is_baseline=arm.arm.is_baseline,
        seeds=[run.seed for run in arm.runs],
        runs=arm.arm.runs,
        evaluations=arm.arm.evaluations,
        variant=first.variant if first else "",
        preset=first.preset_name if first else "",
        funnel=first.manifest.funnel if first else {},
        fit=fit,
        summary=arm.arm.summary,
        loss=[LossPoint(step=step, loss=loss) for step, loss in losses],
    )


def _means(findings: Findings) -> list[Mean]:
    metrics = {row.metric for row in findings.effects}
    metrics |= {row["metric"] for row in findings.comparison.trivial}
    answerers = [arm.label for arm in findings.arms] + trivial_answerers(findings)
    return [
        Mean(answerer=name, metric=metric, limit=place[0], is_pooled=place[1], mean=value)
        for metric in sorted(metrics)
        for name in answerers
        for place in metric_places(findings, True)
        if (value := mean(findings, name, metric, *place)) is not None
    ]


def _lengths(findings: Findings) -> list[Lengths]:
    found = []
    for name in findings.answerers:
        for limit in findings.comparison.limits:
            words = given_words(findings, name, limit)
            if words:
                low, median, high = quartiles(words)
                found.append(
                    Lengths(
                        answerer=name,
                        limit=limit,
                        answers=len(words),
                        words_low=low,
                        words_median=median,
                        words_high=high,
                        stopped_share=stopped_share(findings, name, limit),
                    )
                )
    return found


def quartiles(values: list[int]) -> tuple[float, float, float]:
    """The quartiles of one value or more, between neighbours linearly.

    >>> quartiles([10, 20, 30, 40, 50])
    (20.0, 30.0, 40.0)
    """
    if len(values) == 1:
        return (float(values[0]),) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
