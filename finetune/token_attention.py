"""What the next token of every answer reads of those before it: no slot that pads its prompt, and
none that is empty yet.

PyTorch's attention is given all slots of all answers and a mask, and reads them: with one long
prompt among the answers most of what is read counts for nothing.
"""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

_IS_THERE = find_spec("triton") is not None
WIDEST = 128
SLOTS = 64  # that one program reads at a time


def can_look(width: int, device: torch.device) -> bool:
    """Whether `look` takes heads of that width there."""
    return _IS_THERE and device.type == "cuda" and 16 <= width <= WIDEST


def look(
    queries: Tensor, keys: Tensor, values: Tensor, firsts: Tensor, place: Tensor, scale: float
) -> Tensor:
    """The attention of one token of each answer to its slots from `firsts` (answers,) up to `place`
    (1,), which is its own: (answers, heads, width), as `queries`.

    `keys` and `values` (answers, kept heads, slots, width), dense in their last two dimensions;
    queries that share a kept head stand beside each other.
    """
    from finetune.gpu.token import token_kernel

    answers, heads, width = queries.shape
    kept = keys.shape[1]
    shared = heads // kept
    out = torch.empty(answers, heads, width, dtype=queries.dtype, device=queries.device)
    token_kernel[(answers * kept,)](
        queries,
        keys,
        values,
        firsts,
        place,
        out,
        keys.stride(0),
        keys.stride(1),
        queries.stride(0),
        scale * math.log2(math.e),
        kept,
        shared,
        max(16, 1 << (shared - 1).bit_length()),
        width,
        1 << (width - 1).bit_length(),
        SLOTS,
    )
    return out
