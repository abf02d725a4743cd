"""What the model says while it trains: the same few prompts, answered, scored, written down.

Each is asked with every limit and with none, and answered twice: by the likeliest token each time,
and drawn once. A preview changes nothing about the training: the model's mode, its gradient
checkpointing and every generator of random numbers are put back, so a run with previews ends in the
same adapter as one without. Nothing here looks at a clock to decide what is asked: what previews
cost is told, and what is written is the same on a slow machine.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import TrainerCallback

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.manifest import Manifest, find_tables
from dataset_builder.tables import HELDOUT, read_table
from dataset_builder.template import (
    Template,
    answer_length,
    answer_text,
    encode_prompts,
    holds_stop,
    stop_ids,
)
from dataset_builder.wordings import state_limit
from dataset_builder.words import count_words
from finetune.decode import Wanted, decode
from finetune.oom import in_parts
from finetune.plain import answering
from finetune.preset import Previews

# The wording most published work asks in (LIFT); no variant trains on it.
_WORDING = "lift"
# Tokens for each word that a limit allows, and some to show by how much it is broken.
_TOKENS_PER_WORD, _MARGIN = 3, 16


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
    prompt: str  # as a person asked it
    limit: int | None  # words; null where none was stated
    is_sampled: bool = False  # drawn at the preset's temperature; false: the likeliest tokens
    answer: str
    words: int
    keeps_limit: bool | None  # null where none was stated
    is_stopped: bool  # ended by itself; false where it was cut at the allowed tokens
    tokens: int
    # The first step at which this prompt, asked and answered this way, did; null while it has not.
    first_kept: int | None = None
    first_stopped: int | None = None


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
    previews: Previews,
    step: int,
) -> list[Preview]:
    """The answers to each question, all in one batch, scored: the greedy one, then the drawn one.

    What is drawn depends on the step and the question, and on nothing that came before.
    """
    ends = stop_ids(template, tokenizer)
    ways = [False, True] if previews.temperature else [False]
    asked = [(question, is_sampled) for question in questions for is_sampled in ways]
    wanted = []
    for question, is_sampled in asked:
        allowed = allowed_tokens(question, previews)
        chance = chances(question, step, allowed) if is_sampled else []
        wanted.append(Wanted(question.ids, allowed, chance))
    answers = decode(
        model,
        wanted,
        ends,
        temperature=previews.temperature or 1.0,
        is_over=(lambda ids: holds_stop(template, tokenizer, ids)) if template.stops else None,
    )
    return [
        scored(question, ids, template, tokenizer, step, is_sampled=is_sampled)
        for (question, is_sampled), ids in zip(asked, answers, strict=True)
    ]


def allowed_tokens(question: Question, previews: Previews) -> int:
    """The tokens an answer may have: the preset's, and fewer where a limit needs fewer."""
    if question.limit is None:
        return previews.tokens
    return min(previews.tokens, _TOKENS_PER_WORD * question.limit + _MARGIN)


def chances(question: Question, step: int, tokens: int) -> list[float]:
    """The numbers in [0, 1) that draw an answer's tokens at that step."""
    key = f"{question.prompt_id} {question.limit}"
    return [hash_share(f"preview {step} {token}", key) for token in range(tokens)]


def scored(
    question: Question,
    ids: Sequence[int],
    template: Template,
    tokenizer: Any,
    step: int,
    *,
    is_sampled: bool = False,
) -> Preview:
    """The answer in `ids`, which may run on past a stop text, with its words counted."""
    length, is_stopped = answer_length(template, tokenizer, ids)
    text = answer_text(template, tokenizer, ids[:length])
    words = count_words(text)
    return Preview(
        step=step,
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        limit=question.limit,
        is_sampled=is_sampled,
        answer=text,
        words=words,
        # An empty answer keeps nothing, as in evals.scorers.
        keeps_limit=None if question.limit is None else 0 < words <= question.limit,
        is_stopped=is_stopped,
        tokens=length,
    )


def with_first_steps(before: Iterable[Preview], now: Sequence[Preview]) -> list[Preview]:
    """`now`, each row with the first step at which its prompt kept its limit and stopped by itself.

    `before` are the rows of earlier steps.
    """
    kept: dict[tuple, int] = {}
    stopped: dict[tuple, int] = {}
    for row in sorted([*before, *now], key=lambda row: row.step):
        key = (row.prompt_id, row.limit, row.is_sampled)
        if row.keeps_limit:
            kept.setdefault(key, row.step)
        if row.is_stopped:
            stopped.setdefault(key, row.step)
    return [
        msgspec.structs.replace(row, first_kept=kept.get(key), first_stopped=stopped.get(key))
        for row in now
        for key in [(row.prompt_id, row.limit, row.is_sampled)]
    ]


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


class Previewer(TrainerCallback):
    """Previews at step 0, every `previews.steps` optimizer steps, and at the end: each once."""

    kind: type[Any] = Preview  # a line of what it writes

    def __init__(
        self,
        questions: Sequence[Any],
        previews: Previews,
        template: Template,
        tokenizer: Any,
        out: Path,
        report: Callable[[list[Any]], None],
        autocast: Callable[[], AbstractContextManager],
        dtype: torch.dtype,
        seconds: float = 0.0,
    ) -> None:
        self.questions = questions
        self.previews = previews
        self.template = template
        self.tokenizer = tokenizer
        self.out = out
        self.report = report
        self.autocast = autocast
        self.dtype = dtype  # that the model computes in
        self.seconds = seconds  # spent so far
        self.rows = _keep_whole(out, self.kind, self.expected())
        self.done = {row.step for row in self.rows}

    def expected(self) -> int:
        """Lines of one step."""
        return len(self.questions) * (2 if self.previews.temperature else 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._preview(0, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.previews.steps == 0:
            self._preview(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._preview(state.global_step, kwargs["model"])

    def seconds_left(self, step: int, steps: int) -> float:
        """What the previews after `step` will take, if they take as long as those so far."""
        if not self.done:
            return 0.0
        places = {*range(0, steps, self.previews.steps), steps}
        left = sum(place >= step and place not in self.done for place in places)
        return left * self.seconds / len(self.done)

    def _preview(self, step: int, model: Any) -> None:
        if step in self.done or not self.questions:
            return
        began = time.perf_counter()
        with undisturbed(model):
            rows = self.with_first_steps(self.answers(step, model))
        with self.out.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        self.rows += rows
        self.done.add(step)
        self.seconds += time.perf_counter() - began
        self.report(rows)

    def with_first_steps(self, rows: Sequence[Any]) -> list[Any]:
        """`rows`, each with what came first at which step."""
        return with_first_steps(self.rows, rows)

    def answers(self, step: int, model: Any) -> list[Any]:
        """The lines of that step, before what came first is known."""
        with answering(model, self.dtype, self.autocast) as answerer:
            return self._asked(answerer, step)

    def _asked(self, model: Any, step: int) -> list[Preview]:
        def ask(part: Sequence[Question]) -> list[Preview]:
            return answer(model, self.template, self.tokenizer, part, self.previews, step)

        return in_parts(ask, self.questions, "a preview of one prompt")


def _keep_whole(path: Path, kind: type[Any], expected: int) -> list[Any]:
    """The rows of each step that has all of its `expected` ones; a kill may have torn the last."""
    if not path.exists():
        return []
    rows = [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.step] = counts.get(row.step, 0) + 1
    whole = [row for row in rows if counts[row.step] == expected]
    if len(whole) < len(rows):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in whole))
        os.replace(temporary, path)
    return whole
