"""Imports run one way and stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import Warm

ROOT = Path(__file__).parents[1]
# Each may import only those before it.
ORDER = ["dataset_builder", "finetune", "evals", "reports"]


def imported(file: Path) -> set[str]:
    """The modules that `file` imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules(package: str) -> list[str]:
    found = sorted((ROOT / package).glob("*.py"))
    assert found, f"nothing found under {package}"
    return [f"{package}.{path.stem}" for path in found if path.stem not in ("__init__", "__main__")]


def test_imports_point_one_way():
    for place, package in enumerate(ORDER):
        files = sorted((ROOT / package).rglob("*.py"))
        assert files, f"nothing found under {package}"
        for file in files:
            tops = {name.partition(".")[0] for name in imported(file)}
            assert tops.isdisjoint(ORDER[place + 1 :]), file


def importing(names: list[str], blocked: list[str]) -> str:
    """A program that imports `names` where `blocked` cannot be imported; none of them was yet."""
    return (
        f"import sys\nassert set(sys.modules).isdisjoint({blocked + names!r})\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    )


def import_without(blocked: list[str], names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import `names` in a fresh interpreter in which `blocked` cannot be imported."""
    code = importing(names, blocked)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("package", ["dataset_builder", "reports"])
def test_data_and_reports_import_without_torch(package: str):
    names = [*modules(package), f"{package}.__main__"]
    done = import_without(["torch", "trl", "peft", "bitsandbytes", "accelerate"], names)
    assert done.returncode == 0, done.stderr


def test_training_and_generating_import_without_polars_and_duckdb(training_process: Warm):
    names = [*modules("finetune"), "finetune.__main__", "evals.generate"]
    done = training_process.start(importing(names, ["polars", "duckdb"]))
    assert done.wait() == 0, done.said()


def test_a_study_is_trained_and_evaluated_without_polars_and_duckdb():
    names = [f"reports.{name}" for name in ("__main__", "experiment", "study", "cells", "workers")]
    done = import_without(["polars", "duckdb", "torch", "jinja2", "plotext"], names)
    assert done.returncode == 0, done.stderr


def test_a_blocked_module_really_fails():
    assert import_without(["polars"], ["dataset_builder.recipe"]).returncode != 0
