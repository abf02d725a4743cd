"""Arms on one suite: differences from the baseline, paired by prompt, and a verdict.

The verdict is about limits broken, pooled over the stated ones, and about the quality scores whose
gate passed. An arm is better when it breaks fewer limits and is no worse in quality, worse when it
breaks more and is no better. Only differences whose interval leaves out zero, whose p holds over
all arms and metrics of the verdict (Holm), and which rest on `MIN_TREES` trees count; and only of
arms with three seeds does it say better or worse: of fewer, that this run beats or loses.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.artifacts import artifacts_root, building, file_digest, write_json
from dataset_builder.errors import InputError
from dataset_builder.tables import table_of, write_table
from evals.aims import Aim, aim_rows
from evals.arms import (
    BASE,
    LoadedArm,
    base_arm,
    described,
    directions,
    find_base,
    load_answers,
    load_arms,
    primary_metrics,
)
from evals.beside import controlled, matched_in, overlap
from evals.combined import wins
from evals.conditions import differing, warnings, without_own_reward
from evals.curve import limit_curves, limit_slopes
from evals.margins import settle, wanted_margins
from evals.scorers import METRICS, OF_LIMITS, SHARES
from evals.statistics import Difference, holm, paired
from evals.tables import COMPARISON, Comparison
from evals.verdict import of_arm, of_row, sentence

Row = dict[str, Any]


def compare(
    arms: Sequence[Sequence[Path]],
    suite_name: str | None = None,
    name: str | None = None,
    margins: Mapping[str, float] | None = None,
    add: Callable[[Path], None] | None = None,
    labels: Sequence[str] | None = None,
    aims: Sequence[Aim] = (),
    doubts: Sequence[str] = (),
) -> Path:
    """Compare the arms, the first of them the baseline; the directory of what came of it.

    Each arm is the directories of its runs, one per seed. `margins` say by metric, in its own unit,
    how much worse is still no worse; without them, the suite's do. `add` writes more into the
    directory, such as a page, before it stands under its name. `labels` are what the arms are
    called, where their variants' names will not do, `aims` what each is to reach, `doubts` further
    lines of warning. Raises InputError where a run was not evaluated on the suite, no prompt is
    shared, or a margin is of nothing that was scored.
    """
    if name is not None and not re.fullmatch(r"\w[\w. -]*", name):
        raise InputError(
            f"comparison name `{name}`: wanted letters, digits, `.`, `_`, `-` and spaces"
        )
    if not arms:
        raise InputError("no arm is named", "`just list` shows the runs that exist")
    loaded = load_arms(arms, suite_name, labels)
    baseline = loaded[0]
    evaluation = baseline.seeds[0].evaluation
    base = next((base for arm in loaded for base in [_base_of(arm)] if base), None)
    everyone = [*loaded, *([base_arm(base)] if base else [])]
    prompts, left_out = shared_prompts(everyone)
    if not prompts:
        raise InputError(
            f"the arms share no prompt that none trained on: {left_out} were left out",
            "evaluate them on the same suite and prompt files",
        )
    limits = _limits(baseline)
    gates = load_answers(base)["run"].evaluation.gates if base else []
    gates = without_own_reward(gates, everyone)
    has_one_judge = _has_one_judge(everyone)
    headline = ["violation"] if any(limit is not None for limit in limits) else []
    passed = [gate.metric for gate in gates if gate.passed and has_one_judge]
    # One measure of relevance, that which favours length least where its gate passed.
    if "relevance_controlled" in passed:
        passed = [metric for metric in passed if metric not in ("relevance", "relevance_total")]
    of_task = primary_metrics(evaluation)
    headline += [*passed, *of_task]
    ways = directions(evaluation)
    rows = comparison_rows(everyone, prompts, limits, passed[0] if passed else None)
    # Of each arm against the baseline: what a third arm lacks takes nothing from this one.
    seeds = {arm.label: least_seeds((baseline, arm)) for arm in loaded[1:]}
    allowed = wanted_margins(margins, evaluation, baseline.seeds[0].values, ways)
    decide(rows, loaded[1:], headline, seeds, ways)
    verdicts, sentences = {}, {}
    for arm in loaded[1:]:
        margined = _rows_of(rows, arm.label, [*headline, *allowed])
        settle(margined, allowed, seeds[arm.label], ways)
        decisive = _decisive(rows, arm.label, headline)
        verdicts[arm.label] = of_arm(decisive)
        sentences[arm.label] = sentence(
            baseline.label, arm.label, verdicts[arm.label], decisive, seeds[arm.label]
        )
    trees = len({baseline.seeds[0].trees[prompt] for prompt in prompts})
    found_doubts = [*doubts, *warnings(everyone, trees, gates, has_one_judge)]
    if base is None:
        found_doubts.append(
            "the base model was not evaluated: its row and the trivial ones are missing"
        )
    found = Comparison(
        name=name or _name(everyone),
        suite=evaluation.suite_name,
        suite_digest=evaluation.suite_digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sentence=" ".join(sentences.values()) or f"`{baseline.label}` stands alone.",
        warnings=found_doubts,
        arms=[described(arm, is_baseline=arm is baseline) for arm in everyone],
        trivial=trivial_rows(base, prompts) if base else [],
        limits=limits,
        gates=gates,
        differing=differing(everyone),
        not_shared=left_out,
        curves=limit_curves(everyone, prompts),
        slopes=limit_slopes(everyone, prompts),
        margins=allowed,
        controls=_controls(loaded, prompts, limits, headline),
        overlaps=[each for arm in loaded[1:] if (each := overlap(arm, baseline))],
        aims=aim_rows(everyone, prompts, limits, aims),
        notes={
            "verdicts": verdicts,
            "sentences": sentences,
            "headline": headline,
            **({"task_metrics": {name: ways[name] for name in of_task}} if of_task else {}),
            "trees": trees,
            "prompts": len(prompts),
        },
    )
    return write_comparison(found, rows, add)


def shared_prompts(arms: Sequence[LoadedArm]) -> tuple[list[str], int]:
    """The prompts that every seed of every arm answered and none trained on, and how many
    others."""
    answers = [each for arm in arms for each in arm.seeds]
    asked = [each.asked for each in answers]
    trained = {name for each in answers for name in each.evaluation.contaminated}
    shared = set.intersection(*asked) - trained
    return sorted(shared), len(set.union(*asked) - shared)


def comparison_rows(
    arms: Sequence[LoadedArm],
    prompts: Sequence[str],
    limits: Sequence[int | None],
    quality: str | None = None,
    only: Sequence[str] | None = None,
) -> list[Row]:
    """A row per arm but the baseline, metric (or those of `only`), and limit, and one pooled over
    the stated limits.

    With `quality`, a score whose gate passed, also of the metric `combined`: who wins against whom.
    """
    baseline = arms[0]
    trees = [baseline.seeds[0].trees[prompt] for prompt in prompts]
    stated = [limit for limit in limits if limit is not None]
    ways = directions(baseline.seeds[0].evaluation)
    metrics = [metric for metric in ways if metric in baseline.seeds[0].values]
    metrics = [metric for metric in metrics if only is None or metric in only]
    rows = []
    for arm in arms[1:]:
        # Of each row: metric, limit, whether it is pooled, the arm's values and the baseline's.
        asked = []
        for metric in metrics:
            places: list[tuple[int | None, bool]] = [
                (limit, False) for limit in limits if limit is not None or metric not in OF_LIMITS
            ]
            for limit, is_pooled in [*places, *([(None, True)] if stated else [])]:
                chosen = stated if is_pooled else [limit]
                values = _pooled(arm, baseline, metric, chosen, prompts)
                asked.append((metric, limit, is_pooled, values))
        if quality is not None and stated:
            for limit, chosen in [*((each, [each]) for each in stated), (None, stated)]:
                values = _wins(arm, baseline, quality, chosen, prompts)
                asked.append(("combined", limit, limit is None, values))
        for metric, limit, is_pooled, (ours, theirs) in asked:
            found = paired(
                ours,
                theirs,
                trees,
                arm_is_fixed=arm.is_fixed,
                baseline_is_fixed=baseline.is_fixed,
                is_share=metric in SHARES,
            )
            rows.append(_row(arm, baseline, metric, limit, is_pooled, found))
    return [row for row in rows if row["difference"] is not None]


def decide(
    rows: Sequence[Row],
    arms: Sequence[LoadedArm],
    headline: Sequence[str],
    seeds: Mapping[str, int],
    ways: Mapping[str, int] = METRICS,
) -> None:
    """Fill in `p_holm` and `verdict` of the rows that the verdict rests on; `seeds` are by arm."""
    labels = {arm.label for arm in arms}
    chosen = [row for row in rows if row["arm"] in labels and _is_headline(row, headline)]
    for row, p in zip(chosen, holm([row["p"] for row in chosen]), strict=True):
        row["p_holm"] = p
        row["verdict"] = of_row(row, ways[row["metric"]], seeds[row["arm"]])


def trivial_rows(base: Path, prompts: Sequence[str]) -> list[Row]:
    """The base model's means and those of the trivial answers beside it, by limit and metric."""
    wanted = set(prompts)
    rows = []
    for answerer, answers in load_answers(base).items():
        for metric, values in answers.values.items():
            for limit in sorted({limit for _, limit in values}, key=_last_none):
                kept = [
                    value
                    for (prompt, at), value in values.items()
                    if at == limit and prompt in wanted
                ]
                if kept:
                    rows.append(
                        {
                            "answerer": BASE if answerer == "run" else answerer,
                            "limit": limit,
                            "metric": metric,
                            "mean": float(np.mean(kept)),
                            "n": len(kept),
                        }
                    )
    return rows


