"""One comparison with all that a report shows of it, read from its files and nothing else."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from dataset_builder.artifacts import artifacts_root, in_place, read_json
from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from dataset_builder.tables import read_table
from evals.arms import BASE
from evals.tables import COMPARISON, Arm, Comparison, Evaluation, Gate
from finetune.run import Run, load_run
from reports.answers import HUMAN, Answerer, Question, read_questions
from reports.figures import TRIVIAL


@dataclass(frozen=True)
class Effect:
    """One row of the table `comparison`: an arm against the baseline in one metric at one limit."""

    arm: str
    baseline: str
    metric: str
    limit: int | None
    is_pooled: bool
    prompts: int
    trees: int
    seeds: int
    baseline_mean: float
    arm_mean: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    detectable: float | None
    verdict: str | None  # None on rows that describe and decide nothing
    low_90: float | None = None
    high_90: float | None = None
    margin: float | None = None  # None where none was given beforehand
    equivalence: str | None = None  # equivalent, no worse, not shown


class Headline(NamedTuple):
    """What a comparison says of one arm."""

    arm: str
    verdict: str  # in one short sentence
    because: str  # what it rests on; empty where nothing more was said


@dataclass(frozen=True)
class ArmFindings:
    """One arm and what its runs say of themselves, a run per seed."""

    arm: Arm
    runs: list[Run]
    fits: list[Fit]

    @property
    def label(self) -> str:
        return self.arm.label


@dataclass(frozen=True)
class Findings:
    """A comparison, its rows, its arms and every answer."""

    directory: Path
    comparison: Comparison
    effects: list[Effect]
    arms: list[ArmFindings]  # trained; the base model, also an arm to the comparison, is not here
    questions: list[Question]

    @property
    def answerers(self) -> list[str]:
        """Whose answers there are to read: the arms, then the base model and the human."""
        named = {
            name
            for question in self.questions
            for each in question.asked.values()
            for name in each.answers
        }
        return [arm.label for arm in self.arms] + [name for name in (BASE, HUMAN) if name in named]


def find_comparison(name: str) -> Path:
    """The directory of the comparison that `name` means: a path, a name, or a unique beginning of
    one. Raises InputError where nothing or more than one matches, listing the choices.
    """
    if (Path(name) / "comparison.json").is_file():
        return Path(name)
    finished = {
        path.parent.name: path.parent
        for path in in_place(artifacts_root(), "comparisons/*/comparison.json")
    }
    matching = [each for each in sorted(finished) if each == name]
    matching = matching or [each for each in sorted(finished) if each.startswith(name)]
    if len(matching) == 1:
        return finished[matching[0]]
    known = "\n      ".join(matching or sorted(finished))
    if matching:
        raise InputError(
            f"`{name}` is the beginning of {len(matching)} comparisons",
            f"choose one:\n      {known}",
        )
    raise InputError(
        f"no comparison `{name}`",
        f"comparisons:\n      {known}" if finished else "type `just compare ARM ARM`",
    )


def read_findings(directory: Path) -> Findings:
    """The comparison in `directory` with the runs, fits and answers it names.

    Raises InputError where one of them is gone.
    """
    comparison = read_json(directory / "comparison.json", Comparison)
    root = directory.parent.parent
    rows = read_table(directory / "comparison.parquet", COMPARISON).to_pylist()
    arms = [_arm_findings(arm, root) for arm in comparison.arms]
    answerers = [
        Answerer(arm.label, found(evaluation, root), run.seed if run else None)
        for arm in arms
        for evaluation, run in zip_longest(arm.arm.evaluations, arm.runs)
        if evaluation is not None
    ]
    evaluations = [
        read_json(answerer.evaluation / "eval.json", Evaluation) for answerer in answerers
    ]
    trained_on = {prompt for evaluation in evaluations for prompt in evaluation.contaminated}
    heldout = [root / "tables" / each.tables[:12] / "heldout.parquet" for each in evaluations[:1]]
    return Findings(
        directory,
        comparison,
        [Effect(**row) for row in rows],
        [arm for arm in arms if arm.label != BASE],
        read_questions(
            answerers,
            comparison.limits,
            next((path for path in heldout if path.is_file()), None),
            trained_on,
        ),
    )


def _arm_findings(arm: Arm, root: Path) -> ArmFindings:
    directories = [found(run, root) for run in arm.runs]
    fits = [directory / "fit.json" for directory in directories]
    return ArmFindings(
        arm,
        [load_run(directory) for directory in directories],
        [read_json(path, Fit) for path in fits if path.is_file()],
    )


def found(path: str, root: Path) -> Path:
    """Where a directory that a comparison names lies now, should the artefacts under `root` have
    been moved.
    """
    if Path(path).is_dir():
        return Path(path)
    parts = Path(path).parts
    for place, part in enumerate(parts):
        if part in ("runs", "bases", "imported") and root.joinpath(*parts[place:]).is_dir():
            return root.joinpath(*parts[place:])
    return Path(path)


def limits_stated(comparison: Comparison) -> list[int]:
    """The limits of a comparison, without `no limit`."""
    return [limit for limit in comparison.limits if limit is not None]


def effect(
    findings: Findings, arm: str, metric: str, limit: int | None, is_pooled: bool = False
) -> Effect | None:
    """The row that holds this arm's difference, or None."""
    wanted = (arm, metric, None if is_pooled else limit, is_pooled)
    return next(
        (
            row
            for row in findings.effects
            if (row.arm, row.metric, row.limit, row.is_pooled) == wanted
        ),
        None,
    )


