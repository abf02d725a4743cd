"""How a person sees an evaluation go: live bars in a terminal, now and then a line elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dataset_builder.printable import printable

QUIET_SECONDS = 15.0  # between two lines where there is no terminal


class Display:
    """A watcher for people, on `console`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(Text(printable(line)), soft_wrap=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """A bar for each stage; without a terminal a line at its end, and some on the way."""
        if self.console.is_terminal:
            if what not in self.tasks:
                self.tasks[what] = self.bars.add_task(Text(printable(what)).plain, total=total)
                self.bars.start()
            self.bars.update(self.tasks[what], completed=done, total=total)
        elif done == total or time.monotonic() - self.last > QUIET_SECONDS:
            self.last = time.monotonic()
            self.say(f"{what}: {done} of {total}")
