"""A micro-batch as one row of tokens, without padding between its examples.

Each example keeps its own positions and attends to itself alone; `bounds` says where each begins.
The end is padded to a round number of tokens, at most a 64th more (and 15 of a short row), as an
example of its own that carries no loss.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from finetune.rows import IGNORED

# Lengths are rounded up so that few shapes occur and products stay aligned: to this many tokens, or
# less where that would be much of a short row, and as many targets.
TOKENS, TARGETS = 128, 64
_LEAST, _SHARE = 16, 64
# What `pack` gives.
PACKED = ("input_ids", "labels", "position_ids", "bounds", "targets", "target_ids")


def granule(tokens: int) -> int:
    """What the length of a packed row of so many tokens is rounded up to: a power of two."""
    step = TOKENS
    while step > _LEAST and step * _SHARE > tokens:
        step //= 2
    return step


def unpack(packed: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """The examples that `pack` was given, without its padding."""
    ids, labels = packed["input_ids"][0].tolist(), packed["labels"][0].tolist()
    bounds = packed["bounds"].tolist()[:-1]  # the last example is padding
    return [
        {"input_ids": ids[begin:end], "labels": labels[begin:end]}
        for begin, end in pairwise(bounds)
    ]


def pack(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Examples of `input_ids` and `labels`, lists or arrays, as tensors of one packed row.

    `input_ids`, `labels`, `position_ids` (1, tokens); `bounds` (examples + 2,) int32, where each
    example begins, the padding last (empty where none was needed); `targets` (n,), the positions
    whose next token is trained, and `target_ids` (n,), that token, -1 in the padding of `targets`.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    tokens = sum(lengths)
    lengths.append(-tokens % granule(tokens))
    ends = np.cumsum(lengths)
    ids, labels = np.zeros(ends[-1], np.int64), np.full(ends[-1], IGNORED, np.int64)
    positions = np.arange(ends[-1])
    for example, end, length in zip(examples, ends, lengths, strict=False):
        ids[end - length : end] = example["input_ids"]
        # The first token of an example is nobody's next.
        labels[end - length + 1 : end] = example["labels"][1:]
    positions -= np.repeat(ends - lengths, lengths)
    (targets,) = np.nonzero(labels != IGNORED)
    beyond = -len(targets) % TARGETS
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "bounds": torch.from_numpy(np.append(0, ends).astype(np.int32)),
        "targets": torch.from_numpy(np.pad(targets - 1, (0, beyond))),
        "target_ids": torch.from_numpy(np.pad(labels[targets], (0, beyond), constant_values=-1)),
    }
