"""What an evaluation found, as one compact table for the terminal."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from dataset_builder.artifacts import read_json
from dataset_builder.printable import printable
from dataset_builder.tables import read_table
from dataset_builder.wordings import FAMILIES, UNIT_FAMILIES, family
from evals.scorers import ASKED_OF, FROZEN, QUALITY
from evals.tables import SCORES, Evaluation, Gate

# In the order the table shows them: the base's own answers are its `run`.
REFERENCES = ("run", "human", "human_cut", "other_human", "one_word", "base_cut")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One answerer at one limit."""

    answerer: str
    family: str  # of the wordings; evaluation where no limit was stated
    limit: int | None
    answers: int
    means: dict[str, float]  # by metric; of words, the median


def lines(directory: Path) -> list[Line]:
    """The evaluation in `directory` by answerer and limit."""
    evaluation = read_json(directory / "eval.json", Evaluation)
    name = short_name(evaluation.run) if evaluation.run else "base"
    values: dict[tuple[str, str, int | None], dict[str, list[float]]] = {}
    for row in read_table(directory / "scores.parquet", SCORES).to_pylist():
        place = values.setdefault((row["answerer"], family(row["wording"]), row["limit"]), {})
        place.setdefault(row["metric"], []).append(row["value"])
    found = []
    for asked in sorted(values, key=_order):
        answerer, kind, limit = asked
        means = {metric: statistics.fmean(each) for metric, each in values[asked].items()}
        if "words" in means:
            means["words"] = statistics.median(values[asked]["words"])
        shown = name if answerer == "run" else answerer
        answers = max(map(len, values[asked].values()))
        found.append(Line(answerer=shown, family=kind, limit=limit, answers=answers, means=means))
    return found


def _order(place: tuple[str, str, int | None]) -> tuple:
    """Answerers as they are known, then the kinds of wordings, then limits, none last."""
    answerer, kind, limit = place
    kinds = (*FAMILIES, *UNIT_FAMILIES)
    return REFERENCES.index(answerer), kinds.index(kind), limit is None, limit or 0


