"""Answers in groups, as the trainer gets them: all answers to a prompt side by side.

The first dimension of every tensor is the prompt, so that a micro-batch is cut into pieces as any
other (finetune.oom), and never between two answers to one prompt.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from finetune.packing import pack
from finetune.rows import IGNORED

Batch = dict[str, torch.Tensor]


class Read(NamedTuple):
    """An answer after a prompt, as token ids."""

    prompt: Sequence[int]
    answer: Sequence[int]


def batch_of(groups: Sequence[Sequence[Read]], padding_id: int, is_packed: bool) -> Batch:
    """The groups, all of one size, as one padded batch: `input_ids`, `attention_mask` and `labels`,
    (prompts, group, tokens); or as one row of all sequences (finetune.packing).

    With `answered` (prompts, group, width): 1 where an answer has its n-th token; and `before`
    (prompts, group): the tokens of the prompt before it.
    """
    flat = [each for group in groups for each in group]
    shape = (len(groups), len(groups[0]))
    answered = np.zeros((len(flat), max(len(each.answer) for each in flat)), np.int64)
    for place, each in enumerate(flat):
        answered[place, : len(each.answer)] = 1
    beside = {
        "answered": torch.from_numpy(answered).reshape(*shape, -1),
        "before": torch.tensor([len(each.prompt) for each in flat]).reshape(shape),
    }
    if is_packed:
        return pack([_row(each) for each in flat]) | beside
    width = max(len(each.prompt) + len(each.answer) for each in flat)
    ids = np.full((len(flat), width), padding_id, np.int64)
    labels, mask = np.full_like(ids, IGNORED), np.zeros_like(ids)
    for place, each in enumerate(flat):
        row = _row(each)
        length = len(row["input_ids"])
        ids[place, :length], labels[place, :length] = row["input_ids"], row["labels"]
        mask[place, :length] = 1
    whole = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {k: torch.from_numpy(v).reshape(*shape, -1) for k, v in whole.items()} | beside


def _row(each: Read) -> dict[str, list[int]]:
    prompt, answer = list(each.prompt), list(each.answer)
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def token_log_probabilities(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Of each answer's tokens after what stands before them: (prompts, group, width), float32; what
    stands where an answer has no token means nothing.
    """
    if "bounds" in inputs:
        return _packed(model, inputs)
    names = ("input_ids", "attention_mask", "labels")
    flat = {name: inputs[name].flatten(0, 1) for name in names}
    # Of every token but the first.
    found = model(**flat, use_cache=False, fused_lm_head=True).log_probs.float()
    answered = inputs["answered"]
    places = torch.arange(answered.shape[-1], device=found.device)
    wanted = inputs["before"].reshape(-1, 1) - 1 + places
    picked: torch.Tensor = found.gather(1, wanted.clamp(max=found.shape[1] - 1))
    return picked.reshape(answered.shape)


def _packed(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    names = ("input_ids", "position_ids", "bounds", "targets", "target_ids")
    losses = model(**{name: inputs[name] for name in names}).losses
    answered, targets = inputs["answered"], inputs["targets"]
    width = answered.shape[-1]
    # Which sequence each target stands in, and the how manieth token of its answer is next there.
    owners = torch.searchsorted(inputs["bounds"][1:].long(), targets, right=True)
    before = inputs["before"].flatten()
    owners = owners.clamp(max=len(before) - 1)  # the row's padding holds no target
    offsets = inputs["position_ids"][0, targets] + 1 - before[owners]
    # What pads the targets goes beyond the end.
    end = answered.numel()
    places = torch.where(inputs["target_ids"] >= 0, owners * width + offsets, end)
    dense = losses.new_zeros(end + 1).scatter(0, places, -losses)
    return dense[:end].reshape(answered.shape)
