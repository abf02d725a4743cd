"""Suites as files, what they ask, and what a prompt file may hold."""

import json
from pathlib import Path

import msgspec
import pytest

from dataset_builder.artifacts import write_json
from dataset_builder.errors import InputError
from dataset_builder.tables import EXAMPLES, HELDOUT, PAIRS, table_of, write_table
from dataset_builder.wordings import EVALUATION, FURTHER, TRAINING, family, main_family, state_limit
from evals.prompts import (
    contaminated,
    held_out_prompts,
    normalised,
    questions,
    read_prompt_file,
    read_prompt_files,
    suite_digest,
    suite_prompts,
)
from evals.suite import Suite, load_suite, suite_label, suite_names
from tests.runs import DIGEST, manifest_of
from tests.tiny import example

PLAIN = Suite(title="plain", limits=(20, 50), scorers=("violation",))


def write_held_out(root: Path, *rows: dict) -> None:
    plain = {
        "split": "test",
        "lang": "en",
        "is_root": True,
        "turns": 1,
        "history": [],
        "replies": [],
    }
    whole = [
        plain | {"prompt_id": f"p{n}", "tree_id": f"p{n}", "question": f"Question {n}?"} | row
        for n, row in enumerate(rows)
    ]
    directory = root / "tables" / DIGEST[:12]
    directory.mkdir(parents=True)
    write_table(table_of(whole, HELDOUT), HELDOUT, directory / "heldout.parquet")
    write_json({}, directory / "source.json")


def prompt_file(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in texts), encoding="utf-8")
    return path


def test_every_suite_that_ships_loads_and_asks_in_wordings_no_variant_trains_in():
    assert set(suite_names()) >= {"word_limit", "demo", "held_out"}
    for name in suite_names():
        suite = load_suite(name)
        assert main_family(suite.wordings) == "evaluation"
        assert suite_label(name) == name


def test_the_word_limit_suite_allows_three_tokens_a_word_and_some():
    suite = load_suite("word_limit")
    assert suite.limits == (20, 50, 100, 200)
    assert suite.no_limit
    assert [suite.allowed(limit) for limit in (*suite.limits, None)] == [124, 214, 364, 664, 512]


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("limts = [3]", "unknown key `limts`", "did you mean `limits`?"),
        ("limits = [50, 20]", "`limits` must be ascending", None),
        ("limits = [0]", "numbers of words from 1", None),
        ('scorers = ["violatoin"]', "unknown scorer `violatoin`", "did you mean `violation`?"),
        ('wordings = ["shouted"]', "unknown wording `shouted`", "known wordings: "),
        ("wordings = []", "no wording to state them in", "known wordings: "),
        ("limits = []\nno_limit = false", "asks nothing", "no_limit = true"),
        ("max_prompts = 0", "`max_prompts` must be at least 1", None),
        ("unlimited_tokens = 0", "`unlimited_tokens` must be at least 1", None),
        ("spare_tokens = -1", "`spare_tokens` must be at least 0", None),
        ("relevance_others = 0", "`relevance_others` must be at least 1", None),
        ("temperature = nan", "`temperature` must be at least 0, found nan", None),
        ("temperature = inf", "`temperature` must be at least 0, found inf", None),
    ],
)
def test_a_suite_that_makes_no_sense_says_what_is_wrong(
    tmp_path: Path, line: str, message: str, hint: str | None
):
    keys = {"title": '"x"', "limits": "[3]", "scorers": '["violation"]'}
    for each in line.splitlines():
        key, _, value = each.partition(" = ")
        keys[key] = value
    path = tmp_path / "mine.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    with pytest.raises(InputError, match=r"mine\.toml") as caught:
        load_suite(str(path))
    assert message in str(caught.value)
    assert hint is None or hint in str(caught.value.hint)


def test_an_unknown_suite_is_answered_with_the_near_miss():
    with pytest.raises(InputError, match="unknown suite `word_limits`") as caught:
        load_suite("word_limits")
    assert caught.value.hint == "did you mean `word_limit`?"


