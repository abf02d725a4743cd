"""Scorers, each against a plain statement of what it counts."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evals.prompts
import evals.scorers
import evals.statistics
import evals.summary
from dataset_builder.words import count_words, first_words
from evals.scorers import LIKELIHOODS, METRICS, OF_LIMITS, PLAIN, QUALITY
from evals.suite import load_suite, suite_names

ANSWERS = st.lists(st.sampled_from(["word", "two words", "don't", "...", "日本", "\n"])).map(
    " ".join
)


@pytest.mark.parametrize(
    "module",
    [evals.scorers, evals.prompts, evals.statistics, evals.summary],
    ids=lambda m: m.__name__,
)
def test_the_examples_in_docstrings_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_every_scorer_shows_an_answer_and_its_score():
    parser = doctest.DocTestParser()
    for scorer in PLAIN.values():
        assert parser.get_examples(scorer.__doc__ or ""), scorer.__name__
    assert set(METRICS) == {*PLAIN, *QUALITY, *LIKELIHOODS}
    assert {name for suite in suite_names() for name in load_suite(suite).scorers} <= set(METRICS)


@given(ANSWERS, st.integers(1, 12), st.booleans())
def test_a_limit_is_kept_by_one_word_up_to_the_limit(answer: str, limit: int, is_stopped: bool):
    given_words = count_words(answer)
    score = {name: scorer(answer, limit, is_stopped) for name, scorer in PLAIN.items()}
    assert score["words"] == given_words
    assert score["violation"] == (0 if given_words in range(1, limit + 1) else 1)
    assert score["empty"] == (given_words == 0)
    assert score["overshoot"] == max(given_words - limit, 0)
    assert (
        score["overshoot_share"] == max(given_words / limit - 1, 0)
        or pytest.approx(max(given_words / limit - 1, 0)) == score["overshoot_share"]
    )
    assert score["limit_share"] == given_words / limit
    assert score["stopped"] == is_stopped


@given(ANSWERS)
def test_without_a_limit_nothing_about_limits_is_scored(answer: str):
    for name, scorer in PLAIN.items():
        assert (scorer(answer, None, True) is None) == (name in OF_LIMITS)


@given(ANSWERS, st.integers(1, 12))
def test_an_answer_cut_at_the_limit_keeps_it_unless_it_is_empty(answer: str, limit: int):
    cut = first_words(answer, limit)
    assert PLAIN["violation"](cut, limit, True) == (count_words(answer) == 0)
