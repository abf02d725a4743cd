"""The cells of a study: one run, or one evaluation of a run, each by a public command.

What is there is read off the artefacts and remembered nowhere else, so that a study goes on after
any interruption, and takes what was made without it. No Polars and no torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from dataset_builder.artifacts import artifacts_root, read_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from dataset_builder.settings import settings_digest
from evals.arms import find_base
from evals.prompts import read_prompt_files, suite_digest
from evals.suite import load_suite
from evals.tables import Evaluation
from finetune.checkpoints import unfinished_of
from finetune.run import Run, load_run, run_name, runs_root
from reports.study import Located

State = Literal["there", "unfinished", "missing"]


class Cell(msgspec.Struct, frozen=True):
    """One thing to do: to train an arm's run of one seed, or to evaluate it on a suite."""

    arm: str
    seed: int
    suite: str | None = None  # None: train

    @property
    def name(self) -> str:
        """What people and logs call it."""
        return f"{self.suite or 'train'} {self.arm} s{self.seed}"


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """built.json: which variants a study trains on, by arm, as the folders of their builds."""

    builds: dict[str, dict]  # what was built from, as the study said it
    variants: dict[str, str]


class Grid:
    """A study's cells and where each lies."""

    def __init__(self, located: Located) -> None:
        self.located = located
        self.study = located.study
        self.built = _read_built(located)
        self.manifests = {arm: self._manifest(arm) for arm in located.arms}
        digests = {name: _digest(file, located.prompts) for name, file in located.suites.items()}
        self.evaluations = {name: f"{name}-{digest[:8]}" for name, digest in digests.items()}
        self._with_base: set[tuple[str, ...]] = set()

    def cells(self) -> list[Cell]:
        """All cells, in the order in which they are best done: seed by seed, so that what is there
        when time is out can be compared.
        """
        return [
            Cell(arm, seed, suite)
            for seed in self.study.seeds
            for arm in self.located.arms
            for suite in (None, *self.located.suites)
        ]

    def needs(self, cell: Cell) -> Cell | None:
        """The cell that comes before this one, if any."""
        if cell.suite is not None:
            return Cell(cell.arm, cell.seed)
        start = self.located.arms[cell.arm].start
        return Cell(start, cell.seed) if start else None

    def run_directory(self, arm: str, seed: int) -> Path | None:
        """Where the run lies or will lie; None while its variant is not built, or what it goes on
        with is not trained.
        """
        placed, manifest = self.located.arms[arm], self.manifests[arm]
        if manifest is None:
            return None
        parent: Run | None = None
        if placed.start is not None:
            before = self.run_directory(placed.start, seed)
            if before is None or not (before / "run.json").is_file():
                return None
            parent = load_run(before)
        file = placed.preset_file
        short = Path(file).stem if file.endswith(".toml") else file
        digest = settings_digest(placed.preset)
        return runs_root() / run_name(manifest, short, digest, seed, parent)

    def evaluation(self, cell: Cell) -> Path | None:
        """Where the evaluation lies or will lie; None as for its run."""
        assert cell.suite is not None
        run = self.run_directory(cell.arm, cell.seed)
        return run / "evals" / self.evaluations[cell.suite] if run else None

    def state(self, cell: Cell) -> State:
        """Whether the cell is done, begun or neither."""
        if cell.suite is None:
            run = self.run_directory(cell.arm, cell.seed)
            if run is None:
                return "missing"
            if (run / "run.json").is_file():
                return "there"
            return "unfinished" if any(_checkpoints(run)) else "missing"
        directory = self.evaluation(cell)
        if directory is None:
            return "missing"
        if (directory / "eval.json").is_file():
            # The base model answers in the same command, and may have been what was interrupted.
            return "there" if self.has_base(cell) else "unfinished"
        begun = any(directory.parent.glob(f".{directory.name}.partial*.jsonl"))
        return "unfinished" if begun else "missing"

    def has_base(self, cell: Cell) -> bool:
        """Whether the base model's answers to the cell's suite are there, for all of its arms."""
        key = self.base_key(cell)
        directory = self.evaluation(cell)
        if key in self._with_base:
            return True
        if directory is None or not (directory / "eval.json").is_file():
            return False
        if find_base(read_json(directory / "eval.json", Evaluation)) is None:
            return False
        self._with_base.add(key)
        return True

    def base_key(self, cell: Cell) -> tuple[str, ...]:
        """What evaluations share the answers of one base model."""
        preset, manifest = self.located.arms[cell.arm].preset, self.manifests[cell.arm]
        tables = manifest.tables if manifest else ""
        return (str(cell.suite), tables, settings_digest(preset.base), preset.template)

    def command(self, cell: Cell) -> list[str]:
        """The package and the arguments of the public command that does the cell."""
        placed = self.located.arms[cell.arm]
        if cell.suite is not None:
            run = self.run_directory(cell.arm, cell.seed)
            prompts = [f"--prompts={path}" for path in self.located.prompts]
            suite = f"--suite={self.located.suites[cell.suite]}"
            return ["evals", "eval", str(run), suite, *prompts]
        assert self.built is not None
        variant = artifacts_root() / "variants" / self.built.variants[cell.arm]
        told = ["finetune", "train", str(variant), placed.preset_file, f"--seed={cell.seed}"]
        if placed.start is not None:
            told.append(f"--from={self.run_directory(placed.start, cell.seed)}")
        return [*told, "--resume"] if self.state(cell) == "unfinished" else told

    def steps_done(self, cell: Cell) -> int:
        """The last step of a run that has a checkpoint; 0 of one that was not begun."""
        run = self.run_directory(cell.arm, cell.seed)
        steps = [int(path.name[5:]) for path in (_checkpoints(run) if run else ())]
        return max(steps, default=0)

    def _manifest(self, arm: str) -> Manifest | None:
        build = self.built.variants.get(arm) if self.built else None
        path = artifacts_root() / "variants" / str(build) / "manifest.json"
        return read_json(path, Manifest) if build and path.is_file() else None