def test_a_suite_asks_the_roots_of_held_out_test_trees_in_its_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    reply = {"reply_id": "r", "text": "Because.", "rank": 0, "words": 1}
    write_held_out(
        tmp_path,
        {"replies": [reply]},
        {"split": "validation"},
        {"is_root": False, "turns": 2},
        {"lang": "de"},
        {"question": " ?! "},
        {},
        {},
    )
    found = held_out_prompts(PLAIN, DIGEST)
    assert {prompt.prompt_id for prompt in found} == {"p0", "p5", "p6"}
    assert {prompt.replies for prompt in found} == {("Because.",), ()}
    every = msgspec.structs.replace(PLAIN, languages=())
    assert len(held_out_prompts(every, DIGEST)) == 4
    # The first n by hash: fewer prompts are a part of more.
    few = msgspec.structs.replace(PLAIN, max_prompts=2)
    assert held_out_prompts(few, DIGEST) == found[:2]
    none = msgspec.structs.replace(PLAIN, languages=("fi",))
    with pytest.raises(InputError, match=r"suite `mine` has no prompts.* in fi") as caught:
        suite_prompts(none, "mine", DIGEST, [])
    assert "--prompts FILE" in str(caught.value.hint)


def test_each_prompt_is_asked_at_every_limit_in_one_wording_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    write_held_out(tmp_path, *({} for _ in range(40)))
    suite = msgspec.structs.replace(PLAIN, wordings=("lift", "within"))
    prompts = suite_prompts(suite, "mine", DIGEST, [])
    asked = questions(suite, prompts)
    assert len({question.key for question in asked}) == len(asked) == 40 * 3
    for prompt in prompts:
        own = [question for question in asked if question.prompt == prompt]
        assert [question.limit for question in own] == [20, 50, None]
        assert own[0].wording == own[1].wording
        assert own[0].text == state_limit(prompt.text, 20, own[0].wording or "")
        assert own[2].text == prompt.text
    assert {question.wording for question in asked} == {"lift", "within", None}


def test_a_prompt_file_gives_strings_and_objects_and_counts_what_it_refuses(tmp_path: Path):
    path = prompt_file(
        tmp_path / "mine.jsonl",
        '"How tall is a giraffe?"',
        "",
        {"prompt": "Name a fish.", "more": 1},
        "not json",
        {"question": "where?"},
        '"how tall is a GIRAFFE"',
        '" ... "',
        '"Why?"',
        '"When?"',
        '"' + "x" * 2**20 + '"',
        '"After the long line?"',
        "3",
    )
    found = read_prompt_file(path)
    assert [prompt.text for prompt in found.prompts] == [
        "How tall is a giraffe?",
        "Name a fish.",
        "Why?",
        "When?",
        "After the long line?",
    ]
    assert found.prompts[1].prompt_id == found.prompts[1].tree_id == "mine.jsonl:3"
    assert found.refused == {
        "not JSON": 1,
        "no prompt": 2,
        "repeated": 1,
        "empty": 1,
        "too long": 1,
    }
    assert found.examples[0] == "line 4: not JSON"
    # Lines in = prompts out + lines refused.
    assert len(found.prompts) + sum(found.refused.values()) == 11


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no prompt in it"),
        (["nope", "nor this", '"fine"'], r"2 of 3 lines refused \(line 1: not JSON\)"),
        (["\x00\x01"], "1 of 1 lines refused"),
        (["[" * 100_000], "1 of 1 lines refused"),
    ],
)
def test_a_file_that_is_no_prompt_file_is_refused(tmp_path: Path, lines: list, message: str):
    with pytest.raises(InputError, match=message) as caught:
        read_prompt_file(prompt_file(tmp_path / "mine.jsonl", *lines))
    assert "JSON Lines" in str(caught.value.hint)


def test_a_missing_prompt_file_is_named():
    with pytest.raises(InputError, match=r"prompt file `no\*such`: cannot be read: No such file"):
        read_prompt_file(Path("no*such"))


