"""The difference of two arms over the same prompts: interval, test, and what so many could show.

Paired by prompt, clustered by tree, seeds a level of their own. Values are (seeds, prompts); NaN is
a value that does not exist. The difference is the mean over prompts of the arms' means over seeds.
A prompt asked at several limits has one value, its mean over them: it is no larger a sample.

With one seed each, the interval is a bootstrap over trees, bias-corrected and accelerated (Efron
1987, JASA 82), its level widened for small numbers of trees (Hesterberg 2015, The American
Statistician 69); under `MIN_TREES` trees it also covers Student's interval, since resampling a
handful of trees understates their spread. The test is exact: McNemar's where each tree gives one
pair of zeros and ones, else flipping the signs of trees.

With more seeds, three or so, resampling them understates their spread by a third. There the
variance is added up instead, and the interval and the test are Student's. The design is the one of
subjects within treatments, all reading the same items: seeds within arms, all answering the same
trees. The variance of the difference is that of the quasi-F (Clark 1973, Journal of Verbal Learning
and Verbal Behavior 12; Winer 1971, Statistical Principles in Experimental Design, 5.15),

    B / seeds, of each arm        how the arm's seeds differ, the trees' noise in their means too
    + max(0, W - R / seeds)       how the arms differ from tree to tree, beyond that same noise

with B the variance over an arm's seeds, W that of the difference over trees and R the noise that
trees leave in one seed's mean. Taking the larger of it and W, or max(0, B - R) by itself, looks
safer and is not: where seeds do not matter it is too wide by half, and where they do, too narrow.
Its degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2), of estimates with so few
degrees themselves: see `_freedom`. `python -m bench.statistics` holds all this against simulation.

Seeds of two arms are not paired by their number. Where equal seeds make the arms' means go
together, an interval that ignores it is too wide and never too narrow; one that pairs them has half
the degrees of freedom, and with three seeds needs a correlation of 0.6 to be any narrower. Arms
may have different numbers of seeds, and seeds may spread differently in each. Where an arm has one
seed and the other more, its seeds are taken to spread like the other's.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import exp, lgamma, sqrt
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

Array = np.ndarray

MIN_TREES = 20  # a verdict needs so many
LEVEL = 0.95
EQUIVALENCE_LEVEL = 0.90  # of the interval that two one-sided tests at 5 % read
POWER = 0.80
RESAMPLES = 10_000
FLIPS = 10_000
# Five trees that all say the same still have p = 2 / 2**5 > 0.05.
LEAST_TREES = 6
# Three seeds may agree in their means by chance, to the last answer; trees say better than that.
LEAST_OF_TREES = 0.1
# Of the 2 by which degrees of freedom from estimates are mended: see `_freedom`.
MENDED = 1.5
EQUIVALENT, NO_WORSE, NOT_SHOWN = "equivalent", "no worse", "not shown"


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
    # Smallest difference that four of five such comparisons find, at 5 % and before Holm.
    detectable: float | None
    low_90: float | None = None  # of the 90 % interval
    high_90: float | None = None


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
        most = unseen(count) if is_share and not gaps[0] else None
        return Difference(*means, None, None, sign_flip(sums), shown, most and -most, most)
    if arm.shape[0] == baseline.shape[0] == 1:
        is_mcnemar = count == n and bool(np.isin([arm, baseline], (0, 1)).all())
        return Difference(*means, *_of_one_seed(sums, sizes, gaps if is_mcnemar else None))
    return Difference(
        *means,
        *_of_seeds(mean, sums, sizes, (arm, baseline), (arm_is_fixed, baseline_is_fixed), clusters),
    )


def no_worse(low: float | None, high: float | None, margin: float, direction: int) -> str:
    """What the interval of a difference says of a margin given beforehand: `equivalent` where all
    of it lies within the margin, `no worse` where its worse end does, else `not shown`.

    `direction` is -1 where less is better, 1 where more is. Of the 90 % interval these are
    one-sided tests at 5 %, two of them for `equivalent`: Schuirmann (1987), Journal of
    Pharmacokinetics and Biopharmaceutics 15.

    >>> no_worse(-0.04, 0.02, 0.03, -1), no_worse(-0.02, 0.02, 0.03, 1)
    ('no worse', 'equivalent')
    """
    if low is None or high is None:
        return NOT_SHOWN
    if -margin < low and high < margin:
        return EQUIVALENT
    return NO_WORSE if (high < margin if direction < 0 else low > -margin) else NOT_SHOWN


def student(level: float, freedom: float) -> float:
    """How many standard errors Student's interval of that level reaches to either side."""
    # By the function behind scipy.stats, which takes a hundred times as long to be called.
    return float(special.stdtrit(freedom, (1 + level) / 2))


