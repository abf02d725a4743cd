"""A model that gives a whole answer one number: read at its last token, in float32.

transformers' own models of this kind look for the last token that is no padding. Where end-of-text
pads, as in SmolLM2, they read the token before it. Here the mask says where an answer ends, and the
head computes in float32: in bf16, rewards near each other would be equal.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune.oom import in_parts

if TYPE_CHECKING:
    from finetune.fast import Fast

# The head's weight, (1, width), in a base that has one and in an adapter's file.
HEAD = "score.weight"
STORED = f"base_model.model.{HEAD}"


def read_at_end(model: Any) -> None:
    """Let `model`, one for sequence classification, read its number at the last token that the mask
    shows; padding stands on the right.
    """

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **named: Any) -> Any:
        inner = model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        )
        rows = torch.arange(len(input_ids), device=input_ids.device)
        ends = attention_mask.sum(dim=1) - 1
        return _scored(model, inner.last_hidden_state[rows, ends])

    model.forward = forward


def read_packed(model: Any, fast: "Fast") -> None:
    """Let `model` also read a packed row (finetune.packing) by `fast`, at each example's end."""
    usual = model.forward

    def forward(*arguments: Any, bounds: torch.Tensor | None = None, **named: Any) -> Any:
        if bounds is None:
            return usual(*arguments, **named)
        with torch.autocast(bounds.device.type, enabled=False):
            last = fast.last(named["input_ids"], named["position_ids"], bounds)
        return _scored(model, last)

    model.forward = forward


def _scored(model: Any, last: torch.Tensor) -> SequenceClassifierOutput:
    with torch.autocast(last.device.type, enabled=False):
        return SequenceClassifierOutput(logits=model.score(last.float()))


def draw_head(model: Any, seed: int) -> None:
    """Give `model` the fresh head of that seed, spread as transformers spreads new weights."""
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(model.config, "initializer_range", 0.02)
    drawn = torch.randn(model.score.weight.shape, generator=generator) * spread
    model.score.weight.data = drawn.to(model.score.weight.device)


def rewards_of(
    model: Any, sequences: Sequence[Sequence[int]], padding_id: int, what: str
) -> list[float]:
    """The number that `model` gives each sequence of token ids, all in one batch, or in parts where
    memory runs out; `what` then names one of them.
    """
    device = next(model.parameters()).device

    def ask(part: Sequence[Sequence[int]]) -> list[float]:
        width = max(map(len, part))
        ids = [[*each, *[padding_id] * (width - len(each))] for each in part]
        seen = [[1] * len(each) + [0] * (width - len(each)) for each in part]
        with torch.no_grad():
            output = model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(seen, device=device),
            )
        found: list[float] = output.logits[:, 0].float().tolist()
        return found

    return in_parts(ask, sequences, what)
