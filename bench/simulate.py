"""Comparisons made up: arms whose truth is known, over trees of given sizes.

A prompt's chance of breaking a limit is logistic in how hard its tree and it itself are, in the
limit, in what the seed drew, and in what that seed makes of that tree. `Design` says how much of
each. An arm's seeds move all of its prompts together by `seed_points` on average.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize
from scipy.special import expit

Array = np.ndarray

# Logits. How far trees, prompts of a tree, and seeds' ways with a tree differ; of each limit.
TREE, PROMPT, SEED_BY_TREE = 1.5, 0.8, 0.5
LIMITS = (1.0, 0.0, -0.6, -0.2)
BATCH = 100


@dataclass(frozen=True)
class Design:
    """One kind of comparison."""

    sizes: tuple[int, ...]  # prompts of each tree
    seeds: tuple[int, int] = (3, 3)  # of the baseline, of the arm
    seed_points: tuple[float, float] = (0.0, 0.0)  # deviation of the seeds' means, points
    effect: float = 0.0  # of the arm, logits
    by_tree: float = 0.0  # deviation of the effect from tree to tree, logits
    limits: tuple[float, ...] = LIMITS


def comparisons(
    design: Design, n: int, random: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """n pairs of (seeds, prompts) values, baseline and arm: shares of its limits that a prompt
    breaks."""
    trees = np.repeat(np.arange(len(design.sizes)), design.sizes)
    slope = _slope(design)
    for start in range(0, n, BATCH):
        rows = min(BATCH, n - start)
        hard = random.normal(0, TREE, (rows, 1, len(design.sizes)))
        own = random.normal(0, PROMPT, (rows, 1, len(trees)))
        effect = design.effect + random.normal(0, 1, hard.shape) * design.by_tree
        arms = []
        for place, seeds in enumerate(design.seeds):
            drawn = random.normal(0, design.seed_points[place] / 100 / slope, (rows, seeds, 1))
            by_tree = random.normal(0, SEED_BY_TREE, (rows, seeds, len(design.sizes)))
            logit = (hard + by_tree + (effect if place else 0.0))[:, :, trees] + own + drawn
            broken = sum(
                random.random(logit.shape, np.float32) < expit(logit + limit)
                for limit in design.limits
            )
            arms.append(broken / len(design.limits))
        yield from zip(*arms, strict=True)


def true_difference(design: Design) -> float:
    """Arm minus baseline over all trees and seeds there could be."""
    means = [
        _mean(design, place, design.effect * place, design.by_tree * place) for place in (0, 1)
    ]
    return means[1] - means[0]


def with_difference(design: Design, difference: float) -> Design:
    """The design with the effect that makes the given true difference."""
    found = optimize.brentq(
        lambda effect: true_difference(replace(design, effect=effect)) - difference, -6.0, 6.0
    )
    return replace(design, effect=float(found))


# Quadrature of a normal deviate: exact for what is so smooth.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _mean(design: Design, place: int, effect: float, by_tree: float) -> float:
    drawn = design.seed_points[place] / 100 / _slope(design)
    spread = np.sqrt(TREE**2 + PROMPT**2 + SEED_BY_TREE**2 + by_tree**2 + drawn**2)
    return float(np.mean([_WEIGHTS @ expit(_NODES * spread + effect + x) for x in design.limits]))


def _slope(design: Design) -> float:
    """How much the mean moves with a logit, so that seeds' deviations can be given in points."""
    spread = np.sqrt(TREE**2 + PROMPT**2 + SEED_BY_TREE**2)
    chances = [expit(_NODES * spread + x) for x in design.limits]
    return float(np.mean([_WEIGHTS @ (chance * (1 - chance)) for chance in chances]))
