"""What a suite asks beside upper limits, and what is made of the answers: two-sided, apart, drawn
by a seed, combined, scored again, and never lost to a kill."""

import json
import signal
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dataset_builder.artifacts import file_digest, read_json
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table, table_of, write_table
from dataset_builder.template import find_template, prompt_ids
from dataset_builder.wordings import (
    EVALUATION,
    FAMILIES,
    FURTHER,
    OTHER,
    TRAINING,
    bounds,
    family,
    state_limit,
)
from evals import rescored
from evals.arms import load_answers
from evals.combined import wins
from evals.evaluation import evaluate
from evals.generate import Answer, Asked, Drawing, Partial, generate
from evals.likelihood import likelihood_scores, replies_of
from evals.plan import Silent, plan
from evals.prompts import Prompt, questions
from evals.scorers import LIKELIHOODS, PLAIN, apart
from evals.suite import Suite, load_suite
from evals.tables import SCORES, Evaluation
from tests.runs import tiny_run
from tests.tiny import (
    QUESTIONS,
    example,
    tiny_llama,
    tiny_preset,
    tiny_tokenizer,
    write_variant,
)
from tests.warm import Warm

PROMPTS = [Prompt(f"p{n}", f"t{n}", "held_out", "en", f"Question {n}?") for n in range(12)]


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([*EVALUATION, *TRAINING, *FURTHER, *OTHER]),
)
def test_a_request_is_kept_between_its_ends_and_nowhere_else(n: int, limit: int, wording: str):
    answer, asked = "word " * n, bounds(limit, wording)
    low, high = asked.least or 1, asked.most or 10**6
    assert low <= high
    broken = PLAIN["violation"](answer, asked.most, True, asked.least)
    assert broken == (not low <= n <= high)
    over = PLAIN["overshoot"](answer, asked.most, True, asked.least)
    under = PLAIN["undershoot"](answer, asked.most, True, asked.least)
    assert (over or 0) == max(0, n - high)
    assert (under or 0) == max(0, low - n)
    assert broken == ((over or 0) + (under or 0) > 0)
    # One is not both, and none of them is where the request has no such end.
    assert (over is None) == (asked.most is None)
    assert (under is None) == (asked.least is None)


def test_a_request_says_its_numbers():
    said = {wording: state_limit("Why?", 50, wording) for wording in OTHER}
    assert "at least 50 words" in said["at_least"]
    assert "25 to 50 words" in said["between"]
    assert "about 50 words" in said["about"]
    assert not [text for text in said.values() if "{" in text]


def test_the_word_limit_suite_asks_each_prompt_in_every_wording_at_every_limit():
    suite = load_suite("word_limit")
    asked = questions(suite, PROMPTS[:2])
    assert len(asked) == 2 * 45
    assert len({question.key for question in asked}) == len(asked)
    found = {(question.limit, question.wording) for question in asked}
    wordings = {*EVALUATION, *TRAINING, *OTHER}
    assert found == {(n, each) for n in (20, 50, 100, 200) for each in wordings} | {(None, None)}


def test_one_wording_of_each_family_is_drawn_by_the_prompts_hash():
    suite = msgspec.structs.replace(load_suite("word_limit"), every_wording=False, limits=(20,))
    asked = questions(suite, PROMPTS)
    by_prompt: dict[str, list[str]] = {}
    for question in asked:
        if question.wording:
            by_prompt.setdefault(question.prompt.prompt_id, []).append(question.wording)
    for wordings in by_prompt.values():
        assert sorted(map(family, wordings)) == sorted(FAMILIES)
    assert len({tuple(wordings) for wordings in by_prompt.values()}) > 1


def scores(folder: Path, rows: list[tuple]) -> Path:
    """An evaluation with scores of one answerer, each (prompt, limit, wording, metric, value)."""
    folder.mkdir(parents=True)
    keys = ("prompt_id", "limit", "wording", "metric", "value")
    full = [
        dict(zip(keys, row, strict=True)) | {"answerer": "run", "tree_id": row[0], "sample": 0}
        for row in rows
    ]
    write_table(table_of(full, SCORES), SCORES, folder / "scores.parquet")
    record = Evaluation(
        name="x",
        suite_name="x",
        suite={},
        run="r",
        base="b",
        base_digest="",
        tables="",
        adapter_sha256=None,
        template="",
        settings={},
        prompts=1,
        prompts_by_origin={},
        generations=1,
        unscored={},
        gates=[],
        contamination={},
        seconds=0,
        tokens_per_second=0,
        versions={},
        device={},
    )
    (folder / "eval.json").write_bytes(msgspec.json.encode(record))
    return folder


