"""What an evaluation would do, as values that a dry run prints."""

import glob
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from dataset_builder.artifacts import artifacts_root, in_place
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from dataset_builder.settings import parse_settings
from dataset_builder.template import Template
from evals.prompts import (
    Prompt,
    PromptFile,
    Question,
    questions,
    read_prompt_files,
    suite_digest,
    suite_prompts,
)
from evals.suite import Suite, load_suite, suite_label
from finetune.base import BaseFiles, known_base, ready_base
from finetune.chat import template_of
from finetune.methods import METHODS
from finetune.preset import Base, Preset
from finetune.run import Run, load_run, refuse_changed_adapter


class Watcher(Protocol):
    """Who is told how it goes; nothing that it does changes the evaluation."""

    def say(self, line: str) -> None:
        """A line worth keeping."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of one stage is done."""


class Silent:
    """A watcher that looks away."""

    def say(self, line: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Planned:
    """One evaluation: of a run, or of a base model."""

    directory: Path
    run: Run | None  # None for a base model
    run_directory: Path | None
    base: Base
    files: BaseFiles
    template: Template
    tables: str
    manifest: Manifest | None  # of the run's variant
    suite: Suite = field(default_factory=lambda: Suite(title="", limits=(), scorers=()))
    suite_name: str = ""
    suite_digest: str = ""
    prompt_files: tuple[PromptFile, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def is_done(self) -> bool:
        return (self.directory / "eval.json").is_file()

    @property
    def label(self) -> str:
        return self.run.name if self.run else f"base {self.base.model}"

    @property
    def short(self) -> str:
        """What a progress bar has room for."""
        return f"{self.run.variant} s{self.run.seed}" if self.run else "base"

    @property
    def partial_path(self) -> Path:
        return self.directory.with_name(f".{self.directory.name}.partial.jsonl")


def remove_partial(path: Path) -> None:
    """Delete the partial answers at `path` and all that was written beside them, also what a killed
    process left half written.
    """
    for left in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        left.unlink(missing_ok=True)


def plan(
    run_directories: Sequence[Path],
    suite_name: str,
    prompt_files: Sequence[Path],
    watcher: Watcher,
    is_again: bool = False,
    reward: str | None = None,
) -> list[Planned]:
    """An evaluation per run, and one per base model, template and tables among them.

    With `is_again`, those that are there are scored again, and need neither adapter nor base for
    that. `reward` is a reward model that scores beside the suite's scorers. Raises InputError where
    a run is unfinished, its adapter or base is not what it was trained as, a prompt file cannot be
    read, or no prompt is left.
    """
    suite = load_suite(suite_name, reward)
    name = suite_label(suite_name)
    files = read_prompt_files(suite, list(prompt_files))
    digest = suite_digest(suite, files)
    for file in files:
        if file.refused:
            counts = ", ".join(f"{n} {reason}" for reason, n in file.refused.items())
            watcher.say(
                f"{file.name}: {len(file.prompts)} prompts; lines refused: {counts} "
                f"({'; '.join(file.examples)})"
            )
    planned: list[Planned] = []
    for bare in planned_runs(run_directories, watcher, is_again):
        prompts = tuple(suite_prompts(suite, name, bare.tables, files))
        of_run = replace(
            bare,
            directory=bare.directory / "evals" / f"{name}-{digest[:8]}",
            suite=suite,
            suite_name=name,
            suite_digest=digest,
            prompt_files=tuple(files),
            prompts=prompts,
            questions=tuple(questions(suite, list(prompts))),
        )
        of_base = base_evaluation(
            of_run.files, of_run.base, of_run.template.name, of_run.tables, name, digest
        )
        both = [
            of_run,
            replace(of_run, directory=of_base, run=None, run_directory=None, manifest=None),
        ]
        if is_again and not all(each.is_done for each in both):
            list(planned_runs([bare.directory], watcher))  # it says what is not here
        planned += both
    unique = {each.directory: each for each in planned}
    return sorted(unique.values(), key=lambda each: each.run is None)


def planned_runs(
    run_directories: Sequence[Path], watcher: Watcher, is_again: bool = False
) -> Iterator[Planned]:
    """Each run as it would answer, asked nothing yet; its directory is the run's own.

    With `is_again` its answers are there, and its adapter and base need not be. Raises InputError
    where a run is unfinished, or its adapter or base is not what it was trained as.
    """
    for directory in run_directories:
        run = load_run(directory)
        if not METHODS[run.method].answers:
            raise InputError(
                f"run `{run.name}` is a reward model: it gives answers a number, and none itself",
                f"score answers by it: `just eval RUN --reward {run.preset_name}/{run.variant}`",
            )
        preset = parse_settings(run.preset, Preset, f"{directory / 'run.json'}: preset")
        known = known_base(preset.base, run.base.digest) if is_again else None
        try:
            base_files = _base_of(run, preset.base, watcher)
        except InputError:
            if known is None:
                raise
            base_files = known
        if not is_again:
            refuse_changed_adapter(directory, run)
        yield Planned(
            directory=directory,
            run=run,
            run_directory=directory,
            base=preset.base,
            files=base_files,
            template=template_of(preset, base_files),
            tables=run.manifest.tables,
            manifest=run.manifest,
        )


def _base_of(run: Run, base: Base, watcher: Watcher) -> BaseFiles:
    """The files of the base that the run was trained on. Raises InputError where they are not here,
    or are another's."""
    found = ready_base(base, watcher.say)
    if found.digest != run.base.digest:
        raise InputError(
            f"run `{run.name}` was trained on base {run.base.digest[:12]}, "
            f"and `{base.model}` is now {found.digest[:12]}",
            "bring back the model it was trained on, or train it again",
        )
    return found


@dataclass(frozen=True)
class Asking:
    """A suite and what it asks, of no run in particular."""

    suite: Suite
    name: str
    digest: str
    template: Template | None  # of the run that was named
    questions: tuple[Question, ...]


def suite_questions(
    suite_name: str,
    prompt_files: Sequence[Path],
    run_directory: Path | None,
    tables: str | None,
    in_its_template: bool = True,
) -> Asking:
    """What a suite asks by the tables of a run, by those named, or by the only ones there are.

    Raises InputError where it is not clear which tables are meant, or no prompt is left.
    """
    suite = load_suite(suite_name)
    name = suite_label(suite_name)
    files = read_prompt_files(suite, list(prompt_files))
    template = None
    if run_directory is not None:
        run = load_run(run_directory)
        tables = run.manifest.tables
        if in_its_template:
            preset = parse_settings(run.preset, Preset, f"{run_directory / 'run.json'}: preset")
            template = template_of(preset, ready_base(preset.base))
    elif suite.held_out:
        tables = _the_tables(tables)
    prompts = suite_prompts(suite, name, tables or "", files)
    digest = suite_digest(suite, files)
    return Asking(suite, name, digest, template, tuple(questions(suite, prompts)))


def _the_tables(named: str | None) -> str:
    found = [path.parent.name for path in in_place(artifacts_root(), "tables/*/source.json")]
    meant = [name for name in sorted(found) if name.startswith(named[:12] if named else "")]
    if len(meant) != 1:
        which = f"{len(meant)} tables are called `{named}`" if named else f"there are {len(found)}"
        raise InputError(
            f"which tables' held-out prompts are meant? {which}",
            f"name a run with `--run`, or one with `--tables`: {', '.join(sorted(found)) or 'none'}"
            if found
            else "type `just build-data`",
        )
    return meant[0]


def base_evaluation(
    files: BaseFiles, base: Base, template: str, tables: str, suite_name: str, digest: str
) -> Path:
    """Where a base model's answers lie: its name says too how it was quantised, asked, and by which
    held-out prompts."""
    parts = [digest, base.quantization, base.precision, template, tables]
    return (
        files.home
        / "evals"
        / f"{suite_name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"
    )


def intention(each: Planned, rescore: bool) -> str:
    """What evaluating it would do, in one line."""
    if each.is_done:
        todo = "would be scored again" if rescore else "is there already"
    else:
        todo = f"would be made: {len(each.questions)} answers to {len(each.prompts)} prompts"
    return f"{each.directory}: {each.label}, {todo}"
