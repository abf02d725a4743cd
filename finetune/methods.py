"""What each method trains on and begins from: plain values, read before anything heavy."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from finetune.preset import Preset


class Method(NamedTuple):
    """One way to train."""

    form: str  # of the variants it takes
    sequences: int | None  # that an example puts through the model; None: the preset's group
    starts_from_run: bool  # goes on with a run's adapter, rather than with a fresh one
    answers: bool = True  # its runs answer prompts; a reward model's give answers a number


METHODS = {
    "sft": Method(form="answers", sequences=1, starts_from_run=False),
    "dpo": Method(form="pairs", sequences=2, starts_from_run=True),
    "reward": Method(form="pairs", sequences=2, starts_from_run=False, answers=False),
    "grpo": Method(form="prompts", sequences=None, starts_from_run=True),
}


def sequences_of(preset: "Preset") -> int:
    """How many sequences an example of the preset's method puts through the model."""
    return METHODS[preset.method].sequences or (preset.grpo.group if preset.grpo else 1)
