"""What a run tells TRL's trainer of whatever method, and whether the trainer heard it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune import launch
from finetune.route import Route

if TYPE_CHECKING:
    from finetune.plan import Plan


def arguments(
    plan: "Plan", device: Any, precision: Any, route: Route, trackers: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments that the trainers of all methods take: budget, schedule, precision, silence."""
    import torch

    training = plan.preset.training
    among = launch.processes()
    micro_batch = launch.dealt(training, among)
    return {
        "output_dir": str(plan.unfinished / "trainer"),
        "seed": plan.seed,
        "max_steps": plan.budget.steps,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": training.batch // (micro_batch * among),
        "ddp_find_unused_parameters": False,  # every adapter takes part in every pass
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": math.ceil(training.warmup * plan.budget.steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": "adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
        "bf16": precision == torch.bfloat16,
        "fp16": precision == torch.float16,
        "use_cpu": device.type == "cpu",
        # The name that both transformers 5.17 and 5.23 know.
        "gradient_checkpointing": route.is_checkpointed,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        # The rows are token ids in their final order, of at most the preset's length.
        "max_length": None,
        "train_sampling_strategy": "sequential",
        # One that packs the next batch while the card works on this one.
        "dataloader_num_workers": 1 if device.type == "cuda" else 0,
        "dataloader_pin_memory": device.type == "cuda",
        # Else every batch waits until the card has done all it was given.
        "accelerator_config": {"non_blocking": device.type == "cuda"},
        # Every step, so that metrics.jsonl is the same however often a run was resumed.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": training.checkpoint_steps,
        "report_to": list(trackers) or "none",
        "run_name": plan.name,
        "project": "treetune",
        "disable_tqdm": True,
    }


def refuse_changed_rows(held: int, trained: int, plan: "Plan") -> None:
    """Raise RuntimeError where the trainer holds other rows than were planned: TRL drops and cuts
    rows without a word, and that must not happen to rows that were counted.
    """
    if held != plan.budget.examples_seen:
        raise RuntimeError(f"the trainer holds {held} rows, not {plan.budget.examples_seen}")
    if trained != plan.budget.trained_tokens:
        raise RuntimeError(
            f"the trainer would train {trained} tokens, not {plan.budget.trained_tokens}"
        )
