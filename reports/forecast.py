"""How long the cells of a study will take and how much memory, for its dry run: by what was
measured here, else by what a T4 would take, an estimate that nobody ran.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dataset_builder.artifacts import artifacts_root, in_place, read_json
from dataset_builder.errors import InputError
from dataset_builder.json_lines import read_lines
from dataset_builder.manifest import read_variant
from finetune.base import PACKAGE, BaseRecord
from finetune.duration import T4, duration
from finetune.memory import BF16
from finetune.methods import sequences_of
from finetune.preset import Base
from finetune.progress import span
from finetune.route import MARGIN, choose, routes
from finetune.run import load_run
from reports.cells import Cell, Grid
from reports.figures import NOTHING
from reports.workers import Time

LETTERS = 4.2  # that a token of English has, about


class Expected(NamedTuple):
    """What a cell is expected to take."""

    seconds: float | None  # None: nothing like it was done here yet
    on_t4: float | None  # seconds of training alone; None where that cannot be estimated
    memory: float | None  # bytes; None: the base model is not on this disk


def read_times(grid: Grid) -> list[Time]:
    """The cells that this study has done or tried, in their order."""
    path = grid.located.home / "times.jsonl"
    return read_lines(path.read_bytes(), Time) if path.is_file() else []


def expectation(grid: Grid) -> Callable[[Cell], Expected]:
    """What each cell is expected to take: as the same arm's did, else as others under the same
    preset or on the same suite.
    """
    seconds: dict[tuple[str, ...], list[float]] = {}
    timed = set()
    for took in read_times(grid):
        if took.code == 0 and took.cell.arm in grid.located.arms:
            timed.add(took.cell)
            for key in _keys(grid, took.cell):
                seconds.setdefault(key, []).append(took.seconds)
    for cell in [cell for cell in grid.cells() if cell not in timed]:
        # Runs that were trained without the study say less: their start is not in it.
        directory = grid.run_directory(cell.arm, cell.seed)
        if cell.suite is None and directory and (directory / "run.json").is_file():
            run = load_run(directory)
            for key in _keys(grid, cell):
                seconds.setdefault(key, []).append(run.seconds + run.preview_seconds)
    needed = {name: _needed(grid, name) for name in grid.located.arms}

    def expected(cell: Cell) -> Expected:
        known = [seconds[key] for key in _keys(grid, cell) if key in seconds]
        on_t4, memory = needed[cell.arm] if cell.suite is None else (None, None)
        return Expected(fmean(known[0]) if known else None, on_t4, memory)

    return expected


def stage_lines(grid: Grid) -> list[str]:
    """How long each stage has taken in all, processes' starts included, over all that was done."""
    taken: dict[str, list[float]] = {}
    for took in read_times(grid):
        if took.code == 0:
            taken.setdefault(took.cell.suite or "train", []).append(took.seconds)
    return [
        f"{stage}: {len(each)} cells, {span(sum(each))} in all, {span(fmean(each))} each"
        for stage, each in taken.items()
    ]


def cells_table(grid: Grid, jobs: int) -> RenderableType:
    """Every cell with its state and what it is expected to take, and the sum of what is left."""
    expected = expectation(grid)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for column in ("arm", "seed", "cell", "state", "time", "GPU memory"):
        table.add_column(
            column, justify="right" if column in ("seed", "time", "GPU memory") else "left"
        )
    left: list[Expected] = []
    before = ""
    for label in grid.located.arms:
        for cell in [cell for cell in grid.cells() if cell.arm == label]:
            state, found = grid.state(cell), expected(cell)
            step = (
                f" at step {grid.steps_done(cell)}"
                if cell.suite is None and state == "unfinished"
                else ""
            )
            if state != "there":
                left.append(found)
            table.add_row(
                Text(label if label != before else ""),
                str(cell.seed) if cell.suite is None else "",
                cell.suite or "train",
                state + step,
                *(("", "") if state == "there" else (_time(found), _gigabytes(found.memory))),
            )
            before = label
    unbuilt = [arm for arm, manifest in grid.manifests.items() if manifest is None]
    lines = [f"not built as the study says now: {', '.join(unbuilt)}"] if unbuilt else []
    return Group(table, Text(), *(Text(line) for line in [*lines, *_sums(left, jobs)]))


