"""Tests collected once, in a process that is forked for each change of a module: a function gets
the code of the changed one, so that a change costs what its tests take and no imports.
"""

import gc
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType

import msgspec
import pytest

from tests.mutants import ROOT, changed
from tests.reaching import Ordered, at_once, forget

Known = tuple[str, int]  # a function by its qualified name and its first line

FAULT = 70  # a child ends with it where no test failed but this did


class Asked(msgspec.Struct):
    """A change, and which tests are to notice it."""

    file: str  # from the root; nothing is changed where it is empty
    place: int  # among the nodes of its tree
    tests: dict[str, float]  # by name, in order: the seconds each took where nothing was changed
    folder: str  # for temporary files
    seconds: float  # for all


class Answer(msgspec.Struct):
    """What came of it."""

    by: str  # the test that failed, or the signal that ended the process; empty where all passed
    fault: str = ""  # why it says nothing about the tests


class Forking:
    """Forks for each line of `asked`, and writes one to `answers`; ends where `asked` does."""

    def __init__(self, files: Iterable[str], asked: Path, answers: Path) -> None:
        self.files, self.asked, self.answers = files, asked, answers

    def pytest_configure(self) -> None:
        at_once()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, f"{len(threads)} threads: a fork would have one of them"
        gc.unfreeze()  # of what the process began with, where modules of ours may be
        functions = {file: _functions(str(ROOT / file)) for file in self.files}
        gc.collect()
        gc.freeze()  # no child looks through what all share
        with self.asked.open("rb") as lines, self.answers.open("wb") as answers:
            for line in lines:
                asked = msgspec.json.decode(line, type=Asked)
                answer = _forked(session, functions, asked)
                answers.write(msgspec.json.encode(answer) + b"\n")
                answers.flush()
        return True


def _forked(
    session: pytest.Session,
    functions: Mapping[str, Mapping[Known, list[FunctionType]]],
    asked: Asked,
) -> Answer:
    said = Path(asked.folder) / "by"
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            # What it prints is its own, and is kept where it fails.
            for stream in (1, 2):
                os.dup2(os.open(f"{said}-{stream}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
            _run(session, functions, asked, said)
        except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as the parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(FAULT)  # `_run` does not return
    with suppress(ProcessLookupError, PermissionError):  # it was quicker
        os.setpgid(child, child)  # here too, as it may be killed before it did so
    ended = os.pidfd_open(child)
    try:
        select.select([ended], [], [], asked.seconds)
    finally:
        os.close(ended)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what it left
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said.exists():
        return Answer(said.read_text())
    if status > 0:
        return Answer("", f"an end of {status}: {Path(f'{said}-2').read_text()[-2000:]}")
    return Answer(f"signal {-status}" if status else "")


def _run(
    session: pytest.Session,
    functions: Mapping[str, Mapping[Known, list[FunctionType]]],
    asked: Asked,
    said: Path,
) -> None:
    os.environ["TMPDIR"] = asked.folder
    os.chdir(asked.folder)  # a changed path may lead anywhere
    tempfile.tempdir = None
    if asked.file:
        changes = _put(functions[asked.file], changed(asked.file, asked.place))
        assert changes == 1, f"{changes} functions are changed"
    forget()
    plugins = session.config.pluginmanager
    plugins.register(Ordered(asked.tests, ()))
    plugins.register(_First(said))
    by_name = {item.nodeid: item for item in session.items}
    items = [by_name[name] for name in asked.tests]
    for item, after in zip(items, [*items[1:], None], strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
    os._exit(0)


class _First:
    """Ends the process where a test has failed."""

    def __init__(self, said: Path) -> None:
        self.said = said

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(report.longreprtext, flush=True)
            self.said.write_text(report.nodeid)
            os._exit(1)


def _functions(file: str) -> dict[Known, list[FunctionType]]:
    """Those of the file, wherever something holds on to them."""
    found: dict[Known, list[FunctionType]] = {}
    for each in gc.get_objects():
        # Asking some objects for their class would run code of theirs.
        if type(each) is FunctionType and each.__code__.co_filename == file:
            found.setdefault(_known(each.__code__), []).append(each)
    return found


def _put(functions: Mapping[Known, list[FunctionType]], module: CodeType) -> int:
    """Gives the functions the code that they have in `module`; how many had another."""
    changes = 0
    for code in _codes(module):
        for function in functions.get(_known(code), ()):
            if function.__code__ != code:
                function.__code__ = code
                changes += 1
    return changes


def _known(code: CodeType) -> Known:
    return code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)