def test_prompts_that_stand_in_two_places_are_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    write_held_out(tmp_path, {}, {})
    one = prompt_file(tmp_path / "one.jsonl", '"question 1"', '"Other?"')
    two = prompt_file(tmp_path / "two.jsonl", '"OTHER"', '"Third?"')
    files = read_prompt_files(PLAIN, [one, two])
    prompts = suite_prompts(PLAIN, "mine", DIGEST, files)
    assert sorted(prompt.prompt_id for prompt in prompts) == [
        "one.jsonl:2",
        "p0",
        "p1",
        "two.jsonl:2",
    ]
    assert len({normalised(prompt.text) for prompt in prompts}) == len(prompts)
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(InputError, match=r"two prompt files are called `one.jsonl`"):
        read_prompt_files(PLAIN, [one, prompt_file(again / "one.jsonl", '"x"')])


def test_a_prompt_file_belongs_to_the_evaluations_digest(tmp_path: Path):
    path = prompt_file(tmp_path / "mine.jsonl", '"One?"')
    before = suite_digest(PLAIN, read_prompt_files(PLAIN, [path]))
    assert before == suite_digest(PLAIN, read_prompt_files(PLAIN, [path]))
    assert before != suite_digest(PLAIN, [])
    prompt_file(path, '"Two?"')
    assert before != suite_digest(PLAIN, read_prompt_files(PLAIN, [path]))
    other = msgspec.structs.replace(PLAIN, unlimited_tokens=100)
    assert suite_digest(other, []) != suite_digest(PLAIN, [])


@pytest.mark.parametrize("wording", [None, *TRAINING, *FURTHER])
def test_a_prompt_in_the_training_rows_is_found_whatever_limit_was_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wording: str | None
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    limit = None if wording is None else 50
    row = example(0, question="unused") | {
        "limit": limit,
        "prompt": [
            {"role": "user", "content": "First turn?"},
            {"role": "assistant", "content": "Never asked?"},
            {"role": "user", "content": state_limit("Name a fish!", limit, wording or "")},
        ],
    }
    manifest = manifest_of("full")
    directory = tmp_path / "variants" / f"full-{manifest.digest[:12]}"
    path = prompt_file(
        tmp_path / "p.jsonl", '"name a FISH"', '"first turn"', '"never asked"', '"50"'
    )
    prompts = list(read_prompt_file(path).prompts)
    assert contaminated(prompts, [manifest]) is None
    directory.mkdir(parents=True)
    write_table(table_of([row], EXAMPLES), EXAMPLES, directory / "train.parquet")
    assert contaminated(prompts, [manifest]) == ["p.jsonl:1", "p.jsonl:2"]
    # What a run went on from was trained on too: on nothing of the second variant alone.
    later = manifest_of("later")
    directory = tmp_path / "variants" / f"later-{later.digest[:12]}"
    assert contaminated(prompts, [manifest, later]) is None
    directory.mkdir()
    write_table(table_of([], PAIRS), PAIRS, directory / "train.parquet")
    assert contaminated(prompts, [later]) == []
    assert contaminated(prompts, [manifest, later]) == ["p.jsonl:1", "p.jsonl:2"]
    # Rows that changed since are not looked into.
    path = directory / "train.parquet"
    whole = bytearray(path.read_bytes())
    whole[-40] ^= 1  # who wrote it
    path.write_bytes(whole)
    with pytest.raises(InputError, match="changed since it was written"):
        contaminated(prompts, [later])


def test_a_further_wording_is_of_training_and_none_of_evaluation_says_the_same():
    assert {family(name) for name in (*TRAINING, *FURTHER)} == {"training"}
    assert {family(name) for name in EVALUATION} == {"evaluation"}
    said = [state_limit("Why?", 50, name) for name in (*TRAINING, *FURTHER, *EVALUATION)]
    assert len(set(said)) == len(said)
