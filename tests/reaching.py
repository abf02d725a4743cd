"""Which tests run which lines of a module, so that those are asked first that may notice a change.

Both classes are pytest's plugins, for a process of their own.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, settings

from tests.mutants import ROOT

# What a test may take before its changed module counts as noticed, which loops without an end.
TIMES, SECONDS = 5, 20

QUICK = 0.2  # seconds; all that are this quick come before the others


class Ran(msgspec.Struct, frozen=True):
    """What a test ran where nothing was changed."""

    seconds: float
    lines: dict[str, list[int]]  # by file, from the root; those that an import runs too


class Watching:
    """Writes to `out` what each test ran of `files`, by the test's name.

    A line that ran while a fixture was made, or a value that is kept, is the first test's alone.
    """

    def __init__(self, files: Iterable[str], out: Path) -> None:
        self.files, self.out = {str(ROOT / file): file for file in files}, out
        self.lines: set[tuple[str, int]] = set()
        self.ran: dict[str, Ran] = {}

    def pytest_configure(self) -> None:
        at_once()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.lines = set()
        began = time.monotonic()
        threading.settrace(self._entered)
        sys.settrace(self._entered)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            lines: dict[str, list[int]] = {}
            for file, line in sorted(self.lines):
                lines.setdefault(file, []).append(line)
            self.ran[item.nodeid] = Ran(time.monotonic() - began, lines)

    def pytest_sessionfinish(self) -> None:
        self.out.write_bytes(msgspec.json.encode(self.ran))

    def _entered(self, frame: FrameType, event: str, value: Any) -> Any:
        return self._inside if frame.f_code.co_filename in self.files else None

    def _inside(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == "line":
            self.lines.add((self.files[frame.f_code.co_filename], frame.f_lineno))
        return self._inside


class Ordered:
    """Runs the tests in the order of `seconds`, and the `others` last where these are wanted; ends
    one that takes much longer than that.
    """

    def __init__(self, seconds: Mapping[str, float], others: bool) -> None:
        self.seconds, self.others, self.ended = seconds, others, 3
        self.place = {name: place for place, name in enumerate(seconds)}

    def pytest_configure(self) -> None:
        at_once()
        # What gathers memory without an end is ended before anything else is.
        Path("/proc/self/oom_score_adj").write_text("1000")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if not self.others:
            items[:] = [item for item in items if item.nodeid in self.place]
        items.sort(key=lambda item: self.place.get(item.nodeid, len(self.place)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        # Nobody handles the signal, so that it ends what no exception would.
        limit = SECONDS + TIMES * self.seconds.get(item.nodeid, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.ended = int(exitstatus)

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        # All is said; looking for garbage among the libraries would take a second.
        config.get_terminal_writer().flush()
        os._exit(self.ended)


def at_once() -> None:
    """Hypothesis tries what it always tries, and does not look for the shortest example of a fault:
    that one was found is enough.
    """
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("at once", settings(), phases=phases, database=None, derandomize=True)
    settings.load_profile("at once")


def by_reach(
    tests: Mapping[str, Ran], file: str, lines: range | None, noticing: Container[str] = ()
) -> tuple[dict[str, float], dict[str, float]]:
    """The seconds of each test that runs one of `lines`, or anything of the file where these are
    None, and of the others. First come those of `noticing`, then quick ones before slow ones, and
    those of a file together, whose fixtures are made once.
    """

    def place(name: str) -> tuple[bool, str, float]:
        seconds = tests[name].seconds
        together = name.partition("::")[0] if seconds < QUICK else "~"  # behind all names
        return name not in noticing, together, seconds

    near, far = {}, {}
    for name in sorted(tests, key=place):
        reached = tests[name].lines.get(file, [])
        is_near = bool(reached) if lines is None else any(line in lines for line in reached)
        (near if is_near else far)[name] = tests[name].seconds
    return near, far
