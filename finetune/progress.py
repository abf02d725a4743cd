"""What is told while a run goes, and how it is shown: live in a terminal, else as plain lines."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from dataset_builder.fit import Fit
from dataset_builder.printable import printable
from finetune.rows import Budget

if TYPE_CHECKING:
    from finetune.previews import Preview


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A line of metrics.jsonl: one optimizer step."""

    step: int
    loss: float  # mean over the step's trained tokens
    learning_rate: float
    grad_norm: float | None  # before clipping; None at a step that an fp16 scaler skipped
    tokens: int  # through the model in this step, padding aside
    trained_tokens: int
    tokens_per_second: float
    examples_seen: int  # from the start
    memory: int | None  # bytes, the GPU's peak so far; null on a CPU
    seconds: float  # of training from the start, previews and checkpoints aside


class Watcher(Protocol):
    """Who is told how it goes; nothing that it does changes the run."""

    def say(self, line: str) -> None:
        """A line worth keeping."""

    def fitted(self, fit: Fit, budget: Budget) -> None:
        """What will be trained, before the first step."""

    def stepped(self, step: Step, steps: int) -> None:
        """One optimizer step of `steps` was made."""

    def previewed(self, rows: "list[Preview]") -> None:
        """The sample answers of one step."""


class Silent:
    """A watcher that looks away."""

    def say(self, line: str) -> None: ...
    def fitted(self, fit: Fit, budget: Budget) -> None: ...
    def stepped(self, step: Step, steps: int) -> None: ...
    def previewed(self, rows: "list[Preview]") -> None: ...


class Display:
    """A watcher for people: a bar and the newest previews in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, log_steps: int) -> None:
        self.console = console
        self.log_steps = log_steps
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.task: TaskID | None = None
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        self.console.print(Text(printable(line)), soft_wrap=True)

    def fitted(self, fit: Fit, budget: Budget) -> None:
        self.console.print(fit_table(fit, budget))

    def stepped(self, step: Step, steps: int) -> None:
        if self.live:
            if self.task is None:
                self.task = self.bar.add_task(
                    "training", total=steps, numbers="", completed=step.step - 1
                )
                self.live.update(self.bar)
                self.live.start()
            self.bar.update(self.task, completed=step.step, numbers=numbers(step))
        elif step.step % self.log_steps == 0 or step.step == steps:
            self.console.print(f"step {step.step}/{steps}  {numbers(step)}", soft_wrap=True)

    def previewed(self, rows: "list[Preview]") -> None:
        if self.live and self.live.is_started:
            self.live.update(Group(preview_table(rows), self.bar))
        elif self.live:
            self.console.print(preview_table(rows))
        else:
            self.console.print(preview_line(rows), soft_wrap=True)


def fit_table(fit: Fit, budget: Budget) -> Table:
    """What the preset does to the variant, and what the run goes through."""
    table = Table(title="Fit", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("rows of the variant", f"{fit.rows:,}")
    table.add_row(f"too long for {fit.length} tokens", f"{fit.too_long:,}")
    table.add_row("  of them by the prompt alone", f"{fit.prompt_too_long:,}")
    table.add_row(f"dropped (overflow `{fit.overflow}`)", f"{len(fit.dropped):,}")
    table.add_row("kept", f"{fit.kept:,}")
    table.add_row("  of them cut, end of text lost", f"{fit.cut:,}, {fit.end_lost:,}")
    table.add_row("  of them without their earliest turns", f"{fit.shortened:,}")
    table.add_row(
        "concise share before, after",
        f"{fit.concise_share_before:.3f}, {fit.concise_share_after:.3f}",
    )
    table.add_row("steps", f"{budget.steps:,}")
    table.add_row("examples seen (epochs)", f"{budget.examples_seen:,} ({budget.epochs:.2f})")
    table.add_row("trained tokens, of all tokens", f"{budget.trained_tokens:,}, {budget.tokens:,}")
    return table


def preview_table(rows: "list[Preview]") -> Table:
    """Sample answers of one step, with their words counted."""
    table = Table(title=f"Previews at step {rows[0].step}", title_justify="left")
    table.add_column("prompt", max_width=30)
    table.add_column("limit", justify="right")
    table.add_column("words", justify="right")
    table.add_column("kept")
    table.add_column("stopped")
    table.add_column("answer", ratio=1)
    for row in rows:
        table.add_row(
            _one_line(row.prompt, 60),
            str(row.limit or ""),
            str(row.words),
            "" if row.keeps_limit is None else ("yes" if row.keeps_limit else "no"),
            "yes" if row.is_stopped else "no",
            _one_line(row.answer, 160),
        )
    return table


def preview_line(rows: "list[Preview]") -> str:
    """The previews of one step in one line."""
    limited = [row for row in rows if row.keeps_limit is not None]
    free = [row.words for row in rows if row.keeps_limit is None]
    return (
        f"previews at step {rows[0].step}: limit kept"
        f" {sum(bool(row.keeps_limit) for row in limited)} of {len(limited)},"
        f" stopped {sum(row.is_stopped for row in rows)} of {len(rows)},"
        f" words without a limit {', '.join(map(str, free)) or 'none asked'}"
    )


def numbers(step: Step) -> str:
    """The numbers of a step in a few words."""
    memory = f"  {step.memory / 1e9:.1f} GB" if step.memory else ""
    return (
        f"loss {step.loss:.3f}  rate {step.learning_rate:.1e}"
        f"  {step.tokens_per_second:,.0f} tokens/s{memory}  {step.seconds:.0f} s"
    )


def read_steps(folder: Path) -> list[Step]:
    """The steps of a run, from its metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Step) for line in lines]


@contextmanager
def without_known_noise() -> Iterator[None]:
    """Without the warnings that say nothing to a user here; every other one still shows."""
    with warnings.catch_warnings():
        # Both names are right in one of the two transformers versions that this runs on.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
        yield


def _one_line(text: str, length: int) -> Text:
    flat = " ".join(text.split())
    return Text(printable(flat if len(flat) <= length else flat[: length - 1] + "…"))
