"""TRL's reward trainer over pairs of token ids, each answer read at its end.

The loss is Bradley and Terry's (1952, Biometrika 39) as Ouyang and others train by it (2022, arXiv
2203.02155): -log sigmoid of the chosen answer's reward less the rejected one's.
"""

from typing import Any

import torch
from torch.nn import functional
from trl import RewardTrainer

from finetune.fast import Fast
from finetune.pairwise import Pairwise, terms_of
from finetune.scoring import read_packed


class ScoringTrainer(Pairwise, RewardTrainer):
    """A pair's loss is of its answers' rewards."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # By place, the rewards of the held-out pairs that this process read last.
        self.held: dict[int, list[float]] = {}
        super().__init__(*arguments, **named)

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        read_packed(fast.model, fast)
        self.is_fast = True
        self.data_collator.is_packed = True

    def rewards(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Of each pair's chosen and rejected answer: (pairs, 2), float32."""
        if "bounds" in inputs:
            asked = {name: inputs[name] for name in ("input_ids", "position_ids", "bounds")}
        else:
            names = ("input_ids", "attention_mask")
            asked = {name: inputs[name].flatten(0, 1) for name in names}
        found: torch.Tensor = model(**asked).logits
        return found.reshape(-1, 2)

    def losses_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pair's loss, and its terms: (pairs,) and (pairs, terms)."""
        rewards = self.rewards(model, inputs)
        losses = -functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
        if self.args.center_rewards_coefficient:
            losses = losses + self.args.center_rewards_coefficient * rewards.sum(dim=1) ** 2
        return losses, terms_of(rewards, inputs["words"])

    def summed(self, batch: dict[str, Any]) -> dict[str, float]:
        """The loss of a collated batch and its terms, each summed, and over how many pairs; what
        each pair got is kept in `held`.
        """
        inputs = self._prepare_inputs(batch)
        losses, terms = self.losses_of(self.model, inputs)
        self.held |= zip(inputs["place"].tolist(), terms[:, :2].tolist(), strict=True)
        return self.totals(losses, terms)
