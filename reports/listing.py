"""What exists: variants, runs and unfinished ones, evaluations, comparisons, as tables for the
terminal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dataset_builder.artifacts import artifacts_root, in_place, read_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest, Pointer
from evals.arms import BASE
from evals.imported import Imported
from evals.tables import Comparison, Evaluation
from finetune.checkpoints import UNFINISHED
from finetune.run import Run
from reports.figures import NOTHING, count, percent
from reports.text_tables import LINES, shown

Record = TypeVar("Record", bound=msgspec.Struct)

# Answers to no suite of ours: listed once, as imported answers.
IMPORTED_ALONE = "imported"

NAME = 46  # columns that a name may take before it is broken

# One line of a table; its first cell is the name by which commands take it.
Row = tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of artefact: how its table is headed, and what makes the first one."""

    title: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]  # columns that stand at the right
    command: str


VARIANTS = Kind(
    "Variants",
    ("variant", "build", "rows", "words", "concise", "made"),
    ("rows", "words", "concise"),
    "just build-data",
)
RUNS = Kind(
    "Runs",
    ("run", "steps", "loss", "held\nout", "finished"),
    ("steps", "loss", "held\nout"),
    "just train VARIANT PRESET",
)
IMPORTED = Kind(
    "Imported answers",
    ("name", "answers", "prompts", "refused"),
    ("answers", "prompts", "refused"),
    "just import-generations FILE",
)
EVALUATIONS = Kind("Evaluations", ("of", "suite", "prompts", "made"), ("prompts",), "just eval RUN")
COMPARISONS = Kind(
    "Comparisons", ("comparison", "arms", "suite", "made"), (), "just compare ARM ARM"
)


@dataclass(frozen=True)
class Listing:
    """The rows of every kind, and what could not be read."""

    rows: dict[str, list[Row]] = field(default_factory=dict)  # by a kind's title
    unreadable: list[str] = field(default_factory=list)


def listing(root: Path | None = None) -> RenderableType:
    """Tables of all that `root` holds; for each kind of which there is none, what to type."""
    found = read_listing(root or artifacts_root())
    parts: list[RenderableType] = []
    for kind in (VARIANTS, RUNS, IMPORTED, EVALUATIONS, COMPARISONS):
        rows = found.rows[kind.title]
        parts.append(Text(kind.title, "bold"))
        parts.append(_table(kind, rows) if rows else Text(f" none yet: type `{kind.command}`"))
        parts.append(Text())
    if found.unreadable:
        parts.append(Text("Cannot be read", "bold"))
        parts += [shown(f" {line}") for line in found.unreadable]
    return Group(*parts)


def read_listing(root: Path) -> Listing:
    """What lies below `root`, a missing or empty folder included."""
    unreadable: list[str] = []
    rows = {
        VARIANTS.title: _variants(root, unreadable),
        RUNS.title: _runs(root, unreadable),
        IMPORTED.title: _imported(root, unreadable),
        EVALUATIONS.title: _evaluations(root, unreadable),
        COMPARISONS.title: _comparisons(root, unreadable),
    }
    return Listing(rows, unreadable)


def unfinished_runs(root: Path) -> list[Path]:
    """The folders of runs that were begun and not finished."""
    return [
        path
        for path in in_place(root / "runs", "*/*")
        if path.is_dir() and not (path / "run.json").is_file()
    ]


def moment(stamp: str) -> str:
    """An ISO 8601 time as date, hour and minute in UTC; as it is where it is none.

    >>> moment("2026-01-05T10:05:33+00:00")
    '2026-01-05 10:05'
    """
    try:
        return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return stamp


def _variants(root: Path, unreadable: list[str]) -> list[Row]:
    current = {
        pointer.build for _, pointer in _records(root, "variants/*.json", Pointer, unreadable)
    }
    rows: list[Row] = []
    for path, manifest in _records(root, "variants/*/manifest.json", Manifest, unreadable):
        train = manifest.splits["train"]
        rows.append(
            (
                manifest.name,
                manifest.digest[:12] + ("" if path.parent.name in current else " (old)"),
                count(train.rows),
                count(train.words),
                percent(train.concise / train.rows if train.rows else None),
                _changed(path),
            )
        )
    return rows


