"""How much GPU memory a preset needs: an estimate from the shapes in the base's files.

Weights: 4-bit ones take half a byte and their scales, everything else two. A trained weight takes
18: itself, its gradient, two moments of AdamW in float32, and a copy to compute with. Activations:
bytes for every input and output element of an adapted projection, calibrated on Phi-2 (eager at
8,192 tokens 67 and 73 GB; compiled at 16,384 41 and 54, with adapter dropout 62 to 65) and on
SmolLM2 (compiled at 16,384 14); with checkpointing, the input of every layer and twice one layer.
Logits are made in tiles and do not count. Previews: the 4-bit weights unpacked to 16 bits, and the
keys and values of all answers; they unpack only where there is room for it.

A rollout unpacks likewise, and holds the keys and values of a batch of answers, as many as a share
of what is free has room for. Its answers are in no file: where the run's prompts are known
(finetune.load), they are taken to have 40 % of the tokens they may have. What is alive at the peak
is then either the largest micro-batch's activations or a batch of answers; reading answers under
the start keeps no activations, and the answers' ids are nothing. `smollm2-grpo` (16 prompts a step,
4 a micro-batch, 16 answers to each) on SmolLM2, the fast path, a card shared with other runs:

    prompts of the largest   answers may   predicted, GB   peaks measured, GB
    24,848 tokens            11,776        20.4            19.12, 19.27, 19.48, 19.56 (H100)
    23,280                    6,912        18.0            18.95 (H200; of answers, not of training)
    40,960 with answers, as the preset alone says: 28.0
"""

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dataset_builder.errors import InputError
from finetune.foreign import configuration, tensor_shapes
from finetune.launch import dealt
from finetune.load import CACHED, ROWS, Load
from finetune.methods import METHODS, sequences_of
from finetune.preset import Preset
from finetune.targets import ALL

