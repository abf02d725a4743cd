"""What evaluations and comparisons say of a run, written into its model card.

The card's own words stay: only what stands between two marks is replaced, and of the metadata the
results that an earlier refreshing wrote.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dataset_builder.artifacts import artifacts_root, in_place, read_json, write_text
from dataset_builder.errors import InputError
from evals.arms import BASE, Answers, find_base, load_answers
from evals.tables import Comparison, Evaluation
from finetune.run import Run
from reports import figures
from reports.figures import METRICS, TRIVIAL, Metric
from reports.findings import headlines_of
from reports.markdown import plain, row

BEGIN, END = "<!-- treetune: evaluation -->", "<!-- treetune: end of evaluation -->"
# Results of others are left alone; ours are known by this.
SUITES = "treetune/"

# Shown in a card, in this order, where they were scored; quality only where its gate passed.
SHOWN = ("violation", "overshoot", "relevance_total", "relevance")


class Scored(NamedTuple):
    """One evaluation of a run: the run's scores and those of the answerers beside it, by name."""

    evaluation: Evaluation
    answers: dict[str, Answers]
    gates: dict[str, bool]  # by metric of quality, whether it passed

    @property
    def limits(self) -> list[int | None]:
        found = {limit for values in self.answers["run"].values.values() for _, limit in values}
        return sorted(found, key=lambda limit: (limit is None, limit or 0))


def refresh_card(directory: Path, run: Run, card: Path | None = None) -> Path:
    """Write what evaluations and comparisons say of the run in `directory` into its card, or into
    `card`; the card's path.

    Raises InputError where there is no card, or where the run was not evaluated.
    """
    path = card or directory / "adapter" / "README.md"
    scored = [_scored(found.parent) for found in in_place(directory, "evals/*/eval.json")]
    if not scored:
        name = f"{directory.parent.name}/{directory.name}"
        raise InputError(f"run `{name}` was not evaluated", f"type `just eval {name}`")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    write_text(refreshed(text, run, scored, _verdicts(directory)), path)
    return path


def refreshed(text: str, run: Run, scored: list[Scored], verdicts: list[str]) -> str:
    """The card `text` with the figures of each evaluation, and what comparisons said."""
    made = ModelCard(text, ignore_metadata_errors=True)
    data = ModelCardData(**made.data.to_dict(), ignore_metadata_errors=True)
    others = [each for each in data.eval_results or [] if not each.dataset_type.startswith(SUITES)]
    data.eval_results = [*others, *(result for each in scored for result in results(each))]
    # The Hub wants a name beside results.
    data.model_name = data.model_name or run.name.rpartition("/")[2]
    parts = [evaluation_markdown(each) for each in scored]
    if verdicts:
        parts.append("Compared with others:\n\n" + "\n".join(f"* {line}" for line in verdicts))
    section = "\n\n".join([BEGIN, "## Evaluation", *parts, END])
    return f"---\n{data.to_yaml()}\n---\n{_with_section(made.text, section)}"


def results(scored: Scored) -> list[EvalResult]:
    """The run's scores as the Hub's model index takes them: one per metric and limit."""
    evaluation = scored.evaluation
    found = []
    for metric in _shown_metrics(scored):
        for limit in scored.limits:
            value = _mean(scored.answers["run"], metric.name, limit)
            if value is not None:
                at = "no limit" if limit is None else f"{limit} words"
                found.append(
                    EvalResult(
                        task_type="text-generation",
                        task_name="Keeping a word limit",
                        dataset_type=f"{SUITES}{evaluation.suite_name}",
                        dataset_name=f"{evaluation.suite_name}, {evaluation.prompts} prompts",
                        dataset_config=evaluation.name,
                        dataset_split="test",
                        metric_type=f"{metric.name}_{'none' if limit is None else limit}",
                        metric_name=f"{metric.title} at {at}",
                        metric_value=round(value, 4),
                    )
                )
    return found


def evaluation_markdown(scored: Scored) -> str:
    """Each metric by answerer and limit, and the words given."""
    evaluation = scored.evaluation
    limits = scored.limits
    names = {"run": "this model", **TRIVIAL}
    parts = [
        plain(
            f"On {evaluation.prompts:,} prompts of the suite `{evaluation.suite_name}` "
            f"(`{evaluation.name}`), answers in {evaluation.settings.get('precision', 'unknown')}."
        )
    ]
    words = Metric("words", "Words given", "mean of an answer", "words")
    for metric in [*_shown_metrics(scored), words]:
        lines = [
            row([metric.title, *(figures.limit_name(limit) for limit in limits)]),
            row(["---", *("---:" for _ in limits)]),
        ]
        for name, shown in names.items():
            if name in scored.answers:
                values = [_mean(scored.answers[name], metric.name, limit) for limit in limits]
                lines.append(row([shown, *(figures.value(metric, value) for value in values)]))
        parts.append("\n".join([*lines, "", f"{metric.title}: {metric.about}."]))
    return "\n\n".join(parts)


def _scored(directory: Path) -> Scored:
    evaluation = read_json(directory / "eval.json", Evaluation)
    if not (directory / "scores.parquet").is_file():
        raise InputError(f"{directory}: not scored yet", f"type `just eval {evaluation.run}`")
    answers = {"run": load_answers(directory)["run"]}
    base = find_base(evaluation)
    gates = {}
    if base is not None:
        beside = load_answers(base)
        answers |= {BASE: beside["run"]} | {k: v for k, v in beside.items() if k in TRIVIAL}
        gates = {gate.metric: gate.passed for gate in beside["run"].evaluation.gates}
    return Scored(evaluation, answers, gates)


def _shown_metrics(scored: Scored) -> list[Metric]:
    there = scored.answers["run"].values
    quality = ("relevance_total", "relevance")
    return [
        METRICS[name]
        for name in SHOWN
        if name in there and (name not in quality or scored.gates.get(name))
    ]


def _mean(answers: Answers, metric: str, limit: int | None) -> float | None:
    values: Mapping = answers.values.get(metric, {})
    found = [value for (_, at), value in values.items() if at == limit]
    return fmean(found) if found else None


def _verdicts(directory: Path) -> list[str]:
    """What comparisons say of the arms that this run is a seed of, as Markdown."""
    place = directory.resolve().parts[-2:]
    lines = []
    for path in in_place(artifacts_root(), "comparisons/*/comparison.json"):
        comparison = read_json(path, Comparison)
        arms = [
            arm for arm in comparison.arms if place in {Path(run).parts[-2:] for run in arm.runs}
        ]
        for said in headlines_of(comparison):
            if any(arm.is_baseline or arm.label == said.arm for arm in arms):
                name = plain(f"`{comparison.name}`")
                lines.append(f"{name}: **{plain(said.verdict)}** {plain(said.because)}".rstrip())
    return lines


def _with_section(text: str, section: str) -> str:
    begin, end = text.find(BEGIN), text.find(END)
    if 0 <= begin < end:
        return text[:begin] + section + text[end + len(END) :]
    before, limits, after = text.partition("\n## Limits\n")
    if limits:
        return f"{before.rstrip()}\n\n{section}\n{limits}{after}"
    return f"{text.rstrip()}\n\n{section}\n"