def _runs(root: Path, unreadable: list[str]) -> list[Row]:
    found = {path.parent: run for path, run in _records(root, "runs/*/*/run.json", Run, unreadable)}
    rows = {
        directory: (
            count(run.steps),
            f"{run.train_loss:.2f}",
            NOTHING if run.validation_loss is None else f"{run.validation_loss:.2f}",
            moment(run.finished),
        )
        for directory, run in found.items()
    }
    for directory in unfinished_runs(root):
        steps = [
            int(path.name[5:])
            for path in directory.glob("checkpoints/step-*")
            if path.name[5:].isdigit()
        ]
        rows[directory] = (count(max(steps, default=0)), NOTHING, NOTHING, "not finished")
    starts = {directory: _start(run) for directory, run in found.items() if run.parent}
    return _under_folders([(directory, rows[directory]) for directory in sorted(rows)], starts)


def _start(run: Run) -> str:
    """The method, and the variant and seed of the run that it went on from."""
    assert run.parent
    return f"{run.method} from {run.parent.manifest.name} s{run.parent.seed}"


def _imported(root: Path, unreadable: list[str]) -> list[Row]:
    """Every arm of a model below a line with its name, as an arm's own leaves no room beside it."""
    found = [source for _, source in _records(root, "imported/*/source.json", Imported, unreadable)]
    lines: list[Row] = []
    for model, sources in groupby(found, lambda source: source.model):
        lines.append((model, "", "", ""))
        lines += [
            (
                f"  {source.name}",
                count(source.answers),
                count(source.prompts),
                count(sum(source.refused.values()) + source.unasked),
            )
            for source in sources
        ]
    return lines


def _evaluations(root: Path, unreadable: list[str]) -> list[Row]:
    return _under_folders(
        [
            (path.parents[2], (evaluation.name, count(evaluation.prompts), _changed(path)))
            for pattern in (
                "runs/*/*/evals/*/eval.json",
                "bases/*/evals/*/eval.json",
                "imported/*/evals/*/eval.json",
            )
            for path, evaluation in _records(root, pattern, Evaluation, unreadable)
            if evaluation.suite_name != IMPORTED_ALONE
        ]
    )


def _comparisons(root: Path, unreadable: list[str]) -> list[Row]:
    return [
        (
            comparison.name,
            ", ".join(arm.label for arm in comparison.arms if arm.label != BASE),
            comparison.suite,
            moment(comparison.created),
        )
        for _, comparison in _records(root, "comparisons/*/comparison.json", Comparison, unreadable)
    ]


def _records(
    root: Path, pattern: str, struct: type[Record], unreadable: list[str]
) -> Iterator[tuple[Path, Record]]:
    """The records that `pattern` finds, sorted by path; what is damaged goes to `unreadable`, and
    the rest is listed.
    """
    for path in in_place(root, pattern):
        try:
            yield path, read_json(path, struct)
        except InputError as error:
            unreadable.append(str(error))


def _under_folders(
    rows: list[tuple[Path, Row]], notes: Mapping[Path, str] | None = None
) -> list[Row]:
    """Directories by their own name, each folder of them (a preset's, the base models') below a
    line with its name; below a directory the note about it.
    """
    lines: list[Row] = []
    folder = None
    for directory, cells in rows:
        if directory.parent != folder:
            folder = directory.parent
            lines.append((f"{folder.name}/", *("" for _ in cells)))
        lines.append((f"  {directory.name.removesuffix(UNFINISHED)}", *cells))
        if notes and directory in notes:
            lines.append((f"    {notes[directory]}", *("" for _ in cells)))
    return lines


def _changed(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")


def _table(kind: Kind, rows: list[Row]) -> Table:
    table = Table(header_style="", box=LINES, padding=(0, 0, 0, 1), show_edge=False)
    for place, column in enumerate(kind.columns):
        table.add_column(
            column,
            justify="right" if column in kind.numbers else "left",
            overflow="fold",
            # Names are what is typed next; the rest gives way first.
            no_wrap=place > 0 and column in kind.numbers,
            min_width=None if place else min(NAME, max(len(row[0]) for row in rows)),
        )
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    return table
