"""A variant's examples as token rows in the order a run sees them.

The budget is examples seen: the rows are laid out once, for all steps, as one long epoch in which
every batch is full. So a step is always `batch` examples, whatever the size of the variant, and
what a step will see is known before it runs.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_builder.artifacts import hash_order
from dataset_builder.errors import InputError
from dataset_builder.fit import (
    Fit,
    FittedPair,
    FittedPrompt,
    FittedRow,
    fit_pairs,
    fit_prompts,
    fit_rows,
)
from dataset_builder.tables import FORMS, read_table
from dataset_builder.template import Template
from finetune.methods import METHODS
from finetune.preset import Preset

if TYPE_CHECKING:
    from datasets import Dataset

# An example of any form; the sequences that it makes share its prompt.
Fitted = FittedRow | FittedPair | FittedPrompt

# The label of a position that carries no loss.
IGNORED = -100


@dataclass(frozen=True)
class Budget:
    """What a run goes through."""

    steps: int
    examples_seen: int  # steps x batch
    epochs: float  # examples seen over rows kept
    tokens: int  # through the model, padding aside
    trained_tokens: int  # of them in answers, chosen or rejected
    tokens_by_step: list[int]
    trained_tokens_by_step: list[int]


def read_rows(
    variant: Path, split: str, template: Template, tokenizer: Any, preset: Preset
) -> tuple[list[Any], Fit]:
    """The rows of `split` (train or validation) that fit the preset, and the account of the fit:
    FittedRows, FittedPairs or FittedPrompts, as the preset's method trains on.

    Raises InputError where the variant has no row of `train`, or none of them fits.
    """
    form = METHODS[preset.method].form
    rows = read_table(variant / f"{split}.parquet", FORMS[form]).to_pylist()
    fit_all = _fits(preset, form)
    fitted, fit = fit_all(rows, template, tokenizer, preset.length, preset.overflow)
    if split == "train" and not fitted:
        raise InputError(
            f"{variant.name}: none of {fit.rows} rows fits {preset.length} tokens"
            f" by the overflow policy `{preset.overflow}`",
            "raise `length` in the preset, or choose another `overflow`",
        )
    return fitted, fit


def _fits(preset: Preset, form: str) -> Callable[..., tuple[list[Any], Fit]]:
    """What fits rows of that form as the preset says."""
    if preset.grpo:
        return partial(fit_prompts, allowed=preset.grpo.allowed, group=preset.grpo.group)
    return fit_pairs if form == "pairs" else fit_rows


def order_of(ids: Sequence[str], seed: int, examples: int) -> list[int]:
    """The places in `ids` of the first `examples` examples a run with this seed sees.

    Every row comes once before any comes twice; each pass has an order of its own. Two variants
    show the examples they share in the same relative order.
    """
    places: list[int] = []
    for epoch in range(math.ceil(examples / len(ids))):
        salt = f"order {seed} {epoch}"
        places += sorted(range(len(ids)), key=lambda place: hash_order(salt, ids[place]))
    return places[:examples]


def lengths_of(row: Fitted) -> list[int]:
    """The tokens of each sequence that the example makes."""
    return [len(row.prompt_ids) + len(answer) for answer in row.answers]


def budget_of(fitted: Sequence[Fitted], order: Sequence[int], batch: int) -> Budget:
    """What a run over `order`, a whole number of steps of `batch`, goes through."""
    prompts = np.array([len(row.prompt_ids) * len(row.answers) for row in fitted])
    answers = np.array([sum(map(len, row.answers)) for row in fitted])
    seen = np.asarray(order).reshape(-1, batch)
    trained = answers[seen].sum(axis=1)
    tokens = prompts[seen].sum(axis=1) + trained
    return Budget(
        steps=len(seen),
        examples_seen=seen.size,
        epochs=seen.size / len(fitted),
        tokens=int(tokens.sum()),
        trained_tokens=int(trained.sum()),
        tokens_by_step=tokens.tolist(),
        trained_tokens_by_step=trained.tolist(),
    )


def dataset_of(fitted: Sequence[FittedRow], order: Sequence[int]) -> "Dataset":
    """The rows as TRL trains on them untouched: `input_ids`, and `labels` without the prompt."""
    from datasets import Dataset

    rows = Dataset.from_dict(
        {
            "input_ids": [row.prompt_ids + row.completion_ids for row in fitted],
            "labels": [[IGNORED] * len(row.prompt_ids) + row.completion_ids for row in fitted],
        }
    )
    return rows.select(list(order))


def token_digest(fitted: Sequence[Fitted], order: Sequence[int]) -> str:
    """The sha256 of every token in the order of training: of data, template and tokenizer."""
    digest = hashlib.sha256()
    for row in fitted:
        digest.update(json.dumps([row.example_id, row.prompt_ids, *row.known]).encode())
    digest.update(json.dumps(list(order)).encode())
    return digest.hexdigest()
