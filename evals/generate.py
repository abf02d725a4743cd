"""Batched answers, each stored once it is there and keyed by everything that determines it.

Questions with about as many tokens allowed go together, and within a batch each answer is cut at
its own number exactly. Long prompts go first, so that a batch holds little padding. Several
processes take a share each and write a file each. No Polars and no DuckDB in here.
"""

import glob
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dataset_builder.artifacts import reading, write_text, writing
from dataset_builder.errors import InputError
from dataset_builder.json_lines import Record, as_line, read_lines
from dataset_builder.template import (
    Template,
    answer_length,
    answer_text,
    holds_stop,
    stop_ids,
)
from finetune import launch
from finetune.decode import Wanted, batches, decode, longest_first
from finetune.model import pick_precision
from finetune.preset import Base
from finetune.slots import batch_tokens

Report = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Asked:
    """One question as a model reads it."""

    key: str  # names it within the evaluation
    ids: tuple[int, ...]
    allowed: int  # tokens the answer may have


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn: greedily where the temperature is 0, else from the likeliest tokens by
    numbers that the seed and the question fix, however the batches fall."""

    temperature: float = 0.0
    seed: int = 0

    def chances(self, asked: Asked) -> list[float]:
        """A number in [0, 1) for each token of the answer; none where it is greedy."""
        if not self.temperature:
            return []
        drawn = hashlib.sha256(f"answer {self.seed} {asked.key}".encode()).digest()
        return list(np.random.default_rng(list(drawn)).random(asked.allowed))


class Answer(msgspec.Struct, frozen=True):
    """One answer: a line of the partial file."""

    key: str
    answer: str
    tokens: int  # the end of text counted; of an answer ended by a stop text, up to it
    is_stopped: bool  # ended by itself; false where it was cut at the allowed tokens
    seconds: float = 0.0  # its share of its batch's time


class _Beside(msgspec.Struct, frozen=True):
    """All that else the model was read for."""

    rows: list[dict[str, Any]]


GREEDY = Drawing()


class Partial:
    """The answers of an evaluation that is under way: a JSON Lines file whose first line says what
    determines them.

    A file left by an interrupted evaluation is continued where that line is the same, and begun
    anew where anything at all differs: another adapter, base, template, precision or library never
    gets these answers.

    Each further process of an evaluation on several GPUs appends to a file of its own beside it,
    so that a kill tears no other's line. Whoever goes on, with however many, reads them all.
    """

    def __init__(self, path: Path, determined_by: dict[str, Any]) -> None:
        self.path = path
        self.header = json.dumps(determined_by, sort_keys=True).encode() + b"\n"

    def read(self) -> dict[str, Answer]:
        """The answers stored so far, by key; none where they were determined by anything else."""
        found: dict[str, Answer] = {}
        for path in (self.path, *self._others):
            found |= self._read(path)
        return found

    def _read(self, path: Path) -> dict[str, Answer]:
        return {answer.key: answer for answer in self._below_header(path, Answer)}

    def _below_header(self, path: Path, struct: type[Record]) -> list[Record]:
        """The records that stand in a file under this header."""
        with reading(path):
            held = path.read_bytes() if path.is_file() else b""
        if not held.startswith(self.header):
            return []
        return read_lines(held.removeprefix(self.header), struct)

    def begin(self, kept: dict[str, Answer]) -> None:
        """Write the file anew with the answers that are kept, so that what follows stands on whole
        lines."""
        lines = b"".join(map(as_line, kept.values()))
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f"{self.path.name}.tmp")
            temporary.write_bytes(self.header + lines)
            temporary.replace(self.path)
            for path in self._others:  # what they held is among those kept
                path.unlink()

    def resume(self) -> dict[str, Answer]:
        """The answers stored so far, which from here on stand in one file."""
        kept = self.read()
        self.begin(kept)
        return kept

    def add(self, answers: Sequence[Answer]) -> None:
        """Append a batch."""
        own = self.path.with_suffix(f".{launch.rank()}.jsonl") if launch.rank() else self.path
        lines = b"".join(map(as_line, answers))
        with writing(own), own.open("ab") as file:
            file.write(lines if file.tell() else self.header + lines)

    def count(self) -> int:
        """How many answers all processes have stored by now."""
        paths = [path for path in (self.path, *self._others) if path.is_file()]
        return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in paths)

    def add_beside(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store what else the model was read for, all of it at once, under the same first line."""
        write_text((self.header + as_line(_Beside([*rows]))).decode(), self._beside)

    def read_beside(self) -> list[dict[str, Any]] | None:
        """What else was read; None where it was not, or by another model."""
        found = self._below_header(self._beside, _Beside)
        return found[0].rows if found else None

    @property
    def _others(self) -> list[Path]:
        """The files of further processes."""
        stem = f"{self.path.stem}."
        beside = sorted(self.path.parent.glob(f"{glob.escape(stem)}*.jsonl"))
        return [path for path in beside if path.stem.removeprefix(stem).isdecimal()]

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".beside.json")


