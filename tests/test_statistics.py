"""Differences of arms: against scipy, against arithmetic, and against simulation."""

import numpy as np
import pytest
from scipy import stats

from bench.simulate import Design, true_difference, with_difference
from bench.statistics import simulate as simulate_design
from evals.statistics import (
    Difference,
    bootstrap_interval,
    cluster_variance,
    holm,
    mcnemar,
    no_worse,
    paired,
    reach_of,
    seed_variance,
    sign_flip,
)
from finetune.gate import least_share

RANDOM = np.random.default_rng(7)
BEGIN = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def what_is_drawn_does_not_hang_on_the_tests_before() -> None:
    RANDOM.bit_generator.state = BEGIN


def one_each(n: int) -> list[str]:
    return [f"t{place}" for place in range(n)]


def simulate(
    random: np.random.Generator,
    *,
    trees: int,
    per_tree: int = 1,
    seeds: int = 1,
    seed_deviation: float = 0.0,
    effect: float = 0.0,
) -> Difference:
    """Two arms that break limits with the trees' own chances, one of them `effect` more often."""
    chance = np.repeat(stats.logistic.cdf(random.normal(-0.6, 1.8, trees)), per_tree)

    def arm(more: float) -> np.ndarray:
        moved = chance + more + random.normal(0, seed_deviation, (seeds, 1))
        return (random.random((seeds, len(chance))) < np.clip(moved, 0, 1)).astype(float)

    names = np.repeat(np.arange(trees), per_tree).astype(str)
    return paired(arm(effect), arm(0.0), list(names), is_share=True)


def test_the_interval_is_scipys_bca_but_for_the_widened_level():
    gaps = RANDOM.gamma(2, 1, 60) - 1.2
    low, high = bootstrap_interval(gaps, np.ones(60), 0.95)
    # The widened level of 60 trees, as one that scipy can be asked for.
    reach = stats.t.ppf(0.975, 59) * np.sqrt(60 / 59)
    level = 2 * stats.norm.cdf(reach) - 1
    theirs = stats.bootstrap(
        (gaps,),
        np.mean,
        confidence_level=level,
        method="BCa",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    plain = stats.bootstrap((gaps,), np.mean, rng=np.random.default_rng(1)).confidence_interval
    assert low < plain.low
    assert high > plain.high


def test_the_interval_over_trees_of_unequal_size_is_that_of_a_ratio():
    sizes = RANDOM.integers(1, 6, 50).astype(float)
    sums = RANDOM.normal(0.3, 1, 50) * sizes
    low, high = bootstrap_interval(sums, sizes)
    reach = 2 * stats.norm.cdf(stats.t.ppf(0.975, 49) * np.sqrt(50 / 49)) - 1
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        confidence_level=reach,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def efrons(sums: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval by its formulas, over the module's resamples."""
    n, mean = len(sums), sums.sum() / sizes.sum()
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=10_000)
    replicates = (drawn @ sums) / (drawn @ sizes)
    is_tied = np.isclose(replicates, mean, rtol=0, atol=1e-9)
    below = ((replicates < mean) & ~is_tied).mean() + is_tied.mean() / 2
    left_out = [(sums.sum() - sums[place]) / (sizes.sum() - sizes[place]) for place in range(n)]
    skewness = stats.skew(-np.array(left_out))
    acceleration = skewness / (6 * np.sqrt(n))
    bias = stats.norm.ppf(below)
    reach = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(n / (n - 1))
    places = [
        stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-reach, reach)
    ]
    low, high = np.quantile(replicates, places)
    return float(low), float(high)


@pytest.mark.parametrize(("n", "level"), [(8, 0.95), (8, 0.9), (40, 0.95), (201, 0.9)])
def test_the_interval_is_efrons_formula_of_its_own_resamples(n: int, level: float):
    sizes = RANDOM.integers(1, 9, n).astype(float)
    sums = (RANDOM.gamma(0.5, 2, n) - 0.6) * sizes
    # Resamples of more than 200 trees are multiplied as 32-bit numbers.
    assert bootstrap_interval(sums, sizes, level) == pytest.approx(
        efrons(sums, sizes, level), rel=1e-4
    )


