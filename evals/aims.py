"""Whether arms reach a value that was aimed at before the first run, at each limit by itself.

An aim is reached where all of the 95 % interval of an arm's mean lies on the right side of it, and
missed where all of it lies on the wrong one; between the two it is open.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from evals.arms import LoadedArm
from evals.scorers import SHARES
from evals.statistics import paired, unseen

REACHED, MISSED, OPEN = "reached", "missed", "open"


class Aim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that an arm is to reach, at each limit by itself."""

    metric: str
    at_most: float | None = None  # in the metric's own unit: 0.05 is 5 % of the limits broken
    at_least: float | None = None
    limits: tuple[int, ...] = ()  # of the suite's limits; none means all that are stated

    @property
    def wanted(self) -> float:
        """The value, whichever way."""
        wanted = self.at_most if self.at_most is not None else self.at_least
        assert wanted is not None  # whoever reads one from a file refuses it
        return wanted


def aim_rows(
    arms: Sequence[LoadedArm],
    prompts: Sequence[str],
    limits: Sequence[int | None],
    aims: Sequence[Aim],
) -> list[dict[str, Any]]:
    """A row per aim, arm and limit: the arm's mean, its interval, and whether it is reached."""
    stated = [limit for limit in limits if limit is not None]
    return [
        row
        for aim in aims
        for arm in arms
        for limit in aim.limits or stated
        if (row := _row(aim, arm, prompts, limit)) is not None
    ]


def verdict_of(aim: Aim, low: float | None, high: float | None) -> str:
    """What an interval of a mean says of an aim.

    >>> aim = Aim(metric="violation", at_most=0.05)
    >>> verdict_of(aim, 0.01, 0.04), verdict_of(aim, 0.01, 0.06), verdict_of(aim, 0.06, 0.1)
    ('reached', 'open', 'missed')
    """
    if low is None or high is None:
        return OPEN
    if aim.at_most is not None:
        return REACHED if high <= aim.wanted else MISSED if low > aim.wanted else OPEN
    return REACHED if low >= aim.wanted else MISSED if high < aim.wanted else OPEN


def _row(aim: Aim, arm: LoadedArm, prompts: Sequence[str], limit: int) -> dict[str, Any] | None:
    values = arm.matrix(aim.metric, limit, prompts)
    if np.isnan(values).all():
        return None
    trees = [arm.seeds[0].trees.get(prompt, prompt) for prompt in prompts]
    is_share = aim.metric in SHARES
    # A mean is a difference from an arm that is zero everywhere, and could not be otherwise.
    zero = np.zeros((1, len(prompts)))
    found = paired(
        values,
        zero,
        trees,
        arm_is_fixed=arm.is_fixed,
        baseline_is_fixed=True,
        is_share=is_share,
    )
    low, high, mean = found.low, found.high, found.arm_mean
    if is_share and mean in (0.0, 1.0) and found.trees:
        # No two answers differ: what so many trees leave possible.
        reach = unseen(found.trees)
        low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    elif is_share and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return {
        "metric": aim.metric,
        "bound": "at_most" if aim.at_most is not None else "at_least",
        "wanted": aim.wanted,
        "arm": arm.label,
        "limit": limit,
        "mean": mean,
        "low": low,
        "high": high,
        "prompts": found.prompts,
        "found": verdict_of(aim, low, high),
    }
