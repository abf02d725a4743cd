"""How much GPU memory a preset needs: an estimate from the shapes in the base's files.

Weights: 4-bit ones take half a byte and their scales, everything else two. A trained weight takes
18: itself, its gradient, two moments of AdamW in float32, and a copy to compute with. Activations:
bytes for every input and output element of an adapted projection, calibrated on Phi-2 at 8,192
tokens (67 GB eager, 22 GB with compiled layers); with checkpointing, the input of every layer and
twice one layer. Logits are made in tiles and do not count. Previews: the 4-bit weights unpacked to
16 bits, and the keys and values of all answers; they unpack only where there is room for it.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.errors import InputError
from finetune.launch import dealt
from finetune.preset import Preset
from finetune.targets import ALL

_NF4_BYTES = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # doubly quantised: a byte per 64 weights, a float32 per 256 of those
_TRAINED_BYTES = 18
_EAGER_BYTES = 5.6
_COMPILED_BYTES = 1.65
# The models whose step finetune.fast knows, by `model_type`.
FAST_TYPES = {"phi", "llama", "qwen2"}
_CONTEXT_BYTES = 0.6e9  # CUDA itself, and its libraries
_HEADS = ("lm_head.weight", "embed_out.weight")


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of GPU memory."""

    weights: int
    adapter: int  # with all else that is trained
    activations: int  # of one micro-batch, at their most
    previews: int  # what previews add to weights and adapter
    total: int  # that must be free for training, CUDA's own included
    peak: int  # that torch will have allocated at most, previews included, CUDA's own not


def estimate(
    directory: Path,
    preset: Preset,
    *,
    is_compiled: bool = False,
    is_unpacked: bool = False,
    processes: int = 1,
) -> Estimate:
    """What training under `preset` needs at its peak on the base whose files lie in `directory`.

    For one GPU of `processes`. `is_compiled`: each layer is compiled, which keeps fewer of its
    activations; `is_unpacked`: the layers' weights are kept in 16 bits beside the base's own.
    """
    shapes = _shapes(directory)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    layers = {name for name in matrices if ".layers." in name or ".h." in name}
    adapted = _adapted(preset, {name: matrices[name] for name in sorted(layers)})
    is_packed = preset.base.quantization == "nf4"
    weights = sum(
        math.prod(shape) * (_NF4_BYTES if is_packed and name in layers else 2)
        for name, shape in shapes.items()
    )
    elements = sum(sum(shape) for shape in adapted)
    trained = preset.lora.r * elements + _extra(preset, matrices)
    depth = max(1, len({_layer(name) for name in layers}))
    per_token = elements * (_COMPILED_BYTES if is_compiled else _EAGER_BYTES)
    if preset.training.gradient_checkpointing:
        hidden = max((min(shape) for shape in adapted), default=0)
        per_token = min(per_token, 2 * hidden * depth + 2 * per_token / depth)
    activations = dealt(preset.training, processes) * preset.length * per_token
    unpacked = sum(2 * math.prod(matrices[name]) for name in layers)
    # Beside the base's own weights, packed or not.
    weights += unpacked if is_unpacked else 0
    previews = 0.0
    if preset.previews.prompts:
        previews = unpacked + _cached(directory, preset, matrices, depth)
    held = weights + trained * _TRAINED_BYTES
    return Estimate(
        weights=int(weights),
        adapter=int(trained * _TRAINED_BYTES),
        activations=int(activations),
        previews=int(previews),
        total=int(held + activations + _CONTEXT_BYTES),
        peak=int(held + max(activations, previews)),
    )


def takes_fast_path(preset: Preset, capability: tuple[int, int] | None, directory: Path) -> bool:
    """Whether training the base in `directory` on a card of that compute capability compiles its
    layers and unpacks its weights, if memory allows; None is no card.
    """
    path = directory / "config.json"
    config: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    return (
        preset.training.fast
        and config.get("model_type") in FAST_TYPES
        and not preset.extra_tokens
        and capability is not None
        and capability >= (8, 0)
        and preset.base.precision in {"auto", "bf16"}
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


def refuse_full_disk(needed: Estimate, run: Path) -> None:
    """Raise InputError where the disk that `run` will lie on cannot hold its checkpoints.

    The two that are kept and the one that is being written, each with the optimizer's state.
    """
    folder = run.absolute()
    while not folder.exists():
        folder = folder.parent
    wanted = 3 * needed.adapter
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise InputError(
            f"{folder}: {free / 1e9:.1f} GB are free, and the run's checkpoints take"
            f" {wanted / 1e9:.1f} GB",
            "make room, or ARTIFACTS=FOLDER moves the artefacts",
        )


def _adapted(preset: Preset, layers: dict[str, list[int]]) -> list[list[int]]:
    """The shapes of the projections that get an adapter."""
    targets = preset.lora.targets
    return [
        shape
        for name, shape in layers.items()
        if name.endswith(".weight") and (targets == ALL or name.split(".")[-2] in targets)
    ]


def _extra(preset: Preset, matrices: dict[str, list[int]]) -> int:
    """Weights trained for extra tokens: an untied head, whole."""
    if not preset.extra_tokens:
        return 0
    return sum(math.prod(shape) for name, shape in matrices.items() if name.endswith(_HEADS))


def _cached(directory: Path, preset: Preset, matrices: dict[str, list[int]], depth: int) -> float:
    """Bytes of the keys and values of one preview's answers, in 16 bits."""
    path = directory / "config.json"
    config: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    narrowest = min((min(shape) for shape in matrices.values()), default=0)
    hidden = config.get("hidden_size") or narrowest
    heads = config.get("num_attention_heads") or 1
    width = (config.get("num_key_value_heads") or heads) * (
        config.get("head_dim") or hidden // heads
    )
    rows = preset.previews.prompts * (len(preset.previews.limits) + 1)
    if preset.previews.temperature:
        rows *= 2  # a drawn answer beside each greedy one
    return rows * (preset.length + preset.previews.tokens) * depth * 2 * width * 2.0


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
