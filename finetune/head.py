"""The loss at the trained positions alone, in chunks, with its gradient made on the way.

A head of 51,200 tokens turns 16,000 positions into 1.7 GB of logits. They are made for a few
thousand positions at a time, turned into the gradient of the loss in place, multiplied back, and
forgotten; nothing is computed twice. The head itself is not trained here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

CHUNK = 4096  # positions whose logits are held at once


def chunk_loss(
    hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropy of a chunk, float32, and its gradient in `hidden`'s dtype.

    `hidden` (positions, width), `labels` (positions,), below 0 where a position does not count.
    """
    logits = functional.linear(hidden, weight, bias).float()
    counts = labels >= 0
    safe = labels.clamp(min=0)
    total = torch.logsumexp(logits, dim=1)
    picked = logits.gather(1, safe[:, None])[:, 0]
    loss = torch.where(counts, total - picked, 0.0).sum()
    places = torch.arange(logits.shape[1], device=logits.device)
    gradient = torch.exp(logits - total[:, None]) - (places[None] == safe[:, None]).float()
    gradient = torch.where(counts[:, None], gradient, 0.0).to(hidden.dtype)
    return loss, gradient @ weight


class SummedLoss(torch.autograd.Function):
    """The cross-entropy summed over all positions; the head's weights get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        of_chunk: Callable,
    ) -> torch.Tensor:
        gradient = torch.empty_like(hidden)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            some, wanted = moving(hidden[part]), moving(labels[part])
            one, gradient[part] = of_chunk(some, wanted, weight, bias)
            loss = loss + one
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss.to(gradient.dtype), None, None, None, None


def moving(x: torch.Tensor) -> torch.Tensor:
    """`x`, whose first dimension another call may have otherwise: one compilation serves all."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


Chunk = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def summed_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    of_chunk: Chunk = chunk_loss,
) -> torch.Tensor:
    """The loss of `hidden` (positions, width) summed over `labels` (positions,): a float32."""
    loss: torch.Tensor = SummedLoss.apply(hidden, labels, weight, bias, of_chunk)
    return loss
