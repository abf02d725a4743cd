"""Which projections of a model get an adapter: named, or every one of attention and MLP.

PEFT's own defaults leave some out: `k_proj` and `dense` of Phi, all but `q_proj` and `v_proj` of
Llama.
"""

from collections.abc import Sequence
from typing import Any

from dataset_builder.errors import InputError

ALL = "all-linear"


def projections(model: Any, targets: Sequence[str] | str, preset_name: str) -> list[str]:
    """The last parts of the names of the projections that get an adapter, sorted.

    Raises InputError for a name that no projection has, for the head, and where some weights of the
    layers are no projections and no adapter could reach them.
    """
    found = _linear(model)
    if targets == ALL:
        _refuse_unreachable(model, preset_name)
        if not found:
            raise InputError(
                f"preset `{preset_name}`: the base has no linear projection",
                "name `targets` in `[lora]`",
            )
        return sorted(found)
    for target in targets:
        if target not in found:
            raise InputError(
                f"preset `{preset_name}`: the base has no projection `{target}`",
                f"its projections: {', '.join(sorted(found))}",
            )
    return list(targets)


def is_transposed(model: Any) -> bool:
    """Whether the model's projections store their weights as (inputs, outputs), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _linear(model: Any) -> set[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    heads = (model.get_output_embeddings(), getattr(model, "score", None))
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module not in heads
    }


def _refuse_unreachable(model: Any, preset_name: str) -> None:
    """Experts are stacked in one parameter of three dimensions, which is no linear layer."""
    stacked = [name for name, weight in model.named_parameters() if weight.dim() > 2]
    if stacked:
        raise InputError(
            f"preset `{preset_name}`: {len(stacked)} weights of the base, among them"
            f" `{stacked[0]}`, are no linear projections, and no adapter would reach them",
            "name `targets` in `[lora]` to adapt the others alone",
        )
