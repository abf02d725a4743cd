"""How much of what the hardware can multiply a training uses."""

import time
from functools import cache
from typing import Any

import torch

# Sides of the squares that are multiplied: large enough to keep a GPU busy, small for a CPU.
_GPU_SIDE, _CPU_SIDE = 8192, 512
_SECONDS = 0.2  # of measuring


@cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best product of two square matrices in `dtype` on one device.

    About 0.3 s, once a process. The numbers multiplied are random ones, since a card multiplies
    zeros at a higher clock; they come from a generator of their own, so that the training draws
    what it would have.
    """
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(side, side, device=device, generator=generator).to(dtype)
    out = torch.empty_like(matrix)
    best, spent = float("inf"), 0.0
    while spent < _SECONDS:  # the first ones choose a kernel and wake the card
        began = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
    return 2 * side**3 / best


def flops_per_token(model: Any, parameters: int) -> float:
    """Useful FLOPs of training one token with LoRA: 4 N, of which forward and backward are half.

    N is all of the model's `parameters` but an embedding that multiplies nothing (a tied one is the
    head). A frozen weight needs no gradient, hence 4 N and not the 6 N of full training; what
    attention, adapters and recomputed activations cost is left out, so the share is a low one.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()  # None of a model that gives one number
    is_tied = head is not None and head.weight is embedding
    return 4.0 * (parameters - (0 if is_tied else embedding.numel()))
