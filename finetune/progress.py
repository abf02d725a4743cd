"""What is told while a run goes, and how it is shown: live in a terminal, else as plain lines."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from dataset_builder.fit import Fit
from dataset_builder.printable import printable
from finetune.rows import Budget

if TYPE_CHECKING:
    from finetune.pair_previews import PairPreview
    from finetune.previews import Preview

    Previewed = list[Preview] | list[PairPreview]

# Ids of dropped rows that a screen shows; fit.json holds them all.
SHOWN = 3


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A line of metrics.jsonl: one optimizer step."""

    step: int
    loss: float  # mean over the step's trained tokens; of pairs, over the pairs
    learning_rate: float
    grad_norm: float | None  # before clipping; None at a step that an fp16 scaler skipped
    tokens: int  # through the model in this step, padding aside
    trained_tokens: int
    tokens_per_second: float  # of those, over the steps since the last line shown
    examples_seen: int  # from the start
    memory: int | None  # bytes, the GPU's peak so far; null on a CPU
    seconds: float  # of training from the start, previews and checkpoints aside
    # Of the rate at which this hardware multiplied matrices at the start, what the tokens took.
    peak_share: float | None = None
    seconds_left: float | None = None  # previews to come among them
    # What else the method tells of the step, means over its examples, by name.
    terms: dict[str, float] = {}


class Watcher(Protocol):
    """Who is told how it goes; nothing that it does changes the run."""

    def say(self, line: str) -> None:
        """A line worth keeping."""

    def fitted(self, fit: Fit, budget: Budget) -> None:
        """What will be trained, before the first step."""

    def stepped(self, step: Step, steps: int) -> None:
        """One optimizer step of `steps` was made."""

    def previewed(self, rows: "Previewed") -> None:
        """The sample answers of one step; of a reward model, the pairs it scored."""


class Silent:
    """A watcher that looks away."""

    def say(self, line: str) -> None: ...
    def fitted(self, fit: Fit, budget: Budget) -> None: ...
    def stepped(self, step: Step, steps: int) -> None: ...
    def previewed(self, rows: "Previewed") -> None: ...


class Display:
    """A watcher for people: a bar and the newest previews in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, log_steps: int) -> None:
        self.console = console
        self.log_steps = log_steps
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self.task: TaskID | None = None
        self.numbers = Text()
        self.table: RenderableType | None = None
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            if self.task is not None:
                self.bar.update(self.task, left="" if error is None else "stopped")
            self.live.stop()

    def say(self, line: str) -> None:
        # A line that the terminal folds by itself would move what is redrawn below it.
        is_redrawn = self.live is not None and self.live.is_started
        self.console.print(Text(printable(line)), soft_wrap=not is_redrawn)

    def fitted(self, fit: Fit, budget: Budget) -> None:
        self.console.print(fit_table(fit, budget))

    def stepped(self, step: Step, steps: int) -> None:
        if self.live:
            left = span(step.seconds_left or 0.0) + " left"
            if self.task is None:
                self.task = self.bar.add_task("", total=steps, left=left)
                self.live.start()
            self.bar.update(self.task, completed=step.step, left=left)
            self.numbers = Text(numbers(step), no_wrap=True, overflow="ellipsis")
            self._show()
        elif step.step % self.log_steps == 0 or step.step == steps:
            left = f", {span(step.seconds_left)} left" if step.seconds_left else ""
            line = f"step {step.step}/{steps}  {numbers(step)}{left}"
            self.console.print(line, soft_wrap=True)

    def previewed(self, rows: "Previewed") -> None:
        if self.live:
            self.table = _table_of(rows)
            self._show()
            if not self.live.is_started:  # before the first step
                self.console.print(self.table)
        else:
            for line in _lines_of(rows):
                self.console.print(Text(line), soft_wrap=True)

    def _show(self) -> None:
        if self.live and self.task is not None:
            parts = [self.table] if self.table else []
            # What is too high for the terminal is cut at its end.
            self.live.update(Group(self.bar, self.numbers, *parts))


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
    if fit.dropped:
        first = ", ".join(printable(name) for name in fit.dropped[:SHOWN])
        more = " … (fit.json names all)" if len(fit.dropped) > SHOWN else ""
        table.caption = Text(f"dropped: {first}{more}")
        table.caption_justify = "left"
    return table


def preview_table(rows: "list[Preview]") -> Table:
    """The answers of one step: a line each, with the first step at which its prompt did as asked.

    A drawn answer stands below the greedy one.
    """
    table = Table(
        title=f"Previews at step {rows[0].step}; beside yes or no, the first step of a yes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        expand=True,
    )
    table.add_column("prompt", ratio=2, no_wrap=True)
    table.add_column("limit", justify="right")
    table.add_column("words", justify="right")
    table.add_column("kept", no_wrap=True)
    table.add_column("stopped", no_wrap=True)
    table.add_column("answer", ratio=3, no_wrap=True)
    for row in rows:
        table.add_row(
            Text("  drawn", style="dim") if row.is_sampled else _one_line(row.prompt, 80),
            "" if row.is_sampled else str(row.limit or "none"),
            str(row.words),
            _since(row.keeps_limit, row.first_kept),
            _since(row.is_stopped, row.first_stopped),
            _one_line(row.answer, 200),
        )
    return table


def preview_lines(rows: "list[Preview]") -> list[str]:
    """The previews of one step as plain lines: the counts, then an answer each."""
    return [preview_line(rows), *(f"  {_plain_answer(row)}" for row in rows)]


def preview_line(rows: "list[Preview]") -> str:
    """The previews of one step in one line: of the greedy answers, and in brackets of the drawn."""
    ways = [[row for row in rows if row.is_sampled is drawn] for drawn in (False, True)]
    limited = [[row for row in way if row.keeps_limit is not None] for way in ways]
    kept = [f"{sum(bool(row.keeps_limit) for row in way)} of {len(way)}" for way in limited]
    stopped = [f"{sum(row.is_stopped for row in way)} of {len(way)}" for way in ways]
    free = [
        ", ".join(str(row.words) for row in way if row.limit is None) or "none asked"
        for way in ways
    ]
    parts = zip(
        ("limit kept", "stopped", "words without a limit"), (kept, stopped, free), strict=True
    )
    shown = [
        f"{name} {greedy}{f' (drawn: {drawn})' if ways[1] else ''}"
        for name, (greedy, drawn) in parts
    ]
    return f"previews at step {rows[0].step}: {', '.join(shown)}"


def pair_table(rows: "list[PairPreview]") -> Table:
    """The scores of one step's held-out pairs: a line each, the chosen reply first."""
    right = sum(row.is_right for row in rows)
    table = Table(
        title=f"Scores at step {rows[0].step}, {right} of {len(rows)} right;"
        " beside yes or no, the first step of a yes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        expand=True,
    )
    table.add_column("prompt", ratio=1, no_wrap=True)
    table.add_column("right", no_wrap=True)
    for side in ("chosen", "rejected"):
        table.add_column(side, justify="right", no_wrap=True)
        table.add_column("words", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            _one_line(row.prompt, 80),
            _since(row.is_right, row.first_right),
            f"{row.chosen_reward:+.3f}",
            str(row.chosen_words),
            f"{row.rejected_reward:+.3f}",
            str(row.rejected_words),
        )
    return table


