"""Modules with one thing wrong: do their own tests notice?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign import Attempt, Campaign, Outcome
from tests.mutants import in_order
from tests.warm import ROOT, Warm

# Each module, and the tests that are to notice.
TESTS = {
    "dataset_builder/lines.py": ("test_export", "test_hostile_files"),
    "dataset_builder/rows.py": ("test_export", "test_merge", "test_hostile_files"),
    "dataset_builder/split.py": ("test_threads",),
    "dataset_builder/rules.py": ("test_recipe", "test_selecting"),
    "dataset_builder/recipe.py": ("test_recipe", "test_selecting", "test_forms"),
    "dataset_builder/strata.py": ("test_selecting",),
    "dataset_builder/printable.py": ("test_printable", "test_hostile_terminal"),
    "dataset_builder/pages.py": ("test_printable", "test_html"),
    "reports/export.py": ("test_export_comparison",),
    "evals/statistics.py": ("test_statistics",),
}
LIBRARIES = ("pytest", "duckdb", "polars", "pyarrow.parquet", "scipy.stats", "rich")

CHANGED = """
import sys
from tests.mutants import install
file, place, *tests = sys.argv[1:]
install(file, int(place))
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not browser", *tests]))
"""
SECONDS = 400  # an endless loop is noticed too


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A process with the libraries, and without our modules, is forked for each change."""
    process = Warm(shared / "warm", os.getpid(), LIBRARIES)

    def attempt(seed: int, folder: Path) -> Outcome:
        mutant = MUTANTS[seed]
        tests = [str(ROOT / "tests" / f"{name}.py") for name in TESTS[mutant.file]]
        running = process.start(CHANGED, mutant.file, mutant.place, *tests, TMPDIR=str(folder))
        if running.is_running(SECONDS):
            running.kill_all()
        survived = running.wait() == 0
        said = f"{mutant.file}:{mutant.line}: {mutant.change}"
        return Outcome(failed=int(survived), note=f"{'survived' if survived else 'killed'} {said}")

    yield attempt


MUTANTS = in_order(list(TESTS))

CAMPAIGN = Campaign(
    code="Q1",
    promise="the tests bite: at least 85 % of changed modules are noticed by their own tests",
    counted="mutants, drawn by hash",
    aim=len(MUTANTS),
    prepare=prepare,
    attempts=len(MUTANTS),
)
