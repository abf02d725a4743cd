"""Modules with one thing wrong: do their own tests notice?"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import msgspec

from tests.campaign import Attempt, Campaign, Outcome
from tests.mutants import Mutant, in_order, lines_of
from tests.reaching import Ran, by_reach, within
from tests.warm import ROOT, TRAINING, Warm

# Each module, and the tests that are to notice.
TESTS = {
    "dataset_builder/export.py": ("test_export", "test_hostile_files"),
    "dataset_builder/lines.py": ("test_export", "test_hostile_files"),
    "dataset_builder/shards.py": ("test_export", "test_columns", "test_scanning"),
    "dataset_builder/rows.py": ("test_export", "test_merge", "test_hostile_files"),
    "dataset_builder/split.py": ("test_threads",),
    "dataset_builder/rules.py": ("test_recipe", "test_selecting"),
    "dataset_builder/recipe.py": (
        "test_recipe",
        "test_selecting",
        "test_forms",
        "test_recipe_docs",
        "test_control",
    ),
    "dataset_builder/strata.py": ("test_selecting",),
    "dataset_builder/printable.py": ("test_printable", "test_hostile_terminal"),
    "dataset_builder/pages.py": ("test_printable", "test_html"),
    "reports/export.py": ("test_export_comparison",),
    "reports/markdown.py": ("test_export_comparison", "test_hostile_terminal"),
    "evals/statistics.py": ("test_statistics",),
}
# Tests of more than the module: those that run the line are asked where the others noticed nothing.
ALSO = {
    "dataset_builder/lines.py": ("test_merge", "test_columns", "test_scanning"),
    "dataset_builder/rows.py": ("test_columns", "test_scanning"),
}
# What these tests and our modules import; nothing that may be changed is among it.
LIBRARIES = (
    *TRAINING,
    "pytest",
    "hypothesis.strategies",
    "cyclopts",
    "duckdb",
    "fasttext",
    "huggingface_hub.errors",
    "jinja2.ext",
    "pandas",
    "plotext",
    "polars",
    "rensa",
    "rich.markdown",
    "rich.progress",
    "rich.traceback",
    "scipy.stats",
    "unicode_segmentation_rs",
    "yaml",
)

UNCHANGED = """
import sys
from pathlib import Path
from tests.reaching import Watching
out, files, *options = sys.argv[1:]
import pytest
sys.exit(pytest.main(options, plugins=[Watching(files.split(), Path(out))]))
"""
CHANGED = """
import json, sys
from pathlib import Path
from tests.mutants import install
file, place, tests, *options = sys.argv[1:]
install(file, int(place))
import pytest
from tests.reaching import Ordered
sys.exit(pytest.main(options, plugins=[Ordered(**json.loads(Path(tests).read_text()))]))
"""
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio", "-m", "not browser")
OPTIONS += ("-o", "tmp_path_retention_policy=failed", "--tb=short", "--durations=0")
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is there already
SECONDS = 600  # for all tests of a module
# For those that were not seen to run the line, the shortest first, where others were.
REST = 4
ALSO_SECONDS = 20  # for those of ALSO, the shortest first


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A process with the libraries, and without our modules, is forked for each change. What each
    file of tests reaches is found out once, when it is first asked.
    """
    process = Warm(shared / "warm", os.getpid(), LIBRARIES)

    @cache
    def ran(name: str) -> dict[str, Ran]:
        out, temporary = shared / f"{name}.json", shared / name
        temporary.mkdir()
        running = process.start(
            UNCHANGED, out, " ".join(TESTS), *OPTIONS, _path(name), TMPDIR=str(temporary)
        )
        assert running.wait() == 0, running.printed() + running.said()
        return msgspec.json.decode(out.read_bytes(), type=dict[str, Ran])

    noticing: set[str] = set()  # tests that have noticed a change are likely to notice another

    def noticed(mutant: Mutant, names: tuple[str, ...], is_near_enough: bool, folder: Path) -> str:
        """The test that failed; empty where none did."""
        asked = {test: each for name in names for test, each in ran(name).items()}
        lines = lines_of(mutant)
        near, far = by_reach(asked, mutant.file, lines, noticing)
        if is_near_enough:
            near = within(ALSO_SECONDS, near)
        else:
            near |= within(REST if near else SECONDS, far)
        if not near:
            return ""
        tests = folder / "tests.json"
        tests.write_bytes(msgspec.json.encode({"seconds": near, "known": list(asked)}))
        running = process.start(
            CHANGED,
            *(mutant.file, mutant.place, tests),
            *("-x", *OPTIONS),
            *map(_path, names),
            TMPDIR=str(folder),
        )
        running.is_running(SECONDS)
        running.kill_all()  # also what it left
        ended = running.wait()
        # Neither of these is a test that failed: pytest's own fault, its usage, no tests.
        assert ended not in (3, 4, 5), running.printed() + running.said()
        found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", running.printed(), re.MULTILINE)
        return found[1] if found else f"an end of {ended}" if ended else ""

    def attempt(seed: int, folder: Path) -> Outcome:
        mutant = MUTANTS[seed]
        by = noticed(mutant, TESTS[mutant.file], False, folder)
        if not by and mutant.file in ALSO:
            by = noticed(mutant, ALSO[mutant.file], True, folder)
        noticing.add(f"tests/{by}")
        said = f"{mutant.file}:{mutant.line}: {mutant.change}"
        return Outcome(
            failed=int(not by), note=f"killed {said}; by {by}" if by else f"survived {said}"
        )

    yield attempt


def _path(name: str) -> str:
    return str(ROOT / "tests" / f"{name}.py")


MUTANTS = in_order(list(TESTS))

CAMPAIGN = Campaign(
    code="Q1",
    promise="the tests bite: at least 85 % of changed modules are noticed by their own tests",
    counted="mutants, drawn by hash",
    aim=len(MUTANTS),
    prepare=prepare,
    attempts=len(MUTANTS),
)