def pair_lines(rows: "list[PairPreview]") -> list[str]:
    """The scores of one step's pairs as plain lines: the count, then a pair each."""
    return [pair_line(rows), *(f"  {_plain_pair(row)}" for row in rows)]


def pair_line(rows: "list[PairPreview]") -> str:
    """The scores of one step's pairs in one line."""
    right = sum(row.is_right for row in rows)
    return f"previews at step {rows[0].step}: right about {right} of {len(rows)} held-out pairs"


def numbers(step: Step) -> str:
    """The numbers of a step in a few words."""
    share = f"  {step.peak_share:.1%} of peak" if step.peak_share is not None else ""
    memory = f"  {step.memory / 1e9:.1f} GB" if step.memory else ""
    return (
        f"loss {step.loss:.3f}{_told(step.terms)}  rate {step.learning_rate:.1e}"
        f"  {step.tokens_per_second:,.0f} tokens/s{share}{memory}  {span(step.seconds)}"
    )


def _told(terms: dict[str, float]) -> str:
    """Of a step's terms those that say most."""
    if "reward_margin" in terms:
        return f"  margin {terms['reward_margin']:+.3f}  right {terms['reward_accuracy']:.0%}"
    if "keeps_limit" in terms:
        return (
            f"  reward {terms['reward']:.3f}  limit kept {terms['keeps_limit']:.0%}"
            f"  words {terms['words']:.0f}"
        )
    return ""


def span(seconds: float) -> str:
    """A stretch of time in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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


def _since(did: bool | None, first: int | None) -> str:
    if did is None:
        return ""
    return ("yes" if did else "no ") + ("" if first is None else f" {first}")


def _table_of(rows: "Previewed") -> Table:
    answers, pairs = _by_kind(rows)
    return pair_table(pairs) if pairs else preview_table(answers)


def _lines_of(rows: "Previewed") -> list[str]:
    answers, pairs = _by_kind(rows)
    return pair_lines(pairs) if pairs else preview_lines(answers)


def _by_kind(rows: "Previewed") -> "tuple[list[Preview], list[PairPreview]]":
    from finetune.pair_previews import PairPreview
    from finetune.previews import Preview

    return (
        [row for row in rows if isinstance(row, Preview)],
        [row for row in rows if isinstance(row, PairPreview)],
    )


def _plain_pair(row: "PairPreview") -> str:
    first = "" if row.first_right is None else f", right first at step {row.first_right}"
    return (
        f"{_flat(row.prompt, 40)} [{'right' if row.is_right else 'wrong'}{first}]"
        f" chosen {row.chosen_reward:+.3f} ({row.chosen_words} words) {_flat(row.chosen, 40)}"
        f" | rejected {row.rejected_reward:+.3f} ({row.rejected_words} words)"
        f" {_flat(row.rejected, 40)}"
    )


def _plain_answer(row: "Preview") -> str:
    said = [f"{row.words} words"]
    if row.keeps_limit is not None:
        said.append(f"limit {row.limit} {'kept' if row.keeps_limit else 'broken'}")
        said[-1] += "" if row.first_kept is None else f", kept first at step {row.first_kept}"
    said.append("stopped" if row.is_stopped else f"cut at {row.tokens} tokens")
    said[-1] += "" if row.first_stopped is None else f", stopped first at step {row.first_stopped}"
    prompt = "drawn" if row.is_sampled else _flat(row.prompt, 40)
    return f"{prompt} [{'; '.join(said)}] {_flat(row.answer, 120)}"


def _one_line(text: str, length: int) -> Text:
    return Text(_flat(text, length), no_wrap=True, overflow="ellipsis")


def _flat(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return printable(flat if len(flat) <= length else flat[: length - 1] + "…")
