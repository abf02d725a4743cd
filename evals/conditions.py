"""Whether arms were compared under the same conditions but for the data, and what to doubt."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import structs

from evals.arms import LoadedArm, summary
from evals.statistics import MIN_TREES
from finetune.gate import Gate
from finetune.run import without_seed

TOLERANCE = 0.01  # of steps, epochs and tokens
CONCISE_POINTS = 0.05  # how far fit may move an arm's share of concise replies
SEEDS = 3

# Numbers that must not differ, as a reader calls them.
SPENT = {
    "steps": "optimizer steps",
    "examples_seen": "examples seen",
    "trained_tokens": "trained tokens",
    "epochs": "epochs",
}


def differing(arms: Sequence[LoadedArm]) -> dict[str, dict[str, Any]]:
    """The keys of recipes, presets and tables in which the arms differ, with each arm's value."""
    trained = [arm for arm in arms if arm.runs]
    flat = {arm.label: dict(_settings(arm)) for arm in trained}
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    return {
        key: {label: settings.get(key) for label, settings in flat.items()}
        for key in keys
        if any(settings.get(key) != flat[trained[0].label].get(key) for settings in flat.values())
    }


def warnings(
    arms: Sequence[LoadedArm], trees: int, gates: Sequence[Gate], quality_is_comparable: bool
) -> list[str]:
    """What a reader should doubt, a line each."""
    trained = [arm for arm in arms if arm.runs]
    return [
        *_unlike(trained),
        *_sizes(trained),
        *_short_controls(trained),
        *_other_settings(trained),
        *_fits(trained),
        *_seeds(trained),
        *_evaluations(arms),
        *_few(trees),
        *_gates(gates, quality_is_comparable),
    ]


def without_own_reward(gates: Sequence[Gate], arms: Sequence[LoadedArm]) -> list[Gate]:
    """The gates, that of `reward` failed where one of the arms was trained by the reward model that
    scores, or where the arms were scored by several: it then says nothing of their difference.
    """
    notes = {
        arm.label: [each.evaluation.notes.get("reward", {}) for each in arm.seeds] for arm in arms
    }
    trained = [
        label for label, seeds in notes.items() if any(s.get("trained_the_run") for s in seeds)
    ]
    scorers = {note.get("digest") for seeds in notes.values() for note in seeds}
    reason = None
    if trained:
        named = ", ".join(f"`{label}`" for label in trained)
        reason = f"the reward model that scores trained {named}"
    elif len(scorers) > 1:
        reason = "the arms were not all scored by one reward model"
    return [
        structs.replace(gate, passed=False, reason=reason)
        if gate.metric == "reward" and reason
        else gate
        for gate in gates
    ]


def _settings(arm: LoadedArm) -> Iterator[tuple[str, Any]]:
    run = arm.runs[0]
    yield from _flat("recipe", run.manifest.recipe)
    yield from _flat("preset", run.preset)
    yield "tables", run.manifest.tables[:12]
    yield "base", run.base.digest[:12]
    yield "start", without_seed(run.parent.name) if run.parent else None


