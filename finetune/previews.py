"""What the model says while it trains: the same few prompts, answered, scored, written down.

A preview changes nothing about the training: the model's mode, its gradient checkpointing and every
generator of random numbers are put back, so a run with previews ends in the same adapter as one
without.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import TrainerCallback

from dataset_builder.artifacts import hash_order
from dataset_builder.manifest import Manifest, find_tables
from dataset_builder.tables import HELDOUT, read_table
from dataset_builder.template import Template, answer_text, encode_prompts, stop_ids
from dataset_builder.wordings import state_limit
from dataset_builder.words import count_words
from finetune.oom import in_parts
from finetune.preset import Previews

# The wording most published work asks in (LIFT); no variant trains on it.
_WORDING = "lift"


@dataclass(frozen=True)
class Question:
    """One thing that is asked at every preview."""

    prompt_id: str
    prompt: str  # as a person asked it
    limit: int | None
    ids: list[int]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A line of previews.jsonl: one answer at one step."""

    step: int
    prompt_id: str
    prompt: str
    limit: int | None  # words; null where none was stated
    answer: str
    words: int
    keeps_limit: bool | None  # null where none was stated
    is_stopped: bool  # ended by itself; false where it was cut at the allowed tokens
    tokens: int


def read_questions(
    manifest: Manifest, previews: Previews, template: Template, tokenizer: Any, length: int
) -> tuple[list[Question], str | None]:
    """The prompts to preview on, each with every limit and none, and a note where they are few.

    Held-out validation roots in the recipe's languages, the first by hash, that leave room for an
    answer.
    """
    languages = manifest.recipe.get("keep", {}).get("languages") or ["en"]
    table = read_table(find_tables(manifest.tables) / "heldout.parquet", HELDOUT)
    held = [
        row
        for row in table.to_pylist()
        if row["split"] == "validation" and row["is_root"] and row["lang"] in languages
    ]
    held.sort(key=lambda row: hash_order("preview", row["prompt_id"]))
    questions: list[Question] = []
    found = 0
    for row in held:
        asked = _asked(row, previews.limits, template, tokenizer)
        if found < previews.prompts and max(len(question.ids) for question in asked) <= length:
            questions += asked
            found += 1
    if found == previews.prompts:
        return questions, None
    return questions, (
        f"previews: {found} of {previews.prompts} prompts, as no more validation prompts"
        f" in {', '.join(languages)} fit"
    )


def _asked(row: dict, limits: Sequence[int], template: Template, tokenizer: Any) -> list[Question]:
    wanted = [*limits, None]
    texts = [state_limit(row["question"], limit, _WORDING) for limit in wanted]
    ids = encode_prompts(
        template, tokenizer, ([{"role": "user", "content": text}] for text in texts)
    )
    return [
        Question(row["prompt_id"], row["question"], limit, encoded)
        for limit, encoded in zip(wanted, ids, strict=True)
    ]


def answer(
    model: Any,
    template: Template,
    tokenizer: Any,
    questions: Sequence[Question],
    tokens: int,
    step: int,
) -> list[Preview]:
    """One greedy answer of at most `tokens` tokens to each question, in one batch, scored."""
    ends = stop_ids(template, tokenizer)
    longest = max(len(question.ids) for question in questions)
    device = next(model.parameters()).device
    # Prompts end where answers begin, so padding goes left, whatever side training pads.
    padded = [[ends[0]] * (longest - len(q.ids)) + q.ids for q in questions]
    mask = [[0] * (longest - len(q.ids)) + [1] * len(q.ids) for q in questions]
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=ends[0],
            # What the checkpoint's own generation settings may hold and greedy answers do not use.
            temperature=None,
            top_p=None,
            top_k=None,
        )
    return [
        _scored(question, ids[longest:].tolist(), template, tokenizer, step)
        for question, ids in zip(questions, output, strict=True)
    ]


def _scored(
    question: Question, ids: list[int], template: Template, tokenizer: Any, step: int
) -> Preview:
    ends = set(stop_ids(template, tokenizer))
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    is_ended = bool(ids) and ids[length - 1] in ends
    text = answer_text(template, tokenizer, ids[:length])
    raw = tokenizer.decode(ids[:length], skip_special_tokens=True)
    words = count_words(text)
    return Preview(
        step=step,
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        limit=question.limit,
        answer=text,
        words=words,
        # An empty answer keeps nothing, as in evals.scorers.
        keeps_limit=None if question.limit is None else 0 < words <= question.limit,
        is_stopped=is_ended or any(stop in raw for stop in template.stops),
        tokens=length,
    )


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """The model ready to generate; afterwards its modes and all random generators are as before."""
    was_training = {name: module.training for name, module in model.named_modules()}
    checkpointed = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    used_cache = model.config.use_cache
    model.eval()
    for module in checkpointed:  # recomputing and a cache exclude each other
        module.gradient_checkpointing = False
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = used_cache
        for module in checkpointed:
            module.gradient_checkpointing = True
        for name, module in model.named_modules():
            module.training = was_training[name]
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The 4-bit layers dequantised once, not at every token: the same products, much sooner.

    Where the GPU has no room for twice that, they stay as they are.
    """
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    if not layers or not _has_room(layers):
        yield
        return
    for layer in layers:
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        layer.forward = partial(_plain_product, weight, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _plain_product(
    weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    bias = None if bias is None else bias.to(weight.dtype)
    return torch.nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def _has_room(layers: list[Any]) -> bool:
    device = layers[0].weight.device
    if device.type != "cuda":
        return True
    states = [layer.weight.quant_state for layer in layers]
    needed = sum(state.shape.numel() * state.dtype.itemsize for state in states)
    free, _ = torch.cuda.mem_get_info(device)
    return free > 2 * needed


class Previewer(TrainerCallback):
    """Previews at step 0, every `previews.steps` optimizer steps, and at the end: each once."""

    def __init__(
        self,
        questions: Sequence[Question],
        previews: Previews,
        template: Template,
        tokenizer: Any,
        out: Path,
        report: Callable[[list[Preview]], None],
        autocast: Callable[[], AbstractContextManager],
        seconds: float = 0.0,
    ) -> None:
        self.questions = questions
        self.previews = previews
        self.template = template
        self.tokenizer = tokenizer
        self.out = out
        self.report = report
        self.autocast = autocast
        self.seconds = seconds  # spent so far
        self.done = _steps_in(out)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._preview(0, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.previews.steps == 0:
            self._preview(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._preview(state.global_step, kwargs["model"])

    def _preview(self, step: int, model: Any) -> None:
        if step in self.done or not self.questions:
            return
        began = time.perf_counter()
        with undisturbed(model), unpacked(model), self.autocast():
            rows = in_parts(
                lambda part: answer(
                    model, self.template, self.tokenizer, part, self.previews.tokens, step
                ),
                self.questions,
                "a preview of one prompt",
            )
        with self.out.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        self.done.add(step)
        self.seconds += time.perf_counter() - began
        self.report(rows)


def _steps_in(path: Path) -> set[int]:
    if not path.exists():
        return set()
    return {msgspec.json.decode(line, type=Preview).step for line in path.read_bytes().splitlines()}