def test_other_wordings_stand_apart_and_never_move_what_the_suite_is_about(tmp_path: Path):
    rows = [
        ("p", 20, "lift", "violation", 0.0),
        ("p", 20, "fewer", "violation", 1.0),
        ("p", 20, "at_most", "violation", 1.0),
        ("p", 20, "at_least", "violation", 1.0),
        ("p", 20, "about", "violation", 0.0),
        ("p", 20, "about", "overshoot", 3.0),
        ("p", None, None, "words", 9.0),
    ]
    values = load_answers(scores(tmp_path / "a", rows))["run"].values
    assert values["violation"] == {("p", 20): 0.5}
    assert values[apart("violation", "training")] == {("p", 20): 1.0}
    assert values[apart("violation", "at_least")] == {("p", 20): 1.0}
    assert values[apart("violation", "about")] == {("p", 20): 0.0}
    assert values["words"] == {("p", None): 9.0}
    assert "overshoot" not in values
    # What a prompt asks of its sentences is never what a verdict is of, even alone.
    own = [("p", 3, "own_sentences", "violation", 1.0), ("q", 2, "own_paragraphs", "words", 4.0)]
    values = load_answers(scores(tmp_path / "c", own))["run"].values
    assert values == {"violation_sentences": {("p", 3): 1.0}, "words_paragraphs": {("q", 2): 4.0}}
    # A suite that asks in nothing but training's wordings is about those.
    only = load_answers(scores(tmp_path / "b", [("p", 20, "up_to", "violation", 1.0)]))["run"]
    assert only.values == {"violation": {("p", 20): 1.0}}


def test_quality_counts_of_the_answers_that_kept_their_limit_and_of_no_other(tmp_path: Path):
    rows = [
        ("p", 20, "lift", "violation", 1.0),
        ("p", 20, "lift", "relevance_total", 90.0),
        ("p", 20, "fewer", "violation", 0.0),
        ("p", 20, "fewer", "relevance_total", 4.0),
    ]
    values = load_answers(scores(tmp_path / "a", rows))["run"].values
    assert values["relevance_total"] == {("p", 20): 4.0}


def test_a_violation_loses_whatever_the_quality():
    nan = np.nan
    kept, broke = np.array([[0.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 1.0]])
    good, bad, none = (np.full((1, 3), value) for value in (9.0, 1.0, nan))
    assert wins(kept, bad, broke, none).tolist() == [[1.0] * 3]
    assert wins(broke, none, kept, bad).tolist() == [[0.0] * 3]
    assert wins(broke, none, broke, none).tolist() == [[0.5] * 3]
    assert wins(kept, good, kept, bad).tolist() == [[1.0] * 3]
    assert wins(kept, good, kept, good).tolist() == [[0.5] * 3]
    assert np.isnan(wins(kept, good, kept, none)).all()


def test_wins_and_losses_make_a_whole():
    chance = np.random.default_rng(0)
    a, b = ([chance.integers(0, top, (n, 50)) * 1.0 for top in (2, 4)] for n in (3, 2))
    ours, theirs = wins(*a, *b), wins(*b, *a)
    assert ours.shape == (3, 50)
    assert theirs.shape == (2, 50)
    assert np.allclose(ours.mean(axis=0) + theirs.mean(axis=0), 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("samples = 3", "3 greedy answers to a question are one answer"),
        ("samples = 0", "`samples` must be at least 1"),
        ("temperature = -1.0", "`temperature` must be at least 0"),
        ("seed = -1", "`seed` must be at least 0"),
        ("own_limits = true", "with `own_limits` prompts are asked as they stand"),
        ('scorers = ["judge"]', "scorer `judge` has no model"),
        ('scorers = ["reward"]', "scorer `reward` has no model"),
        ('wordings = ["at_lest"]', "unknown wording `at_lest`"),
        ('limits = ["20"]', "limits"),
        ("every_wording = 1", "every_wording"),
        ("title = ", "mine.toml"),
    ],
)
def test_a_suite_of_requests_that_makes_no_sense_says_what_is_wrong(
    tmp_path: Path, line: str, message: str
):
    keys = {"title": '"x"', "limits": "[3]", "scorers": '["violation"]'}
    key, _, value = line.partition(" = ")
    path = tmp_path / "mine.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in (keys | {key: value}).items()))
    with pytest.raises(InputError) as caught:
        load_suite(str(path))
    assert message in str(caught.value)


def test_drawn_answers_are_the_seeds_and_not_the_batchs(tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / "m")).float().eval()
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    suite = Suite(title="x", limits=(5,), scorers=("words",), samples=3, temperature=1.0)
    asked = [
        Asked(
            json.dumps(question.key),
            tuple(prompt_ids(template, tokenizer, [{"role": "user", "content": question.text}])),
            6,
        )
        for question in questions(suite, [Prompt("p", "p", "x", "en", QUESTIONS[0])])
    ]

    def drawn(name: str, rows: int, drawing: Drawing) -> dict[str, str]:
        partial = Partial(tmp_path / name, {})
        found = generate(model, template, tokenizer, asked, partial, rows=rows, drawing=drawing)
        return {key: answer.answer for key, answer in found.items()}

    first = drawn("a", 8, Drawing(1.0, seed=1))
    assert first == drawn("b", 1, Drawing(1.0, seed=1))
    assert first != drawn("c", 8, Drawing(1.0, seed=2))
    greedy = drawn("d", 8, Drawing())
    assert len(set(greedy.values())) <= 2  # a limit and none, whatever the sample
    assert len(set(first.values())) > len(set(greedy.values()))


