"""Relevance under a frozen model, the answers it is tried on, and the gate."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.relevance import Reading, answers_to, chosen_end, first_sentence, forms, low, table, wins
from dataset_builder.template import completion_ids, find_template, prompt_ids
from dataset_builder.words import count_words
from evals import relevance
from evals.prompts import Prompt
from evals.relevance import other_prompts, reads, relevances
from evals.scorers import Relevance
from evals.scoring import ONE_WORD, Answered, other_replies, reference_answers, score
from evals.suite import Suite
from finetune.gate import LIMITED, gate
from tests.tiny import ANSWERS, QUESTIONS, tiny_llama, tiny_phi, tiny_tokenizer


def prompts(*replies: str | None, same_tree: bool = False) -> list[Prompt]:
    return [
        Prompt(
            f"p{place}",
            "t" if same_tree else f"t{place}",
            "held_out",
            "en",
            QUESTIONS[place],
            () if reply is None else (reply, "A worse reply."),
        )
        for place, reply in enumerate(replies)
    ]


def plain_log_likelihood(model, template, tokenizer, question: str, answer: str) -> float:
    """Token by token, without a batch."""
    ids = prompt_ids(template, tokenizer, [{"role": "user", "content": question}])
    total = 0.0
    for token in completion_ids(template, tokenizer, [{"role": "assistant", "content": answer}]):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize(("make", "name"), [(tiny_llama, "chatml"), (tiny_phi, "instruct")])
def test_relevance_is_what_the_own_question_adds_over_others(make, name: str, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "m"), dtype=torch.float32).eval()
    template, tokenizer = find_template(name), tiny_tokenizer()
    asked = prompts(*ANSWERS[:3])
    others = other_prompts(asked, 2)
    pairs = [(prompt, answer) for prompt in asked for answer in (prompt.replies[0], "", ONE_WORD)]
    found = relevances(model, template, tokenizer, pairs + pairs[:3], others)
    assert len(found) == 9
    for prompt, answer in pairs[1::3]:
        own = plain_log_likelihood(model, template, tokenizer, prompt.text, answer)
        rest = [
            plain_log_likelihood(model, template, tokenizer, other.text, answer)
            for other in others[prompt.prompt_id]
        ]
        scored = found[prompt.prompt_id, answer]
        assert scored is not None
        assert scored.total == pytest.approx(own - sum(rest) / 2, abs=2e-3)
        ids = completion_ids(template, tokenizer, [{"role": "assistant", "content": answer}])
        assert scored.per_token == pytest.approx(scored.total / len(ids))
    # Saying nothing is scored by its end-of-text, and does not win by absence.
    assert found["p0", ""] is not None


def test_an_answer_that_does_not_fit_the_window_has_no_score(tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_llama(tmp_path / "m"), dtype=torch.float32
    ).eval()
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    asked = prompts("Short.", "Also short.")
    pairs = [(asked[0], "word " * 600), (asked[0], "Short.")]
    found = relevances(model, template, tokenizer, pairs, other_prompts(asked, 2))
    assert found["p0", "word " * 600] is None
    assert found["p0", "Short."] is not None
    alone = relevances(model, template, tokenizer, pairs[1:], {"p0": []})
    assert alone == {("p0", "Short."): None}


@pytest.mark.parametrize("make", [tiny_llama, tiny_phi])
@pytest.mark.parametrize(("together", "tokens"), [(1, 2_048), (64, 2_048), (2, 90)])
def test_what_is_read_does_not_depend_on_the_batch(
    make, together: int, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "m"), dtype=torch.float32).eval()
    prompts = [tuple(range(5, 5 + n)) for n in (30, 7, 1)]
    answers = [tuple(range(40, 41 + n)) for n in (9, 1, 0, 20)]
    pairs = [(prompt, answer) for answer in answers for prompt in prompts]
    apart = [read for pair in pairs for read in reads(model, [pair])]
    monkeypatch.setattr(relevance, "together", lambda model: together)
    monkeypatch.setattr(relevance, "batch_tokens", lambda model: tokens)
    monkeypatch.setattr(relevance, "FLOAT_TOKENS", 50)
    told = []
    found = reads(model, pairs, lambda *counts: told.append(counts))
    for one, alone in zip(found, apart, strict=True):
        assert one == pytest.approx(alone, abs=1e-3)
    assert told[-1] == (12, 12)
    # The end is no part of the beginning, and an answer of nothing but its end has none.
    assert found[6].first == 0.0
    assert found[6].end == found[6].total
    assert found[9].first > found[9].total - found[9].end  # 16 of its 21 tokens
    assert reads(model, []) == []


def test_the_other_prompts_are_of_other_trees_and_always_the_same():
    asked = prompts(*ANSWERS[:6])
    drawn = other_prompts(asked, 3)
    assert drawn == other_prompts(list(reversed(asked)), 3)
    for name, others in drawn.items():
        assert len({other.tree_id for other in others} - {name.replace("p", "t")}) == 3
    assert other_prompts(prompts("a", "b", same_tree=True), 3) == {"p0": [], "p1": []}
    # More of them hold the fewer.
    fewer = other_prompts(asked, 2)
    assert all(drawn[name][:2] == others for name, others in fewer.items())


def test_the_other_reply_is_the_nearest_in_words_from_another_tree():
    found = other_replies(prompts("one two three", "a b c d", "a b c d e f g", None))
    assert found == {"p0": "a b c d", "p1": "one two three", "p2": "a b c d"}
    assert other_replies(prompts("only one", None)) == {}


def test_beside_the_base_stand_the_human_and_what_wins_trivially():
    first, second, third = prompts("one two three four five", "six seven eight", None)
    answered = [
        Answered("run", prompt, limit, None if limit is None else "lift", 0, text, True)
        for prompt in (first, second, third)
        for limit, text in ((2, "x y z"), (None, "u v w x"))
    ]
    # A further sample stands for itself alone.
    answered += [Answered("run", third, None, None, 1, "other words here", True)]
    rows = {
        (each.answerer, each.prompt.prompt_id, each.limit): each.answer
        for each in reference_answers(answered)
    }
    assert rows["human", "p0", 2] == rows["human", "p0", None] == first.replies[0]
    assert rows["human_cut", "p0", 2] == "one two"
    assert rows["other_human", "p0", 2] == second.replies[0]
    assert rows["base_cut", "p2", 2] == "u v"
    assert rows["one_word", "p2", None] == ONE_WORD
    assert count_words(ONE_WORD) == 1
    assert not {key for key in rows if key[2] is None and key[0].endswith("_cut")}
    assert not {key for key in rows if key[1] == "p2" and "human" in key[0]}


def test_scores_are_long_rows_and_what_cannot_be_scored_is_counted_not_zero():
    asked = prompts("one two three", "four five six")
    suite = Suite(title="x", limits=(2,), scorers=("violation", "words", "relevance_total"))
    generations = [
        {"prompt_id": prompt.prompt_id, "limit": limit, "wording": None, "sample": 0}
        | {"answer": f"{prompt.prompt_id} a b", "is_stopped": True}
        for prompt in asked
        for limit in (2, None)
    ]
    found = score(
        suite,
        asked,
        generations,
        lambda pairs: {
            (prompt.prompt_id, answer): None if prompt.prompt_id == "p0" else Relevance(1.0, 9.0)
            for prompt, answer in pairs
        },
        is_base=False,
    )
    rows = found.table.to_pylist()
    assert found.unscored == {"relevance_total": 2}
    assert found.gates == []
    assert {row["answerer"] for row in rows} == {"run"}
    assert [row["limit"] for row in rows if row["metric"] == "violation"] == [2, 2]
    assert [row["value"] for row in rows if row["metric"] == "relevance_total"] == [9.0, 9.0]


def gate_of(n: int, scores: dict[str, float], limits: tuple[int, ...] = (20,), **changed: float):
    """The gate over n prompts where every answerer scores the same on each, but for `changed`."""
    values = {
        (answerer, f"p{place}", limit): value
        for place in range(n)
        for limit in (*limits, None)
        for answerer, value in (scores | (changed if place < n * 0.3 else {})).items()
    }
    return gate("relevance", values, {f"p{place}": 100 for place in range(n)}, limits)


GOOD = {"human": 3.0} | dict.fromkeys((*LIMITED, "base_cut"), 1.0)


def test_the_gate_passes_where_the_human_reply_beats_every_trivial_answer():
    found = gate_of(40, GOOD)
    assert found.passed
    assert [(win["limit"], win["over"]) for win in found.wins] == [
        (20, name) for name in (*LIMITED, "base_cut")
    ]
    assert all(win["share"] == 1 and win["n"] == 40 and win["low"] > 0.9 for win in found.wins)
    # Seven in ten are more than half by their interval too, when they are this many.
    assert gate_of(60, GOOD, one_word=9.0).passed
    assert not gate_of(20, GOOD, one_word=9.0).passed


@pytest.mark.parametrize(
    ("rival", "named"),
    [
        ("human_cut", "its own cut"),
        ("other_human", "another prompt's reply"),
        ("one_word", "one word"),
    ],
)
def test_one_trivial_winner_is_enough_to_fail(rival: str, named: str):
    lost = gate_of(40, GOOD | {rival: 5.0})
    tied = gate_of(40, GOOD | {rival: 3.0})
    assert not lost.passed
    assert not tied.passed
    assert (
        lost.reason == f"at 20 words the human reply scores above {named} in only 0 of 40 prompts"
    )


def test_the_bases_own_words_are_tried_and_said_but_decide_nothing():
    found = gate_of(40, GOOD | {"base_cut": 5.0})
    assert found.passed
    assert found.wins[-1]["over"] == "base_cut"
    assert found.wins[-1]["share"] == 0
    assert found.reason.endswith("it leans towards the base's manner")
    assert "leans" not in gate_of(40, GOOD).reason


def test_few_prompts_cannot_pass_the_gate():
    found = gate_of(5, GOOD)
    assert not found.passed
    assert "in 5 of 5 prompts, too few" in found.reason
    assert gate_of(0, GOOD).reason == "no held-out prompt has a human reply"


def test_only_replies_longer_than_the_limit_are_held_against_their_cut():
    values = {
        (answerer, f"p{place}", limit): value
        for place in range(40)
        for limit in (20, 200)
        for answerer, value in GOOD.items()
    }
    words = {f"p{place}": 30 if place < 25 else 10 for place in range(40)}
    found = gate("relevance", values, words, (20, 200))
    counts = {(win["limit"], win["over"]): win["n"] for win in found.wins}
    assert counts[20, "human_cut"] == 25
    assert counts[200, "human_cut"] == 0
    assert counts[200, "one_word"] == 40
    assert not found.passed
    assert found.reason == "at 200 words no prompt has both a human reply and its own cut"


def test_without_limits_the_gate_is_that_of_plain_answers():
    found = gate_of(40, GOOD, limits=())
    assert [(win["limit"], win["over"]) for win in found.wins] == [
        (None, "other_human"),
        (None, "one_word"),
    ]
    assert found.passed


def reading(place: int, kind: str, first: float, end: float) -> Reading:
    return Reading(f"p{place}", "q", kind, 40 + place, first - 50.0, first, end, -50.0, 0.0)


def test_the_bench_chooses_the_end_that_passes_and_favours_neither_whole_nor_sentence():
    readings = {}
    for place in range(20):
        # A sentence begins a little better than the whole, and its end surprises by up to ten nats.
        kinds = {
            "human": (5.0 + place / 1000, -1.0),
            "cut_20": (5.0 + place / 1000, -30.0),
            "one_word": (1.0, -1.0),
            "first_sentence": (5.1, -(place + 0.5) / 2),
        }
        for kind, each in kinds.items():
            readings[f"p{place}", kind] = reading(place, kind, *each)
    names = [f"p{place}" for place in range(20)]
    end = chosen_end(readings, names, ["cut_20", "one_word"])
    # Half of the sentences end more than five nats from certain.
    assert end == 5.0
    form = forms(end)[f"first 16, end beyond {end:g} nats"]
    assert wins(form, readings, names, "first_sentence") == (10, 20)
    assert wins(form, readings, names, "cut_20") == (20, 20)
    assert low(20, 20) == pytest.approx(0.025 ** (1 / 20))
    assert wins(forms(end)["first 16 tokens, no end"], readings, names, "cut_20") == (0, 20)
    rows = list(table(readings, names, ["cut_20", "one_word"], end))
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + len(forms(end))
    # A threshold at which a cut is as good as the whole is never taken, however even the sentences.
    near = {
        key: reading(int(key[0][1:]), key[1], each.first, -4.0 if key[1] == "cut_20" else each.end)
        for key, each in readings.items()
    }
    assert chosen_end(near, names, ["cut_20", "one_word"]) == 3.0
    assert chosen_end(near, names, ["one_word"]) == 5.0


def test_the_bench_reads_a_cut_or_a_sentence_only_where_it_is_shorter():
    prompt = Prompt("p", "t", "held_out", "en", "Why?", ("It is blue. Air scatters it.",))
    assert answers_to(prompt, "Other.", (3, 50)) == {
        "human": "It is blue. Air scatters it.",
        "one_word": ONE_WORD,
        "other_human": "Other.",
        "cut_3": "It is blue",
        "first_sentence": "It is blue.",
    }
    assert first_sentence("No 3.5 here") == "No 3.5 here"
