"""What another process is still making, or left when it was killed, is not among the artefacts."""

import shutil
from pathlib import Path

import pytest

from dataset_builder.artifacts import BUILDING, in_place, read_json
from evals.arms import find_base, find_evaluation
from evals.imported import imported_directories
from evals.plan import _the_tables
from evals.tables import Evaluation
from finetune.run import load_run, run_directories
from reports.card import refresh_card
from reports.findings import find_comparison
from reports.listing import read_listing
from tests.reports_fixture import write_artifacts

KINDS = (
    "imported/*",
    "tables/*",
    "variants/*-*",
    "runs/*/*",
    "runs/*/*/evals/*",
    "bases/*",
    "bases/*/evals/*",
)


def seen(root: Path) -> list[object]:
    runs = run_directories()
    evaluations = [find_evaluation(run) for run in runs]
    bases = [find_base(read_json(each / "eval.json", Evaluation)) for each in evaluations]
    found = [find_comparison("demo"), _the_tables(None), read_listing(root), imported_directories()]
    cards = [refresh_card(run, load_run(run), root / "card.md").read_text() for run in runs]
    return [runs, evaluations, bases, cards, *found]


def test_what_is_being_made_is_read_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    write_artifacts(tmp_path)
    (tmp_path / "imported" / "arm").mkdir(parents=True)
    (tmp_path / "imported" / "arm" / "source.json").write_text("{}")
    (tmp_path / "card.md").write_text("# A run\n")
    before = seen(tmp_path)
    whole = [path for kind in (*KINDS, "comparisons/*") for path in tmp_path.glob(kind)]
    for path in reversed([path for path in whole if path.is_dir()]):  # those inside first
        beside = path.with_name(f"{BUILDING}1-{path.name}")
        shutil.copytree(path, beside)
        for record in beside.rglob("*.json"):
            record.write_text("{")
    assert seen(tmp_path) == before
    assert not any(BUILDING in str(path) for path in in_place(tmp_path, "**/*.json"))
    assert in_place(tmp_path, "**/*.json")


def test_a_folder_that_is_renamed_while_it_is_looked_through_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "one").mkdir()
    looked, glob = [], Path.glob

    def renamed(folder: Path, pattern: str) -> list[Path]:
        looked.append(pattern)
        if len(looked) < 3:
            raise FileNotFoundError(2, "No such file or directory")
        return list(glob(folder, pattern))

    monkeypatch.setattr(Path, "glob", renamed)
    assert in_place(tmp_path, "*") == [tmp_path / "one"]
    assert looked == ["*"] * 3