@pytest.mark.parametrize("n", [6, 13, 19, 20, 40])
def test_one_seed_against_one_is_the_bootstrap_and_of_few_trees_students_interval_too(n: int):
    sizes = np.arange(n) % 4 + 1
    names = [f"{tree:02}" for tree in np.repeat(np.arange(n), sizes)]  # in the order of text
    arm, baseline = RANDOM.gamma(0.5, 2, (2, len(names)))
    found = paired(arm[None], baseline[None], names)
    gaps = arm - baseline
    sums = np.array([gaps[np.array(names) == f"{tree:02}"].sum() for tree in range(n)])
    mean = gaps.mean()
    error = np.sqrt(((sums - sizes * mean) ** 2).sum() * n / (n - 1)) / len(names)
    for level, low, high in (
        (0.95, found.low, found.high),
        (0.90, found.low_90, found.high_90),
    ):
        ends = efrons(sums, sizes.astype(float), level)
        if n < 20:
            reach = stats.t.ppf((1 + level) / 2, n - 1) * error
            ends = min(ends[0], mean - reach), max(ends[1], mean + reach)
        assert (low, high) == pytest.approx(ends)
    assert found.detectable == pytest.approx(reach_of(n - 1) * error)


@pytest.mark.parametrize("n", [14, 40])
def test_p_of_signs_drawn_at_random_counts_the_signs_as_they_are(n: int):
    sums = RANDOM.normal(0.3, 1, n)
    signs = 1 - 2 * np.random.default_rng(0).integers(0, 2, (10_000, n))
    as_far = (np.abs(signs @ sums) >= np.abs(sums.sum()) - 1e-9).sum()
    assert sign_flip(sums) == pytest.approx((1 + as_far) / 10_001, rel=1e-9)
    assert sign_flip(np.ones(40)) == pytest.approx(1 / 10_001, rel=1e-9)


@pytest.mark.parametrize("values", [(0.0, 0.5), (0.5, 1.0), (0.0, 2.0)])
def test_values_that_are_no_zeros_and_ones_are_told_apart_by_their_signs_flipped(values: tuple):
    # McNemar's test would count who won, whatever by how much.
    arm = np.array([[values[1]] * 7 + [values[0]] * 8])
    baseline = np.array([[values[0]] * 7 + [values[1]] * 2 + [values[0]] * 6])
    baseline[0, 8] = (values[0] + values[1]) / 2
    found = paired(arm, baseline, one_each(15), is_share=True)
    gaps = (arm - baseline)[0]
    assert found.p == pytest.approx(sign_flip(gaps))
    assert found.p != pytest.approx(mcnemar(gaps))


def test_prompts_of_one_tree_are_told_apart_by_flipping_the_tree():
    arm, baseline = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]), np.array([[0.0] * 5 + [1.0]])
    found = paired(arm, baseline, ["a", "a", "b", "c", "d", "e"], is_share=True)
    assert found.p == pytest.approx(sign_flip(np.array([2.0, 1.0, 1.0, 0.0, -1.0])))
    assert found.p != pytest.approx(mcnemar((arm - baseline)[0]))


def test_resamples_that_equal_the_mean_are_as_much_above_as_below():
    low, high = bootstrap_interval(np.tile([1.0, -1.0], 8), np.ones(16))
    assert low == -high


def test_trees_of_many_sizes_do_not_make_an_interval_lopsided():
    # What each says for itself is alike, so that the ends lie as far from the mean.
    sizes = np.repeat([1.0, 2.0, 40.0], [40, 18, 2])
    sums = sizes * (2 + np.tile([-0.3, 0.3], 30))
    low, high = bootstrap_interval(sums, sizes)
    mean = sums.sum() / sizes.sum()
    assert (high - mean) / (mean - low) == pytest.approx(1, abs=0.05)


def test_with_one_prompt_a_tree_the_variance_is_that_of_a_mean():
    gaps = RANDOM.normal(size=30)
    assert cluster_variance(gaps, np.ones(30)) == pytest.approx(gaps.var(ddof=1) / 30)