def mean(
    findings: Findings, answerer: str, metric: str, limit: int | None, is_pooled: bool = False
) -> float | None:
    """The mean of an arm or of a trivial row; pooled, over all stated limits; None where nothing
    was scored.
    """
    for row in findings.effects:
        if (row.metric, row.limit, row.is_pooled) == (
            metric,
            None if is_pooled else limit,
            is_pooled,
        ):
            if row.arm == answerer:
                return row.arm_mean
            if row.baseline == answerer:
                return row.baseline_mean
    rows = [
        row
        for row in findings.comparison.trivial
        if row["answerer"] == answerer
        and row["metric"] == metric
        and (row["limit"] is not None if is_pooled else row["limit"] == limit)
    ]
    n = sum(row["n"] for row in rows)
    return sum(row["mean"] * row["n"] for row in rows) / n if n else None


def headlines(findings: Findings) -> list[Headline]:
    """What is said of each arm: the verdict, then what it rests on."""
    return headlines_of(findings.comparison)


def headlines_of(comparison: Comparison) -> list[Headline]:
    """What a comparison says of each arm, from its record alone."""
    said = comparison.notes.get("sentences") or {"": comparison.sentence}
    parts = {arm: sentence.partition(": ") for arm, sentence in said.items()}
    return [
        Headline(arm, f"{verdict}." if because else verdict, because[:1].upper() + because[1:])
        for arm, (verdict, _, because) in parts.items()
    ]


def tally(findings: Findings) -> str:
    """How many arms got each verdict, in one sentence, where there are too many to say each."""
    verdicts = Counter(findings.comparison.notes.get("verdicts", {}).values())
    said = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    baseline = next((arm.label for arm in findings.arms if arm.arm.is_baseline), "")
    return f"{verdicts.total()} arms against `{baseline}`: {said}."


def reasons(said: Sequence[Headline]) -> list[tuple[list[Headline], str]]:
    """What verdicts rest on, each reason once with those that it is the reason of."""
    shared: dict[str, list[Headline]] = {}
    for each in said:
        shared.setdefault(each.because, []).append(each)
    return [(each, because) for because, each in shared.items()]


def trivial_answerers(findings: Findings) -> list[str]:
    """The trivial rows that this comparison has, in the order of `TRIVIAL`."""
    present = {row["answerer"] for row in findings.comparison.trivial}
    return [name for name in TRIVIAL if name in present]


def verdict(findings: Findings, arm: str) -> str | None:
    """What the comparison says of an arm against the baseline; None of the baseline itself."""
    return findings.comparison.notes.get("verdicts", {}).get(arm)


def median_words(findings: Findings, answerer: str, limit: int | None) -> float | None:
    """The median length of an answerer's answers under `limit`, in words; None where there is no
    answer.
    """
    if answerer == "one_word":
        return 1.0
    if answerer == "base_cut":
        words = (
            []
            if limit is None
            else [min(words, limit) for words in given_words(findings, "base", limit)]
        )
    else:
        words = given_words(findings, answerer, limit)
    return float(statistics.median(words)) if words else None


def given_words(findings: Findings, answerer: str, limit: int | None) -> list[int]:
    """The words of each answer of an answerer under `limit`, to the prompts that are compared."""
    return [
        answer.words
        for question in findings.questions
        if question.is_compared
        for answer in question.asked[limit].answers.get(answerer, [])
    ]


def stopped_share(findings: Findings, answerer: str, limit: int | None) -> float | None:
    """The share of an answerer's answers that ended by themselves; None for humans and where there
    is no answer.
    """
    stopped = [
        answer.is_stopped
        for question in findings.questions
        if question.is_compared
        for answer in question.asked[limit].answers.get(answerer, [])
        if answer.is_stopped is not None
    ]
    return sum(stopped) / len(stopped) if stopped else None


def gate(findings: Findings, metric: str) -> Gate | None:
    """The gate of a quality metric, or None where it has none."""
    return next((gate for gate in findings.comparison.gates if gate.metric == metric), None)


def prompts_compared(
    findings: Findings, metric: str, limit: int | None, is_pooled: bool = False
) -> int | None:
    """How many prompts the arms' differences in a metric rest on; the fewest where arms differ."""
    labels = {arm.label for arm in findings.arms}
    place = (metric, None if is_pooled else limit, is_pooled)
    rows = [
        row.prompts
        for row in findings.effects
        if row.arm in labels and (row.metric, row.limit, row.is_pooled) == place
    ]
    return min(rows) if rows else None


def doubts(findings: Findings) -> list[str]:
    """What a reader should doubt, a line each: the comparison's warnings, and what was left out."""
    left_out = findings.comparison.not_shared
    reason = "an arm trained on them or did not answer them"
    more = [f"{left_out:,} prompts were left out: {reason}"] if left_out else []
    return findings.comparison.warnings + more
