"""Of two commands that make one evaluation at one time, one makes it; the other waits for it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dataset_builder.artifacts import writing
from evals.plan import Planned, Watcher
from finetune import launch


@contextmanager
def alone(each: Planned, watcher: Watcher) -> Iterator[bool]:
    """Within the block no other command answers or scores this evaluation; whether it is finished.

    Of several processes of one command the first holds the lock for all. A kill gives it back.
    """
    with ExitStack() as held:

        def entered() -> bool:
            held.enter_context(_locked(each, watcher))
            return each.is_done

        yield launch.of_first(entered)


@contextmanager
def _locked(each: Planned, watcher: Watcher) -> Iterator[None]:
    path = each.partial_path.with_suffix(".lock")
    handle = _opened(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watcher.say(f"{each.label}: waiting for another command that makes this evaluation")
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Who had it took the file away: the lock is on a file that nobody else will find.
        while not _is(handle, path):
            os.close(handle)
            handle = _opened(path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile holds it too
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
