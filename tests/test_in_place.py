"""What another process is still making, or left when it was killed, is not among the artefacts."""

import shutil
from pathlib import Path

import pytest

from dataset_builder.artifacts import BUILDING, in_place, read_json
from evals.arms import find_base, find_evaluation
from evals.plan import _the_tables
from evals.tables import Evaluation
from finetune.run import run_directories
from reports.findings import find_comparison
from reports.listing import read_listing
from tests.reports_fixture import write_artifacts

KINDS = ("tables/*", "variants/*-*", "runs/*/*", "runs/*/*/evals/*", "bases/*", "bases/*/evals/*")


def seen(root: Path) -> list[object]:
    runs = run_directories()
    evaluations = [find_evaluation(run) for run in runs]
    bases = [find_base(read_json(each / "eval.json", Evaluation)) for each in evaluations]
    found = [find_comparison("demo"), _the_tables(None), read_listing(root)]
    return [runs, evaluations, bases, *found]


def test_what_is_being_made_is_read_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    write_artifacts(tmp_path)
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
