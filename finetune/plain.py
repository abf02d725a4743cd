"""A copy of a model in training that only answers: one plain matrix where layers are packed or
adapted.

Nothing of the training is touched, and nothing that was bound to its modules comes along.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


def plain_copy(model: Any, dtype: torch.dtype) -> Any:
    """`model` with one matrix in `dtype` for each 4-bit or adapted layer, only to answer.

    Unpacked and merged in float32 and rounded once, as `finetune.model.load_merged` does it. What
    was not adapted is shared, not copied. What was bound to a module (a compiled or patched
    `forward`, hooks) stays behind: the copy computes what its classes say. In eval mode.
    """
    from peft import PeftModel

    with torch.no_grad():
        return _plain(model.get_base_model() if isinstance(model, PeftModel) else model, dtype)


def plain_size(model: Any, dtype: torch.dtype) -> int:
    """Bytes of the matrices that `plain_copy` makes."""
    bases = {
        id(base): base
        for module in model.modules()
        if _is_adapted(module) or _is_packed(module)
        for base in [_base_of(module)]
    }
    return sum(math.prod(_shape(base)) * dtype.itemsize for base in bases.values())


def has_room(model: Any, dtype: torch.dtype) -> bool:
    """Whether the machine can hold a plain copy beside the model, twice for safety."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator keeps for the next training step is free for this.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return free > 2 * plain_size(model, dtype)


@contextmanager
def answering(
    model: Any, dtype: torch.dtype, autocast: Callable[[], AbstractContextManager]
) -> Iterator[Any]:
    """The model that answers in place of `model`: a plain copy in `dtype` where there is room for
    one; else itself, through the packed layers and the adapter, slower by an order of magnitude.
    """
    if has_room(model, dtype):
        yield plain_copy(model, dtype)
        return
    with autocast():
        yield model


def _is_packed(module: Any) -> bool:
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def _is_adapted(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _base_of(module: Any) -> Any:
    return module.get_base_layer() if _is_adapted(module) else module


def _is_transposed(base: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(base, Conv1D)  # GPT-2's, whose weight is (in, out)


def _shape(base: Any) -> tuple[int, int]:
    """Outputs and inputs of a layer."""
    if _is_transposed(base):
        return base.nf, base.nx
    return base.out_features, base.in_features


def _plain(module: Any, dtype: torch.dtype) -> Any:
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if _is_adapted(module) or _is_packed(module):
        return _plain_linear(module, dtype)
    if isinstance(module, TrainableTokensWrapper):
        made = _plain(module.token_adapter.get_base_layer(), dtype)
        made.weight = _frozen(module.weight, dtype)  # with the trained rows in their places
        return made
    if isinstance(module, ModulesToSaveWrapper):
        return _plain(module.modules_to_save[module.active_adapters[0]], dtype)
    made = copy.copy(module)
    for bound in ("forward", "_old_forward", "_hf_hook"):
        made.__dict__.pop(bound, None)
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        made.__dict__[hooks] = type(made.__dict__[hooks])()
    made.training = False
    if hasattr(made, "gradient_checkpointing"):  # recomputing and a cache exclude each other
        made.gradient_checkpointing = False
    made._parameters = {
        name: value if value is None else _frozen(value, dtype)
        for name, value in module._parameters.items()
    }
    made._modules = {name: _plain(child, dtype) for name, child in module._modules.items()}
    return made


def _plain_linear(module: Any, dtype: torch.dtype) -> torch.nn.Linear:
    base = _base_of(module)
    weight = base.weight.data
    if _is_packed(base):
        import bitsandbytes as bnb

        weight = bnb.functional.dequantize_4bit(weight, base.weight.quant_state)
        weight = weight.reshape(_shape(base))
    if _is_transposed(base):
        weight = weight.t()
    if _is_adapted(module):
        weight = weight.float()
        for name in module.active_adapters:
            down, up = module.lora_A[name].weight.float(), module.lora_B[name].weight.float()
            weight = weight + (up @ down) * module.scaling[name]
    made = torch.nn.Linear(1, 1, bias=False, device="meta")
    made.out_features, made.in_features = _shape(base)
    made.weight = _frozen(weight, dtype)
    if base.bias is not None:
        made.bias = _frozen(base.bias, dtype)
    return made.eval()


def _frozen(value: torch.Tensor, dtype: torch.dtype) -> torch.nn.Parameter:
    data = value.detach()
    return torch.nn.Parameter(
        data.to(dtype) if data.is_floating_point() else data, requires_grad=False
    )
