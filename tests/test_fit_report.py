"""A report of what a length would do says for each policy what a run would find, and the known
figures of the real file come out."""

from functools import cache
from typing import NamedTuple, get_args

import pytest

from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.fit import Encoded, Overflow, encode_rows, fit_rows
from dataset_builder.fit_report import POLICIES, fit_table, fits, open_fitting
from dataset_builder.recipe import load_recipe
from dataset_builder.template import find_template
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from dataset_builder.words import whitespace_words
from tests.gpt2 import phi2_tokenizer
from tests.real import real
from tests.test_fit import ROWS
from tests.tiny import tiny_tokenizer

INSTRUCT = find_template("instruct")


@cache
def kept_replies() -> list[dict]:
    """The 1,185 kept replies of the validation file as rows, with all their turns."""
    export = read_export(real("oasst/oasst1_en_validation.messages.jsonl"))
    plan = plan_variant("full", load_recipe("full"), make_tables([export], 0.0))
    return plan.train.to_pylist()


@cache
def tokenizer():
    return phi2_tokenizer()


@cache
def known_rows(is_last_turn: bool) -> tuple[list[dict], Encoded]:
    """The kept replies, whether without what was said before the last prompt, and their tokens: a
    case is some of them."""
    rows = kept_replies()
    if is_last_turn:
        rows = [row | {"prompt": row["prompt"][-1:]} for row in rows]
    return rows, encode_rows(rows, INSTRUCT, tokenizer())


class Known(NamedTuple):
    """A row of the known table, FACTS.md 4.1, Phi-2's columns: rows, then percentages of them."""

    rows: int
    over_256: float
    prompt_over: float  # of 256 tokens or more, so that no answer fits
    answer_over: float  # of more than 256
    over_512: float
    over_1024: float
    # Tokens of a row in the mean, after a cut at 256; where the table says them.
    mean: float | None = None


# Which kept replies, whether without what was said before the last prompt.
CASES = {
    "all": (lambda row: True, False, Known(1185, 52.6, 22.6, 26.7, 21.4, 3.6, 199.9)),
    "all, last turn": (lambda row: True, True, Known(1185, 32.4, 0.9, 26.7, 7.3, 0.8)),
    "rank 0": (
        lambda row: row["rank"] == 0,
        False,
        Known(418, 62.4, 23.4, 34.0, 24.2, 3.1, 214.6),
    ),
    "rank 0, last turn": (
        lambda row: row["rank"] == 0,
        True,
        Known(418, 42.1, 1.0, 34.0, 6.7, 0.7),
    ),
    "rank 0, first turn": (
        lambda row: row["rank"] == 0 and row["turns"] == 1,
        False,
        Known(186, 50.5, 1.1, 40.9, 8.6, 0.0),
    ),
    "concise": (lambda row: words(row) <= 100, False, Known(617, 25.1, 17.8, 0.6, 7.8, 0.6)),
    "concise, last turn": (
        lambda row: words(row) <= 100,
        True,
        Known(617, 2.1, 0.6, 0.6, 0.6, 0.5, 92.3),
    ),
}


def words(row: dict) -> int:
    return whitespace_words(row["completion"][0]["content"])


@pytest.mark.parametrize("case", CASES)
def test_what_a_length_leaves_of_the_validation_file_under_phi2_is_what_was_counted_before(case):
    wanted, is_last_turn, known = CASES[case]
    every, encoded = known_rows(is_last_turn)
    places = [place for place, row in enumerate(every) if wanted(row)]
    rows = [every[place] for place in places]
    encoded = Encoded(*([ids[place] for place in places] for ids in encoded))
    fitted, fit = fit_rows(rows, INSTRUCT, tokenizer(), 256, "cut", encoded)
    over = {
        length: fit_rows(rows, INSTRUCT, tokenizer(), length, "drop", encoded)[1].too_long
        for length in (512, 1024)
    }
    too_long = sum(len(answer) > 256 for answer in encoded.answers)
    counts = (fit.too_long, fit.prompt_too_long, too_long, over[512], over[1024])
    assert fit.rows == known.rows
    assert tuple(round(100 * n / known.rows, 1) for n in counts) == known[1:6]
    assert 0 < fit.padding_share < 1
    # What is cut to nothing but its prompt is dropped, and counts as full in the table.
    tokens = fit.tokens + 256 * len(fit.dropped)
    assert len(fitted) + len(fit.dropped) == known.rows
    assert known.mean in (None, round(tokens / known.rows, 1))


def test_a_word_of_a_kept_reply_is_the_known_number_of_phi2s_tokens():
    rows = kept_replies()
    replies = [row["completion"][0]["content"] for row in rows]
    tokens = sum(len(ids) for ids in tokenizer()(replies)["input_ids"])
    assert round(tokens / sum(words(row) for row in rows), 3) == 1.403


def test_a_report_holds_what_each_policy_finds_by_itself():
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    found = fits(ROWS, template, tokenizer, 128)
    assert tuple(found) == POLICIES
    for policy, fit in found.items():
        assert fit == fit_rows(ROWS, template, tokenizer, 128, policy)[1]


def test_padding_is_what_full_rows_would_not_hold():
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    rows, fit = fit_rows(ROWS, template, tokenizer, 128, "cut")
    real_tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    assert fit.padding_share == pytest.approx((len(rows) * 128 - real_tokens) / (len(rows) * 128))


def test_the_table_names_every_policy_and_every_variant():
    from rich.console import Console

    found = {"mine": fits(ROWS, find_template("chatml"), tiny_tokenizer(), 128)}
    console = Console(width=80, record=True, no_color=True)
    console.print(fit_table(found, "some/model"))
    text = console.export_text()
    assert all(policy in text for policy in get_args(Overflow))
    assert all(each in text for each in ("mine", "75.0 %", "padding"))


def test_a_tokenizer_is_opened_from_a_directory_or_its_file(tmp_path):
    template = find_template("chatml")
    tiny_tokenizer().save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        opened = open_fitting(str(name), template)
        assert opened("why so")["input_ids"] == tiny_tokenizer()("why so")["input_ids"]


def test_a_tokenizer_that_is_nowhere_and_one_without_the_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no tokenizer `nobody/nothing@"):
        open_fitting(f"nobody/nothing@{'0' * 40}", INSTRUCT)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no token"):
        open_fitting(str(tmp_path), find_template("chatml"))
