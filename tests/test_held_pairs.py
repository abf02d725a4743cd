"""What scores of held-out pairs say, against scipy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from finetune.held_pairs import pair_figures, share_of, spearman, told_apart


def row(tree: str, rewards: tuple[float, float], words: tuple[int, int]) -> dict:
    """A scored pair, the chosen reply first."""
    names = ("chosen_reward", "rejected_reward", "chosen_words", "rejected_words")
    return {"tree_id": tree, **dict(zip(names, (*rewards, *words), strict=True))}


def test_a_model_that_only_counts_words_is_no_better_than_the_rule():
    pairs = [(20, 10), (30, 5), (8, 40), (12, 12), (50, 9)]
    rows = [row(f"t{n}", (words[0] / 10, words[1] / 10), words) for n, words in enumerate(pairs)]
    found = pair_figures(rows)

    assert found.right == found.longer_is_chosen
    assert (found.right.share, found.right.ties) == (3.5 / 5, 1)
    assert (found.over_length, found.over_length_low, found.over_length_high) == (0, 0, 0)
    assert (found.scores_longer_higher.share, found.scores_longer_higher.pairs) == (1.0, 4)
    assert found.right_where_longer_is_chosen.share == 1.0
    assert found.right_where_shorter_is_chosen.share == 0.0
    assert found.length_correlation == pytest.approx(1.0)


def test_a_model_that_knows_all_is_right_where_the_rule_is_wrong():
    pairs = [(20, 10), (5, 30), (8, 40)]
    found = pair_figures([row(f"t{n}", (1.0, 0.0), words) for n, words in enumerate(pairs)])

    assert (found.right.share, found.right.high) == (1.0, 1.0)
    assert found.longer_is_chosen.share == pytest.approx(1 / 3)
    assert found.over_length == pytest.approx(2 / 3)
    assert found.right_where_shorter_is_chosen.share == 1.0
    assert found.length_correlation is None  # every margin is the same


def test_figures_are_said_with_their_intervals_and_ties():
    rows = [row(f"t{n}", (float(n > 2), 0.5), (10, 20)) for n in range(9)]
    rows.append(row("t9", (0.5, 0.5), (7, 7)))
    said = told_apart(pair_figures(rows))

    assert said["chosen reply scored higher"] == "65.0 % (35.4 to 86.3) of 10, 1 tied"
    assert said["the rule: the longer reply"] == "5.0 % (0.5 to 34.5) of 10, 1 tied"
    assert said["more than the rule"].startswith("+60.0 points (")
    assert said["right where the longer was chosen"] == "no pairs"


def test_no_pairs_say_nothing():
    found = pair_figures([])

    assert found.right.share is None
    assert found.length_correlation is None
    assert set(told_apart(found).values()) == {"no pairs", "none"}


@given(st.integers(1, 60), st.data())
def test_of_as_many_trees_as_pairs_the_interval_is_wilsons(n: int, data: st.DataObject):
    won = data.draw(st.integers(0, n))
    hits = np.array([1.0] * won + [0.0] * (n - won))
    found = share_of(hits, np.array([str(place) for place in range(n)], dtype=object))
    wanted = stats.binomtest(won, n).proportion_ci(method="wilson")
    # With so few, the variance over trees is larger by n / (n - 1) than that of a share.
    slack = 2 / n

    assert found.share == won / n
    assert found.low <= wanted.low + 1e-9
    assert found.high >= wanted.high - 1e-9
    assert found.low == pytest.approx(wanted.low, abs=slack)
    assert found.high == pytest.approx(wanted.high, abs=slack)


@given(st.lists(st.booleans(), min_size=2, max_size=20), st.integers(2, 5))
def test_copies_of_a_pair_in_its_tree_add_nothing(hits: list[bool], copies: int):
    once = np.array(hits, dtype=float)
    trees = np.array([str(place) for place in range(len(hits))], dtype=object)
    alone = share_of(once, trees)
    found = share_of(np.repeat(once, copies), np.repeat(trees, copies))

    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.pairs == copies * len(hits)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5).map(lambda x: round(x, 1))), min_size=3)
)
def test_the_rank_correlation_is_scipys(pairs: list[tuple[int, float]]):
    ours, theirs = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = spearman(ours, theirs)
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(ours, theirs).statistic)
