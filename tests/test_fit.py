"""What a length does to rows is counted, and each policy does what it says."""

import pytest

from dataset_builder.errors import InputError
from dataset_builder.fit import fit_rows
from dataset_builder.template import end_id, find_template, prompt_ids
from tests.tiny import tiny_tokenizer

TEMPLATE = find_template("chatml")
TOKENIZER = tiny_tokenizer()
END = end_id(TEMPLATE, TOKENIZER)


def row(name: str, question: str, answer: str, history: tuple[str, ...] = ()) -> dict:
    prompt = [
        {"role": role, "content": content}
        for role, content in zip(("user", "assistant") * 9, (*history, question), strict=False)
    ]
    return {
        "example_id": name,
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": answer}],
        "reply_words": len(answer.split()),
    }


SHORT = row("short", "Why?", "So.")
LONG_ANSWER = row("long answer", "Why?", "word " * 150)
LONG_PROMPT = row("long prompt", "why " * 300, "So.")
LONG_HISTORY = row("long history", "Why?", "So.", ("why " * 200, "So."))
ROWS = [SHORT, LONG_ANSWER, LONG_PROMPT, LONG_HISTORY]
LENGTH = 128


def fitted(policy: str, length: int = LENGTH):
    rows, fit = fit_rows(ROWS, TEMPLATE, TOKENIZER, length, policy)
    assert fit.rows == fit.kept + len(fit.dropped) == len(ROWS)
    assert fit.kept == len(rows)
    assert all(len(each.prompt_ids) + len(each.completion_ids) <= length for each in rows)
    assert fit.trained_tokens == sum(len(each.completion_ids) for each in rows)
    return {each.example_id: each for each in rows}, fit


def test_drop_keeps_only_whole_rows():
    rows, fit = fitted("drop")
    assert set(rows) == {"short"}
    assert (fit.too_long, fit.prompt_too_long, fit.cut, fit.end_lost) == (3, 2, 0, 0)
    assert (fit.concise_share_before, fit.concise_share_after) == (0.75, 1.0)


def test_nothing_is_touched_where_all_fits():
    rows, fit = fitted("drop", length=4096)
    assert set(rows) == {each["example_id"] for each in ROWS}
    assert (fit.too_long, fit.cut) == (0, 0)


def test_cut_loses_the_end_of_text_and_counts_it():
    rows, fit = fitted("cut")
    assert set(rows) == {"short", "long answer"}
    assert (fit.cut, fit.end_lost) == (1, 1)
    assert rows["long answer"].completion_ids[-1] != END
    assert rows["short"].completion_ids[-1] == END


def test_cut_keep_end_keeps_it():
    rows, fit = fitted("cut_keep_end")
    assert (fit.cut, fit.end_lost) == (1, 0)
    assert rows["long answer"].completion_ids[-1] == END
    assert len(rows["long answer"].prompt_ids) + len(rows["long answer"].completion_ids) == LENGTH


def test_last_turns_drops_history_before_rows():
    rows, fit = fitted("last_turns")
    assert set(rows) == {"short", "long history"}
    assert fit.shortened == 1
    assert rows["long history"].prompt_ids == prompt_ids(
        TEMPLATE, TOKENIZER, [{"role": "user", "content": "Why?"}]
    )


def test_refuse_names_the_row():
    with pytest.raises(
        InputError, match=r"example `long answer` has .* more than the preset's 128"
    ):
        fit_rows(ROWS, TEMPLATE, TOKENIZER, LENGTH, "refuse")


def test_no_rows_are_no_error():
    rows, fit = fit_rows([], TEMPLATE, TOKENIZER, LENGTH, "drop")
    assert (rows, fit.rows, fit.concise_share_after) == ([], 0, 0.0)
