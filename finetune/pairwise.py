"""What trainers on pairs share: rows as they were fitted, and a step's loss as the mean over its
pairs, however they are dealt into passes: every pass gives its sum over the pairs of a whole
micro-batch.
"""

from typing import Any

import torch

from finetune.fast import Fast, install
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


class Pairwise(Quiet):
    """Everything, from the order of rows to the schedule, stays TRL's and Transformers'; TRL's way
    from rows to a loss, which renders, cuts and drops, is not taken. It stands before TRL's trainer
    among the bases, and its `losses_of` says what a pair's loss is.
    """

    terms = TERMS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Sums of terms, one of each pass of the step: nothing waits for the device until a step is
        # logged.
        self._noted: list[torch.Tensor] = []
        super().__init__(*arguments, **named)

    def losses_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pair's loss, and its `TERMS`: (pairs,) and (pairs, terms)."""
        # Each trainer has its own; this stands for its shape.
        raise NotImplementedError

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        """As it is: token ids that were fitted and counted."""
        return dataset

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        install(fast.model, fast)
        self.is_fast = True
        self.data_collator.is_packed = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The pairs' losses summed, over the pairs of a micro-batch."""
        losses, terms = self.losses_of(model, inputs)
        self._noted.append(terms.detach().sum(dim=0))
        return losses.sum() / self.args.per_device_train_batch_size

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

    def summed(self, batch: dict[str, Any]) -> dict[str, float]:
        """The loss of a collated batch and its terms, each summed, and over how many pairs."""
        return self.totals(*self.losses_of(self.model, self._prepare_inputs(batch)))

    def totals(self, losses: torch.Tensor, terms: torch.Tensor) -> dict[str, float]:
        """The same of what `losses_of` gave."""
        return {
            "loss": losses.sum().item(),
            **dict(zip(TERMS, terms.sum(dim=0).tolist(), strict=True)),
            "count": len(losses),
        }


def terms_of(rewards: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The `TERMS` of pairs: (pairs, terms), of rewards and words (pairs, 2), the chosen one's
    first.
    """
    margins = rewards[:, 0] - rewards[:, 1]
    right = (margins > 0).float()
    return torch.stack([*rewards.unbind(1), margins, right, *words.float().unbind(1)], dim=1)
