"""Kills at a chosen operation on a file, for those that no clock would hit."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def file_operations_until_killed(count: int, root: Path) -> None:
    """Make this process die at its `count`-th operation on a file below `root`."""
    left = [count]

    def met() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(met, root)


def count_file_operations(root: Path) -> list[int]:
    """How many operations on files below `root` this process has made since, kept up to date."""
    done = [0]

    def met() -> None:
        done[0] += 1

    _watch(met, root)
    return done


def killed(code: str, count: int) -> str:
    """The one line `code`, dying at its `count`-th operation on a file of the artefacts."""
    return f"""
import os
from tests.kills import file_operations_until_killed
file_operations_until_killed({count}, os.environ["ARTIFACTS"])
{code}
"""


def counted(code: str) -> str:
    """The one line `code`; the last word printed is how many such operations it made."""
    return f"""
import os
from tests.kills import count_file_operations
done = count_file_operations(os.environ["ARTIFACTS"])
try:
    {code}
finally:
    print(f"\\n{{done[0]}}")
"""


def _watch(met: Callable[[], None], root: Path) -> None:
    def watch(event: str, arguments: tuple) -> None:
        if event in OPERATIONS and str(arguments[0]).startswith(str(root)):
            met()

    sys.addaudithook(watch)