def summary_table(directories: Sequence[Path]) -> Table:
    """Answerers by limit: share of limits broken, median words, share stopped, quality.

    A quality metric whose gate failed, or was not tried, carries a question mark.
    """
    gates = [gate for path in directories for gate in stored_gates(path)]
    passed = {gate.metric for gate in gates if gate.passed} - {
        gate.metric for gate in gates if not gate.passed
    }
    if reward_lines(directories):
        passed.discard("reward")
    rows = [line for path in directories for line in lines(path)]
    shown = [
        metric
        for metric in ("violation", "words", "stopped", *FROZEN, *ASKED_OF)
        if any(metric in row.means for row in rows)
    ]
    is_any_doubtful = bool(set(shown) & set(QUALITY) - passed)
    table = Table(
        title="Share of limits broken, median words, share ended by itself, quality",
        caption="?: its gate failed; it enters no verdict" if is_any_doubtful else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        # Kinds of wordings and three measures of relevance stand beside each other in 80 columns.
        padding=0,
        pad_edge=False,
    )
    table.add_column("answerer", overflow="fold", min_width=11)
    families = {row.family for row in rows}
    are_several = len(families) > 1 or bool(families & set(UNIT_FAMILIES))
    if are_several:
        table.add_column("asked", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for metric in shown:
        is_doubtful = metric in QUALITY and metric not in passed
        title = _TITLES.get(metric, metric) + "?" * is_doubtful
        table.add_column(title, justify="right", no_wrap=True)
    last = None
    for row in rows:
        if last not in (None, row.answerer):
            table.add_section()
        table.add_row(
            Text(printable(row.answerer if row.answerer != last else "")),
            *([row.family if row.limit is not None else ""] if are_several else []),
            "none" if row.limit is None else str(row.limit),
            str(row.answers),
            *(_number(metric, row.means.get(metric)) for metric in shown),
        )
        last = row.answerer
    return table


def contamination_lines(directories: Sequence[Path]) -> list[str]:
    """One line per run: how many of the suite's prompts stand in its training rows."""
    found = []
    for path in directories:
        record = read_json(path / "eval.json", Evaluation)
        if record.run is None:
            continue
        counts = ", ".join(f"{n} of {origin}" for origin, n in record.contamination.items())
        said = record.notes.get("contamination") or (
            f"{len(record.contaminated)} of {record.prompts} prompts stand in its training rows"
            + (f" ({counts}); a comparison leaves them out" if counts else "")
        )
        found.append(f"{short_name(record.run)}: contamination: {said}")
    return found


def unscored_lines(directories: Sequence[Path]) -> list[str]:
    """One line per evaluation that did not ask a question or has answers without a score: how many,
    by reason and by metric."""
    found = []
    for path in directories:
        record = read_json(path / "eval.json", Evaluation)
        name = short_name(record.run) if record.run else "base"
        for reason, n in record.refused.items():
            if "window" in reason:  # of lines of a prompt file was told when it was read
                found.append(f"{name}: {n} questions were not asked, {reason}")
        counts = ", ".join(f"{n} `{metric}`" for metric, n in record.unscored.items())
        if counts:
            found.append(f"{name}: of {record.generations} answers have no score: {counts}")
    return found


def reward_lines(directories: Sequence[Path]) -> list[str]:
    """One line per run that the reward model which scores it has trained."""
    found = []
    for path in directories:
        record = read_json(path / "eval.json", Evaluation)
        note = record.notes.get("reward", {})
        if record.run and note.get("trained_the_run"):
            found.append(
                f"{short_name(record.run)}: the reward model `{note['model']}` trained this run and"
                " scores its own pupil: `reward` takes no part in a verdict on it"
            )
    return found


def harness_table(directories: Sequence[Path]) -> Table:
    """Means of the tasks of lm-evaluation-harness, by answerer and metric."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("task", "answerer", "metric"):
        table.add_column(title, overflow="fold")
    for title in ("n", "mean"):
        table.add_column(title, justify="right", no_wrap=True)
    for directory in directories:
        evaluation = read_json(directory / "eval.json", Evaluation)
        name = short_name(evaluation.run) if evaluation.run else "base"
        values: dict[str, list[float]] = {}
        for row in read_table(directory / "scores.parquet", SCORES).to_pylist():
            values.setdefault(row["metric"], []).append(row["value"])
        for metric, each in values.items():
            table.add_row(
                Text(printable(evaluation.suite_name)),
                Text(printable(name)),
                Text(printable(metric)),
                str(len(each)),
                f"{statistics.fmean(each):.4f}",
            )
    return table


def gate_lines(directories: Sequence[Path]) -> list[str]:
    """One line per gate: whether a quality metric may enter a verdict, and why."""
    return [
        f"{gate.metric}: gate {'passed' if gate.passed else 'failed'}: {gate.reason}"
        for path in directories
        for gate in stored_gates(path)
    ]


def stored_gates(directory: Path) -> list[Gate]:
    """The gates of the evaluation in `directory`; a run's has none."""
    return read_json(directory / "eval.json", Evaluation).gates


def short_name(run: str) -> str:
    """A run's name as a table has room for it.

    >>> short_name("smollm2-1a2b3c4d/concise_best-9618daf7c02b-s0")
    'concise_best s0'
    """
    found = re.fullmatch(r"(.+)-[0-9a-f]{12}((?:-from-[0-9a-f]+)?)-(s\d+)", run.rpartition("/")[2])
    return f"{found[1]}{found[2]} {found[3]}" if found else run


# In as many lines as keep a column no wider than its numbers.
_TITLES = {
    "violation": "broken",
    "relevance": "rele-\nvance",
    "relevance_total": "total",
    "relevance_controlled": "control-\nled",
}


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if metric == "words" else f"{value:.2f}"