KILLED = """
import sys
from pathlib import Path
from evals.generate import Answer, Partial
partial = Partial(Path(sys.argv[1]), {"adapter": "a"})
partial.begin(partial.read())
for n in range(10**7):
    partial.add([Answer(f"{n} {k}", "an answer of some words\\n" * 9, 9, True) for k in range(3)])
"""


def test_answers_survive_a_kill_whole_and_once(tmp_path: Path, training_process: Warm):
    path = tmp_path / "p.jsonl"
    child = training_process.start(KILLED, path)
    while child.is_running() and not (path.exists() and path.stat().st_size >= 200_000):
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL, child.said()
    partial = Partial(path, {"adapter": "a"})
    kept = partial.read()
    # Every answer before the last one is there, each once.
    assert list(kept) == [f"{n // 3} {n % 3}" for n in range(len(kept))]
    assert len(kept) > 100
    partial.begin(kept)
    partial.add([Answer("more", "x", 1, True)])
    assert list(partial.read()) == [*kept, "more"]


SUITE = """
title = "a handful"
limits = [3]
wordings = ["lift", "at_least"]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 6
scorers = [{scorers}]
relevance_others = 1
"""


def test_a_scorer_named_later_runs_over_stored_answers_without_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from finetune import model

    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
    preset = tiny_preset(
        tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"), base='quantization = "none"'
    )
    run, path = tiny_run(preset), tmp_path / "small.toml"
    path.write_text(SUITE.format(scorers='"violation", "relevance_total", "prefers_better"'))
    before = evaluate(plan([run], str(path), [], Silent()), Silent())
    answers = [file_digest(each / "generations.parquet") for each in before]
    old = [read_table(each / "scores.parquet", SCORES).to_pylist() for each in before]

    def refuse(*arguments: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(model, "load_merged", refuse)
    path.write_text(SUITE.format(scorers='"violation", "relevance_total", "words", "repetition"'))
    planned = plan([run], str(path), [], Silent())
    assert [each.directory for each in planned] == before
    evaluate(planned, Silent(), is_again=True)
    assert [file_digest(each / "generations.parquet") for each in before] == answers
    for directory, rows in zip(before, old, strict=True):
        found = read_table(directory / "scores.parquet", SCORES).to_pylist()
        assert {row["metric"] for row in found} == {
            *("violation", "relevance_total", "words", "repetition")
        }
        # What the frozen model said is still what it said.
        kept = [row for row in rows if row["metric"] == "relevance_total"]
        assert [row for row in found if row["metric"] == "relevance_total"] == kept
        record = read_json(directory / "eval.json", Evaluation)
        assert "repetition" in record.suite["scorers"]
    gates = {gate.metric: gate for gate in read_json(before[1] / "eval.json", Evaluation).gates}
    assert set(gates) == {"relevance_total", "repetition"}
    assert not gates["repetition"].passed
    # Another metric of the frozen model needs it.
    path.write_text(SUITE.format(scorers='"relevance_controlled"'))
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluate(plan([run], str(path), [], Silent()), Silent(), is_again=True)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_scores_and_their_record_change_together_wherever_the_kill_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    directory = scores(tmp_path / "a", [("p", 20, "lift", "violation", 0.0)])
    record = read_json(directory / "eval.json", Evaluation)
    other = table_of(
        [
            {"answerer": "run", "prompt_id": "p", "tree_id": "p", "limit": 20, "wording": "lift"}
            | {"sample": 0, "metric": "violation", "value": 1.0}
        ],
        SCORES,
    )
    moved = []

    class Killed(BaseException):
        pass

    def replace(*paths: Path) -> None:
        if len(moved) == after:
            raise Killed
        moved.append(paths)
        Path(paths[0]).replace(paths[1])

    monkeypatch.setattr(rescored, "replace", replace)
    fresh = msgspec.structs.replace(record, unscored={"violation": 7})
    if after < 2:
        with pytest.raises(Killed):
            rescored.replace_scores(directory, other, fresh)
    else:
        rescored.replace_scores(directory, other, fresh)
    monkeypatch.undo()
    found = load_answers(directory)["run"]
    state = (found.values["violation"]["p", 20], found.evaluation.unscored)
    # Whole as soon as the new ones are whole: whoever reads next puts them in place.
    assert state == (1.0, {"violation": 7})
    assert sorted(path.name for path in directory.iterdir()) == ["eval.json", "scores.parquet"]


def test_a_preference_is_read_between_replies_of_different_rank_only():
    prompt = Prompt("p", "t", "held_out", "en", "Why?", ("a", "b", "c"), (0, None, 2))
    assert replies_of(prompt) == ["a", "c"]
    unranked = Prompt("p", "t", "held_out", "en", "Why?", ("a", "b"), (None, None))
    assert replies_of(unranked) == ["a"]
    rows = [
        {"prompt_id": "p", "tree_id": "t", "place": place, "tokens": n, "log_likelihood": value}
        for place, n, value in ((0, 10, -10.0), (1, 2, -4.0))
    ]
    found = {row["metric"]: row["value"] for row in likelihood_scores(rows, LIKELIHOODS)}
    assert found == {"prefers_better": 1.0, "human_likelihood": -1.0}
