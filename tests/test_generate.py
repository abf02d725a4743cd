"""Batched answers: equal to plain ones, cut where they must be, and never lost, doubled or mixed
up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dataset_builder.template import answer_text, find_template, prompt_ids, stop_ids
from evals.evaluation import evaluate
from evals.generate import Answer, Asked, Partial, batches, generate, read_answer
from evals.plan import Silent, plan
from tests.runs import tiny_run
from tests.tiny import QUESTIONS, example, tiny_llama, tiny_phi, tiny_preset, tiny_tokenizer
from tests.tiny import write_variant as write_tiny_variant

SUITE = """
title = "a handful"
limits = [3, 8]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 12
scorers = ["violation", "words", "stopped", "empty", "relevance", "relevance_total"]
relevance_others = 2
"""


def loaded(make, folder: Path):
    return AutoModelForCausalLM.from_pretrained(make(folder), dtype=torch.float32).eval()


def plainly(model, template, tokenizer, question: Asked) -> Answer:
    """One token at a time, each from the whole text so far: no batch, no padding, no cache."""
    ends = set(stop_ids(template, tokenizer))
    ids: list[int] = []
    while len(ids) < question.allowed and not ends & set(ids):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if any(stop in text for stop in template.stops):
            break
        with torch.no_grad():
            logits = model(torch.tensor([[*question.ids, *ids]])).logits
        ids.append(int(logits[0, -1].argmax()))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    is_stopped = bool(ends & set(ids)) or any(stop in text for stop in template.stops)
    return Answer(question.key, answer_text(template, tokenizer, ids), len(ids), is_stopped)


@pytest.mark.parametrize(("make", "name"), [(tiny_llama, "chatml"), (tiny_phi, "instruct")])
def test_batched_answers_are_those_of_one_at_a_time(make, name: str, tmp_path: Path):
    model, tokenizer, template = loaded(make, tmp_path / "m"), tiny_tokenizer(), find_template(name)
    # A random model rarely ends; with some common token as an end, some answers do.
    asked = [
        Asked(f"{place} {allowed}", tuple(ids), allowed)
        for allowed in (4, 12)
        for place, text in enumerate(QUESTIONS[:5])
        for ids in [
            prompt_ids(template, tokenizer, [{"role": "user", "content": text * (place + 1)}])
        ]
    ]
    first = generate(model, template, tokenizer, asked, Partial(tmp_path / "a.jsonl", {}), rows=8)
    token = first["3 12"].answer
    assert token
    stopping = replace(template, stops=(*template.stops, token[: len(token) // 2]))
    partial = Partial(tmp_path / "b.jsonl", {})
    found = generate(model, stopping, tokenizer, asked, partial, rows=3)
    plain = [plainly(model, stopping, tokenizer, question) for question in asked]
    assert list(found) == [question.key for question in asked]
    for ours, theirs in zip(found.values(), plain, strict=True):
        assert (ours.answer, ours.tokens, ours.is_stopped) == (
            theirs.answer,
            theirs.tokens,
            theirs.is_stopped,
        )
    # Both kinds are among them, or the comparison would say little.
    assert {answer.is_stopped for answer in found.values()} == {True, False}
    cut = [answer for answer in found.values() if not answer.is_stopped]
    assert {answer.tokens for answer in cut} <= {4, 12}


def test_an_answer_ends_at_its_end_of_text_whatever_the_batch_went_on_with():
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    end = stop_ids(template, tokenizer)[0]
    ids = tokenizer("It is blue.", add_special_tokens=False)["input_ids"]
    question = Asked("a", (1,), 40)
    ended = read_answer(question, [*ids, end, *[end] * 5], template, tokenizer)
    assert ended == Answer("a", "It is blue.", len(ids) + 1, True)
    assert read_answer(question, ids, template, tokenizer) == Answer(
        "a", "It is blue.", len(ids), False
    )
    assert read_answer(question, [end], template, tokenizer) == Answer("a", "", 1, True)
    assert read_answer(question, [], template, tokenizer) == Answer("a", "", 0, False)


def test_a_stop_text_ends_an_answer_and_what_follows_is_not_counted():
    template, tokenizer = find_template("instruct"), tiny_tokenizer()
    kept = tokenizer("Blue.\nInstruct:", add_special_tokens=False)["input_ids"]
    more = tokenizer(" And so on.", add_special_tokens=False)["input_ids"]
    found = read_answer(Asked("a", (1,), 40), kept + more, template, tokenizer)
    assert (found.answer, found.is_stopped) == ("Blue.", True)
    assert found.tokens == len(kept)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([10, 40])), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(60, 600),
)
def test_batches_hold_every_question_once_and_stay_within_their_room(
    lengths: list, rows: int, tokens: int
):
    asked = [
        Asked(str(place), tuple(range(length)), allowed)
        for place, (length, allowed) in enumerate(lengths)
    ]
    made = list(batches(asked, tokens, rows))
    assert sorted(q.key for batch in made for q in batch) == sorted(q.key for q in asked)
    for batch in made:
        assert 1 <= len(batch) <= rows
        room = max(len(q.ids) for q in batch) + max(q.allowed for q in batch)
        assert len(batch) == 1 or len(batch) * room <= tokens
    # Caps stand together: a batch ends one cap before it begins the next.
    caps = [question.allowed for batch in made for question in batch]
    assert caps == sorted(caps, reverse=True)
    assert list(batches([], tokens, rows)) == []


def test_stored_answers_are_used_only_where_all_that_determines_them_is_the_same(tmp_path: Path):
    path = tmp_path / "deep" / "p.jsonl"
    ours = Partial(path, {"adapter": "a", "base": "b"})
    assert ours.read() == {}
    ours.begin({})
    ours.add([Answer("1", "x\ny", 2, True), Answer("2", "", 1, False)])
    assert list(Partial(path, {"base": "b", "adapter": "a"}).read()) == ["1", "2"]
    assert Partial(path, {"adapter": "c", "base": "b"}).read() == {}
    # A kill in the middle of a line costs that line.
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert ours.read() == {"1": Answer("1", "x\ny", 2, True)}
    ours.begin(ours.read())
    ours.add([Answer("3", "z", 1, True)])
    assert list(ours.read()) == ["1", "3"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_tiny_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
    preset = tiny_preset(
        tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"), base='quantization = "none"'
    )
    (tmp_path / "small.toml").write_text(SUITE)
    return tiny_run(preset)


class Killed(Silent):
    """Stops an evaluation after its first batch of answers."""

    def progress(self, what: str, done: int, total: int) -> None:
        if "answers" in what and done:
            raise KeyboardInterrupt


class Counting(Silent):
    """Remembers how much each stage had to do."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        self.first.setdefault(what, done)