_NF4_BYTES = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # doubly quantised: a byte per 64 weights, a float32 per 256 of those
_TRAINED_BYTES = 18
_EAGER_BYTES = 5.6
# Compiled: without adapter dropout, and what that adds.
_COMPILED_BYTES, _DROPOUT_BYTES = 1.8, 0.5
# A gated MLP keeps what comes out of its gate, and that times the other half, beside both.
_GATED_BYTES = 0.4
# The models whose step finetune.fast knows, by `model_type`.
FAST_TYPES = {"phi", "llama", "qwen2"}
BF16 = (8, 0)  # the compute capability from which a card multiplies in bf16
_CONTEXT_BYTES = 0.6e9  # CUDA itself, and its libraries
_HEADS = ("lm_head.weight", "embed_out.weight")


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of GPU memory."""

    weights: int
    adapter: int  # with all else that is trained
    activations: int  # of one micro-batch, at their most
    previews: int  # what previews add to weights and adapter
    rollout: int = 0  # what answers to train on add
    total: int  # that must be free for training, CUDA's own included
    peak: int  # that torch will have allocated at most, previews included, CUDA's own not


def estimate(
    directory: Path,
    preset: Preset,
    *,
    is_compiled: bool = False,
    is_unpacked: bool = False,
    is_checkpointed: bool | None = None,
    processes: int = 1,
    load: Load | None = None,
    free: float = math.inf,
) -> Estimate:
    """What training under `preset` needs at its peak on the base whose files lie in `directory`.

    For one GPU of `processes` with `free` bytes. `load`: what its prompts ask, where they are
    known. `is_compiled`: each layer is compiled, which keeps fewer of its activations;
    `is_unpacked`: the layers' weights are kept in 16 bits beside the base's own; `is_checkpointed`:
    as the preset says without it, where `auto` is no.
    """
    shapes = shapes_of(directory, preset)
    is_packed = preset.base.quantization == "nf4"
    weights = sum(
        math.prod(shape) * (_NF4_BYTES if is_packed and name in shapes.layers else 2)
        for name, shape in shapes.tensors.items()
    )
    elements = sum(sum(shape) for shape in shapes.adapted)
    trained = preset.lora.r * elements + (shapes.untied_head if preset.extra_tokens else 0)
    depth = shapes.depth
    dropout = _DROPOUT_BYTES if preset.lora.dropout else 0.0
    gated = 0.0 if shapes.config.get("model_type") == "phi" else _GATED_BYTES
    kept = _COMPILED_BYTES + dropout + gated if is_compiled else _EAGER_BYTES
    per_token = elements * kept
    if is_checkpointed is None:
        is_checkpointed = preset.training.gradient_checkpointing is True
    if is_checkpointed:
        hidden = max((min(shape) for shape in shapes.adapted), default=0)
        per_token = min(per_token, 2 * hidden * depth + 2 * per_token / depth)
    tokens = dealt(preset.training, processes) * sequences_of(preset) * preset.length
    if load:
        tokens = load.packed if is_compiled else load.padded
    activations = tokens * per_token
    unpacked = sum(2 * math.prod(shape) for shape in shapes.layers.values())
    # Beside the base's own weights, packed or not.
    weights += unpacked if is_unpacked else 0
    previews = 0.0
    if preset.previews.prompts and METHODS[preset.method].answers:
        previews = unpacked + _cached(shapes, preset)
    held = weights + trained * _TRAINED_BYTES
    rollout = 0.0
    if preset.grpo:
        made = preset.training.batch // processes * preset.grpo.group * preset.grpo.rollout_steps
        slots = load.slots if load else min(made, ROWS) * preset.length
        room = CACHED * max(0.0, free - held - unpacked - _CONTEXT_BYTES)
        rollout = unpacked + min(slots * _slot_bytes(shapes), room)
    return Estimate(
        weights=int(weights),
        adapter=int(trained * _TRAINED_BYTES),
        activations=int(activations),
        previews=int(previews),
        rollout=int(rollout),
        total=int(held + activations + _CONTEXT_BYTES),
        peak=int(held + max(activations, previews, rollout)),
    )


def takes_fast_path(preset: Preset, capability: tuple[int, int] | None, directory: Path) -> bool:
    """Whether training the base in `directory` on a card of that compute capability compiles its
    layers and unpacks its weights, if memory allows; None is no card.
    """
    return (
        preset.training.fast
        and configuration(directory).get("model_type") in FAST_TYPES
        and not preset.extra_tokens
        and capability is not None
        and capability >= BF16
        and preset.base.precision in {"auto", "bf16"}
    )


def refuse_too_little(needed: Estimate, free: int, preset_name: str) -> None:
    """Raise InputError where `free` bytes of GPU memory are less than what is needed."""
    if free < needed.total:
        raise InputError(
            f"preset `{preset_name}` needs about {needed.total / 1e9:.1f} GB of GPU memory,"
            f" {free / 1e9:.1f} GB are free",
            "in the preset, halve `micro_batch` or set `gradient_checkpointing` to true or"
            ' "auto"; or free the GPU',
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


class Shapes(NamedTuple):
    """The shapes of a base's tensors, as its files' headers say them."""

    tensors: dict[str, list[int]]  # all of them
    layers: dict[str, list[int]]  # the matrices of decoder layers
    adapted: list[list[int]]  # those of them that get an adapter
    untied_head: int  # weights of the head, where it is not the embedding
    head: int  # weights that a position's logits are a product with
    depth: int  # decoder layers
    hidden: int  # a token's width between layers
    config: dict[str, Any]


def shapes_of(directory: Path, preset: Preset) -> Shapes:
    """What estimates are made from, of the base in `directory` under `preset`."""
    tensors = tensor_shapes(directory)
    matrices = {name: shape for name, shape in tensors.items() if len(shape) == 2}
    layers = {n: matrices[n] for n in sorted(matrices) if ".layers." in n or ".h." in n}
    targets = preset.lora.targets
    adapted = [
        shape
        for name, shape in layers.items()
        if name.endswith(".weight") and (targets == ALL or name.split(".")[-2] in targets)
    ]
    config = configuration(directory)
    heads = [math.prod(shape) for name, shape in matrices.items() if name.endswith(_HEADS)]
    narrowest = min((min(shape) for shape in matrices.values()), default=0)
    outside = [math.prod(shape) for name, shape in matrices.items() if name not in layers]
    return Shapes(
        tensors=tensors,
        layers=layers,
        adapted=adapted,
        untied_head=sum(heads),
        head=max(heads, default=max(outside, default=0)),  # a tied one is the embedding
        depth=max(1, len({_layer(name) for name in layers})),
        hidden=config.get("hidden_size") or narrowest,
        config=config,
    )


def _cached(shapes: Shapes, preset: Preset) -> float:
    """Bytes of the keys and values of one preview's answers."""
    rows = preset.previews.prompts * (len(preset.previews.limits) + 1)
    if preset.previews.temperature:
        rows *= 2  # a drawn answer beside each greedy one
    return rows * (preset.length + preset.previews.tokens) * _slot_bytes(shapes)


def _slot_bytes(shapes: Shapes) -> float:
    """Bytes of a token's keys and values, in 16 bits."""
    config = shapes.config
    heads = config.get("num_attention_heads") or 1
    width = (config.get("num_key_value_heads") or heads) * (
        config.get("head_dim") or shapes.hidden // heads
    )
    return shapes.depth * 2 * width * 2.0


def _layer(name: str) -> str:
    parts = name.split(".")
    return next((part for part in parts if part.isdigit()), "")
