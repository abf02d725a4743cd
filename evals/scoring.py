"""Stored answers to scores. Beside a base model's own answers stand the human replies and the
trivial winners.

Those need no model: they are made here, scored like any answer, and stored as scores only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataset_builder.artifacts import hash_order
from dataset_builder.tables import table_of
from dataset_builder.wordings import bounds, unit
from dataset_builder.words import count_words, first_words
from evals.prompts import Prompt
from evals.scorers import FROZEN, METRICS, OF_LIMITS, PLAIN, QUALITY, Relevance
from evals.suite import Suite
from evals.tables import SCORES, Gate
from evals.units import plain_score
from finetune.gate import gate

# The answer of one word: it keeps every limit and says nothing.
ONE_WORD = "Yes."

Pair = tuple[Prompt, str]
# Pairs of a prompt and an answer -> the relevance of each, by prompt_id and answer.
Judge = Callable[[Sequence[Pair]], dict[tuple[str, str], Relevance | None]]
# Likewise -> a number each, of one metric.
Scorer = Callable[[Sequence[Pair]], dict[tuple[str, str], float | None]]


@dataclass(frozen=True)
class Answered:
    """An answer to one question, whoever gave it."""

    answerer: str
    prompt: Prompt
    limit: int | None
    wording: str | None
    sample: int
    answer: str
    is_stopped: bool | None  # None where it is not known


@dataclass(frozen=True)
class Scored:
    """What came of an evaluation's answers."""

    table: pa.Table
    unscored: dict[str, int]  # generations without a score, by metric
    gates: list[Gate]


def score(
    suite: Suite,
    prompts: Sequence[Prompt],
    generations: Sequence[dict[str, Any]],
    judge: Judge,
    *,
    is_base: bool,
    others: Mapping[str, Scorer] = {},
) -> Scored:
    """The scores of stored generations by the suite's scorers; of a base model's, also the
    reference answers and the gates.

    `judge` makes what is measured under the frozen base model, `others` what other models say, by
    metric; one that is named and not there is left out.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    answered = [
        Answered(
            "run",
            by_id[row["prompt_id"]],
            row["limit"],
            row["wording"],
            row["sample"],
            row["answer"],
            row["is_stopped"],
        )
        for row in generations
    ]
    if is_base:
        answered += reference_answers(answered)
    pairs = [(each.prompt, each.answer) for each in answered]
    frozen = any(name in FROZEN for name in suite.scorers)
    relevance = judge(pairs) if frozen else {}
    said = {name: ask(pairs) for name, ask in others.items() if name in suite.scorers}
    scorers = [name for name in suite.scorers if name in {*PLAIN, *FROZEN, *said}]
    quality = [name for name in QUALITY if name in scorers]
    rows: list[dict[str, Any]] = []
    unscored: Counter[str] = Counter()
    for each in answered:
        for metric in scorers:
            if metric in OF_LIMITS and each.limit is None:
                continue
            value = _value(metric, each, relevance, said)
            if value is None:
                # A metric of upper ends says nothing of a lower one, and that is no loss.
                unscored[metric] += each.answerer == "run" and metric not in OF_LIMITS
                continue
            rows.append(
                {
                    "answerer": each.answerer,
                    "prompt_id": each.prompt.prompt_id,
                    "tree_id": each.prompt.tree_id,
                    "limit": each.limit,
                    "wording": each.wording,
                    "sample": each.sample,
                    "metric": metric,
                    "value": value,
                }
            )
    gates = [_gate(metric, suite, rows, by_id) for metric in quality] if is_base else []
    return Scored(table_of(rows, SCORES), {name: n for name, n in unscored.items() if n}, gates)


def reference_answers(answered: Sequence[Answered]) -> list[Answered]:
    """What stands beside a base model's own answers: human, human_cut, other_human, one_word and
    base_cut.

    Each answers the same questions: every limit, and none where the suite asks so; the cuts only
    where there is an upper limit.
    """
    prompts = list({each.prompt.prompt_id: each.prompt for each in answered}.values())
    others = other_replies(prompts)
    free = {
        each.prompt.prompt_id: each.answer
        for each in answered
        if each.limit is None and not each.sample
    }
    rows = []
    for each in answered:
        if each.sample:
            continue
        answers = {"one_word": ONE_WORD}
        if each.prompt.replies:
            answers["human"] = each.prompt.replies[0]
            if each.prompt.prompt_id in others:
                answers["other_human"] = others[each.prompt.prompt_id]
        is_upper = bounds(each.limit, each.wording).least is None
        if each.limit is not None and is_upper and unit(each.wording) == "words":
            if each.prompt.replies:
                answers["human_cut"] = first_words(each.prompt.replies[0], each.limit)
            if each.prompt.prompt_id in free:
                answers["base_cut"] = first_words(free[each.prompt.prompt_id], each.limit)
        rows += [
            Answered(answerer, each.prompt, each.limit, each.wording, 0, answer, True)
            for answerer, answer in answers.items()
        ]
    return rows


def other_replies(prompts: Sequence[Prompt]) -> dict[str, str]:
    """By prompt_id, another tree's best reply: the nearest in words to the prompt's own, the first
    by hash among equals."""
    replied = [(prompt, count_words(prompt.replies[0])) for prompt in prompts if prompt.replies]
    found = {}
    for prompt, words in replied:
        rivals = [
            (
                abs(other_words - words),
                hash_order(f"other {prompt.prompt_id}", other.prompt_id),
                other,
            )
            for other, other_words in replied
            if other.tree_id != prompt.tree_id
        ]
        if rivals:
            found[prompt.prompt_id] = min(rivals, key=lambda rival: rival[:2])[2].replies[0]
    return found


def _value(
    metric: str,
    each: Answered,
    relevance: Mapping[tuple[str, str], Relevance | None],
    said: Mapping[str, Mapping[tuple[str, str], float | None]],
) -> float | None:
    if metric in PLAIN:
        return plain_score(metric, each.answer, each.limit, each.wording, each.is_stopped)
    if metric in said:
        return said[metric].get((each.prompt.prompt_id, each.answer))
    found = relevance[each.prompt.prompt_id, each.answer]
    return None if found is None else float(getattr(found, FROZEN[metric]))


def _gate(
    metric: str, suite: Suite, rows: Sequence[dict[str, Any]], prompts: dict[str, Prompt]
) -> Gate:
    values = {
        (row["answerer"], row["prompt_id"], row["limit"]): row["value"] * METRICS[metric]
        for row in rows
        if row["metric"] == metric and row["answerer"] != "run"
    }
    words = {
        name: count_words(prompt.replies[0]) for name, prompt in prompts.items() if prompt.replies
    }
    return gate(metric, values, words, suite.limits)