def answers_in(directory: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(directory / "generations.parquet").to_pylist()


def test_an_interrupted_evaluation_goes_on_where_it_stopped(run: Path, tmp_path: Path):
    suite = str(tmp_path / "small.toml")
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan([run], suite, [], Silent()), Killed(), rows=2)
    (left,) = (run / "evals").iterdir()
    header, first, second = left.read_bytes().splitlines(keepends=True)
    # What was stored is taken as it is: a changed answer shows where it came from.
    changed = json.loads(first) | {"answer": "from the file"}
    left.write_bytes(header + json.dumps(changed).encode() + b"\n" + second)
    watcher = Counting()
    ours, base = evaluate(plan([run], suite, [], Silent()), watcher, rows=2)
    assert watcher.first["tiny s0 answers"] == 2
    answers = answers_in(ours)
    assert len(answers) == len({(row["prompt_id"], row["limit"]) for row in answers}) == 9
    assert [row["answer"] for row in answers].count("from the file") == 1
    assert [path.name for path in (run / "evals").iterdir()] == [ours.name]
    # The base gets none of them, and another adapter would not either.
    assert "from the file" not in {row["answer"] for row in answers_in(base)}


def test_answers_of_another_adapter_are_never_taken(run: Path, tmp_path: Path):
    suite = str(tmp_path / "small.toml")
    other = tiny_run(tmp_path / "tiny.toml", seed=1, scale=0.5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan([run], suite, [], Silent()), Killed(), rows=4)
    (left,) = (run / "evals").iterdir()
    (other / "evals").mkdir()
    left.rename(other / "evals" / left.name)
    watcher = Counting()
    evaluate(plan([other], suite, [], Silent()), watcher)
    assert watcher.first["tiny s1 answers"] == 0


def test_a_finished_evaluation_is_left_alone_and_scored_again_without_the_tuned_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from dataset_builder.artifacts import file_digest, read_json
    from evals.tables import Evaluation
    from finetune import model

    suite = str(tmp_path / "small.toml")
    directories = evaluate(plan([run], suite, [], Silent()), Silent())
    before = {path: file_digest(path) for directory in directories for path in directory.iterdir()}
    assert len(before) == 6
    adapters = []
    load = model.load_merged

    def watched(files, base, adapter, device):
        adapters.append(adapter)
        return load(files, base, adapter, device)

    monkeypatch.setattr(model, "load_merged", watched)
    assert evaluate(plan([run], suite, [], Silent()), Silent()) == directories
    assert adapters == []
    (directories[0] / "scores.parquet").write_bytes(b"")
    evaluate(plan([run], suite, [], Silent()), Silent(), is_again=True)
    assert adapters == [None]
    assert {path: file_digest(path) for path in before} == before
    stored = read_json(directories[0] / "eval.json", Evaluation)
    assert stored.generations == 9
    assert stored.suite_digest
    assert stored.contamination == {}
