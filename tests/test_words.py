"""One place counts words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.words import count_words, first_words, ifeval_words, whitespace_words


# By white space, by IFEval and by UAX 29.
@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", (0, 0, 0)),
        ("Don't panic.", (2, 3, 2)),
        ("state-of-the-art", (1, 4, 4)),
        ("3.5 inches, 50% off", (4, 5, 4)),
        ("日本語", (1, 1, 3)),
        ("... !? -", (3, 0, 0)),
    ],
)
def test_the_three_conventions_differ_as_known(text: str, counts: tuple[int, int, int]):
    assert (whitespace_words(text), ifeval_words(text), count_words(text)) == counts


@given(st.text(), st.integers(min_value=0, max_value=30))
def test_a_cut_text_is_a_prefix_with_at_most_n_words(text: str, n: int):
    cut = first_words(text, n)
    assert text.startswith(cut)
    assert count_words(cut) == min(n, count_words(text))


def test_a_text_within_the_limit_is_unchanged():
    assert first_words("One, two.  ", 2) == "One, two.  "
    assert first_words("One, two, three.", 2) == "One, two"
