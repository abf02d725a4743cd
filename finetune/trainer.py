"""TRL's trainer on packed rows, where the model is computed the fast way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from finetune import launch
from finetune.fast import Fast, install
from finetune.late import LateLogs
from finetune.oom import in_parts
from finetune.packing import pack
from finetune.preset import Preset
from finetune.previews import undisturbed
from finetune.route import Route
from finetune.usual import fuse_gelu


class Quiet(LateLogs):
    """What trainers of all methods leave out, and what they are asked beside the steps."""

    is_fast = False
    terms: Sequence[str] = ()  # what it logs of a step beside the loss
    validation: Any = None  # this process's share of the held-out rows
    makes_parts = False  # `summed` takes any number of rows, and makes its own parts of them
    notes: dict[str, Any]  # what the method keeps in run.json
    # The tokens of a step, and those trained, where they are not known before it is made.
    counted: Callable[[int], tuple[int, int]] | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.notes = {}
        super().__init__(*arguments, **named)

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """None at a checkpoint: the finished run has its own."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted: the trainer would go through all weights at every step to do so."""
        return 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with opened_by_python():
            super()._save_checkpoint(model, trial)

    def forget(self) -> None:
        """What was noted of the step that is being made: it is made again."""


@contextmanager
def opened_by_python() -> Iterator[None]:
    """`torch.save` writes through files of Python: its own streams say that a disk refused, and
    never why.
    """
    save = torch.save

    def saved(thing: Any, out: Any, *arguments: Any, **named: Any) -> None:
        with open(out, "wb") if isinstance(out, str | Path) else nullcontext(out) as file:
            save(thing, file, *arguments, **named)

    torch.save = saved
    try:
        yield
    finally:
        torch.save = save


class PackedTrainer(Quiet, SFTTrainer):
    """Packs each micro-batch into one row and asks the model for its summed loss.

    Everything else, from the order of rows to the schedule, stays TRL's and Transformers'.
    """

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        install(fast.model, fast)
        self.is_fast = True
        self.data_collator = pack

    def waits(self) -> bool:
        """TRL's own loss reads its entropies back at every pass, and gathers them until a step is
        told of: told late, they would be the next step's too.
        """
        return not self.is_fast

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

    def summed(self, batch: dict[str, Any]) -> dict[str, float]:
        """The loss of a collated batch summed over its trained tokens, and how many these are."""
        inputs = self._prepare_inputs(batch)
        if "bounds" in inputs:
            labels = inputs.pop("labels")
            loss = self.model(**inputs).loss.item()
            return {"loss": loss, "count": int((labels >= 0).sum().item())}
        output = self.model(**inputs, fused_lm_head=True, use_cache=False)
        return {
            "loss": -output.log_probs.sum().item(),
            "count": int(output.label_mask.sum().item()),
        }


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
    if not trainer.is_fast and preset.training.fast:
        fuse_gelu(trainer.model)


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


def validate(trainer: Any, batch: int) -> dict[str, float]:
    """The mean loss over the held-out rows of all processes, and the means of what else the method
    tells of a row; nothing where there are no rows.
    """
    rows = trainer.validation
    if trainer.makes_parts:
        batch = max(1, len(rows))

    def ask(picked: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
        return [trainer.summed(trainer.data_collator(list(picked)))]

    found: list[dict[str, float]] = []
    with undisturbed(trainer.model), torch.no_grad(), trainer.accelerator.autocast():
        for start in range(0, len(rows), batch):
            picked = [rows[place] for place in range(start, min(start + batch, len(rows)))]
            found += in_parts(ask, picked, "the validation loss of one row")
    every = [each for part in launch.of_all(found) for each in part]
    count = sum(each["count"] for each in every)
    names = [name for name in (every[0] if every else ()) if name != "count"]
    return {name: sum(each[name] for each in every) / count for name in names}