def cluster_variance(sums: Array, sizes: Array) -> float:
    """The variance of the ratio sum(sums) / sum(sizes) over clusters, by linearisation.

    With one prompt a cluster it is the variance of a mean, s² / n.
    """
    count = len(sums)
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(count / (count - 1) * (residuals**2).sum() / sizes.sum() ** 2)


def bootstrap_interval(sums: Array, sizes: Array, level: float = LEVEL) -> tuple[float, float]:
    """The BCa interval of sum(sums) / sum(sizes), resampling clusters, at the widened level."""
    return _bootstrap_intervals(sums, sizes, (level,))[0]


def _bootstrap_intervals(
    sums: Array, sizes: Array, levels: Sequence[float]
) -> list[tuple[float, float]]:
    """The same at each of `levels`, from one set of resamples."""
    count = len(sums)
    drawn = _draws(count) @ np.column_stack([sums, sizes])
    replicates = np.sort(drawn[:, 0] / drawn[:, 1])
    mean = sums.sum() / sizes.sum()
    # Ties count half, or shares of few prompts would be taken for biased.
    tolerance = 1e-9 * max(1.0, abs(mean))
    below = np.searchsorted(replicates, mean - tolerance)
    upto = np.searchsorted(replicates, mean + tolerance)
    share = np.clip((below + upto) / 2 / len(replicates), 1e-4, 1 - 1e-4)
    bias = special.ndtri(share)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    spread = without.mean() - without
    scale = (spread**2).sum() ** 1.5
    acceleration = (spread**3).sum() / (6 * scale) if scale > 0 else 0.0

    def end(z: float) -> float:
        # Past this the adjustment turns around: the most extreme replicate is all there is.
        turned = 1 - acceleration * z
        place = special.ndtr(bias + z / turned) if turned > 0 else float(z > 0)
        return float(np.quantile(replicates, place))

    widened = [student(level, count - 1) * sqrt(count / (count - 1)) for level in levels]
    return [(end(bias - reach), end(bias + reach)) for reach in widened]


def mcnemar(gaps: Array) -> float:
    """The exact p of as many prompts won as lost, over those that differ; 1 where none does."""
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    # Both tails of the binomial distribution, which are alike.
    return min(1.0, float(2 * special.bdtr(min(won, lost), won + lost, 0.5)))


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


Rest = tuple[float | None, float | None, float | None, float | None, float | None, float | None]


def _of_one_seed(sums: Array, sizes: Array, zeros_and_ones: Array | None) -> Rest:
    """Interval, p, detectable and the 90 % interval of one seed against one: of these two runs."""
    count, mean = len(sums), float(sums.sum() / sizes.sum())
    error, freedom = sqrt(cluster_variance(sums, sizes)), count - 1.0
    levels = (LEVEL, EQUIVALENCE_LEVEL)
    ends = _bootstrap_intervals(sums, sizes, levels)
    if count < MIN_TREES:
        reaches = [student(level, freedom) * error for level in levels]
        ends = [
            (min(low, mean - reach), max(high, mean + reach))
            for (low, high), reach in zip(ends, reaches, strict=True)
        ]
    p = sign_flip(sums) if zeros_and_ones is None else mcnemar(zeros_and_ones)
    least = 0.0 if zeros_and_ones is None else LEAST_TREES / count
    shown = max(least, reach_of(freedom) * error) if count >= LEAST_TREES else None
    return *ends[0], p, shown, *ends[1]


def _of_seeds(
    mean: float,
    sums: Array,
    sizes: Array,
    arms: tuple[Array, Array],
    fixed: tuple[bool, bool],
    clusters: Array,
) -> Rest:
    """The same with seeds a level: Student's."""
    error, freedom = _error_over_seeds(arms, fixed, clusters, cluster_variance(sums, sizes))
    if not error:
        return None, None, None, None, None, None
    reach, reach_90 = (student(level, freedom) * error for level in (LEVEL, EQUIVALENCE_LEVEL))
    p = float(2 * special.stdtr(freedom, -abs(mean) / error))
    shown = reach_of(freedom) * error if len(sums) >= LEAST_TREES else None
    return mean - reach, mean + reach, p, shown, mean - reach_90, mean + reach_90


