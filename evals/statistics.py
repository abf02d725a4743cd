"""The difference of two arms over the same prompts: interval, test, and what so many could show.

Paired by prompt, clustered by tree, seeds a level of their own. Values are (seeds, prompts); NaN is
a value that does not exist. The difference is the mean over prompts of the arms' means over seeds.

With one seed each, the interval is a bootstrap over trees, bias-corrected and accelerated (Efron
1987, JASA 82), its level widened for small numbers of trees (Hesterberg 2015, The American
Statistician 69); under `MIN_TREES` trees it also covers Student's interval, since resampling a
handful of trees understates their spread. The test is exact: McNemar's where each tree gives one
pair of zeros and ones, else flipping the signs of trees.

With more seeds, three or so, resampling them understates their spread by a third. There the
variance is added up instead, that over trees and that of each arm's seeds beyond what trees
explain, and the interval and the test are Student's with Satterthwaite's degrees of freedom. Where
an arm has one seed and the other more, its seeds are taken to spread like the other's.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray

MIN_TREES = 20  # a verdict needs so many
LEVEL = 0.95
POWER = 0.80
RESAMPLES = 10_000
FLIPS = 10_000
# Five trees that all say the same still have p = 2 / 2**5 > 0.05.
LEAST_TREES = 6


class Difference(NamedTuple):
    """Arm minus baseline. What cannot be had is None: never a NaN, never an error."""

    prompts: int
    trees: int
    arm_mean: float | None
    baseline_mean: float | None
    difference: float | None
    low: float | None  # of the 95 % interval
    high: float | None
    p: float | None
    detectable: float | None  # smallest difference that is found in four of five such comparisons


def paired(
    arm: Array,
    baseline: Array,
    trees: Sequence[str],
    *,
    arm_is_fixed: bool = False,
    baseline_is_fixed: bool = False,
    is_share: bool = False,
) -> Difference:
    """The difference between two arms; prompts that either lacks are left out.

    `arm` and `baseline` are (seeds, prompts), column i the same prompt in both and `trees[i]` its
    cluster. A fixed arm was not trained: it has one seed, and none could have come out otherwise.
    `is_share` says that values lie between 0 and 1.
    """
    is_there = ~(np.isnan(arm).all(axis=0) | np.isnan(baseline).all(axis=0))
    arm, baseline = arm[:, is_there], baseline[:, is_there]
    clusters = np.unique(
        np.asarray(trees, dtype=object)[is_there].astype(str), return_inverse=True
    )[1]
    n, count = int(is_there.sum()), int(clusters.max(initial=-1)) + 1
    if n == 0:
        return Difference(0, 0, None, None, None, None, None, None, None)
    ours, theirs = np.nanmean(arm, axis=0), np.nanmean(baseline, axis=0)
    gaps = ours - theirs
    mean = float(gaps.mean())
    means = (n, count, float(ours.mean()), float(theirs.mean()), mean)
    if count < 2:
        return Difference(*means, None, None, None, None)
    sums, sizes = np.bincount(clusters, gaps), np.bincount(clusters).astype(float)
    if (gaps == gaps[0]).all() and not _seeds_vary(arm, baseline):
        # No two prompts differ: there is no spread to measure an interval by.
        shown = LEAST_TREES / count if is_share and count >= LEAST_TREES else None
        return Difference(*means, None, None, sign_flip(sums), shown)
    within = cluster_variance(sums, sizes)
    least = 0.0
    if arm.shape[0] == baseline.shape[0] == 1:
        error, freedom = np.sqrt(within), count - 1.0
        low, high = bootstrap_interval(sums, sizes)
        if count < MIN_TREES:
            reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
            low, high = min(low, mean - reach), max(high, mean + reach)
        is_mcnemar = count == n and bool(np.isin([arm, baseline], (0, 1)).all())
        p: float | None = mcnemar(gaps) if is_mcnemar else sign_flip(sums)
        least = LEAST_TREES / count if is_mcnemar else 0.0
    else:
        error, freedom = _error_over_seeds(
            arm, baseline, within, count, arm_is_fixed, baseline_is_fixed
        )
        reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
        low, high = mean - reach, mean + reach
        p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else None
    shown = max(least, _reach(freedom) * error) if count >= LEAST_TREES and error else None
    return Difference(*means, float(low), float(high), p, shown and float(shown))


def cluster_variance(sums: Array, sizes: Array) -> float:
    """The variance of the ratio sum(sums) / sum(sizes) over clusters, by linearisation.

    With one prompt a cluster it is the variance of a mean, s² / n.
    """
    count = len(sums)
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(count / (count - 1) * (residuals**2).sum() / sizes.sum() ** 2)


def bootstrap_interval(sums: Array, sizes: Array, level: float = LEVEL) -> tuple[float, float]:
    """The BCa interval of sum(sums) / sum(sizes), resampling clusters, at the widened level."""
    count = len(sums)
    drawn = _draws(count) @ np.column_stack([sums, sizes])
    replicates = np.sort(drawn[:, 0] / drawn[:, 1])
    mean = sums.sum() / sizes.sum()
    # Ties count half, or shares of few prompts would be taken for biased.
    tolerance = 1e-9 * max(1.0, abs(mean))
    below = np.searchsorted(replicates, mean - tolerance)
    upto = np.searchsorted(replicates, mean + tolerance)
    share = np.clip((below + upto) / 2 / len(replicates), 1e-4, 1 - 1e-4)
    bias = stats.norm.ppf(share)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    spread = without.mean() - without
    scale = (spread**2).sum() ** 1.5
    acceleration = (spread**3).sum() / (6 * scale) if scale > 0 else 0.0
    reach = stats.t.ppf((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1))
    ends = []
    for z in (bias - reach, bias + reach):
        # Past this the adjustment turns around: the most extreme replicate is all there is.
        turned = 1 - acceleration * z
        place = stats.norm.cdf(bias + z / turned) if turned > 0 else float(z > 0)
        ends.append(float(np.quantile(replicates, place)))
    return ends[0], ends[1]


def mcnemar(gaps: Array) -> float:
    """The exact p of as many prompts won as lost, over those that differ; 1 where none does."""
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def sign_flip(sums: Array) -> float:
    """The two-sided p of clusters that would as soon have had the opposite sign.

    All signs are tried where the clusters that differ are at most 13, else drawn at random.
    """
    values = sums[sums != 0]
    if not len(values):
        return 1.0
    found = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if len(values) <= 13:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float((np.abs(signs @ values) >= found).mean())
    return float((1 + (np.abs(_signs(len(sums)) @ sums) >= found).sum()) / (1 + FLIPS))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for being so many (Holm 1979); a None stays and counts for none.

    >>> holm([0.01, 0.04, None])
    [0.02, 0.04, None]
    """
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    running = 0.0
    for rank, (p, place) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - rank)))
        adjusted[place] = running
    return adjusted


