"""Batched greedy answers, each stored once it is there and keyed by everything that determines it.

Questions with about as many tokens allowed go together, and within a batch each answer is cut at
its own number exactly. Long prompts go first, so that a batch holds little padding. No Polars and
no DuckDB in here.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from dataset_builder.errors import InputError
from dataset_builder.template import Template, answer_text, stop_ids
from finetune.model import pick_precision
from finetune.preset import Base

# How often generating looks for a stop text: finding one late costs a few tokens, looking at every
# token costs more.
STOP_TEXT_STEPS = 8
STOP_TEXT_TOKENS = 24  # enough to hold a stop text and what came since the last look

Report = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Asked:
    """One question as a model reads it."""

    key: str  # names it within the evaluation
    ids: tuple[int, ...]
    allowed: int  # tokens the answer may have


class Answer(msgspec.Struct, frozen=True):
    """One answer: a line of the partial file."""

    key: str
    answer: str
    tokens: int  # the end of text counted; of an answer ended by a stop text, up to it
    is_stopped: bool  # ended by itself; false where it was cut at the allowed tokens
    seconds: float = 0.0  # its share of its batch's time


class Partial:
    """The answers of an evaluation that is under way: a JSON Lines file whose first line says what
    determines them.

    A file left by an interrupted evaluation is continued where that line is the same, and begun
    anew where anything at all differs: another adapter, base, template, precision or library never
    gets these answers.
    """

    def __init__(self, path: Path, determined_by: dict[str, Any]) -> None:
        self.path = path
        self.header = json.dumps(determined_by, sort_keys=True).encode() + b"\n"

    def read(self) -> dict[str, Answer]:
        """The answers stored so far, by key; none where they were determined by anything else."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        if not lines or lines[0] != self.header:
            return {}
        # A kill tears the last line at most.
        whole = [line for line in lines[1:] if line.endswith(b"\n")]
        answers = [msgspec.json.decode(line, type=Answer) for line in whole]
        return {answer.key: answer for answer in answers}

    def begin(self, kept: dict[str, Answer]) -> None:
        """Write the file anew with the answers that are kept, so that what follows stands on whole
        lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        temporary.write_bytes(
            self.header + b"".join(msgspec.json.encode(answer) + b"\n" for answer in kept.values())
        )
        temporary.replace(self.path)

    def add(self, answers: Sequence[Answer]) -> None:
        """Append a batch."""
        with self.path.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))

    def remove(self) -> None:
        """Delete the file: its answers lie in generations.parquet now."""
        self.path.unlink(missing_ok=True)


def generate(
    model: Any,
    template: Template,
    tokenizer: Any,
    asked: Sequence[Asked],
    partial: Partial,
    *,
    rows: int | None = None,
    report: Report = lambda done, total: None,
) -> dict[str, Answer]:
    """A greedy answer to each question, by key; those that `partial` holds are taken from it.

    `rows` is the most answers made at once; None lets the memory decide. Raises InputError where
    the GPU has too little memory for a single answer.
    """
    answers = partial.read()
    partial.begin(answers)
    left = [question for question in asked if question.key not in answers]
    report(len(answers), len(asked))
    for batch in batches(left, batch_tokens(model), rows or batch_rows(model)):
        began = time.perf_counter()
        made = _answers(model, template, tokenizer, batch)
        share = (time.perf_counter() - began) / len(batch)
        made = [msgspec.structs.replace(answer, seconds=round(share, 4)) for answer in made]
        partial.add(made)
        answers |= {answer.key: answer for answer in made}
        report(len(answers), len(asked))
    return {question.key: answers[question.key] for question in asked}


def batches(asked: Sequence[Asked], tokens: int, rows: int) -> Iterator[list[Asked]]:
    """The questions in batches of at most `rows` answers and about `tokens` tokens, padding
    counted; those of one cap stand together.
    """
    batch: list[Asked] = []
    for question in sorted(asked, key=lambda each: (-each.allowed, -len(each.ids))):
        wider = [*batch, question]
        room = max(len(each.ids) for each in wider) + max(each.allowed for each in wider)
        if batch and (len(wider) > rows or len(wider) * room > tokens):
            yield batch
            wider = [question]
        batch = wider
    if batch:
        yield batch


def batch_tokens(model: Any) -> int:
    """How many tokens of keys and values fit beside the model: two fifths of what the GPU has
    free."""
    config = model.config
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 16_384
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    held = getattr(config, "num_key_value_heads", None) or heads
    size = 2 * config.num_hidden_layers * held * head * model.dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(0.4 * free / size))


def batch_rows(model: Any) -> int:
    """The most answers at once: a GPU is bound by launching kernels up to about here, a CPU by its
    arithmetic."""
    return 256 if next(model.parameters()).device.type == "cuda" else 32


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
    model: Any, template: Template, tokenizer: Any, batch: Sequence[Asked]
) -> list[Answer]:
    """The batch's answers; where they do not fit into the GPU's memory, by halves."""
    try:
        return _batch(model, template, tokenizer, batch)
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
        for answer in _answers(model, template, tokenizer, half)
    ]


def _batch(model: Any, template: Template, tokenizer: Any, batch: Sequence[Asked]) -> list[Answer]:
    ends = stop_ids(template, tokenizer)
    device = next(model.parameters()).device
    width = max(len(question.ids) for question in batch)
    # Answers begin where prompts end, so padding goes left.
    padded = [[ends[0]] * (width - len(question.ids)) + list(question.ids) for question in batch]
    mask = [[0] * (width - len(question.ids)) + [1] * len(question.ids) for question in batch]
    stops = StoppingCriteriaList([_Allowed(batch, width)])
    if template.stops:
        stops.append(_StopTexts(template, tokenizer, width))
    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=GenerationConfig(
                max_new_tokens=max(question.allowed for question in batch),
                do_sample=False,
                use_cache=True,
                eos_token_id=ends,
                pad_token_id=ends[0],
            ),
            stopping_criteria=stops,
        )
    return [
        read_answer(question, ids[width : width + question.allowed].tolist(), template, tokenizer)
        for question, ids in zip(batch, output, strict=True)
    ]


def read_answer(question: Asked, ids: list[int], template: Template, tokenizer: Any) -> Answer:
    """The answer in generated ids, which may run past its end: a batch goes on until its last
    answer has ended."""
    ends = set(stop_ids(template, tokenizer))
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    is_stopped = length > 0 and ids[length - 1] in ends
    if template.stops and _holds_stop(ids[:length], template, tokenizer):
        low, high = 0, length  # the shortest beginning that holds a stop text
        while high - low > 1:
            middle = (low + high) // 2
            if _holds_stop(ids[:middle], template, tokenizer):
                high = middle
            else:
                low = middle
        length, is_stopped = high, True
    return Answer(question.key, answer_text(template, tokenizer, ids[:length]), length, is_stopped)


def _holds_stop(ids: Sequence[int], template: Template, tokenizer: Any) -> bool:
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return any(stop in text for stop in template.stops)


class _Allowed(StoppingCriteria):
    """Cuts each answer at the tokens it may have."""

    def __init__(self, batch: Sequence[Asked], width: int) -> None:
        self.lengths = [width + question.allowed for question in batch]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor(self.lengths, device=input_ids.device) <= input_ids.shape[1]


class _StopTexts(StoppingCriteria):
    """Ends each answer that holds a stop text; the prompt may hold what it likes."""

    def __init__(self, template: Template, tokenizer: Any, width: int) -> None:
        self.template, self.tokenizer, self.width = template, tokenizer, width
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.steps += 1
        if self.steps % STOP_TEXT_STEPS:
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        start = max(self.width, input_ids.shape[1] - STOP_TEXT_TOKENS)
        rows = input_ids[:, start:].tolist()
        found = [_holds_stop(row, self.template, self.tokenizer) for row in rows]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
