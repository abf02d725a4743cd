"""The adapter of a run while it trains: where it sits, in what precision, from where it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builder.artifacts import reading
from finetune.methods import METHODS
from finetune.targets import is_transposed, projections
from finetune.tokens import lora_options, prepare_rows, repair_tied_head

if TYPE_CHECKING:
    from finetune.plan import Plan


def adapter_config(plan: "Plan", model: Any) -> Any:
    """The LoraConfig of the planned run on `model`, which gets room for the preset's extra tokens.

    Raises InputError where the model has no such projection.
    """
    from peft import LoraConfig

    preset = plan.preset
    prepare_rows(model, plan.extra_ids)
    return LoraConfig(
        # Of SEQ_CLS, PEFT trains the head `score` whole and keeps it beside the adapter.
        task_type="CAUSAL_LM" if METHODS[preset.method].answers else "SEQ_CLS",
        r=preset.lora.r,
        lora_alpha=preset.lora.alpha,
        lora_dropout=preset.lora.dropout,
        target_modules=projections(model, preset.lora.targets, plan.preset_name),
        fan_in_fan_out=is_transposed(model),
        **lora_options(model, plan.extra_ids),
    )


def settle(model: Any) -> None:
    """Put right, in the model that TRL has just wrapped, what would go wrong later."""
    repair_tied_head(model)
    # With a name, every checkpoint would ask whether the base's vocabulary grew, the Hub if need
    # be, and then hold the whole embedding. New rows are stored by their indices.
    model.peft_config["default"].base_model_name_or_path = ""
    for parameter in model.parameters():
        # TRL has just made them bf16, whose steps near the end of a schedule round to nothing, and
        # whose gradients an fp16 scaler cannot take; a resumed run would load them as float32
        # anyway.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def start_from(model: Any, adapter: Path) -> None:
    """Give the fresh adapter of `model` the weights stored in the folder `adapter`, bit for bit.

    Raises RuntimeError where the two are not of the same parts.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    with reading(adapter):
        wanted = load_file(adapter / "adapter_model.safetensors")
    set_peft_model_state_dict(model, wanted)
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    different = sorted(
        name
        for name in wanted.keys() | found.keys()
        if name not in wanted
        or name not in found
        or not torch.equal(found[name].cpu().float(), wanted[name].float())
    )
    if different:
        raise RuntimeError(f"{adapter}: {len(different)} parts differ, such as {different[0]}")
