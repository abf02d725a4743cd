"""How much GPU memory a preset needs: an estimate from the shapes in the base's files.

Weights: 4-bit ones take half a byte and their scales, everything else two. An adapter's weight
takes 18: itself, its gradient, two moments of AdamW in float32, and a copy to compute with.
Activations: 5.6 bytes for every input and output element of an adapted projection, calibrated on
Phi-2 (67 GB at 8,192 tokens without checkpointing); with checkpointing, the input of every layer
and twice one layer.
"""

import json
import math
from pathlib import Path

import msgspec

from dataset_builder.errors import InputError
from finetune.preset import Preset

_NF4_BYTES = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # doubly quantised: a byte per 64 weights, a float32 per 256 of those
_ADAPTER_BYTES = 18
_ACTIVATION_BYTES = 5.6
_CONTEXT_BYTES = 0.6e9  # CUDA itself, and its libraries


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of GPU memory."""

    weights: int
    adapter: int
    activations: int
    total: int


def estimate(directory: Path, preset: Preset) -> Estimate:
    """What training under `preset` needs at its peak on the base whose files lie in `directory`."""
    shapes = _shapes(directory)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    layers = {name for name in matrices if ".layers." in name or ".h." in name}
    adapted = [
        shape for name, shape in matrices.items() if name.split(".")[-2] in preset.lora.targets
    ]
    weight_bytes = _NF4_BYTES if preset.base.quantization == "nf4" else 2
    weights = sum(
        math.prod(shape) * (weight_bytes if name in layers else 2) for name, shape in shapes.items()
    )
    elements = sum(sum(shape) for shape in adapted)
    adapter = preset.lora.r * elements * _ADAPTER_BYTES
    tokens = preset.training.micro_batch * preset.length
    depth = max(1, len({_layer(name) for name in layers}))
    per_token = elements * _ACTIVATION_BYTES
    if preset.training.gradient_checkpointing:
        hidden = max((min(shape) for shape in adapted), default=0)
        per_token = min(per_token, 2 * hidden * depth + 2 * per_token / depth)
    activations = tokens * per_token
    return Estimate(
        weights=int(weights),
        adapter=int(adapter),
        activations=int(activations),
        total=int(weights + adapter + activations + _CONTEXT_BYTES),
    )


def refuse_too_little(needed: Estimate, free: int, preset_name: str) -> None:
    """Raise InputError where `free` bytes of GPU memory are less than what is needed."""
    if free < needed.total:
        raise InputError(
            f"preset `{preset_name}` needs about {needed.total / 1e9:.1f} GB of GPU memory,"
            f" {free / 1e9:.1f} GB are free",
            "in the preset, halve `micro_batch` or set `gradient_checkpointing = true`;"
            " or free the GPU",
        )


def _shapes(directory: Path) -> dict[str, list[int]]:
    """The shape of every tensor in the directory's safetensors files, read from their headers."""
    shapes: dict[str, list[int]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes |= {
            name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"
        }
    return shapes


def _layer(name: str) -> str:
    parts = name.split(".")
    return next((part for part in parts if part.isdigit()), "")
