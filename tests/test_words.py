"""One place counts words."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicode_segmentation_rs import unicode_words

from dataset_builder import bounds
from dataset_builder.bounds import counts_of, pieces, plain, word_bounds
from dataset_builder.folds import fold_codes
from dataset_builder.split import normalised
from dataset_builder.words import (
    count_words,
    first_words,
    ifeval_words,
    whitespace_words,
    word_counts,
)


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


# ------------------------------------------------------------------------- many texts at once

ASCII = st.text(st.characters(max_codepoint=127), max_size=30)
# What joins, what ends, what hangs on: dense in the places where the rules meet.
JOINTS = st.text("aZ09_'.:,;-/ \"\r\n\t\x00\x0b\x7f", max_size=12)
ANY = st.text("aZ0_'.’é日\u0301\u200d🙂 ", max_size=8)
MANY = st.lists(ASCII | JOINTS | ANY, max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(ASCII | JOINTS, max_size=12))
def test_words_of_plain_texts_are_those_of_the_library(texts: list[str]):
    some, is_plain = plain(pa.array(texts, pa.string()))
    found = word_bounds(some)
    assert is_plain.all()
    words = [
        some.signs[start:end].tobytes().decode()
        for start, end in zip(found.starts, found.ends, strict=True)
    ]
    assert words == [word for text in texts for word in unicode_words(text)]
    assert found.counts.tolist() == [count_words(text) for text in texts]


KINDS = [b"a0<", b"9.", b"a"]


@settings(max_examples=150, deadline=None)
@given(MANY, MANY, st.integers(0, 3), st.integers(1, 40))
def test_counts_of_a_column_are_those_of_each_text(more, texts, skipped, size):
    # In chunks, slices and pieces of any size.
    column = pa.chunked_array([more, pa.array(texts, pa.string())[skipped:]], pa.string())
    said = column.to_pylist()
    pieces_before, bounds.PIECE = bounds.PIECE, size
    try:
        assert word_counts(column).tolist() == [count_words(text) for text in said]
        codes = fold_codes(column)
        held = [counts_of(piece, KINDS) for piece in pieces(column)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds, "library", lambda: None)
            held += [counts_of(piece, KINDS) for piece in pieces(column)]
    finally:
        bounds.PIECE = pieces_before
    counts = [[sum(map(text.count, kind.decode())) for kind in KINDS] for text in said]
    assert np.concatenate([np.zeros((0, 3)), *held]).tolist() == 2 * counts
    folds = [normalised(text) for text in said]
    for place, code in enumerate(codes.tolist()):
        assert [folds[place] == fold for fold in folds] == (codes == code).tolist()


def test_every_pair_and_triple_of_ascii_signs_counts_as_the_library_counts():
    kinds = "a0_'.:,;- \n"
    texts = [f"x{chr(one)}{chr(two)}9" for one in range(128) for two in range(128)]
    texts += [f"{a}{b}{c}{d}" for a in kinds for b in kinds for c in kinds for d in kinds]
    assert word_counts(pa.array(texts)).tolist() == [count_words(text) for text in texts]
