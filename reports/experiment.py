"""A whole study by the public commands: build what is missing, train and evaluate what is missing,
compare.

Each stage can be done alone, where its libraries are: training and evaluating need neither Polars
nor what compares, and what they made may be carried home.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import artifacts_root, file_digest, read_json, write_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from dataset_builder.settings import as_stored
from evals.suite import load_suite
from finetune.progress import span
from reports.cells import Cell, Grid, write_built
from reports.forecast import stage_lines
from reports.study import Build, Located, LocatedArm
from reports.workers import do_cells

Say = Callable[[str], None]


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """stated.json: what a study aimed at before its first run, and when it said so."""

    stated: str  # ISO 8601, UTC
    margins: dict[str, float]
    aims: list[dict[str, Any]]


def build(located: Located, say: Say) -> None:
    """Build the variants that are not there, and remember which builds are meant."""
    found = {arm.name: find_build(located, arm) for arm in located.arms.values()}
    for name, settings in located.study.builds.items():
        arms = [arm for arm in located.arms.values() if arm.build == name]
        recipes = list(dict.fromkeys(arm.recipe for arm in arms if found[arm.name] is None))
        if not recipes:
            continue
        say(f"building of `{name}`: {', '.join(recipes)}")
        made = dict(zip(recipes, _built(_build_command(located, recipes, settings)), strict=True))
        found |= {arm.name: made[arm.recipe] for arm in arms if arm.recipe in made}
    write_built(located, {label: path.name for label, path in found.items() if path is not None})


def find_build(located: Located, arm: LocatedArm) -> Path | None:
    """The build of the arm's variant from the study's sources as they now are; None where there is
    none, or where they are the Hub's, of which the command that builds knows more.
    """
    from dataset_builder.recipe import load_recipe

    settings = located.study.builds[arm.build]
    recipe = as_stored(load_recipe(arm.recipe))
    sources = [Path(name) for name in located.files(settings.sources)]
    against = [Path(name) for name in located.files(settings.decontaminate)]
    if not sources or not all(path.is_file() for path in [*sources, *against]):
        return None
    wanted = [sorted(map(file_digest, paths)) for paths in (sources, against)]
    for path in sorted(artifacts_root().glob(f"variants/{arm.variant}-*/manifest.json")):
        manifest = read_json(path, Manifest)
        files = manifest.notes.get("contamination", {}).get("files", [])
        digests = [
            sorted(file.sha256 for file in manifest.sources),
            sorted(file["sha256"] for file in files),
        ]
        is_same = (manifest.name, manifest.recipe) == (arm.variant, recipe)
        if is_same and manifest.held_out == settings.held_out and digests == wanted:
            return path.parent
    return None


def train(located: Located, jobs: int, say: Say) -> bool:
    """Train and evaluate what is not there yet; whether all of it came to be. What failed is said
    last.
    """
    grid = Grid(located)
    refuse_unbuilt(grid)
    stated_first(located)
    cells = grid.cells()
    there = sum(grid.state(cell) == "there" for cell in cells)
    say(f"{there} of {len(cells)} cells are there already")
    if there == len(cells):
        return True
    began = time.perf_counter()
    outcome = do_cells(grid, cells, jobs, say)
    say(f"{len(outcome.done)} cells done in {span(time.perf_counter() - began)}")
    for line in stage_lines(grid):
        say(line)
    for failure in outcome.failures:
        say(f"failed: {failure.cell.name}: {failure.reason} (see {failure.log})")
    if outcome.waiting:
        names = ", ".join(cell.name for cell in outcome.waiting)
        say(f"{len(outcome.waiting)} cells wait for what failed: {names}")
    return not outcome.failures


def stated_first(located: Located) -> Stated:
    """What the study aimed at when it first ran; written down where this is that time."""
    path = located.home / "stated.json"
    if path.is_file():
        return read_json(path, Stated)
    now = Stated(
        stated=datetime.now(UTC).isoformat(timespec="seconds"),
        margins=located.study.margins,
        aims=[as_stored(aim) for aim in located.study.aims],
    )
    located.home.mkdir(parents=True, exist_ok=True)
    write_json(now, path)
    return now


def refuse_unbuilt(grid: Grid) -> None:
    """Raise InputError where a variant that the study trains on is not there."""
    missing = [arm for arm, manifest in grid.manifests.items() if manifest is None]
    if missing:
        raise InputError(
            f"{len(missing)} variants of the study are not built as it says now: "
            f"{', '.join(missing)}",
            "`--only build` where its sources are, then carry the artefacts here",
        )


def compare(located: Located, say: Say) -> list[Path]:
    """A comparison of all arms on each suite, its page in it; their directories.

    Arms of another build have other held-out prompts, and with the first arm a comparison of their
    own.
    """
    grid = Grid(located)
    refuse_unbuilt(grid)
    made = []
    first = next(iter(located.arms))
    for suite in located.suites:
        for build_name in located.study.builds:
            arms = [
                arm.name
                for arm in located.arms.values()
                if arm.build == build_name and arm.name != first
            ]
            runs = {label: _evaluated(grid, label, suite) for label in [first, *arms]}
            for label, directories in runs.items():
                lacking = len(located.study.seeds) - len(directories)
                if lacking:
                    say(f"{suite} {label}: {lacking} seeds are missing")
            there = {label: directories for label, directories in runs.items() if directories}
            if first not in there or len(there) < 2:
                say(f"{suite}: nothing to compare `{first}` with yet")
                continue
            suffix = "" if build_name == located.arms[first].build else f"-{build_name}"
            name = f"{located.name}-{suite}{suffix}"
            made.append(_compared(located, grid, suite, there, name, say))
    return made


def beside_targets(labels: Sequence[str], manifests: Mapping[str, Manifest | None]) -> list[str]:
    """The labels with every control right after the first arm whose variant it controls."""
    targets: dict[str, str] = {}
    for label in labels:
        of = _control_of(manifests[label])
        target = next((each for each in labels if of and _recipe(manifests[each]) == of), None)
        if target is not None:
            targets[label] = target
    ordered = []
    for label in labels:
        if label not in targets:
            ordered.append(label)
            ordered += [each for each in labels if targets.get(each) == label]
    return ordered


def _compared(
    located: Located,
    grid: Grid,
    suite: str,
    runs: Mapping[str, list[Path]],
    name: str,
    say: Say,
) -> Path:
    from evals.compare import compare as compare_arms
    from reports.findings import headlines, read_findings
    from reports.html import write_report

    ordered = beside_targets(list(runs), grid.manifests)
    scored = load_suite(located.suites[suite]).scorers
    margins = {key: value for key, value in located.study.margins.items() if key in scored}

    def write_page(made: Path) -> None:
        findings = read_findings(made)
        write_report(findings, made / "report.html")
        for said in headlines(findings):
            say(said.verdict)

    return compare_arms(
        [runs[label] for label in ordered],
        grid.evaluations[suite],
        name,
        margins or None,
        write_page,
        labels=ordered,
        aims=[aim for aim in located.study.aims if aim.metric in scored],
        doubts=_changed_aims(located),
    )


def _changed_aims(located: Located) -> list[str]:
    """A line where the study aims at something else than before its first run."""
    first = stated_first(located)
    now = (located.study.margins, [as_stored(aim) for aim in located.study.aims])
    if (first.margins, first.aims) == now:
        return []
    return [f"margins or aims are not those of {first.stated[:10]}, before the first run"]


def _evaluated(grid: Grid, arm: str, suite: str) -> list[Path]:
    """The runs of an arm that were evaluated on the suite, one per seed."""
    found = []
    for seed in grid.study.seeds:
        directory = grid.evaluation(Cell(arm, seed, suite))
        if directory is not None and (directory / "eval.json").is_file():
            found.append(directory.parents[1])
    return found


def _control_of(manifest: Manifest | None) -> dict[str, Any] | None:
    """The recipe that a variant is a control of."""
    control = manifest.recipe.get("control") if manifest else None
    return control["recipe"] if control else None


def _recipe(manifest: Manifest | None) -> dict[str, Any] | None:
    return manifest.recipe if manifest else None


def _build_command(located: Located, recipes: Sequence[str], settings: Build) -> list[str]:
    command = [*recipes, f"--held-out={settings.held_out}"]
    if settings.sources:
        command += ["--source", *located.files(settings.sources)]
    if settings.decontaminate:
        command += ["--decontaminate", *located.files(settings.decontaminate)]
    return command


def _built(arguments: Sequence[str]) -> list[Path]:
    """The directories that `just build-data` with these arguments prints."""
    command = [sys.executable, "-m", "dataset_builder", "build", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(
            "a variant could not be built", "mend what is said above, and type the same again"
        )
    return [Path(line) for line in done.stdout.splitlines() if line.strip()]
