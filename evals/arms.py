"""Arms as a comparison reads them: all seeds of a run, their evaluations of one suite, their
scores.

A base model is an arm too, and so are answers made elsewhere: not trained here, and with one seed
that could not have come out otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_builder.artifacts import artifacts_root, in_place, read_json
from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from dataset_builder.tables import read_table
from dataset_builder.wordings import family, main_family
from evals.imported import is_imported, load_imported
from evals.rescored import settle
from evals.scorers import APART, COMPARED, QUALITY, apart
from evals.suite import suite_label
from evals.tables import SCORES, Arm, Evaluation
from finetune.run import Run, arm_of, load_run

BASE = "base"

# prompt_id and limit -> the value, of one metric.
Values = dict[tuple[str, int | None], float]


@dataclass(frozen=True)
class Answers:
    """One evaluation: its record, and the scores of one of its answerers."""

    directory: Path
    evaluation: Evaluation
    values: dict[str, Values]  # by metric
    trees: dict[str, str]  # by prompt_id

    @property
    def asked(self) -> set[str]:
        """The prompts that were answered."""
        return {prompt for each in self.values.values() for prompt, _ in each}


@dataclass(frozen=True)
class LoadedArm:
    """An arm with everything about it that a comparison needs."""

    label: str
    arm: str
    runs: tuple[Run, ...]  # none of a base model and of answers made elsewhere
    directories: tuple[Path, ...]
    fits: tuple[Fit, ...]
    seeds: tuple[Answers, ...]

    @property
    def is_fixed(self) -> bool:
        return not self.runs

    @property
    def is_imported(self) -> bool:
        return self.is_fixed and self.label != BASE

    def matrix(self, metric: str, limit: int | None, prompts: Sequence[str]) -> np.ndarray:
        """(seeds, prompts) values of the metric at the limit; NaN where there is none."""
        return np.array(
            [
                [each.values.get(metric, {}).get((prompt, limit), np.nan) for prompt in prompts]
                for each in self.seeds
            ]
        ).reshape(len(self.seeds), len(prompts))


def load_arms(
    arms: Sequence[Sequence[Path]], suite_name: str | None, labels: Sequence[str] | None = None
) -> list[LoadedArm]:
    """The arms with their evaluations of one suite, in the given order, called by their `labels` or
    by their variants.

    `suite_name` is a suite's name or path, or the name of one evaluation where a suite was asked
    with several sets of prompts. Raises InputError where a run is unfinished or was not evaluated,
    or where it is not clear which evaluations are meant.
    """
    names = [{arm_of(directory) for directory in arm} for arm in arms]
    for found in names:
        if len(found) != 1:
            raise InputError(
                f"{len(found)} arms were given as one: {', '.join(sorted(found)) or 'none'}",
                "give each arm by itself",
            )
    flat = [next(iter(found)) for found in names]
    for arm, times in Counter(flat).items():
        if times > 1:
            raise InputError(f"arm `{arm}` was given {times} times", "give each arm once")
    digest = _common_suite(arms, suite_name and suite_label(suite_name))
    loaded = []
    for arm, directories, label in zip(flat, arms, labels or _labels(flat, arms), strict=True):
        runs = tuple(load_run(each) for each in directories if not is_imported(each))
        found_evaluations = [_evaluations(directory)[digest] for directory in directories]
        fits = [directory / "fit.json" for directory in directories]
        loaded.append(
            LoadedArm(
                label=label,
                arm=arm,
                runs=runs,
                directories=tuple(directories),
                fits=tuple(read_json(path, Fit) for path in fits if path.is_file()),
                seeds=tuple(load_answers(path)["run"] for path in found_evaluations),
            )
        )
    return loaded


def load_answers(directory: Path) -> dict[str, Answers]:
    """The scores of an evaluation by answerer; a run's has one, `run`.

    Quality counts only where the limit was kept: an answer that breaks it is no good answer, and
    would else gain by its length. What was asked in wordings that the suite is not about (those of
    training, lower limits, ranges) stands apart, under names of its own.
    """
    settle(directory)
    evaluation = read_json(directory / "eval.json", Evaluation)
    values: dict[str, dict[str, Values]] = {}
    trees: dict[str, str] = {}
    samples: Counter[tuple[str, str, str, int | None]] = Counter()
    rows = read_table(directory / "scores.parquet", SCORES).to_pylist()
    main = main_family(row["wording"] for row in rows if row["limit"] is not None)
    keys = ("answerer", "prompt_id", "limit", "wording", "sample")
    broken = {
        tuple(row[key] for key in keys)
        for row in rows
        if row["metric"] == "violation" and row["value"] > 0
    }
    for row in rows:
        if row["metric"] in QUALITY and tuple(row[key] for key in keys) in broken:
            continue
        name, kind = row["metric"], family(row["wording"])
        if row["limit"] is not None and kind != main:
            if name not in APART:
                continue
            name = apart(name, kind)
        metric = values.setdefault(row["answerer"], {}).setdefault(name, {})
        place = (row["prompt_id"], row["limit"])
        # Several samples of a prompt, or wordings of its limit, make one value: their mean.
        samples[row["answerer"], name, *place] += 1
        n = samples[row["answerer"], name, *place]
        metric[place] = metric.get(place, 0.0) + (row["value"] - metric.get(place, 0.0)) / n
        trees[row["prompt_id"]] = row["tree_id"]
    return {
        answerer: Answers(directory, evaluation, metrics, trees)
        for answerer, metrics in values.items()
    }


def find_evaluation(directory: Path, suite_name: str | None = None) -> Path:
    """The one evaluation of a run, of the given suite where it has several. Raises InputError where
    it has none, or it is not clear which is meant."""
    return _evaluations(directory)[_common_suite([[directory]], suite_name)]


def find_base(evaluation: Evaluation) -> Path | None:
    """The evaluation of the same suite by the base model of this one; None where there is none."""
    for path in in_place(artifacts_root(), "bases/*/evals/*/eval.json"):
        found = read_json(path, Evaluation)
        is_same = all(
            getattr(found, key) == getattr(evaluation, key)
            for key in ("base_digest", "template", "tables", "suite_digest")
        )
        # NF4 weights unpacked in another precision are other weights.
        is_same &= all(
            found.settings.get(key) == evaluation.settings.get(key)
            for key in ("quantization", "precision")
        )
        if found.run is None and is_same:
            return path.parent
    return None


def directions(evaluation: Evaluation) -> dict[str, int]:
    """Which way each metric is better, treetune's own and those that the tasks of
    lm-evaluation-harness name: -1 less, 1 more, 0 neither."""
    return {**COMPARED, **evaluation.notes.get("harness", {}).get("directions", {})}


def primary_metrics(evaluation: Evaluation) -> list[str]:
    """What a verdict on a task of lm-evaluation-harness is about; nothing of a suite."""
    named = evaluation.notes.get("harness", {}).get("primary")
    return [named] if named else []


def base_arm(directory: Path) -> LoadedArm:
    """The base model as an arm."""
    answers = load_answers(directory)["run"]
    return LoadedArm(BASE, BASE, (), (), (), (answers,))


def described(arm: LoadedArm, *, is_baseline: bool) -> Arm:
    """The arm as comparison.json holds it."""
    return Arm(
        label=arm.label,
        arm=arm.arm,
        runs=[str(directory) for directory in arm.directories if arm.runs],
        evaluations=[str(each.directory) for each in arm.seeds],
        is_baseline=is_baseline,
        summary=summary(arm),
    )


def summary(arm: LoadedArm) -> dict[str, float]:
    """What the arm was trained on and how long: means over its seeds."""
    columns: dict[str, list[float]] = {}
    for run in arm.runs:
        for name in ("steps", "examples_seen", "epochs", "trained_tokens", "tokens", "train_loss"):
            columns.setdefault(name, []).append(getattr(run, name))
        if run.validation_loss is not None:
            columns.setdefault("validation_loss", []).append(run.validation_loss)
    for fit in arm.fits:
        for name in ("rows", "kept", "concise_share_before", "concise_share_after"):
            columns.setdefault(name, []).append(getattr(fit, name))
    return {name: float(np.mean(values)) for name, values in columns.items()}


def _common_suite(arms: Sequence[Sequence[Path]], suite_name: str | None) -> str:
    """The digest of the one suite that every run was evaluated on, under the given name."""
    directories = [directory for arm in arms for directory in arm]
    found: dict[str, set[str]] = {}  # digest -> names of evaluations
    shared: set[str] | None = None
    for directory in directories:
        evaluated = {
            digest: path
            for digest, path in _evaluations(directory).items()
            if suite_name is None
            or suite_name in (path.name, read_json(path / "eval.json", Evaluation).suite_name)
        }
        suite = f" on suite `{suite_name}`" if suite_name else ""
        name = f"{directory.parent.name}/{directory.name}"
        if not evaluated:
            option = f" --suite {suite_name}" if suite_name else ""
            if is_imported(directory):
                hint = "import the answers again with `--like RUN`, a run evaluated on that suite"
                raise InputError(f"`{name}` holds no answers{suite}", hint)
            raise InputError(
                f"run `{name}` was not evaluated{suite}", f"type `just eval {name}{option}`"
            )
        for digest, path in evaluated.items():
            found.setdefault(digest, set()).add(path.name)
        shared = set(evaluated) if shared is None else shared & set(evaluated)
    if not shared:
        raise InputError(
            "the runs were evaluated on different suites, or with different prompt files: "
            + ", ".join(sorted(name for names in found.values() for name in names)),
            "evaluate all of them in one `just eval`; import answers with `--like RUN`",
        )
    if len(shared) > 1:
        choices = ", ".join(sorted(name for digest in shared for name in found[digest]))
        raise InputError(
            f"the runs share {len(shared)} evaluations", f"choose one with `--suite`: {choices}"
        )
    return shared.pop()


def _evaluations(directory: Path) -> dict[str, Path]:
    """The finished evaluations of a run, by the digest of suite and prompt files."""
    paths = in_place(directory, "evals/*/eval.json")
    return {read_json(path, Evaluation).suite_digest: path.parent for path in paths}


def _labels(names: Sequence[str], arms: Sequence[Sequence[Path]]) -> list[str]:
    """Short names, unique among the arms: variants, else with their presets, else in full."""
    short, longer = zip(*(_names(arm[0]) for arm in arms), strict=True)
    for choice in (list(short), list(longer)):
        if len(set(choice)) == len(choice) and BASE not in choice:
            return choice
    return list(names)


def _names(directory: Path) -> tuple[str, str]:
    """A short and a longer name of an arm: its variant, and with the preset; of answers made
    elsewhere the model, and with the sampling."""
    if is_imported(directory):
        source = load_imported(directory)
        model = source.model.rpartition("/")[2] or source.model
        return model, f"{model} {source.sampling}".strip()
    run = load_run(directory)
    return run.variant, f"{run.preset_name}/{run.variant}"
