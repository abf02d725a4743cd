"""Requested against given words: whether answers grow with the limit, and how much of it they use.

A model that keeps every limit by always saying ten words follows none of them.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import sqrt
from typing import Any

import numpy as np

from evals.arms import Answers, LoadedArm
from evals.statistics import LEVEL, cluster_variance, student

Row = dict[str, Any]


def limit_curves(arms: Sequence[LoadedArm], prompts: Sequence[str]) -> list[Row]:
    """A row per run and stated limit: the words given there, and their share of the limit.

    Over the given prompts; several wordings or samples of one count as their mean. `words` and
    `share` are means, `_low`, `_median` and `_high` quartiles.
    """
    rows = []
    for arm, seed, answers in _runs(arms):
        words = answers.values.get("words", {})
        for limit in _limits(answers):
            found = [words[prompt, limit] for prompt in prompts if (prompt, limit) in words]
            if not found:
                continue
            low, median, high = np.quantile(found, [0.25, 0.5, 0.75]).tolist()
            mean = float(np.mean(found))
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "limit": limit,
                    "n": len(found),
                    "words": mean,
                    "words_low": low,
                    "words_median": median,
                    "words_high": high,
                    "share": mean / limit,
                    "share_low": low / limit,
                    "share_median": median / limit,
                    "share_high": high / limit,
                }
            )
    return rows


def limit_slopes(arms: Sequence[LoadedArm], prompts: Sequence[str]) -> list[Row]:
    """A row per run: the slope of the log of the words given on the log of the limit.

    1 follows the limit, 0 ignores it. It is the mean over prompts of each prompt's own slope, by
    least squares over its limits, with Student's 95 % interval clustered by tree; an empty answer
    counts as one word. Of this run: seeds are no part of the interval.

    Only of prompts whose answers all ended by themselves: a longer limit allows more tokens, and
    answers that are cut there would seem to follow it. `cut` counts the prompts left out for it.
    """
    rows = []
    for arm, seed, answers in _runs(arms):
        slopes, trees, cut = [], [], 0
        words, stopped = (answers.values.get(name, {}) for name in ("words", "stopped"))
        limits = _limits(answers)
        for prompt in prompts:
            there = [limit for limit in limits if (prompt, limit) in words]
            if any(stopped.get((prompt, limit), 1.0) < 1.0 for limit in there):
                cut += 1
            elif len(there) > 1:
                slopes.append(slope(there, [words[prompt, limit] for limit in there]))
                trees.append(answers.trees[prompt])
        if slopes:
            rows.append({"arm": arm, "seed": seed, **_slope(slopes, trees), "cut": cut})
    return rows


def slope(limits: Sequence[int], words: Sequence[float]) -> float:
    """Of the log of `words` on the log of `limits` (two or more, no two alike): least squares."""
    asked = np.log(limits) - np.mean(np.log(limits))
    given = np.log(np.maximum(words, 1.0))
    return float(asked @ given / (asked @ asked))


def _slope(slopes: Sequence[float], trees: Sequence[str]) -> Row:
    clusters = np.unique(np.asarray(trees), return_inverse=True)[1]
    sums, sizes = np.bincount(clusters, slopes), np.bincount(clusters).astype(float)
    mean = float(np.mean(slopes))
    if len(sums) < 2:
        return {"slope": mean, "low": None, "high": None, "n": len(slopes)}
    reach = student(LEVEL, len(sums) - 1) * sqrt(cluster_variance(sums, sizes))
    return {"slope": mean, "low": mean - reach, "high": mean + reach, "n": len(slopes)}


def _runs(arms: Sequence[LoadedArm]) -> Iterator[tuple[str, int | None, Answers]]:
    for arm in arms:
        for run, answers in zip_longest(arm.runs, arm.seeds):
            yield arm.label, run.seed if run else None, answers


def _limits(answers: Answers) -> list[int]:
    return sorted({limit for _, limit in answers.values.get("words", {}) if limit is not None})
