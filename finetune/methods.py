"""What each method trains on and begins from: plain values, read before anything heavy."""

from typing import NamedTuple


class Method(NamedTuple):
    """One way to train."""

    form: str  # of the variants it takes
    sequences: int  # that an example puts through the model
    starts_from_run: bool  # goes on with a run's adapter, rather than with a fresh one
    answers: bool = True  # its runs answer prompts; a reward model's give answers a number


METHODS = {
    "sft": Method(form="answers", sequences=1, starts_from_run=False),
    "dpo": Method(form="pairs", sequences=2, starts_from_run=True),
    "reward": Method(form="pairs", sequences=2, starts_from_run=False, answers=False),
}