def test_copies_of_a_prompt_in_its_tree_add_no_certainty():
    arm, baseline = RANDOM.integers(0, 2, (2, 40)).astype(float)
    once = paired(arm[None], baseline[None], one_each(40))
    copied = paired(np.tile(arm, 5)[None], np.tile(baseline, 5)[None], one_each(40) * 5)
    naive = paired(np.tile(arm, 5)[None], np.tile(baseline, 5)[None], one_each(200))
    assert copied.prompts == 200
    assert copied.trees == once.trees == 40
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert None not in (*once, *naive)
    assert naive.low - once.difference > 0.6 * (once.low - once.difference)


def test_mcnemars_test_is_the_binomial_one_and_equals_flipping_signs():
    gaps = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)
    assert mcnemar(gaps) == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert sign_flip(gaps) == pytest.approx(mcnemar(gaps))
    arm = np.array([[1.0] * 9 + [0.0] * 32])
    baseline = np.array([[0.0] * 9 + [1.0] * 2 + [0.0] * 30])
    assert paired(arm, baseline, one_each(41)).p == pytest.approx(mcnemar(gaps))
    assert mcnemar(np.zeros(5)) == sign_flip(np.zeros(5)) == 1.0


@pytest.mark.parametrize(("won", "n"), [(0, 1), (0, 9), (1, 2), (5, 10), (30, 41), (700, 1000)])
def test_exact_figures_of_a_share_are_scipys(won: int, n: int):
    theirs = stats.binomtest(won, n)
    assert mcnemar(np.repeat([1.0, -1.0], [won, n - won])) == pytest.approx(theirs.pvalue)
    assert least_share(won, n) == pytest.approx(theirs.proportion_ci(0.95, method="exact").low)


def test_signs_drawn_at_random_agree_with_scipys_permutations():
    sums = RANDOM.normal(0.25, 1, 40)
    theirs = stats.permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        n_resamples=9_999,
        rng=np.random.default_rng(2),
    )
    assert sign_flip(sums) == pytest.approx(theirs.pvalue, abs=0.02)


def test_with_seeds_that_do_not_matter_the_test_is_students():
    # Every seed of an arm is the same, so that only the prompts are left to vary.
    gaps = RANDOM.normal(0.2, 1, 25)
    found = paired(np.tile(gaps, (3, 1)), np.zeros((3, 25)), one_each(25))
    theirs = stats.ttest_1samp(gaps, 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_seeds_that_differ_widen_the_interval_and_a_fixed_arm_has_none():
    prompts = RANDOM.normal(size=50)
    calm = prompts + RANDOM.normal(0, 0.01, (3, 50))
    wild = prompts + np.array([[-0.5], [0.0], [0.5]])
    base = np.zeros((1, 50))
    names = one_each(50)

    def width(arm: np.ndarray, baseline: np.ndarray, **options: bool) -> float:
        found = paired(arm, baseline, names, **options)
        assert None not in found
        return found.high - found.low

    assert width(wild, base, baseline_is_fixed=True) > 1.5 * width(
        calm, base, baseline_is_fixed=True
    )
    # One seed that was trained could have come out as differently as the other arm's.
    assert width(wild, base) > width(wild, base, baseline_is_fixed=True)


def test_values_that_do_not_exist_leave_their_prompt_out():
    arm = np.array([[1.0, np.nan, 0.0, 1.0], [0.0, np.nan, 0.0, np.nan]])
    baseline = np.array([[1.0, 1.0, np.nan, 0.0]])
    found = paired(arm, baseline, one_each(4))
    assert found.prompts == 2
    assert found.arm_mean == pytest.approx((0.5 + 1) / 2)
    assert found.baseline_mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arm", "trees", "expected"),
    [
        ([], [], (0, 0, None, None, None)),
        ([np.nan], ["a"], (0, 0, None, None, None)),
        ([1.0], ["a"], (1, 1, 1.0, None, None)),
        ([1.0, 0.0], ["a", "a"], (2, 1, 0.5, None, None)),
        ([0.0, 0.0], ["a", "b"], (2, 2, 0.0, None, 1.0)),
        ([0.0] * 30, one_each(30), (30, 30, 0.0, None, 1.0)),
        ([1.0] * 30, one_each(30), (30, 30, 1.0, None, pytest.approx(0, abs=1e-3))),
    ],
)
def test_what_cannot_be_had_is_none_and_never_a_nan(arm: list, trees: list, expected: tuple):
    for seeds in (1, 3):
        found = paired(np.array([arm] * seeds), np.zeros((1, len(arm))), trees, is_share=True)
        got = (found.prompts, found.trees, found.difference, found.low, found.p)
        assert got == expected
        assert not any(isinstance(value, float) and np.isnan(value) for value in found)


