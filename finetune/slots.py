"""Keys and values of answers, at fixed places, so that a GPU can replay the step that uses them."""

from typing import Any

import torch

from finetune.load import CACHED

# Tokens by which what attention looks at grows: the slots beyond are empty, and reading them takes
# most of a step of many answers.
STRIDE = 128


class Slots:
    """Keys and values of a fixed number of tokens: what transformers asks of a cache, and no more.

    `place` is the next token's slot and lies on the device, so that a recorded step moves on by
    itself. Of `size` slots, attention is given the first `reach`.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = self.reach = size
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and mask are always given

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if layer_idx not in self.layers:
            self.layers[layer_idx] = (self._room(keys), self._room(values))
        slots = self.place + torch.arange(keys.shape[2], device=keys.device)
        for kept, new in zip(self.layers[layer_idx], (keys, values), strict=True):
            kept.index_copy_(2, slots, new)
        keys, values = self.layers[layer_idx]
        return keys[:, :, : self.reach], values[:, :, : self.reach]

    def held(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Of each layer what attention is given."""
        return {
            number: (keys[:, :, : self.reach], values[:, :, : self.reach])
            for number, (keys, values) in self.layers.items()
        }

    def reaches(self, slots: int) -> int:
        """What `reach` should be so that so many slots are among it."""
        return min(self.size, -(-slots // STRIDE) * STRIDE) if STRIDE else self.size

    def take(self, rows: torch.Tensor, first: int = 0) -> None:
        """Keep these rows, in this order, without the slots before `first`; a row may be taken
        often. A layer at a time: memory grows by what one takes.
        """
        self.size -= first
        self.place.sub_(first)
        for number in list(self.layers):
            keys, values = self.layers.pop(number)
            keys = keys[:, :, first:].index_select(0, rows)
            self.layers[number] = keys, values[:, :, first:].index_select(0, rows)

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        batch, heads, _, width = like.shape
        return like.new_zeros(batch, heads, self.size, width)


def has_fixed_cache(model: Any, tokens: int) -> bool:
    """Whether every layer of the model attends to all of `tokens` tokens, by a mask it is given."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["by its window"])
    window = getattr(config, "sliding_window", None)
    rotary = str(getattr(config, "rope_parameters", None))
    return (
        getattr(model, "_can_compile_fullgraph", False)  # transformers' word for a static cache
        and config._attn_implementation in ("sdpa", "eager")
        and kinds <= {"full_attention", "sliding_attention", "by its window"}
        and (kinds == {"full_attention"} or window is None or window >= tokens)
        # These look at the positions to choose their angles, which no recording can.
        and "dynamic" not in rotary
        and "longrope" not in rotary
    )


def batch_tokens(model: Any) -> int:
    """How many tokens of keys and values fit beside the model: a share of what the GPU has free."""
    config = model.config
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 16_384
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    held = getattr(config, "num_key_value_heads", None) or heads
    size = 2 * config.num_hidden_layers * held * head * model.dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    # What the allocator keeps is free too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, int(CACHED * free / size))