def _error_over_seeds(
    arms: tuple[Array, Array], fixed: tuple[bool, bool], clusters: Array, over_trees: float
) -> tuple[float, float]:
    """The standard error of the difference with seeds as a level, and its degrees of freedom."""
    found = [
        None if is_fixed else seed_variance(arm, clusters)
        for arm, is_fixed in zip(arms, fixed, strict=True)
    ]
    shares = [_seeds_share(arm) for arm in arms]
    for place in (0, 1):
        if found[place] is None and not fixed[place]:
            # It borrows the other's spread, and so both hang on one estimate: one part, not two.
            shares[1 - place] += shares[place]
    seen = [(share, each) for share, each in zip(shares, found, strict=True) if each is not None]
    noise = sum(share * each.noise for share, each in seen)
    parts = [(share * each.variance, each.freedom) for share, each in seen]
    parts.append((max(0.0, over_trees - noise), clusters.max()))
    variance = sum(part for part, _ in parts)
    if variance < LEAST_OF_TREES * over_trees:
        return sqrt(LEAST_OF_TREES * over_trees), min(each.freedom for _, each in seen)
    return sqrt(variance), _freedom(parts)


def _seeds_share(values: Array) -> float:
    """What of a seed's variance an arm's mean has: 1 / seeds, more where seeds lack prompts."""
    is_there = ~np.isnan(values)
    weights = (is_there / is_there.sum(axis=0)).sum(axis=1) / values.shape[1]
    return float((weights**2).sum())


class SeedVariance(NamedTuple):
    """How an arm's seeds differ in their means over prompts."""

    variance: float  # of one seed's mean
    noise: float  # what of it the trees' own noise explains
    freedom: float


def seed_variance(values: Array, clusters: Array) -> SeedVariance | None:
    """The variance of the seeds' means, and what the noise of trees has of it; None of one seed.

    Seeds are fitted beside prompts by least squares, since a seed may lack a prompt that is harder
    than others; with all there this is the variance of the means. The noise is the fit's variance
    clustered by tree (Liang and Zeger 1986, Biometrika 73).
    """
    seeds = len(values)
    if seeds < 2:
        return None
    is_there = ~np.isnan(values)
    filled = np.where(is_there, values, 0.0)
    present = is_there.sum(axis=0)
    centred = np.where(is_there, filled - filled.sum(axis=0) / present, 0.0)
    counts = np.diag(is_there.sum(axis=1)) - (is_there / present) @ is_there.T
    bread = np.linalg.pinv(counts.astype(float), rcond=1e-9)
    effects = bread @ centred.sum(axis=1)
    shift = np.where(is_there, effects[:, None], 0.0)
    left = np.where(is_there, centred - shift + shift.sum(axis=0) / present, 0.0)
    trees = int(clusters.max()) + 1
    scores = np.stack([np.bincount(clusters, row, trees) for row in left])
    spread = bread @ (scores @ scores.T) @ bread * trees / (trees - 1)
    return SeedVariance(
        float((effects**2).sum() / (seeds - 1)), float(np.trace(spread) / (seeds - 1)), seeds - 1.0
    )


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each given with its own.

    Satterthwaite's (sum v)^2 / sum(v^2 / f), from estimates: of three seeds an arm it varies from 2
    to 4 and is too low on average, since the mean of an estimate's square is (f + 2) / f of the
    square. (sum v)^2 / sum(v^2 / (f + 2)) - 2 mends that (Dixon and Massey 1957, Introduction to
    Statistical Analysis) and goes a little too far where arms have different numbers of seeds. Of
    two normal samples of three, and of three and five, the first rejects 3.5 and 4.7 %, the second
    5.0 and 5.7 %, and what stands here between them 4.7 and 5.5 %.
    """
    total = sum(part for part, _ in parts)
    below = sum(part**2 / (freedom + MENDED) for part, freedom in parts)
    least = min(freedom for part, freedom in parts if part or not total)
    return max(least, total**2 / below - MENDED) if below else least


def unseen(count: int) -> float:
    """The largest share of trees that may differ where none of `count` did: the upper end of the
    one-sided 95 % interval, about 3 / count (Hanley and Lippman-Hand 1983, JAMA 249)."""
    return float(1 - 0.05 ** (1 / count))


def reach_of(freedom: float) -> float:
    """How many standard errors a difference takes to be found with 80 % power: about 2.8, of few
    degrees of freedom more.

    By the noncentral t distribution. An estimated standard error is too small on average, which is
    made good (the c4 of control charts), so that the mean of what is printed is right.
    """
    return _reach(round(min(freedom, 1e4), 2))


@lru_cache(maxsize=4096)
def _reach(freedom: float) -> float:
    beyond = student(LEVEL, freedom)
    found = optimize.brentq(
        lambda effect: 1 - special.nctdtr(freedom, effect, beyond) - POWER, 0.1, 10 * beyond
    )
    bias = sqrt(2 / freedom) * exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2))
    return float(found / bias)
