"""TRL's trainer on packed rows, where the model is computed the fast way."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl import SFTTrainer

from dataset_builder.fit import FittedRow
from finetune import launch
from finetune.fast import Fast, install
from finetune.oom import in_parts
from finetune.packing import pack
from finetune.preset import Preset
from finetune.previews import undisturbed
from finetune.route import Route
from finetune.rows import dataset_of


class PackedTrainer(SFTTrainer):
    """Packs each micro-batch into one row and asks the model for its summed loss.

    Everything else, from the order of rows to the schedule, stays TRL's and Transformers'.
    """

    is_fast = False

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        install(fast.model, fast)
        self.is_fast = True
        self.data_collator = pack

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss per trained token of the whole step, as TRL counts it."""
        if "bounds" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        output = model(**inputs)
        trained = (labels >= 0).sum() if num_items_in_batch is None else num_items_in_batch
        loss = output.loss / torch.as_tensor(trained).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is of every process, whose gradients are averaged.
            loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """None at a checkpoint: the finished run has its own."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted: the trainer would go through all weights at every step to do so."""
        return 0

    def summed_loss(self, batch: dict[str, Any]) -> tuple[float, int]:
        """The loss of a collated batch summed over its trained tokens, and how many these are."""
        inputs = self._prepare_inputs(batch)
        if "bounds" in inputs:
            labels = inputs.pop("labels")
            return self.model(**inputs).loss.item(), int((labels >= 0).sum().item())
        output = self.model(**inputs, fused_lm_head=True, use_cache=False)
        return -output.log_probs.sum().item(), int(output.label_mask.sum().item())


def take_route(
    trainer: Any,
    preset: Preset,
    device: torch.device,
    precision: torch.dtype,
    route: Route,
    report: Callable[[str], None],
) -> None:
    """Let the trainer compute the fast way where `route` says so and nothing is against it;
    `report` gets a line where something is.
    """
    fast = route.slow or fast_or_reason(
        trainer.model, preset, device, precision, is_checkpointed=route.is_checkpointed
    )
    if isinstance(fast, str):
        report(f"the usual path, not the fast one: {fast}")
    elif fast:
        trainer.use(fast)


def fast_or_reason(
    model: Any,
    preset: Preset,
    device: torch.device,
    precision: torch.dtype,
    *,
    is_checkpointed: bool,
) -> Fast | str | None:
    """The fast computation of `model`, inside PEFT's wrapper; why there is none; or None where the
    preset wants none or a machine without a GPU has no use for it.
    """
    if not preset.training.fast or device.type != "cuda":
        return None
    if precision != torch.bfloat16:
        return f"it computes in bf16, and this run in {str(precision).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the card computes no bf16"
    try:
        return Fast(
            model.get_base_model(),
            preset.length,
            precision,
            compiled=True,
            checkpointing=is_checkpointed,
        )
    except ValueError as error:
        return str(error)


def mean_loss(trainer: Any, rows: list[FittedRow], batch: int) -> float | None:
    """The mean loss per answer token over `rows`, dealt out to all processes; None where there are
    no rows.
    """
    if not rows:
        return None
    own = range(launch.rank(), len(rows), launch.processes())
    dataset = dataset_of(rows, own)

    def losses(picked: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
        return [trainer.summed_loss(trainer.data_collator(list(picked)))]

    summed: list[tuple[float, int]] = []
    with undisturbed(trainer.model), torch.no_grad(), trainer.accelerator.autocast():
        for start in range(0, len(own), batch):
            picked = [dataset[place] for place in range(start, min(start + batch, len(own)))]
            summed += in_parts(losses, picked, "the validation loss of one row")
    every = [each for part in launch.of_all(summed) for each in part]
    return sum(loss for loss, _ in every) / sum(count for _, count in every)
