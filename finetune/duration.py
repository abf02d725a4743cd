"""How long a run would take on a card nobody has here: from its products and what it moves.

An estimate, never a measurement, and said so wherever it is shown. The usual path's time a token is
what its products take at the card's sustained rate, and what its eager layers read and write at the
card's bandwidth; a micro-batch adds the unpacking of the 4-bit weights, once a pass.

What is moved was calibrated on Phi-2 on the usual path (LoRA dropout, adapters in float32, eager
layers, no checkpointing): 90.7 microseconds a token on an H100 at 3.0 TB/s and 69.0 on an H200 at
4.3 TB/s leave, beside 13.8 of products, 230 and 237 MB a token: 160 bytes for every input and
output element of an adapted projection.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.memory import Shapes, shapes_of
from finetune.methods import METHODS
from finetune.preset import Preset
from finetune.progress import span
from finetune.route import choose, routes

_BYTES_PER_ELEMENT = 160
# The forward pass' share of it, which recomputing activations moves once more.
_FORWARD_SHARE = 1 / 3
# A 4-bit weight is read packed, written in 16 bits and read again by the product.
_UNPACKED_BYTES = 0.5 + 2 + 2


class Card(NamedTuple):
    """A card's sustained rates."""

    name: str
    flops: float  # a second, of 16-bit matrix products
    bandwidth: float  # bytes a second, copied
    memory: float  # bytes
    origin: str  # of those figures


T4 = Card(
    "T4",
    24e12,  # 65 on its sheet, which its 70 W do not sustain
    288e9,  # 320 on its sheet; nine tenths of a sheet's figure is what other cards copy at
    15.6e9,
    "24 TFLOP/s sustained in fp16, 288 GB/s",
)


class Duration(NamedTuple):
    """Seconds, by what takes them."""

    products: float
    moving: float
    unpacking: float

    @property
    def total(self) -> float:
        return sum(self)


def flops_per_token(shapes: Shapes, preset: Preset, *, is_checkpointed: bool) -> float:
    """FLOPs of forward and backward for one token of a row that fills the preset's length.

    Forward: 2 (linears + head) + 2 T h L + 2 LoRA. Backward: the same without gradients of frozen
    weights, 2.5 times the attention, twice the adapters. Recomputing: the layers' forward again.
    """
    linears = sum(math.prod(shape) for shape in shapes.layers.values())
    adapters = preset.lora.r * sum(sum(shape) for shape in shapes.adapted)
    attention = 2.0 * preset.length * shapes.hidden * shapes.depth
    layers = 2.0 * linears + attention + 2.0 * adapters
    head = 2.0 * shapes.head * METHODS[preset.method].answers
    backward = 2.0 * linears + head + 2.5 * attention + 4.0 * adapters
    return layers + head + backward + (layers if is_checkpointed else 0.0)


def duration(
    directory: Path,
    preset: Preset,
    card: Card,
    *,
    tokens: float,
    micro_batches: float,
    is_checkpointed: bool,
) -> Duration:
    """What training on so many tokens takes on one `card` on the usual path, previews aside."""
    shapes = shapes_of(directory, preset)
    linears = sum(math.prod(shape) for shape in shapes.layers.values())
    flops = flops_per_token(shapes, preset, is_checkpointed=is_checkpointed)
    moved = float(_BYTES_PER_ELEMENT) * sum(sum(shape) for shape in shapes.adapted)
    moved *= 1 + _FORWARD_SHARE * is_checkpointed
    passes = 3 if is_checkpointed else 2
    is_packed = preset.base.quantization == "nf4"
    unpacked = passes * linears * _UNPACKED_BYTES * is_packed
    return Duration(
        products=tokens * flops / card.flops,
        moving=tokens * moved / card.bandwidth,
        unpacking=micro_batches * unpacked / card.bandwidth,
    )


def outlook(
    directory: Path, preset: Preset, card: Card, *, tokens: float, examples: int
) -> str | None:
    """A line about training `examples` of so many tokens, padding included, on one `card`; None
    where it has not the memory, or where answers are drawn, of whose time this arithmetic knows
    nothing.
    """
    if preset.grpo:
        return None
    taken = choose(routes(directory, preset, None), card.memory)
    if taken.needed is None or taken.needed.total > card.memory:
        return None
    micro_batches = examples / preset.training.micro_batch
    estimated = duration(
        directory,
        preset,
        card,
        tokens=tokens,
        micro_batches=micro_batches,
        is_checkpointed=taken.is_checkpointed,
    )
    word = "with" if taken.is_checkpointed else "without"
    is_compared = METHODS[preset.method].starts_from_run
    aside = "previews and the reference" if is_compared else "previews"
    return (
        f"on a {card.name}, an estimate that was not run: about {span(estimated.total)} for"
        f" {tokens / 1e6:.3g} million tokens ({span(estimated.products)} of products,"
        f" {span(estimated.moving)} of reading and writing, {span(estimated.unpacking)} of"
        " unpacking),"
        f" {taken.needed.total / 1e9:.1f} GB, {word} gradient checkpointing, {aside} aside;"
        f" it assumes {card.origin}"
    )


def padded_tokens(lengths: Sequence[int], micro_batch: int) -> int:
    """Tokens of rows of those lengths where each micro-batch is padded to its longest."""
    parts = (lengths[start : start + micro_batch] for start in range(0, len(lengths), micro_batch))
    return sum(max(part) * len(part) for part in parts)
