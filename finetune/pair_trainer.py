"""TRL's DPO trainer over pairs of token ids, held against log-probabilities known beforehand.

The loss is that of Rafailov and others (2023, arXiv 2305.18290). A step's loss is the mean over its
pairs however they are dealt into passes, as every pass gives its sum over the pairs of a whole
micro-batch.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from trl import DPOTrainer

from finetune import launch
from finetune.fast import Fast, install
from finetune.reference import REFERENCE, store
from finetune.trainer import Quiet

# What is told of each step, means over its pairs.
TERMS = (
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "reward_accuracy",
    "chosen_words",
    "rejected_words",
)


class PairTrainer(Quiet, DPOTrainer):
    """Everything, from the order of rows to the schedule, stays TRL's and Transformers'; its way
    from rows to a loss, which renders, cuts and drops, is not taken.
    """

    terms = TERMS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Sums of terms, one of each pass of the step: nothing waits for the device until a step is
        # logged.
        self._noted: list[torch.Tensor] = []
        super().__init__(*arguments, **named)

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        """As it is: token ids that were fitted and counted."""
        return dataset

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        install(fast.model, fast)
        self.is_fast = True
        self.data_collator.is_packed = True

    def log_probabilities(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Of each pair's chosen and rejected answer, over its tokens: (pairs, 2), float32."""
        if "bounds" in inputs:
            return self._packed(model, inputs)
        names = ("input_ids", "attention_mask", "labels")
        flat = {name: inputs[name].flatten(0, 1) for name in names}
        found = model(**flat, use_cache=False, fused_lm_head=True).log_probs
        summed: torch.Tensor = found.float().sum(dim=1).reshape(-1, 2)
        return summed

    def _packed(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        names = ("input_ids", "position_ids", "bounds", "targets", "target_ids")
        losses = model(**{name: inputs[name] for name in names}).losses
        pairs = len(inputs["words"])
        # Which sequence each target stands in. Sums by a mask: always of the same order.
        ends = inputs["bounds"][1:].long()
        owners = torch.searchsorted(ends, inputs["targets"], right=True)
        belongs = owners[None] == torch.arange(2 * pairs, device=owners.device)[:, None]
        return torch.where(belongs, -losses[None], 0.0).sum(dim=1).reshape(-1, 2)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The pairs' losses summed, over the pairs of a micro-batch."""
        losses, terms = self._losses(model, inputs)
        self._noted.append(terms.detach().sum(dim=0))
        return losses.sum() / self.args.per_device_train_batch_size

    def _losses(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pair's loss, and its `TERMS`: (pairs,) and (pairs, terms)."""
        found = self.log_probabilities(model, inputs)
        rewards = self.beta * (found - inputs["reference"])
        margins = rewards[:, 0] - rewards[:, 1]
        right = (margins > 0).float()
        terms = [*rewards.unbind(1), margins, right, *inputs["words"].float().unbind(1)]
        return -functional.logsigmoid(margins), torch.stack(terms, dim=1)

    def forget(self) -> None:
        """What was noted of the step that is being made: it is made again."""
        self._noted.clear()

    def step_terms(self) -> dict[str, torch.Tensor]:
        """The means of the terms over the step's pairs."""
        summed = torch.stack(self._noted).sum(dim=0)
        self.forget()
        if self.args.world_size > 1:
            summed = self.accelerator.reduce(summed, "sum")
        passes = self.args.gradient_accumulation_steps * self.args.world_size
        means = summed / (self.args.per_device_train_batch_size * passes)
        return dict(zip(TERMS, means.unbind(), strict=True))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With the reference, so that a resumed run is held against the very same numbers."""
        super()._save_checkpoint(model, trial)
        if launch.is_first():
            written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            store(self.data_collator.reference, written / REFERENCE)

    def summed(self, batch: dict[str, Any]) -> dict[str, float]:
        """The loss of a collated batch and its terms, each summed, and over how many pairs."""
        inputs = self._prepare_inputs(batch)
        losses, terms = self._losses(self.model, inputs)
        return {
            "loss": losses.sum().item(),
            **dict(zip(TERMS, terms.sum(dim=0).tolist(), strict=True)),
            "count": len(losses),
        }
