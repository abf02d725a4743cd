"""Rows in the order of a run: counted, laid out and labelled before anything is trained."""

from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from dataset_builder.fit import FittedRow
from dataset_builder.template import completion_ids, end_id, find_template, prompt_ids
from finetune.preset import Preset, load_preset
from finetune.rows import IGNORED, budget_of, dataset_of, order_of, read_rows, token_digest
from tests.tiny import example, tiny_preset, tiny_tokenizer, write_variant

IDS = [f"e{n}" for n in range(7)]


@pytest.fixture
def preset(tmp_path: Path) -> Preset:
    return load_preset(str(tiny_preset(tmp_path / "tiny.toml", tmp_path / "nowhere")))


def test_every_row_is_seen_once_before_any_is_seen_twice():
    order = order_of(IDS, seed=0, examples=18)

    assert len(order) == 18
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert len(set(order[14:])) == 4
    assert order[:7] != order[7:14]  # each pass in an order of its own


def test_a_seed_fixes_the_order_and_another_one_changes_it():
    assert order_of(IDS, 1, 14) == order_of(IDS, 1, 14)
    assert order_of(IDS, 1, 14) != order_of(IDS, 2, 14)


def test_a_smaller_variant_keeps_the_order_of_the_rows_it_shares():
    whole = [IDS[place] for place in order_of(IDS, 3, 7)]
    fewer = [IDS[n] for n in (0, 2, 3, 6)]
    part = [fewer[place] for place in order_of(fewer, 3, 4)]

    assert part == [name for name in whole if name in fewer]


def test_the_budget_counts_what_a_loop_over_the_steps_counts():
    rows = [FittedRow(name, [1] * n, [2] * (2 * n + 1)) for n, name in enumerate(IDS)]
    order = order_of(IDS, 0, 16)
    budget = budget_of(rows, order, batch=4)

    steps = [[rows[place] for place in order[start : start + 4]] for start in range(0, 16, 4)]
    trained = [sum(len(row.completion_ids) for row in step) for step in steps]
    tokens = [sum(len(row.prompt_ids + row.completion_ids) for row in step) for step in steps]
    assert budget.trained_tokens_by_step == trained
    assert budget.tokens_by_step == tokens
    assert (budget.trained_tokens, budget.tokens) == (sum(trained), sum(tokens))
    assert (budget.steps, budget.examples_seen, budget.epochs) == (4, 16, 16 / 7)


def test_only_the_answer_and_its_end_carry_loss(tmp_path: Path, monkeypatch, preset: Preset):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    tokenizer, template = tiny_tokenizer(), find_template("chatml")
    rows, fit = read_rows(write_variant(), "train", template, tokenizer, preset)
    dataset = dataset_of(rows, [3, 3, 0])

    assert fit.kept == len(rows) == 10
    assert len(dataset) == 3
    assert dataset[0] == dataset[1]
    source = example(3)
    prompt = prompt_ids(template, tokenizer, source["prompt"])
    answer = completion_ids(template, tokenizer, source["completion"])
    assert dataset[0]["input_ids"] == prompt + answer
    assert dataset[0]["labels"] == [IGNORED] * len(prompt) + answer
    assert dataset[0]["labels"][-1] == end_id(template, tokenizer)


def test_a_variant_of_which_nothing_fits_is_an_error(tmp_path: Path, monkeypatch, preset: Preset):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    directory = write_variant(rows=[example(0, answer="word " * 500)])

    with pytest.raises(InputError, match="none of 1 rows fits 128 tokens") as error:
        read_rows(directory, "train", find_template("chatml"), tiny_tokenizer(), preset)
    assert "length" in str(error.value.hint)


def test_the_token_digest_notes_another_row_order_or_template(
    tmp_path: Path, monkeypatch, preset: Preset
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    directory = write_variant()
    digests = set()
    for name in ("chatml", "smollm2", "instruct"):
        rows, _ = read_rows(directory, "train", find_template(name), tiny_tokenizer(), preset)
        digests |= {token_digest(rows, order) for order in ([0, 1], [1, 0])}

    assert len(digests) == 6