def first_ready(
    grid: Grid, left: Sequence[Cell], done: set[Cell], running: Iterable[Cell]
) -> Cell | None:
    """The cell of `left` to do next: what it needs is done, and where the base model has not
    answered yet, no other cell is having it answer. Evaluations come before further training.
    """
    answering = {
        grid.base_key(cell)
        for cell in running
        if cell.suite is not None and not grid.has_base(cell)
    }
    ready = [cell for cell in left if (before := grid.needs(cell)) is None or before in done]
    evaluations = [
        cell for cell in ready if cell.suite is not None and grid.base_key(cell) not in answering
    ]
    trainings = [cell for cell in ready if cell.suite is None]
    return next(iter([*evaluations, *trainings]), None)


def blocked(grid: Grid, left: Sequence[Cell], failed: set[Cell]) -> list[Cell]:
    """Those of `left` that will never be ready, since something before them failed."""

    def fails(cell: Cell) -> bool:
        before = grid.needs(cell)
        return before is not None and (before in failed or fails(before))

    return [cell for cell in left if fails(cell)]


def write_built(located: Located, variants: dict[str, str]) -> Built:
    """Remember which builds a study trains on."""
    from dataset_builder.artifacts import write_json

    built = Built(builds=_said(located), variants=variants)
    located.home.mkdir(parents=True, exist_ok=True)
    write_json(built, located.home / "built.json")
    return built


def _read_built(located: Located) -> Built | None:
    """What was built for the study, of those arms whose variant and sources are still the same;
    None where nothing was.
    """
    path = located.home / "built.json"
    if not path.is_file():
        return None
    built, said = read_json(path, Built), _said(located)
    variants = {
        arm.name: build
        for arm in located.arms.values()
        if (build := built.variants.get(arm.name, "")).rpartition("-")[0] == arm.variant
        and built.builds.get(arm.build) == said[arm.build]
    }
    return msgspec.structs.replace(built, variants=variants)


def _said(located: Located) -> dict[str, dict]:
    said = {name: msgspec.to_builtins(build) for name, build in located.study.builds.items()}
    made: dict[str, dict] = msgspec.json.decode(msgspec.json.encode(said))
    return made


def _checkpoints(run: Path) -> Iterator[Path]:
    found = (unfinished_of(run) / "checkpoints").glob("step-*/complete.json")
    return (path.parent for path in found)


def _digest(suite_file: str, prompts: Sequence[Path]) -> str:
    for path in prompts:
        if not path.is_file():
            raise InputError(
                f"no prompt file `{path}`", "`--data FOLDER` says where the study's files lie"
            )
    suite = load_suite(suite_file)
    return suite_digest(suite, read_prompt_files(suite, list(prompts)))
