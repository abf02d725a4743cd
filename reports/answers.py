"""Every prompt with the answers of everybody beside each other: what was said, counted, and split
at the limit.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_builder.tables import HELDOUT, read_table
from dataset_builder.wordings import family, main_family
from dataset_builder.words import count_words, first_words
from evals.tables import GENERATIONS, SCORES

# Whose replies stand beside the models' answers.
HUMAN = "human"


@dataclass(frozen=True)
class Answer:
    """One answer and how it stands to its limit."""

    within: str  # the text up to the first word past the limit
    beyond: str  # the rest; empty where the limit is kept or none is stated
    words: int
    excess: int  # words past the limit
    is_stopped: bool | None = None  # ended by itself; None of a human reply
    seed: int | None = None  # None where the answerer has none
    relevance: float | None = None  # None where it was not scored

    @property
    def is_empty(self) -> bool:
        """Holds no word, which keeps no limit either."""
        return self.words == 0


@dataclass(frozen=True)
class Asked:
    """One prompt under one limit; the answers by answerer: the arms' labels, `base`, `human`."""

    limit: int | None
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    @property
    def violators(self) -> list[str]:
        """The answerers of whom at least one answer breaks the limit: by its length, or by saying
        nothing.
        """
        if self.limit is None:
            return []
        return [
            name
            for name, answers in self.answers.items()
            if any(answer.excess or answer.is_empty for answer in answers)
        ]


@dataclass(frozen=True)
class Question:
    """One prompt as a person asked it, under each limit."""

    prompt_id: str
    origin: str  # held_out, or the prompt file's name
    lang: str
    prompt: str
    asked: dict[int | None, Asked]
    is_compared: bool = True  # answered by every arm and trained on by none


@dataclass(frozen=True)
class Answerer:
    """Who answered, and where the answers lie."""

    label: str
    evaluation: Path
    seed: int | None = None


def read_questions(
    answerers: Iterable[Answerer],
    limits: Iterable[int | None],
    heldout: Path | None,
    trained_on: Set[str] = frozenset(),
) -> list[Question]:
    """Every prompt that some answerer was asked, in the order first met, with all answers.

    `heldout` is the table of held-out prompts whose first human reply is set beside the answers, or
    None. A prompt that stands in `trained_on`, or that an answerer was not asked, is not compared.
    """
    limits = list(limits)
    prompts: dict[str, dict[str, Any]] = {}
    asked: dict[str, dict[int | None, Asked]] = {}
    met: Counter[str] = Counter()
    answerers = list(answerers)
    for answerer in answerers:
        relevance = _relevance(answerer.evaluation)
        rows = read_table(answerer.evaluation / "generations.parquet", GENERATIONS).to_pylist()
        met.update({row["prompt_id"] for row in rows})
        # An upper limit cannot be held against answers that were asked for more.
        stated = [row["wording"] for row in rows if row["limit"] is not None]
        for row in rows:
            if row["limit"] is not None and family(row["wording"]) != main_family(stated):
                continue
            prompts.setdefault(row["prompt_id"], row)
            under = asked.setdefault(row["prompt_id"], {limit: Asked(limit) for limit in limits})
            if row["limit"] in under:
                key = (row["prompt_id"], row["limit"], row["wording"], row["sample"])
                answer = split_at_limit(
                    row["answer"],
                    row["limit"],
                    row["is_stopped"],
                    answerer.seed,
                    relevance.get(key),
                )
                under[row["limit"]].answers.setdefault(answerer.label, []).append(answer)
    if heldout is not None:
        _add_humans(asked, heldout)
    return [
        Question(
            prompt_id,
            row["origin"],
            row["lang"] or "",
            row["prompt"],
            asked[prompt_id],
            is_compared=met[prompt_id] == len(answerers) and prompt_id not in trained_on,
        )
        for prompt_id, row in prompts.items()
    ]


def split_at_limit(
    text: str,
    limit: int | None,
    is_stopped: bool | None = None,
    seed: int | None = None,
    relevance: float | None = None,
) -> Answer:
    """`text` as an answer under `limit`: its words counted, and cut in two where the limit is
    reached.

    >>> answer = split_at_limit("One, two, three.", 2)
    >>> answer.within, answer.beyond, answer.excess
    ('One, two, ', 'three.', 1)
    """
    words = count_words(text)
    excess = 0 if limit is None else max(0, words - limit)
    end = len(text)
    if excess and limit is not None:
        end = len(first_words(text, limit))
        # Spaces and stops belong to no word: what is too long begins with the next letter or digit.
        end += next((place for place, character in enumerate(text[end:]) if character.isalnum()), 0)
    return Answer(text[:end], text[end:], words, excess, is_stopped, seed, relevance)


def _relevance(evaluation: Path) -> dict[tuple, float]:
    path = evaluation / "scores.parquet"
    if not path.is_file():  # generated, not yet scored
        return {}
    return {
        (row["prompt_id"], row["limit"], row["wording"], row["sample"]): row["value"]
        for row in read_table(path, SCORES).to_pylist()
        if row["metric"] == "relevance" and row["answerer"] == "run"
    }


def _add_humans(asked: Mapping[str, dict[int | None, Asked]], heldout: Path) -> None:
    for row in read_table(heldout, HELDOUT).to_pylist():
        if row["replies"]:
            for limit, each in asked.get(row["prompt_id"], {}).items():
                each.answers[HUMAN] = [split_at_limit(row["replies"][0]["text"], limit)]
