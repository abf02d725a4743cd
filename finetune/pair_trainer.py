"""TRL's DPO trainer over pairs of token ids, held against log-probabilities known beforehand.

The loss is that of Rafailov and others (2023, arXiv 2305.18290).
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from trl import DPOTrainer

from finetune import launch
from finetune.pairwise import Pairwise, terms_of
from finetune.reference import REFERENCE, store


class PairTrainer(Pairwise, DPOTrainer):
    """A pair's loss is of how much more likely its answers became than at the start."""

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

    def losses_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pair's loss, and its terms: (pairs,) and (pairs, terms)."""
        found = self.log_probabilities(model, inputs)
        rewards = self.beta * (found - inputs["reference"])
        losses = -functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
        return losses, terms_of(rewards, inputs["words"])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With the reference, so that a resumed run is held against the very same numbers."""
        super()._save_checkpoint(model, trial)
        if launch.is_first():
            written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            store(self.data_collator.reference, written / REFERENCE)
