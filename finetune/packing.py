"""A micro-batch as one row of tokens, without padding between its examples.

Each example keeps its own positions and attends to itself alone; `bounds` says where each begins.
The end is padded to a multiple of a few dozen tokens, as an example of its own that carries no
loss.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from finetune.rows import IGNORED

# Lengths are rounded up so that few shapes occur and products stay aligned.
TOKENS, TARGETS = 128, 64


def unpack(packed: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """The examples that `pack` was given, without its padding."""
    ids, labels = packed["input_ids"][0].tolist(), packed["labels"][0].tolist()
    bounds = packed["bounds"].tolist()[:-1]  # the last example is padding
    return [
        {"input_ids": ids[begin:end], "labels": labels[begin:end]}
        for begin, end in pairwise(bounds)
    ]


def pack(examples: Sequence[dict[str, Any]], padding: int = 0) -> dict[str, torch.Tensor]:
    """Examples of `input_ids` and `labels` as tensors of one packed row.

    `input_ids`, `labels`, `position_ids` (1, tokens); `bounds` (examples + 2,) int32, where each
    example begins, the padding last (empty where none was needed); `targets` (n,), the positions
    whose next token is trained, and `target_ids` (n,), that token, -1 in the padding of `targets`.
    """
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    bounds = [0]
    for example in examples:
        ids += example["input_ids"]
        # The first token of an example is nobody's next.
        labels += [IGNORED, *example["labels"][1:]]
        positions += range(len(example["input_ids"]))
        bounds.append(len(ids))
    missing = -len(ids) % TOKENS
    ids += [padding] * missing
    labels += [IGNORED] * missing
    positions += range(missing)
    bounds.append(len(ids))
    targets = [place - 1 for place, label in enumerate(labels) if label != IGNORED]
    target_ids = [label for label in labels if label != IGNORED]
    beyond = -len(targets) % TARGETS
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "bounds": torch.tensor(bounds, dtype=torch.int32),
        "targets": torch.tensor(targets + [0] * beyond),
        "target_ids": torch.tensor(target_ids + [-1] * beyond),
    }