def generate(
    model: Any,
    template: Template,
    tokenizer: Any,
    asked: Sequence[Asked],
    partial: Partial,
    *,
    rows: int | None = None,
    drawing: Drawing = GREEDY,
    report: Report = lambda done, total: None,
) -> dict[str, Answer]:
    """An answer to each question, by key; those that `partial` holds are taken from it.

    Several processes share the questions out, and each gets all answers. `rows` is the most answers
    a process makes at once; None lets the memory decide. Raises InputError where the GPU has too
    little memory for a single answer.
    """
    stored = launch.of_first(partial.resume)
    left = [question for question in asked if question.key not in stored]
    told = len(stored)
    report(told, len(asked))
    # Longest first, then in turn: so each has as much to do.
    mine = launch.own_share(sorted(left, key=longest_first))
    for batch in batches(mine, batch_tokens(model), rows or batch_rows(model)):
        began = time.perf_counter()
        made = _answers(model, template, tokenizer, batch, drawing)
        share = (time.perf_counter() - began) / len(batch)
        made = [msgspec.structs.replace(answer, seconds=round(share, 4)) for answer in made]
        partial.add(made)
        told = partial.count()
        report(told, len(asked))
    launch.wait()
    answers = launch.of_first(partial.read)
    if told < len(asked):  # others were longer at it
        report(len(asked), len(asked))
    return {question.key: answers[question.key] for question in asked}


def batch_rows(model: Any) -> int:
    """The most answers at once: beyond about here an H100 gains nothing, a CPU is bound by its
    arithmetic."""
    return 400 if next(model.parameters()).device.type == "cuda" else 32


def answering_precision(base: Base, device: torch.device) -> torch.dtype:
    """What a model answers in: as the preset says, but float32 on a processor without bf16
    arithmetic.

    There bf16 is several times slower, and every bf16 weight is a float32 one.
    """
    precision = pick_precision(base, device)
    if device.type == "cpu" and precision != torch.float32 and not _cpu_has_bf16():
        return torch.float32
    return precision


def asked_digest(asked: Sequence[Asked]) -> str:
    """The sha256 of the questions as a model reads them, in hexadecimal."""
    digest = hashlib.sha256()
    for question in asked:
        digest.update(json.dumps([question.key, question.ids, question.allowed]).encode())
    return digest.hexdigest()


def window(model_config: Any) -> int:
    """The most tokens the model reads, prompt and answer together."""
    return int(getattr(model_config, "max_position_embeddings", None) or 2**31)


def _answers(
    model: Any, template: Template, tokenizer: Any, batch: Sequence[Asked], drawing: Drawing
) -> list[Answer]:
    """The batch's answers; where they do not fit into the GPU's memory, by halves."""
    try:
        return _batch(model, template, tokenizer, batch, drawing)
    except torch.cuda.OutOfMemoryError as error:
        if len(batch) == 1:
            raise InputError(
                f"too little GPU memory for one answer of {batch[0].allowed} tokens "
                f"to a prompt of {len(batch[0].ids)}",
                "free the GPU of other programs, or use a smaller base model",
            ) from error
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return [
        answer
        for half in (batch[:middle], batch[middle:])
        for answer in _answers(model, template, tokenizer, half, drawing)
    ]


def _batch(
    model: Any, template: Template, tokenizer: Any, batch: Sequence[Asked], drawing: Drawing
) -> list[Answer]:
    found = decode(
        model,
        [Wanted(each.ids, each.allowed, drawing.chances(each)) for each in batch],
        stop_ids(template, tokenizer),
        temperature=drawing.temperature or 1.0,
        is_over=(lambda ids: holds_stop(template, tokenizer, ids)) if template.stops else None,
    )
    return [
        read_answer(question, ids, template, tokenizer)
        for question, ids in zip(batch, found, strict=True)
    ]


def read_answer(question: Asked, ids: list[int], template: Template, tokenizer: Any) -> Answer:
    """The answer in generated ids, which may run past its end."""
    length, is_stopped = answer_length(template, tokenizer, ids)
    return Answer(question.key, answer_text(template, tokenizer, ids[:length]), length, is_stopped)


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
