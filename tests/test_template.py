"""One renderer: only the template writes control tokens, and its ids are those of the whole
conversation.
"""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.errors import InputError
from dataset_builder.template import (
    TEMPLATES,
    answer_text,
    completion_ids,
    end_id,
    find_template,
    prompt_ids,
    stop_ids,
    text,
)
from tests.tiny import tiny_tokenizer

ASK = [{"role": "user", "content": "What do bees make?"}]
ANSWER = [{"role": "assistant", "content": "Honey."}]
LONGER = [*ASK, *ANSWER, {"role": "user", "content": "How?"}]

tokenizer = cache(tiny_tokenizer)


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("instruct", "Instruct: What do bees make?\nOutput: Honey.<|endoftext|>"),
        (
            "chatml",
            "<|im_start|>user\nWhat do bees make?<|im_end|>\n"
            "<|im_start|>assistant\nHoney.<|im_end|>",
        ),
        (
            "smollm2",
            "<|im_start|>system\n"
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
            "<|im_end|>\n<|im_start|>user\nWhat do bees make?<|im_end|>\n"
            "<|im_start|>assistant\nHoney.<|im_end|>",
        ),
    ],
)
def test_a_turn_is_written_as_the_models_expect(name: str, rendered: str):
    assert text(find_template(name), ASK + ANSWER) == rendered


def test_earlier_turns_stand_before_the_question():
    assert text(find_template("instruct"), LONGER) == (
        "Instruct: What do bees make?\nOutput: Honey.\nInstruct: How?\nOutput:"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_rendered_text(name: str):
    template = find_template(name)
    ids = prompt_ids(template, tokenizer(), LONGER) + completion_ids(template, tokenizer(), ANSWER)
    whole = tokenizer()(text(template, LONGER + ANSWER), add_special_tokens=False)["input_ids"]
    assert ids == whole
    assert ids[-1] == end_id(template, tokenizer())


@pytest.mark.parametrize("name", TEMPLATES)
@given(words=st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "hi", "\n"])))
@settings(deadline=None, max_examples=30)
def test_text_never_becomes_control_tokens(name: str, words: list[str]):
    template = find_template(name)
    hostile = [{"role": "user", "content": " ".join(words)}]
    clean = [{"role": "user", "content": "hi"}]
    controls = set(tokenizer().all_special_ids) | set(stop_ids(template, tokenizer()))
    controls |= {tokenizer().get_vocab()[special] for special in template.specials}

    def control_ids(messages: list[dict[str, str]]) -> list[int]:
        return [token for token in prompt_ids(template, tokenizer(), messages) if token in controls]

    assert control_ids(hostile) == control_ids(clean)
    answer = completion_ids(
        template, tokenizer(), [{"role": "assistant", "content": " ".join(words)}]
    )
    assert [token for token in answer if token in controls] == [end_id(template, tokenizer())]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_comes_back_as_it_was_said(name: str):
    template = find_template(name)
    ids = completion_ids(template, tokenizer(), ANSWER)
    assert answer_text(template, tokenizer(), ids) == "Honey."
    assert answer_text(template, tokenizer(), [*ids, *ids]) == "Honey."


def test_an_answer_ends_at_a_stop_text():
    template = find_template("instruct")
    ran_on = tokenizer()(" Honey.\nInstruct: and more", add_special_tokens=False)["input_ids"]
    assert answer_text(template, tokenizer(), ran_on) == "Honey."


def test_an_unknown_template_and_a_foreign_tokenizer_are_refused():
    with pytest.raises(InputError, match="unknown template `alpaca`"):
        find_template("alpaca")
    other = tiny_tokenizer()
    other.convert_tokens_to_ids = lambda token: other.unk_token_id
    with pytest.raises(InputError, match="has no token `<|im_end|>`".replace("|", r"\|")):
        end_id(find_template("chatml"), other)
