"""Modules with one thing wrong: do their own tests notice?"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from tests.campaign import Attempt, Campaign, Outcome
from tests.forking import Answer, Asked
from tests.mutants import Mutant, in_order, lines_of
from tests.reaching import Ran, by_reach, within
from tests.warm import ROOT, TRAINING, Started, Warm

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
    "reports/markdown.py": ("test_export_comparison", "test_hostile_terminal", "test_terminal"),
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
COLLECTED = """
import sys
from pathlib import Path
from tests.forking import Forking
asked, answers, files, *options = sys.argv[1:]
import pytest
sys.exit(pytest.main(options, plugins=[Forking(files.split(), Path(asked), Path(answers))]))
"""
CHANGED = """
import json, os, sys
from pathlib import Path
from tests.mutants import install
file, place, tests, *options = sys.argv[1:]
install(file, int(place))
import pytest
from tests.reaching import Ordered
sys.path[0] = os.getcwd()
os.chdir(Path(tests).parent)  # a changed path may lead anywhere
sys.exit(pytest.main(options, plugins=[Ordered(**json.loads(Path(tests).read_text()))]))
"""
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio", "-m", "not browser")
OPTIONS += ("-o", "tmp_path_retention_policy=failed", "--tb=short", "--durations=0")
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is there already
SECONDS = 600  # for all tests of a module
# Of those that were seen to run the line the shortest that take so long together, watched: a change
# that only others would notice counts as one that none does.
NEAR = 100
# For those that were not seen to run the line, the shortest first, where others were.
REST = 4
ALSO_SECONDS = 20  # for those of ALSO, the shortest first


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A process with the libraries, and without our modules, is forked for each file of tests, to
    find out what each test reaches; for one that collects all tests and is forked for each change
    in a function; and for each change of what runs when a module is imported.
    """
    process = Warm(shared / "warm", os.getpid(), LIBRARIES)
    ran = {name: _reach(process, name, shared) for name in _names()}
    with collected(process, shared, _names()) as fork:
        # Tests that fail in such a process without a change would notice each.
        everything = {test: each.seconds for tests in ran.values() for test, each in tests.items()}
        by = fork("", 0, everything, shared)
        assert not by, f"{by}: {(shared / 'by-1').read_text()}"

        noticing: set[str] = set()  # tests that have noticed a change are likely to notice another

        def noticed(
            mutant: Mutant, names: tuple[str, ...], is_near_enough: bool, folder: Path
        ) -> str:
            """The test that failed; empty where none did."""
            tests = {test: each for name in names for test, each in ran[name].items()}
            lines = lines_of(mutant)
            near, far = by_reach(tests, mutant.file, lines, noticing)
            if is_near_enough:
                near = within(ALSO_SECONDS, near)
            else:
                near = within(NEAR, near) | within(REST if near else SECONDS, far)
            if not near:
                return ""

            def tried(file: str, place: int, asked: dict[str, float], folder: Path) -> str:
                if lines is not None:
                    return fork(file, place, asked, folder)
                return _imported(process, (file, place), asked, [*tests], names, folder)

            by = tried(mutant.file, mutant.place, near, folder)
            if by in near:
                # The same tests in the same order pass where nothing is changed.
                again = folder / "again"
                again.mkdir()
                upto = [*near][: [*near].index(by) + 1]
                assert not tried("", -1, {test: near[test] for test in upto}, again), by
            return by

        def attempt(seed: int, folder: Path) -> Outcome:
            mutant = MUTANTS[seed]
            by = noticed(mutant, TESTS[mutant.file], False, folder)
            if not by and mutant.file in ALSO:
                by = noticed(mutant, ALSO[mutant.file], True, folder)
            noticing.add(by)
            said = f"{mutant.file}:{mutant.line}: {mutant.change}"
            return Outcome(
                failed=int(not by), note=f"killed {said}; by {by}" if by else f"survived {said}"
            )

        yield attempt


def _reach(process: Warm, name: str, shared: Path) -> dict[str, Ran]:
    """What the tests of that file reach."""
    out, temporary = shared / f"{name}.json", shared / name
    temporary.mkdir()
    options = (*OPTIONS, _path(name))
    running = process.start(UNCHANGED, out, " ".join(TESTS), *options, TMPDIR=str(temporary))
    assert running.wait() == 0, running.printed() + running.said()
    return msgspec.json.decode(out.read_bytes(), type=dict[str, Ran])


# Tries a change of a file at a place on tests, whose seconds are given, in a folder.
Fork = Callable[[str, int, dict[str, float], Path], str]


@contextmanager
def collected(process: Warm, shared: Path, names: Iterable[str]) -> Iterator[Fork]:
    """A process forked off `process` that has collected these files of tests, to be asked."""
    asked, answers = shared / "asked", shared / "answers"
    for each in (asked, answers):
        os.mkfifo(each)
    options = (*OPTIONS, "--capture=sys", *map(_path, names))
    files = " ".join(TESTS)
    running = process.start(COLLECTED, asked, answers, files, *options, TMPDIR=str(shared))
    with _opened(asked, running) as lines, answers.open("rb") as said:

        def fork(file: str, place: int, tests: dict[str, float], folder: Path) -> str:
            line = Asked(file, place, tests, str(folder), SECONDS)
            lines.write(msgspec.json.encode(line) + b"\n")
            lines.flush()
            answer = said.readline()
            assert answer, running.printed() + running.said()
            found = msgspec.json.decode(answer, type=Answer)
            assert not found.fault, found.fault
            return found.by

        yield fork


def _opened(path: Path, running: Started) -> BinaryIO:
    """The pipe, to write to it, once the process reads from it."""
    while True:
        try:
            opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads from it yet
            assert running.is_running(0.1), running.printed() + running.said()
        else:
            os.set_blocking(opened, True)
            return os.fdopen(opened, "wb")


def _imported(
    process: Warm,
    change: tuple[str, int],
    tests: dict[str, float],
    known: list[str],
    names: tuple[str, ...],
    folder: Path,
) -> str:
    """The test that failed where the module is imported with the change; empty where none did."""
    listed = folder / "tests.json"
    listed.write_bytes(msgspec.json.encode({"seconds": tests, "known": known}))
    options = ("-x", *OPTIONS, *map(_path, names))
    running = process.start(CHANGED, *change, listed, *options, TMPDIR=str(folder))
    running.is_running(SECONDS)
    running.kill_all()  # also what it left
    ended = running.wait()
    # Neither of these is a test that failed: pytest's own fault, its usage, no tests.
    assert ended not in (3, 4, 5), running.printed() + running.said()
    failed = r"^(?:FAILED|ERROR) \S*?(tests/.+?)(?: - .*)?$"
    found = re.search(failed, running.printed(), re.MULTILINE)
    return found[1] if found else f"an end of {ended}" if ended else ""


def _names() -> list[str]:
    """The files of tests."""
    return sorted({name for names in (*TESTS.values(), *ALSO.values()) for name in names})


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
