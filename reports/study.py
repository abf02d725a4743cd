"""What a study is: variants, presets and seeds, and what was aimed at before the first run. One
TOML file.

Read without Polars and torch, so that each stage can be done where its libraries are.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from dataset_builder.artifacts import artifacts_root
from dataset_builder.errors import InputError
from dataset_builder.settings import parse_settings, settings_names, settings_path
from evals.aims import Aim
from evals.arms import BASE
from evals.margins import refuse_margins
from evals.suite import Suite, load_suite, suite_label
from finetune.methods import METHODS
from finetune.preset import Preset, load_preset

STUDIES = Path(__file__).parent / "studies"

Seed = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Build(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What variants are built from, and how: the options of `just build-data`."""

    sources: tuple[str, ...] = ()  # exports; none is OASST1 from the Hub
    held_out: Share = 0.1
    decontaminate: tuple[str, ...] = ()  # prompt files whose prompts no row may hold


class StudyArm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant under a preset, trained with every seed of the study."""

    preset: str
    variant: str | None = None  # a recipe; without it the one called as the arm
    # The arm whose run of the same seed this one goes on with.
    start: str | None = msgspec.field(name="from", default=None)
    build: str | None = None  # one of `[builds]`; without it the first


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study as its TOML file says it; the first arm is what the others are compared with."""

    title: str
    seeds: Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1)] = (0, 1, 2)
    suites: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("word_limit",)
    prompts: tuple[str, ...] = ()  # prompt files that every suite asks too
    margins: dict[str, float] = {}  # how much worse is still no worse, by metric in its own unit
    aims: tuple[Aim, ...] = ()
    builds: dict[str, Build]
    arms: dict[str, StudyArm]


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """A study with the files that it names, found."""

    name: str  # the file's, without its ending
    study: Study
    data: Path  # the folder of its sources and prompt files
    suites: dict[str, str]  # as the suite's results are called: what `just eval --suite` takes
    prompts: tuple[Path, ...]
    arms: dict[str, "LocatedArm"]

    def files(self, names: Iterable[str]) -> list[str]:
        """Sources or prompt files as `just build-data` takes them: what lies in `data`, else as it
        is written, such as a dataset of the Hub.
        """
        return [str(self.data / name) if (self.data / name).exists() else name for name in names]

    @property
    def home(self) -> Path:
        """Where it keeps what is its own: logs, times, what was built and aimed at."""
        return artifacts_root() / "experiments" / self.name


class LocatedArm(msgspec.Struct, frozen=True, kw_only=True):
    """An arm with its files found."""

    name: str
    recipe: str  # what `just build-data` takes
    preset_file: str  # what `just train` takes
    preset: Preset
    start: str | None
    build: str

    @property
    def variant(self) -> str:
        """What the recipe makes is called so."""
        return Path(self.recipe).stem if self.recipe.endswith(".toml") else self.recipe


def load_study(name: str, data: Path | None = None) -> Located:
    """The study of that name or at that path. `data` is where its sources and prompt files lie;
    without it they are looked for from its own folder, as recipes, presets and suites are.

    Raises InputError where the file cannot be read, says something that is not known, or does not
    make sense.
    """
    path = settings_path(name, STUDIES, "study")
    study = _read(path)
    _check(study, path.name)
    folder = path.parent
    firsts = next(iter(study.builds))
    arms = {
        label: LocatedArm(
            name=label,
            recipe=_named(arm.variant or label, folder),
            preset_file=_named(arm.preset, folder),
            preset=load_preset(_named(arm.preset, folder)),
            start=arm.start,
            build=arm.build or firsts,
        )
        for label, arm in study.arms.items()
    }
    _check_starts(arms, path.name)
    suites = {suite_label(each): _named(each, folder) for each in study.suites}
    _check_scored(study, map(load_suite, suites.values()), path.name)
    return Located(
        name=path.stem,
        study=study,
        data=data or folder,
        suites=suites,
        prompts=tuple((data or folder) / each for each in study.prompts),
        arms=arms,
    )