def _flat(prefix: str, table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key in ("title", "recipe"):  # what a control matches is told by its `of`
            continue
        if isinstance(value, dict):
            inner = _flat("", value)
            yield from ((f"{prefix} {key}{name}", each) for name, each in inner)
        else:
            yield (f"{prefix} {key}" if prefix else f".{key}"), value


def _unlike(arms: Sequence[LoadedArm]) -> Iterator[str]:
    """A line for each number that was to be the same and is not, within one per cent."""
    summaries = {arm.label: summary(arm) for arm in arms}
    for key, name in SPENT.items():
        found = {label: each[key] for label, each in summaries.items() if key in each}
        most, least = max(found.values(), default=0.0), min(found.values(), default=0.0)
        if most - least > TOLERANCE * most:
            yield f"{name} differ by more than 1 %: {_each(found)}"


def _sizes(arms: Sequence[LoadedArm]) -> Iterator[str]:
    """A line where an arm has fewer rows than another of its form, and no random draw of as many
    rows is there to say what that alone does.
    """
    for form in dict.fromkeys(arm.runs[0].manifest.form for arm in arms):
        yield from _sizes_of([arm for arm in arms if arm.runs[0].manifest.form == form])


def _sizes_of(arms: Sequence[LoadedArm]) -> Iterator[str]:
    rows = {arm.label: _rows(arm) for arm in arms if _control(arm) is None}
    most = max(rows.values(), default=0.0)
    smaller = {
        arm.label
        for arm in arms
        if most - rows.get(arm.label, most) > TOLERANCE * most
        and not any(_controls(other, arm) for other in arms)
    }
    if smaller:
        told = {label: n for label, n in rows.items() if n == most or label in smaller}
        yield (
            f"the variants differ in size and no control is among them: {_each(told)} rows; "
            "a difference may be one of size"
        )


def _short_controls(arms: Sequence[LoadedArm]) -> Iterator[str]:
    """A line for each control whose training rows lack some of what it is to match."""
    for arm in arms:
        control = _control(arm)
        notes = arm.runs[0].manifest.notes.get("control", {})
        lacking = notes.get("train", {}).get("short", 0)
        if control and lacking:
            yield (
                f"the control `{arm.label}` falls short of `{control['of']}` by {lacking:.1%} of "
                f"its {control['match']}: it matches it no further"
            )


def _controls(arm: LoadedArm, other: LoadedArm) -> bool:
    """Whether `arm` is a random draw of as many rows as `other`."""
    control, rows = _control(arm), _rows(other)
    return (
        control is not None
        and control["match"] == "rows"
        and control["recipe"] == other.runs[0].manifest.recipe
        and abs(_rows(arm) - rows) <= TOLERANCE * rows
    )


def _control(arm: LoadedArm) -> dict[str, Any] | None:
    """What the arm's variant is a control of, and in what; None where it is none."""
    control: dict[str, Any] | None = arm.runs[0].manifest.recipe.get("control")
    return control


def _rows(arm: LoadedArm) -> float:
    return float(arm.runs[0].manifest.splits["train"].rows)


def _other_settings(arms: Sequence[LoadedArm]) -> Iterator[str]:
    found = [key for key in differing(arms) if not key.startswith("recipe ")]
    if found:
        yield f"more differs than the data: {', '.join(found)}"


def _fits(arms: Sequence[LoadedArm]) -> Iterator[str]:
    for arm in arms:
        for fit in arm.fits[:1]:
            before, after = fit.concise_share_before, fit.concise_share_after
            if abs(after - before) > CONCISE_POINTS:
                yield (
                    f"fit moved the share of concise replies of `{arm.label}` from {before:.2f} "
                    f"to {after:.2f}"
                )


def _seeds(arms: Sequence[LoadedArm]) -> Iterator[str]:
    few = {arm.label: float(len(arm.runs)) for arm in arms if len(arm.runs) < SEEDS}
    if few:
        yield f"fewer than {SEEDS} seeds: {_each(few)}; runs are compared, not variants"
    for arm in arms:
        starts = {run.parent.name for run in arm.runs if run.parent}
        if 0 < len(starts) < len(arm.runs):
            yield (
                f"the {len(arm.runs)} seeds of `{arm.label}` went on from {_counted(starts)}: what "
                "another start would change is not in the interval"
            )


def _counted(starts: set[str]) -> str:
    return "one run" if len(starts) == 1 else f"{len(starts)} runs"


def _evaluations(arms: Sequence[LoadedArm]) -> Iterator[str]:
    for arm in arms:
        found = {name for each in arm.seeds for name in each.evaluation.contaminated}
        if found:
            yield f"{len(found)} prompts stand in the training rows of `{arm.label}`: left out"
        cut = sum(sum(each.evaluation.unscored.values()) for each in arm.seeds)
        if cut:
            yield f"{cut} scores of `{arm.label}` could not be had"
    unknown = [
        f"`{arm.label}`"
        for arm in arms
        if any("contamination" in each.evaluation.notes for each in arm.seeds)
    ]
    if unknown:
        yield f"whether the prompts were trained on is unknown of {', '.join(unknown)}"
    for key in ("precision", "quantization"):
        made_here = [arm for arm in arms if not arm.is_imported]
        values = {str(each.evaluation.settings.get(key)) for arm in made_here for each in arm.seeds}
        if len(values) > 1:
            yield f"answers were made in different {key}: {', '.join(sorted(values))}"


def _few(trees: int) -> Iterator[str]:
    if trees < MIN_TREES:
        yield f"{trees} trees are too few for a verdict; it needs {MIN_TREES}"


def _gates(gates: Sequence[Gate], quality_is_comparable: bool) -> Iterator[str]:
    for gate in gates:
        if not gate.passed:
            yield f"{gate.metric} enters no verdict, its gate failed: {gate.reason}"
    if not quality_is_comparable:
        yield (
            "relevance was measured under different base models, or against other prompts, and"
            " enters no verdict"
        )


def _each(values: dict[str, float]) -> str:
    # Tokens whole, epochs to three places.
    said = {
        label: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        for label, value in values.items()
    }
    return ", ".join(f"`{label}` {each}" for label, each in said.items())