def _time(found: Expected) -> str:
    """A time as a person reads it, by the best that is known."""
    if found.seconds is not None:
        return span(found.seconds)
    return NOTHING if found.on_t4 is None else f"T4: {span(found.on_t4)}"


def _gigabytes(size: float | None) -> str:
    return NOTHING if size is None else f"{size / 1e9:.1f} GB"


def _sums(left: list[Expected], jobs: int) -> Iterator[str]:
    known = [each.seconds for each in left if each.seconds is not None]
    yield f"{len(left)} cells are to be done"
    if left and known:
        total = fmean(known) * len(left)
        yield f"about {span(total)} one after another, by what cells like them took here"
    elif left:
        yield "how long they take here is known once a cell of their kind was done"
    if any(each.seconds is None and each.on_t4 is not None for each in left):
        yield "T4: what training alone would take on such a card, an estimate that was not run"
    memory = max((each.memory or 0 for each in left), default=0)
    if memory and jobs > 1:
        yield f"{jobs} at once on a card want up to {jobs * memory / 1e9:.1f} GB of it"


def _keys(grid: Grid, cell: Cell) -> list[tuple[str, ...]]:
    """What a cell is like, the most like it first."""
    if cell.suite is not None:
        return [(cell.suite, cell.arm), (cell.suite,)]
    return [("train", cell.arm), ("train", "preset", grid.located.arms[cell.arm].preset_file)]


def _needed(grid: Grid, arm: str) -> tuple[float | None, float | None]:
    """Seconds of training on a T4, and bytes on a card that multiplies in bf16, each on the
    quickest way that the preset allows.
    """
    preset = grid.located.arms[arm].preset
    directory = _base_directory(preset.base)
    if directory is None:
        return None, None
    needed = routes(directory, preset, BF16)[0].needed
    assert needed is not None
    tokens = _tokens(grid, arm)
    if tokens is None:
        return None, needed.total * MARGIN
    taken = choose(routes(directory, preset, None), T4.memory)
    estimated = duration(
        directory,
        preset,
        T4,
        tokens=tokens,
        micro_batches=preset.training.examples / preset.training.micro_batch,
        is_checkpointed=taken.is_checkpointed,
    )
    return estimated.total, needed.total * MARGIN


def _tokens(grid: Grid, arm: str) -> float | None:
    """About how many tokens an arm's training reads, by the letters of its rows; None where its
    variant is not built, or answers are drawn while it trains.
    """
    preset, manifest = grid.located.arms[arm].preset, grid.manifests[arm]
    if manifest is None or preset.grpo:
        return None
    build = f"{manifest.name}-{manifest.digest[:12]}"
    answer = "completion" if manifest.form == "answers" else "chosen"
    rows = read_variant(
        artifacts_root() / "variants" / build, manifest, "train", ["prompt", answer]
    ).to_pylist()
    lengths = [
        sum(len(turn["content"]) for turn in [*row["prompt"], *row[answer]]) / LETTERS
        for row in rows
    ]
    mean = fmean(min(length, preset.length) for length in lengths)
    return mean * preset.training.examples * sequences_of(preset)


def _base_directory(base: Base) -> Path | None:
    """Where the base model's files lie; None where they are not here, or not made ready yet."""
    if base.model.startswith(PACKAGE):
        for path in in_place(artifacts_root(), "bases/*/base.json"):
            try:
                if read_json(path, BaseRecord).model == base.model:
                    return path.parent / "model"
            except InputError:
                continue
        return None
    if Path(base.model).is_dir():
        return Path(base.model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base.model, "config.json", revision=base.revision)
    return Path(found).parent if isinstance(found, str) else None
