"""One question to some runs and to their base model, answered at once and stored nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dataset_builder.errors import InputError
from dataset_builder.printable import printable
from dataset_builder.settings import parse_settings
from dataset_builder.template import prompt_ids
from dataset_builder.wordings import state_limit
from dataset_builder.words import count_words
from finetune.base import BaseFiles, ready_base
from finetune.chat import template_of
from finetune.preset import Preset
from finetune.run import Run, load_run, refuse_changed_adapter

if TYPE_CHECKING:
    from evals.plan import Watcher

# As `word_limit` asks.
WORDING = "lift"
UNLIMITED_TOKENS = 512
TOKENS_PER_WORD = 3
SPARE_TOKENS = 64


@dataclass(frozen=True)
class Row:
    """One answer."""

    answerer: str
    answer: str
    words: int
    is_stopped: bool


def answers(
    run_directories: Sequence[Path], prompt: str, limit: int | None, watcher: "Watcher"
) -> list[Row]:
    """The base models' answers, each once, and every run's, in that order.

    Raises InputError where a run is unfinished, a base is missing, or the prompt does not fit.
    """
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for directory in run_directories:
        run = load_run(directory)
        refuse_changed_adapter(directory, run)
        preset = parse_settings(run.preset, Preset, f"{directory / 'run.json'}: preset")
        files = ready_base(preset.base, watcher.say)
        base = (files.digest, template_of(preset, files).name)
        if base not in seen:
            seen.add(base)
            watcher.say(f"asking the base model {files.model}")
            rows.append(_answer(files, preset, None, None, prompt, limit))
        watcher.say(f"asking {run.name}")
        rows.append(_answer(files, preset, run, directory, prompt, limit))
    return rows


def answers_table(rows: Sequence[Row], limit: int | None) -> Table:
    """The answers as they are, control characters shown as escapes, with their words counted."""
    table = Table(show_lines=True)
    table.add_column("answerer", overflow="fold")
    table.add_column("words", justify="right", no_wrap=True)
    table.add_column("answer", overflow="fold", ratio=1)
    for row in rows:
        notes = [str(row.words)]
        if limit is not None:
            notes.append("keeps it" if 0 < row.words <= limit else "breaks it")
        if not row.is_stopped:
            notes.append("cut")
        table.add_row(
            Text(printable(row.answerer)), Text("\n".join(notes)), Text(printable(row.answer))
        )
    return table


def _answer(
    files: BaseFiles,
    preset: Preset,
    run: Run | None,
    directory: Path | None,
    prompt: str,
    limit: int | None,
) -> Row:
    from evals.generate import Asked, Partial, answering_precision, generate, window
    from finetune.model import load_merged, load_tokenizer, pick_device

    device = pick_device()
    template = template_of(preset, files)
    adapter = directory / "adapter" if directory else None
    own = adapter if adapter and (adapter / "tokenizer.json").is_file() else None
    tokenizer = load_tokenizer(files, template, own)
    text = state_limit(prompt, limit, WORDING)
    ids = prompt_ids(template, tokenizer, [{"role": "user", "content": text}])
    allowed = UNLIMITED_TOKENS if limit is None else TOKENS_PER_WORD * limit + SPARE_TOKENS
    model: Any = load_merged(files, preset.base, adapter, device)
    model = model.to(answering_precision(preset.base, device))
    room = window(model.config)
    if len(ids) >= room:
        raise InputError(
            f"the prompt has {len(ids)} tokens, and the window of `{files.model}` holds {room}",
            "ask something shorter",
        )
    asked = Asked("asked", tuple(ids), min(allowed, room - len(ids)))
    with TemporaryDirectory() as folder:
        partial = Partial(Path(folder) / "asked.jsonl", {})
        answer = generate(model, template, tokenizer, [asked], partial)["asked"]
    return Row(
        answerer=f"{run.variant} s{run.seed}" if run else "base",
        answer=answer.answer,
        words=count_words(answer.answer),
        is_stopped=answer.is_stopped,
    )
