"""Which way a run is computed on the hardware at hand: the fast path or the usual one, with
gradient checkpointing or without.

A preset that says `gradient_checkpointing = "auto"` leaves it to the estimate of memory:
recomputing costs a third of a step's work and is done only where activations would not fit.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dataset_builder.errors import InputError
from finetune import launch
from finetune.load import Load, load_of
from finetune.memory import (
    Estimate,
    estimate,
    refuse_full_disk,
    refuse_too_little,
    takes_fast_path,
)
from finetune.methods import sequences_of
from finetune.preset import AUTO, Preset
from finetune.rows import lengths_of

if TYPE_CHECKING:
    from finetune.plan import Plan
    from finetune.run import Segment

# The estimate is promised within 15 % of what is measured, so a quicker way is taken only where
# there is room for that; the slowest one is tried wherever it may fit.
MARGIN = 1.15


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A way to compute a run."""

    is_fast: bool  # the fast path, if nothing but memory is in its way (finetune.trainer)
    is_checkpointed: bool
    needed: Estimate | None = None  # None where nobody asked
    slow: str | None = None  # why memory does not allow the fast path, if so

    def describe(self, preset: Preset) -> str:
        """The route in a few words, and who chose it."""
        way = "the fast path" if self.is_fast else "the usual path"
        word = "with" if self.is_checkpointed else "without"
        chosen = preset.training.gradient_checkpointing == AUTO
        who = "chosen by the estimate of memory" if chosen else "as the preset says"
        return f"{way}, {word} gradient checkpointing ({who})"


def asked(preset: Preset) -> Route:
    """What the preset says, where nobody looks at a card: `auto` is without checkpointing."""
    training = preset.training
    return Route(is_fast=training.fast, is_checkpointed=training.gradient_checkpointing is True)


def routes(
    directory: Path,
    preset: Preset,
    capability: tuple[int, int] | None,
    processes: int = 1,
    load: Load | None = None,
    free: float = math.inf,
) -> list[Route]:
    """The ways that the preset allows on a card of that compute capability (None: no card), the
    quickest first, each with what it needs on the base in `directory`; `load` and `free` as
    `finetune.memory.estimate` takes them.
    """
    said = preset.training.gradient_checkpointing
    choices = (False, True) if said == AUTO else (bool(said),)
    paths = (True, False) if takes_fast_path(preset, capability, directory) else (False,)
    return [
        Route(
            is_fast=is_fast,
            is_checkpointed=is_checkpointed,
            needed=estimate(
                directory,
                preset,
                is_compiled=is_fast,
                is_unpacked=is_fast,
                is_checkpointed=is_checkpointed,
                processes=processes,
                load=load,
                free=free,
            ),
        )
        for is_fast in paths
        for is_checkpointed in choices
    ]


def choose(found: Sequence[Route], free: float, before: "Segment | None" = None) -> Route:
    """The first of `found` that has room in `free` bytes, the last one if none has.

    The way of the segment `before` comes first where it fits, so that a resumed run goes on as it
    was begun.
    """
    order = sorted(found, key=lambda route: 0 if _is_same(route, before) else 1)
    for place, route in enumerate(order):
        margin = 1.0 if place == len(order) - 1 or _is_same(route, before) else MARGIN
        if _total(route) * margin <= free:
            return msgspec.structs.replace(route, slow=_slow(found, route, free))
    return msgspec.structs.replace(found[-1], slow=_slow(found, found[-1], free))


def _slow(found: Sequence[Route], taken: Route, free: float) -> str | None:
    fast = [route for route in found if route.is_fast]
    if taken.is_fast or not fast:
        return None
    least = min(_total(route) for route in fast)
    if least <= free:
        return (
            f"it needs about {least / 1e9:.1f} GB of GPU memory, too near the {free / 1e9:.1f} free"
        )
    return f"it needs about {least / 1e9:.1f} GB of GPU memory, {free / 1e9:.1f} are free"


def _total(route: Route) -> int:
    assert route.needed is not None
    return route.needed.total


def _is_same(route: Route, before: "Segment | None") -> bool:
    return before is not None and (route.is_fast, route.is_checkpointed) == (
        before.is_fast,
        before.is_checkpointed,
    )


def free_memory(device: Any) -> int:
    """Bytes that are free on the device: a GPU's own, or the machine's."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    import psutil

    return int(psutil.virtual_memory().available)


def preflight(plan: "Plan", device: Any, before: "Segment | None" = None) -> Route:
    """The way the planned run will take on `device`, the same for all processes of it.

    Raises InputError where the disk or the GPU cannot hold what the preset wants, or several GPUs
    are visible.
    """
    import torch

    is_card = device.type == "cuda"
    if is_card and torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are visible, and a run uses one",
            "set CUDA_VISIBLE_DEVICES=0, or type `--gpus N`",
        )
    capability = _capability(device) if is_card else None
    free = free_memory(device)
    found = _routes_of(plan, capability, launch.processes(), free)
    assert found[-1].needed is not None
    refuse_full_disk(found[-1].needed, plan.directory)
    taken = choose(found, free, before)
    # Cards may have different memory free, and all must do the same: the slowest that one needs.
    order = [(route.is_fast, route.is_checkpointed) for route in found]
    taken = max(
        launch.of_all(taken),
        key=lambda route: order.index((route.is_fast, route.is_checkpointed)),
    )
    if is_card:
        assert taken.needed is not None
        refuse_too_little(taken.needed, free, plan.preset_name)
    return taken


def _routes_of(
    plan: "Plan", capability: tuple[int, int] | None, processes: int, free: float
) -> list[Route]:
    """`routes` of a planned run, whose rows are known."""
    load = load_of(plan, processes)
    return routes(plan.files.directory, plan.preset, capability, processes, load, free)


def foreseen(plan: "Plan", processes: int) -> list[str]:
    """What a dry run says of memory and time: here, by what is free now, and on a T4."""
    from finetune.duration import T4, outlook, padded_tokens
    from finetune.model import pick_device

    device = pick_device()
    is_card = device.type == "cuda"
    capability = _capability(device) if is_card else None
    free = free_memory(device)
    taken = choose(_routes_of(plan, capability, processes, free), free)
    assert taken.needed is not None
    where = "GPU memory" if is_card else "memory, if this were a GPU; here on the CPU"
    lines = [
        f"about {taken.needed.total / 1e9:.1f} GB of {where}, {free / 1e9:.1f} GB are free:"
        f" {taken.describe(plan.preset)}"
    ]
    lengths = [length for place in plan.order for length in lengths_of(plan.rows[place])]
    sequences = sequences_of(plan.preset)
    tokens = padded_tokens(lengths, plan.preset.training.micro_batch * sequences)
    line = outlook(
        plan.files.directory, plan.preset, T4, tokens=float(tokens), examples=len(plan.order)
    )
    return [*lines, line] if line else lines


def _capability(device: Any) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device)