def test_the_detectable_difference_is_the_tables():
    # By 2.8 * sqrt(discordance / n): 188 prompts at a discordance of .2 and .4 show 9.1 and 12.9.
    for discordant, expected in ((38, 9.1), (75, 12.9)):
        arm = np.array([[1.0, 0.0] * (discordant // 2) + [0.0] * (188 - discordant // 2 * 2)])
        baseline = np.array([[0.0, 1.0] * (discordant // 2) + [0.0] * (188 - discordant // 2 * 2)])
        found = paired(arm, baseline, one_each(188), is_share=True)
        assert found.detectable is not None
        assert 100 * found.detectable == pytest.approx(expected, abs=0.2)


def test_five_trees_can_show_nothing_and_six_only_everything():
    arm, baseline = np.eye(6)[:1], np.zeros((1, 6))
    assert paired(arm[:, :5], baseline[:, :5], one_each(5), is_share=True).detectable is None
    assert paired(arm, baseline, one_each(6), is_share=True).detectable == 1.0
    assert paired(baseline, baseline, one_each(6), is_share=True).detectable == 1.0


def test_arms_that_never_differ_show_nothing_where_values_are_no_shares_or_trees_are_few():
    zeros = np.zeros((1, 30))
    assert paired(zeros, zeros, one_each(30), is_share=True).detectable == 0.2
    assert paired(zeros, zeros, one_each(30)).detectable is None
    assert paired(zeros[:, :5], zeros[:, :5], one_each(5), is_share=True).detectable is None
    # A constant difference is no absence of one.
    assert paired(zeros + 1, zeros, one_each(30), is_share=True).high_90 is None
    assert paired(zeros, zeros, one_each(30)).high_90 is None


def test_of_seeds_too_six_trees_show_something_and_five_nothing():
    arm, baseline = RANDOM.normal(size=(3, 6)), RANDOM.normal(size=(3, 6))
    assert paired(arm, baseline, one_each(6)).detectable is not None
    assert paired(arm[:, :5], baseline[:, :5], one_each(5)).detectable is None


def test_seeds_that_take_turns_leave_nothing_to_measure_an_interval_by():
    # Each prompt is answered by one seed of two, and both by as many.
    arm = np.array([[1.0, 0.0] * 10, [0.0, 1.0] * 10])
    found = paired(arm, np.zeros((2, 20)), one_each(20))
    assert (found.difference, found.low, found.p, found.detectable) == (0.5, None, None, None)


def test_two_seeds_are_enough_for_a_variance():
    values = RANDOM.normal(size=(2, 12))
    found = seed_variance(values, np.arange(12))
    assert found is not None
    assert found.variance == pytest.approx(values.mean(axis=1).var(ddof=1))
    assert found.freedom == 1


def test_holms_adjustment_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, None, 0.8]) == [1.0, None, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("trees", "per_tree", "seeds", "deviation"),
    [(20, 1, 1, 0.0), (60, 1, 1, 0.0), (40, 5, 1, 0.0), (60, 2, 3, 0.0), (60, 2, 3, 0.04)],
)
def test_arms_that_are_alike_are_rarely_told_apart(
    trees: int, per_tree: int, seeds: int, deviation: float
):
    random = np.random.default_rng(11)
    options = {"trees": trees, "per_tree": per_tree, "seeds": seeds, "seed_deviation": deviation}
    found = [simulate(random, **options) for _ in range(200)]
    alarms = [each.low > 0 or each.high < 0 for each in found if each.low is not None]
    # 5 % of 200 with three standard errors; ignoring trees or seeds gives 15 to 40 %.
    assert np.mean(alarms) <= 0.1
    assert np.mean([each.p < 0.05 for each in found if each.p is not None]) <= 0.1


def test_the_interval_covers_the_truth():
    random = np.random.default_rng(12)
    covered = []
    for _ in range(200):
        gaps = random.gamma(1.5, 0.3, 40)
        found = paired(gaps[None], np.zeros((1, 40)), one_each(40))
        covered.append(found.low <= 0.45 <= found.high)
    # 95 % less and more three standard errors, less what so skewed a distribution costs.
    assert 0.9 <= np.mean(covered) <= 0.99


def test_the_detectable_difference_is_found_four_times_in_five():
    random = np.random.default_rng(13)
    error = np.sqrt(2) * 0.3 / np.sqrt(50)
    shown, detectable = [], []
    for _ in range(200):
        arm, baseline = random.normal(2.87 * error, 0.3, 50), random.normal(0, 0.3, 50)
        found = paired(arm[None], baseline[None], one_each(50))
        shown.append(found.low > 0)
        detectable.append(found.detectable)
    assert np.mean(detectable) == pytest.approx(2.87 * error, rel=0.03)
    assert 0.72 <= np.mean(shown) <= 0.88


def test_how_seeds_vary_is_the_variance_of_their_means_and_their_trees_noise_in_it():
    values = RANDOM.normal(size=(3, 20)) + np.array([[0.0], [0.4], [1.0]])
    clusters = np.repeat(np.arange(8), [1, 2, 3, 4, 1, 2, 3, 4])
    found = seed_variance(values, clusters)
    assert found is not None
    means = values.mean(axis=1)
    assert found.variance == pytest.approx(means.var(ddof=1))
    # The noise, by the definition: of each seed and tree, what neither seed nor prompt explains.
    total = 0.0
    for seed in range(3):
        for tree in range(8):
            mine = [
                values[seed, p] - values[:, p].mean() - means[seed] + means.mean()
                for p in np.flatnonzero(clusters == tree)
            ]
            total += sum(mine) ** 2
    assert found.noise == pytest.approx(total / 20**2 * 8 / 7 / 2)
    assert found.freedom == 2
    assert seed_variance(values[:1], clusters) is None


def test_the_noise_of_seeds_that_lack_prompts_is_that_of_the_fit_written_out():
    """Least squares on a column for each seed and prompt, its residuals summed by tree."""
    values = RANDOM.normal(size=(3, 20)) + np.array([[0.0], [0.4], [1.0]])
    values[0, :6] = values[2, 4:15] = np.nan
    clusters = np.repeat(np.arange(8), [1, 2, 3, 4, 1, 2, 3, 4])
    found = seed_variance(values, clusters)
    assert found is not None
    seed, prompt = np.nonzero(~np.isnan(values))
    seeds, prompts = np.eye(3)[seed], np.eye(20)[prompt]
    within = np.eye(len(seed)) - prompts @ np.linalg.pinv(prompts)
    bread = np.linalg.pinv(seeds.T @ within @ seeds)
    said = within @ values[seed, prompt]
    left = said - within @ seeds @ (bread @ seeds.T @ said)
    scores = [
        seeds[clusters[prompt] == tree].T @ left[clusters[prompt] == tree] for tree in range(8)
    ]
    spread = bread @ sum(np.outer(each, each) for each in scores) @ bread * 8 / 7
    assert found.noise == pytest.approx(np.trace(spread) / 2)


def test_a_seed_that_lacks_the_harder_prompts_is_not_taken_for_a_better_one():
    ease = np.repeat([0.0, 1.0], 20)
    values = np.stack([ease, ease, ease]) + RANDOM.normal(0, 0.01, (3, 40))
    values[2, :15] = np.nan
    found = seed_variance(values, np.arange(40))
    assert found is not None
    assert np.nanmean(values, axis=1).var(ddof=1) > 0.02
    assert found.variance < 1e-3


def test_the_smallest_effect_is_that_of_the_noncentral_t():
    assert reach_of(1e6) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-3)
    # Two samples of three with known deviation 1: found in four of five, by simulation.
    random = np.random.default_rng(5)
    samples = random.normal(size=(40_000, 2, 3))
    error = np.sqrt(samples.var(axis=2, ddof=1).mean(axis=1) * 2 / 3)
    effect = reach_of(4) * error.mean()
    gap = samples[:, 1].mean(axis=1) - samples[:, 0].mean(axis=1) + effect
    assert np.mean(gap / error > stats.t.ppf(0.975, 4)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("margin", [0.1, 0.3, 0.6])
def test_no_worse_and_equivalent_are_the_one_sided_tests(margin: float):
    gaps = np.random.default_rng(8).normal(0.1, 0.6, 30)
    found = paired(np.tile(gaps, (3, 1)), np.zeros((3, 30)), one_each(30))
    theirs = stats.ttest_1samp(gaps, 0).confidence_interval(0.9)
    assert (found.low_90, found.high_90) == pytest.approx(tuple(theirs))
    is_no_more = stats.ttest_1samp(gaps, margin, alternative="less").pvalue < 0.05
    is_no_less = stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue < 0.05
    for direction, is_no_worse in ((-1, is_no_more), (1, is_no_less)):
        expected = "no worse" if is_no_worse else "not shown"
        if is_no_more and is_no_less:
            expected = "equivalent"
        assert no_worse(found.low_90, found.high_90, margin, direction) == expected
    assert no_worse(None, None, margin, 1) == "not shown"


def test_an_interval_that_ends_at_the_margin_does_not_lie_within_it():
    ends = [(-0.5, 0.25), (-0.25, 0.5), (-0.25, 0.25), (-0.5, 0.5)]
    less = [no_worse(*each, 0.5, -1) for each in ends]
    assert less == ["no worse", "not shown", "equivalent", "not shown"]
    more = [no_worse(*each, 0.5, 1) for each in ends]
    assert more == ["not shown", "no worse", "equivalent", "not shown"]


def test_arms_that_never_differ_are_equivalent_by_three_in_as_many_trees():
    found = paired(np.zeros((3, 100)), np.zeros((3, 100)), one_each(100), is_share=True)
    assert found.high_90 == -found.low_90 == pytest.approx(3 / 100, rel=0.03)
    assert found.low is None
    assert no_worse(found.low_90, found.high_90, 0.04, -1) == "equivalent"


def test_seeds_that_agree_by_chance_do_not_make_certainty():
    arm = np.array([np.roll([1.0, 0.0, 0.0, 0.0] * 15, seed) for seed in range(3)])
    baseline = np.array([np.roll([1.0, 1.0, 0.0, 0.0] * 15, seed) for seed in range(3)])
    found = paired(arm, baseline, one_each(60), is_share=True)
    assert found.high - found.low > 0.01


@pytest.mark.parametrize(("seeds", "points"), [((3, 3), 0.0), ((3, 3), 4.0), ((3, 5), 2.0)])
def test_figures_hold_what_they_promise(seeds: tuple[int, int], points: float):
    """A small `python -m bench.statistics`: 5 %, 95 % and 80 %, three standard errors each way."""
    sizes = (1,) * 40 + (2,) * 10 + (6,) * 5
    random = np.random.default_rng([1, *seeds, int(points)])
    design = Design(sizes, seeds, (points, points))
    alike = simulate_design(design, 400, random)
    assert true_difference(design) == 0
    assert 0.017 <= alike.share_found() <= 0.083
    assert 0.917 <= alike.share_covered() <= 0.983
    apart = simulate_design(with_difference(design, alike.mean_detectable()), 300, random)
    assert 0.73 <= apart.share_found() <= 0.87
    assert 0.91 <= apart.share_covered() <= 0.99
    assert apart.share_no_worse(apart.truth) <= 0.09


def test_which_of_two_arms_has_one_seed_changes_the_sign_and_nothing_else():
    one, three = RANDOM.normal(size=(1, 40)), RANDOM.normal(size=(3, 40))
    found, mirrored = paired(one, three, one_each(40)), paired(three, one, one_each(40))
    assert None not in (found, mirrored)
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))
    assert found.p == pytest.approx(mirrored.p)