def least_seeds(arms: Sequence[LoadedArm]) -> int:
    """The fewest seeds of any arm; none where answers made elsewhere are among them."""
    return 0 if any(arm.is_fixed for arm in arms) else min(len(arm.seeds) for arm in arms)


def write_comparison(
    comparison: Comparison, rows: Sequence[Row], add: Callable[[Path], None] | None = None
) -> Path:
    """Write comparison.parquet, comparison.json and what `add` writes; the directory. One of that
    name is replaced, whole."""
    directory = artifacts_root() / "comparisons" / comparison.name
    with building(directory, replaces=True) as made:
        write_table(table_of(list(rows), COMPARISON), COMPARISON, made / "comparison.parquet")
        write_json(comparison, made / "comparison.json")
        if add is not None:
            add(made)
    return directory


def _controls(
    arms: Sequence[LoadedArm],
    prompts: Sequence[str],
    limits: Sequence[int | None],
    headline: Sequence[str],
) -> list[Row]:
    """Each controlled arm less its control, in the metrics of the verdict, as the table's rows."""
    found = []
    for arm, control in controlled(arms):
        for row in comparison_rows([control, arm], prompts, limits, only=headline):
            said = {"control": control.label, "match": matched_in(control)}
            found.append(said | {key: row[key] for key in row if key != "baseline"})
    return found