def _read(path: Path) -> Study:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{path}: not valid TOML: {error}", "compare it with one that ships"
        ) from error
    # One by one first, so that what is wrong is told with the name of the arm.
    for key, struct in (("arms", StudyArm), ("builds", Build)):
        inner = table.get(key)
        for label, each in inner.items() if isinstance(inner, dict) else ():
            if isinstance(each, dict):
                parse_settings(each, struct, f"{path.name}: `[{key}.{label}]`")
    return parse_settings(table, Study, path.name)


def _check(study: Study, where: str) -> None:
    """Raise InputError where the parts of the study do not fit together."""
    if not study.builds or not study.arms:
        missing = "`[arms.NAME]`" if study.builds else "`[builds.NAME]`"
        raise InputError(f"{where}: no {missing} is there", "a study has one at least")
    if len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"{where}: `seeds` {list(study.seeds)} names one twice", "name each once")
    refuse_margins(study.margins, where)
    for aim in study.aims:
        if (aim.at_most is None) == (aim.at_least is None):
            raise InputError(
                f"{where}: the aim of `{aim.metric}` wants one bound",
                "give `at_most` or `at_least`",
            )
    for label in study.arms:
        if label == BASE or not re.fullmatch(r"\w[\w.-]*", label):
            raise InputError(
                f"{where}: an arm is called `{label}`",
                "choose another name: letters, digits, `-`, `_` and `.`",
            )
    for label, arm in study.arms.items():
        if arm.build is not None and arm.build not in study.builds:
            raise InputError(
                f"{where}: `[arms.{label}]`: no build `{arm.build}`",
                f"builds: {', '.join(study.builds)}",
            )


def _check_scored(study: Study, suites: Iterable[Suite], where: str) -> None:
    """Raise InputError where a margin or an aim is of what no suite scores: that would be seen when
    all is done.
    """
    scored = {scorer for suite in suites for scorer in suite.scorers}
    for kind, metrics in (
        ("a margin", study.margins),
        ("an aim", [aim.metric for aim in study.aims]),
    ):
        for metric in metrics:
            if metric not in scored:
                raise InputError(
                    f"{where}: {kind} is of `{metric}`, which no suite of it scores",
                    f"scored: {', '.join(sorted(scored))}",
                )


def _check_starts(arms: dict[str, LocatedArm], where: str) -> None:
    """Raise InputError where an arm starts from what is not there, its method wants otherwise, or
    it would not answer.

    A start stands before what starts from it, so that none goes round in a circle.
    """
    before: list[str] = []
    for label, arm in arms.items():
        if not METHODS[arm.preset.method].answers:
            raise InputError(
                f"{where}: `[arms.{label}]`: the method `{arm.preset.method}` makes a reward model,"
                " which gives no answers to compare",
                "train it by itself; `just eval RUN --reward RUN` scores answers by it",
            )
        wants = METHODS[arm.preset.method].starts_from_run
        if wants != (arm.start is not None):
            raise InputError(
                f"{where}: `[arms.{label}]`: the method `{arm.preset.method}` "
                + ("goes on with another arm, and none is named" if wants else "starts anew"),
                f'add `from = "{before[0]}"`' if wants and before else "leave `from` out",
            )
        if arm.start is not None and arm.start not in before:
            raise InputError(
                f"{where}: `[arms.{label}]`: no arm `{arm.start}` stands before it",
                f"arms before it: {', '.join(before) or 'none'}",
            )
        before.append(label)


def _named(name: str, folder: Path) -> str:
    """A recipe, preset or suite: one that ships by its name, else a file, from the study's."""
    return str(folder / name) if name.endswith(".toml") else name


def study_names() -> list[str]:
    """The studies that ship."""
    return settings_names(STUDIES)