@lru_cache(maxsize=2)
def _draws(count: int) -> Array:
    """How often each resample draws each of `count` clusters: the same for every metric."""
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES)
    return drawn.astype(np.float32 if count > 200 else np.float64)


@lru_cache(maxsize=2)
def _signs(count: int) -> Array:
    """Signs for `count` clusters, drawn once."""
    return 1.0 - 2.0 * np.random.default_rng(0).integers(0, 2, (FLIPS, count))


def _seeds_vary(arm: Array, baseline: Array) -> bool:
    return any(
        bool((np.nanmax(values, axis=0) != np.nanmin(values, axis=0)).any())
        for values in (arm, baseline)
    )


def _error_over_seeds(
    arm: Array,
    baseline: Array,
    within: float,
    count: int,
    arm_is_fixed: bool,
    baseline_is_fixed: bool,
) -> tuple[float, float]:
    """The standard error of the difference with seeds as a level, and its degrees of freedom."""
    found = [_seed_variance(arm), _seed_variance(baseline)]
    fixed = (arm_is_fixed, baseline_is_fixed)
    for place in (0, 1):
        if found[place] is None and not fixed[place]:
            found[place] = found[1 - place]
    parts = [(within, count - 1.0)]
    for values, variance, is_fixed in zip((arm, baseline), found, fixed, strict=True):
        if variance is not None and not is_fixed:
            excess, freedom = variance
            parts.append((excess / values.shape[0], freedom))
    total = sum(part for part, _ in parts)
    below = sum(part**2 / freedom for part, freedom in parts)
    return float(np.sqrt(total)), float(total**2 / below) if below > 0 else count - 1.0


def _seed_variance(values: Array) -> tuple[float, float] | None:
    """How much seeds spread beyond what the prompts' own noise explains, and its freedom.

    A seed's mean over n prompts also holds the mean of n prompts' noise, which the variance over
    clusters has in it already.
    """
    seeds, n = values.shape
    if seeds < 2:
        return None
    noise = values - np.nanmean(values, axis=0)
    effects = np.nanmean(noise, axis=1)
    between = float(effects.var(ddof=1))
    left = noise - effects[:, None]
    rest = float(np.nansum(left**2) / max(1, (seeds - 1) * (n - 1)))
    return max(0.0, between - rest / n), seeds - 1.0


def _reach(freedom: float) -> float:
    """How many standard errors a difference takes to be found with 80 % power: about 2.8."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom) + stats.t.ppf(POWER, freedom))
