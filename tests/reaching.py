"""Which tests run which lines of a module, so that those are asked first that may notice a change.

Both classes are pytest's plugins, for a process of their own.
"""

import functools
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from mmap import mmap
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, settings

from tests.mutants import ROOT

# What a test may take before its changed module counts as noticed, which loops without an end.
TIMES, SECONDS = 5, 20

PACKAGES = ("dataset_builder", "finetune", "evals", "reports")
_CACHE = type(functools.cache(len))

QUICK = 0.2  # seconds; all that are this quick come before the others


class Ran(msgspec.Struct, frozen=True):
    """What a test ran where nothing was changed."""

    seconds: float
    lines: dict[str, list[int]]  # by file, from the root


class Watching:
    """Writes to `out` which lines in functions of `files` each test ran, by the test's name: by
    itself, in threads and in forks, in the fixtures it has, or while its file was imported.
    """

    def __init__(self, files: Iterable[str], out: Path) -> None:
        self.out, self.ran = out, dict[str, Ran]()
        self.begins: dict[str, int] = {}  # of each file's lines in `seen`
        size = 0
        for file in files:
            self.begins[str(ROOT / file)] = size
            size += len((ROOT / file).read_text(encoding="utf-8").splitlines()) + 1
        self.seen = mmap(-1, size)  # a byte a line; what is forked off shares it
        self.collected = bytes(size)
        self.fixtures: dict[str, bytes] = {}

    def pytest_configure(self) -> None:
        at_once()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Iterator[object]:
        with self._watched():
            found = yield
        self.collected = self._taken()
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[object]:
        before = self._taken()
        try:
            return (yield)
        finally:
            ran = self.seen[:]
            if fixturedef.scope != "function":
                self.fixtures[fixturedef.argname] = ran
            self.seen[:] = _either(before, ran)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[object]:
        forget()
        began = time.monotonic()
        with self._watched():
            found = yield
        seconds, seen = time.monotonic() - began, _either(self._taken(), self.collected)
        for name in item.fixturenames:
            seen = _either(seen, self.fixtures.get(name, seen))
        lines: dict[str, list[int]] = {}
        ends = [*list(self.begins.values())[1:], len(seen)]
        for (file, begin), end in zip(self.begins.items(), ends, strict=True):
            if some := [line for line, is_run in enumerate(seen[begin:end]) if is_run]:
                lines[str(Path(file).relative_to(ROOT))] = some
        self.ran[item.nodeid] = Ran(seconds, lines)
        return found

    def pytest_sessionfinish(self) -> None:
        self.out.write_bytes(msgspec.json.encode(self.ran))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        threading.settrace(self._entered)
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]  # typeshed wants a function

    def _taken(self) -> bytes:
        taken = self.seen[:]
        self.seen[:] = bytes(len(taken))
        return taken

    def _entered(self, frame: FrameType, event: str, value: Any) -> Any:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED
        return self._inside if is_function and code.co_filename in self.begins else None

    def _inside(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == "line":
            self.seen[self.begins[frame.f_code.co_filename] + frame.f_lineno] = 1
        return self._inside


def _either(some: bytes, others: bytes) -> bytes:
    both = int.from_bytes(some, "big") | int.from_bytes(others, "big")
    return both.to_bytes(len(some), "big")


def forget() -> None:
    """What our modules and the tests keep of earlier calls, so that each test runs all it needs."""
    for name, module in list(sys.modules.items()):
        if name.startswith((*PACKAGES, "test")):
            for value in list(vars(module).values()):
                if isinstance(value, _CACHE):
                    value.cache_clear()


class Ordered:
    """Runs the tests in the order of `seconds`, then those that are not `known`, as a change may
    rename some; ends one that takes much longer than it should.
    """

    def __init__(self, seconds: Mapping[str, float], known: Iterable[str]) -> None:
        self.seconds, self.ended = seconds, 3
        self.left_out = {name for name in known if name not in seconds}
        self.place = {name: place for place, name in enumerate(seconds)}

    def pytest_configure(self) -> None:
        at_once()
        # What gathers memory without an end is ended before anything else is.
        Path("/proc/self/oom_score_adj").write_text("1000")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.left_out]
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
    """The seconds of each test that runs one of `lines`, all of them where these are None, and of
    the others. First come those of `noticing`, then quick ones before slow ones, and
    those of a file together, whose fixtures are made once.
    """

    def place(name: str) -> tuple[bool, str, float]:
        seconds = tests[name].seconds
        together = name.partition("::")[0] if seconds < QUICK else "~"  # behind all names
        return name not in noticing, together, seconds

    near, far = {}, {}
    for name in sorted(tests, key=place):
        reached = tests[name].lines.get(file, [])
        is_near = lines is None or any(line in lines for line in reached)
        (near if is_near else far)[name] = tests[name].seconds
    return near, far


def within(seconds: float, tests: Mapping[str, float]) -> dict[str, float]:
    """The shortest of `tests`, so many as take so long together."""
    shortest = sorted(tests, key=lambda name: tests[name])
    sums = accumulate(tests[name] for name in shortest)
    return {name: tests[name] for name, sum_ in zip(shortest, sums, strict=True) if sum_ <= seconds}
