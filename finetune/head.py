"""The loss at each trained position alone, in chunks, with its gradient made on the way.

A head of 51,200 tokens turns 16,000 positions into 1.7 GB of logits. They are made for a few
thousand positions at a time, turned into the gradient of the loss in place, multiplied back, and
forgotten; nothing is computed twice. What a position's loss is worth in the end, a mean's share or
a preference's, scales its gradient afterwards. The head itself is not trained here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

CHUNK = 4096  # positions whose logits are held at once


def chunk_losses(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    with_gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The cross-entropy at each position of a chunk, float32, and its gradient in `hidden`'s dtype,
    None where none is wanted.

    `hidden` (positions, width), `labels` (positions,), below 0 where a position does not count.
    """
    logits = functional.linear(hidden, weight, bias).float()
    counts = labels >= 0
    safe = labels.clamp(min=0)
    total = torch.logsumexp(logits, dim=1)
    picked = logits.gather(1, safe[:, None])[:, 0]
    losses = torch.where(counts, total - picked, 0.0)
    if not with_gradient:
        return losses, None
    places = torch.arange(logits.shape[1], device=logits.device)
    gradient = torch.exp(logits - total[:, None]) - (places[None] == safe[:, None]).float()
    gradient = torch.where(counts[:, None], gradient, 0.0).to(hidden.dtype)
    return losses, gradient @ weight


class TokenLosses(torch.autograd.Function):
    """The cross-entropy at each position; the head's weights get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        of_chunk: Callable,
    ) -> torch.Tensor:
        is_trained = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if is_trained else None
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            some, wanted = moving(hidden[part]), moving(labels[part])
            losses[part], slope = of_chunk(some, wanted, weight, bias, is_trained)
            if gradient is not None:
                gradient[part] = slope
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, d_losses: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * d_losses.to(gradient.dtype)[:, None], None, None, None, None


def moving(x: torch.Tensor) -> torch.Tensor:
    """`x`, whose first dimension another call may have otherwise: one compilation serves all."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


Chunk = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


def token_losses(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    of_chunk: Chunk = chunk_losses,
) -> torch.Tensor:
    """The loss of each position of `hidden` (positions, width) by `labels` (positions,): float32,
    0 where a label is below 0.
    """
    losses: torch.Tensor = TokenLosses.apply(hidden, labels, weight, bias, of_chunk)
    return losses
