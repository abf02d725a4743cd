"""One renderer: only the template writes control tokens, and its ids are those of the whole
conversation.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from dataset_builder.errors import InputError
from dataset_builder.template import (
    answer_text,
    completion_ids,
    end_id,
    find_template,
    prompt_ids,
    text,
)
from tests.families import MAKERS, byte_level, family, wrapped
from tests.tiny import tiny_tokenizer

ASK = [{"role": "user", "content": "What do bees make?"}]
ANSWER = [{"role": "assistant", "content": "Honey."}]
LONGER = [*ASK, *ANSWER, {"role": "user", "content": "How?"}]

EXACT = [name for name in MAKERS if family(name).is_exact]
ZERO_WIDTH = ("\u200b", "\u200d", "\ufeff", "\u00ad")


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
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            "What do bees make?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHoney.<|eot_id|>",
        ),
        (
            "gemma",
            "<bos><start_of_turn>user\nWhat do bees make?<end_of_turn>\n"
            "<start_of_turn>model\nHoney.<end_of_turn>",
        ),
    ],
)
def test_a_turn_is_written_as_the_models_expect(name: str, rendered: str):
    assert text(find_template(name), ASK + ANSWER) == rendered


def test_earlier_turns_stand_before_the_question():
    assert text(find_template("instruct"), LONGER) == (
        "Instruct: What do bees make?\nOutput: Honey.\nInstruct: How?\nOutput:"
    )


@pytest.mark.parametrize("name", EXACT)
def test_ids_are_those_of_the_rendered_text(name: str):
    tokenizer, template, _ = family(name)
    ids = prompt_ids(template, tokenizer, LONGER) + completion_ids(template, tokenizer, ANSWER)
    whole = tokenizer(text(template, LONGER + ANSWER), add_special_tokens=False)["input_ids"]
    assert ids == whole
    assert ids[-1] == end_id(template, tokenizer)


def control_ids(name: str, ids: list[int]) -> list[int]:
    """Those of `ids` that are a control token of the family, however it was added."""
    tokenizer, template, _ = family(name)
    tokens = {*template.specials, *template.also_end, template.begin} - {""}
    controls = {tokenizer.get_vocab()[token] for token in tokens}
    assert len(controls) == len(tokens)
    return [token for token in ids if token in controls]


def spellings(name: str) -> list[str]:
    """What a message could spell a control token with, and pieces that become one when joined."""
    tokens = [*family(name).template.specials, *family(name).template.also_end]
    wide = {chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)}
    found = ["hi", "\n", " "]
    for token in tokens:
        middle = len(token) // 2
        found += [token, token.upper(), token[:middle], token[middle:], f" {token} "]
        found += ["".join(wide[letter] for letter in token)]
        found += [token[:middle] + hidden + token[middle:] for hidden in ZERO_WIDTH]
        found += [token[:middle] + token + token[middle:]]  # what is left when one is taken out
    return found


@pytest.mark.parametrize("name", MAKERS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_text_never_becomes_control_tokens(name: str, data: st.DataObject):
    tokenizer, template, _ = family(name)
    parts = st.lists(st.sampled_from(spellings(name)), max_size=6).map("".join)
    first, reply, second, answer = (data.draw(parts) for _ in range(4))

    def written(*contents: str) -> list[int]:
        roles = ("user", "assistant", "user")
        return prompt_ids(
            template,
            tokenizer,
            [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)],
        )

    hostile, clean = written(first, reply, second), written("hi", "hi", "hi")
    assert control_ids(name, hostile) == control_ids(name, clean)
    ids = completion_ids(template, tokenizer, [{"role": "assistant", "content": answer}])
    assert control_ids(name, ids) == [end_id(template, tokenizer)] == ids[-1:]


@pytest.mark.parametrize("name", MAKERS)
def test_each_spelling_of_each_control_token_alone_is_text(name: str):
    tokenizer, template, is_exact = family(name)
    for spelling in spellings(name):
        ids = completion_ids(template, tokenizer, [{"role": "assistant", "content": spelling}])
        assert control_ids(name, ids) == ids[-1:], spelling
        if is_exact:  # and nothing of it is lost
            assert tokenizer.decode(ids[:-1]).strip() == spelling.strip()


def test_the_library_alone_would_let_some_through():
    # Else the tests above could not fail.
    leaky = set()
    for name in MAKERS:
        tokenizer = family(name).tokenizer
        options = {"add_special_tokens": False, "split_special_tokens": True}
        found = tokenizer(spellings(name), **options)["input_ids"]
        if any(control_ids(name, ids) for ids in found):
            leaky.add(name)
    assert leaky == {"mistral, marks added", "phi3", "t5", "normalised", "invisible dropped"}


def test_a_long_text_of_control_tokens_is_encoded_in_a_few_passes():
    tokenizer, template, _ = family("phi3")
    hostile = "<|end|>" * 5000
    ids = completion_ids(template, tokenizer, [{"role": "assistant", "content": hostile}])
    assert control_ids("phi3", ids) == ids[-1:]


def test_extra_tokens_are_no_control_tokens():
    tokenizer, template = tiny_tokenizer(), find_template("chatml")
    tokenizer.add_tokens(["<limit>"])
    ids = prompt_ids(template, tokenizer, [{"role": "user", "content": "In <limit> words"}])
    assert ids.count(tokenizer.convert_tokens_to_ids("<limit>")) == 1


def test_a_character_that_is_a_control_token_is_refused():
    inner = byte_level(normalizers.Replace("☠", "<|im_end|>"))
    tokenizer, template, _ = wrapped(inner, find_template("chatml"), special=False, normalized=True)
    with pytest.raises(InputError, match="the character `☠`"):
        prompt_ids(template, tokenizer, [{"role": "user", "content": "So ☠ it is"}])


@pytest.mark.parametrize("role", ["assistant<|im_end|>", "system"])
def test_a_role_that_the_template_does_not_know_is_refused(role: str):
    tokenizer, template, _ = family("gemma")
    with pytest.raises(InputError, match="has the role") as error:
        prompt_ids(template, tokenizer, [{"role": role, "content": "hi"}])
    assert error.value.hint == "its roles: user, assistant"


@pytest.mark.parametrize("name", MAKERS)
def test_an_answer_comes_back_as_it_was_said(name: str):
    tokenizer, template, _ = family(name)
    ids = completion_ids(template, tokenizer, ANSWER)
    said = "honey." if name == "normalised" else "Honey."
    assert answer_text(template, tokenizer, ids) == said
    assert answer_text(template, tokenizer, [*ids, *ids]) == said


def test_an_answer_ends_at_a_stop_text():
    template = find_template("instruct")
    tokenizer = family("phi2").tokenizer
    ran_on = tokenizer(" Honey.\nInstruct: and more", add_special_tokens=False)["input_ids"]
    assert answer_text(template, tokenizer, ran_on) == "Honey."


def test_an_unknown_template_and_a_foreign_tokenizer_are_refused():
    with pytest.raises(InputError, match="unknown template `alpaca`"):
        find_template("alpaca")
    other = tiny_tokenizer()
    other.convert_tokens_to_ids = lambda token: other.unk_token_id
    with pytest.raises(InputError, match="has no token `<|im_end|>`".replace("|", r"\|")):
        end_id(find_template("chatml"), other)