def _pooled(
    arm: LoadedArm,
    baseline: LoadedArm,
    metric: str,
    limits: Sequence[int | None],
    prompts: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Both arms' values, a prompt's mean over the limits at which both have one."""
    stacks = [
        np.stack([each.matrix(metric, limit, prompts) for limit in limits])
        for each in (arm, baseline)
    ]
    is_there = np.logical_and(*((~np.isnan(stack)).any(axis=1) for stack in stacks))
    means = []
    for stack in stacks:
        kept = np.where(is_there[:, None, :], stack, np.nan)
        count = (~np.isnan(kept)).sum(axis=0)
        total = np.nansum(kept, axis=0)
        means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return means[0], means[1]


def _wins(
    arm: LoadedArm,
    baseline: LoadedArm,
    quality: str,
    limits: Sequence[int | None],
    prompts: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Both arms' shares of wins against each other, a prompt's mean over the limits at which it can
    be said."""
    ours, theirs = [], []
    for limit in limits:
        a, b = (
            [each.matrix(metric, limit, prompts) for metric in ("violation", quality)]
            for each in (arm, baseline)
        )
        ours.append(wins(*a, *b))
        theirs.append(wins(*b, *a))
    return _mean_where_known(ours), _mean_where_known(theirs)


def _mean_where_known(values: Sequence[np.ndarray]) -> np.ndarray:
    stack = np.stack(values)
    # A limit counts for a prompt only where it does for every seed.
    known = (~np.isnan(stack)).all(axis=1, keepdims=True)
    count = known.sum(axis=0)
    total = np.where(known, stack, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _row(
    arm: LoadedArm,
    baseline: LoadedArm,
    metric: str,
    limit: int | None,
    is_pooled: bool,
    found: Difference,
) -> Row:
    return {
        "arm": arm.label,
        "baseline": baseline.label,
        "metric": metric,
        "limit": limit,
        "is_pooled": is_pooled,
        "seeds": min((len(each.seeds) for each in (arm, baseline) if not each.is_fixed), default=0),
        **found._asdict(),
    }


def _is_headline(row: Row, headline: Sequence[str]) -> bool:
    """Pooled over the stated limits; of a suite without any, the row without a limit."""
    has_limits = "violation" in headline
    return row["metric"] in headline and (row["is_pooled"] or not has_limits)


def _decisive(rows: Sequence[Row], label: str, headline: Sequence[str]) -> dict[str, Row]:
    return {row["metric"]: row for row in _rows_of(rows, label, headline)}


def _rows_of(rows: Sequence[Row], label: str, headline: Sequence[str]) -> list[Row]:
    return [row for row in rows if row["arm"] == label and _is_headline(row, headline)]


def _has_one_judge(arms: Sequence[LoadedArm]) -> bool:
    """Whether relevance was measured under one frozen model for all."""
    judges = {
        (
            each.evaluation.base_digest,
            each.evaluation.template,
            each.evaluation.tables,  # the other prompts are drawn from these
            str(each.evaluation.settings.get("quantization")),
            str(each.evaluation.settings.get("precision")),
        )
        for arm in arms
        for each in arm.seeds
    }
    return len(judges) == 1


def _base_of(arm: LoadedArm) -> Path | None:
    """The base model's evaluation that belongs to the arm's."""
    return None if arm.is_imported else find_base(arm.seeds[0].evaluation)


def _limits(arm: LoadedArm) -> list[int | None]:
    found = {limit for each in arm.seeds[0].values.values() for _, limit in each}
    return sorted(found, key=_last_none)


def _last_none(limit: int | None) -> tuple[bool, int]:
    return (limit is None, limit or 0)


def _name(arms: Sequence[LoadedArm]) -> str:
    """The arms' labels and a digest of what is compared, the scores included."""
    digest = hashlib.sha256()
    for arm in arms:
        for each in arm.seeds:
            digest.update(f"{arm.arm} {file_digest(each.directory / 'scores.parquet')}\n".encode())
    labels = "-vs-".join(re.sub(r"[ /]", "-", arm.label) for arm in arms if arm.label != BASE)
    return f"{labels[:80]}-{digest.hexdigest()[:8]}"
