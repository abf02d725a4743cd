"""A forest of any size in Open Assistant's export format, the same for the same seed.

Its shapes are those of the LAION trees and OASST1's English validation messages (1,250 of them are
prompts): how many answers a message of each depth gets, how long prompts and replies are (a
log-normal number of words each), and OASST2's languages. Texts are drawn from a vocabulary of
20,000 invented words by Zipf's law, and every fiftieth root repeats an earlier one nearly.
"""

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

# Answers to a message at depth 1, 2, ...: how often none, one, two, ...
FAN_OUT = [
    [0.011, 0.007, 0.095, 0.716, 0.144, 0.018, 0.009],
    [0.306, 0.614, 0.037, 0.022, 0.007, 0.014],
    [0.459, 0.097, 0.195, 0.216, 0.027, 0.001, 0.005],
    [0.802, 0.194, 0.003, 0.001],
    [0.888, 0.066, 0.036, 0.010],
    [1.0],
]
# Mean and deviation of the logarithm of the words.
WORDS = {"prompter": (2.71, 0.88), "assistant": (4.33, 1.18)}
MOST_WORDS = 1200
# Share of OASST2's messages; the rest is `it`.
LANGUAGES = {"en": 0.48, "es": 0.21, "ru": 0.10, "zh": 0.07, "de": 0.05, "fr": 0.03, "pt-BR": 0.02}
LABELS = ("spam", "lang_mismatch", "pii", "not_appropriate", "hate_speech", "sexual_content")
SCALES = ("quality", "toxicity", "humor", "helpfulness", "creativity", "violence")
DETOXIFY = (
    "toxicity",
    "severe_toxicity",
    "obscene",
    "identity_attack",
    "insult",
    "threat",
    "sexual_explicit",
)
VOCABULARY = 20_000
BEGINNING = datetime(2023, 1, 1, tzinfo=UTC)


def write_forest(path: Path, messages: int, seed: int = 0) -> int:
    """Write trees as JSON Lines until there are at least `messages`; how many there are."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for tree, count in trees(seed):
            file.write(json.dumps(tree, ensure_ascii=False, separators=(",", ":")) + "\n")
            written += count
            if written >= messages:
                return written
    return written


def write_prompts(path: Path, prompts: int = 1000) -> None:
    """Write prompts as JSON Lines: nine in ten are roots of another forest, the others roots of the
    first one, every second of those with some words more.
    """
    others, ours = trees(seed=1), trees(seed=0)
    with path.open("w", encoding="utf-8") as file:
        for place in range(prompts):
            tree, _ = next(others if place % 10 else ours)
            more = " What do you think of it?" if place % 20 else ""
            file.write(json.dumps({"prompt": tree["prompt"]["text"] + more}) + "\n")


def trees(seed: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Trees without end, each with the number of its messages."""
    chance = random.Random(seed)
    words = Words(chance)
    roots: list[str] = []
    while True:
        lang = chance.choices([*LANGUAGES, "it"], [*LANGUAGES.values(), 0.04])[0]
        root = message(chance, words, "prompter", lang, None, None)
        if roots and chance.random() < 0.02:
            root["text"] = f"{chance.choice(roots)} {words.some(1)}"
        roots.append(root["text"])
        count = grow(chance, words, root, lang)
        yield (
            {
                "message_tree_id": root["message_id"],
                "tree_state": "ready_for_export",
                "prompt": root,
                "origin": None,
            },
            count,
        )


def grow(chance: random.Random, words: "Words", root: dict[str, Any], lang: str) -> int:
    """Hang answers below `root`; the number of messages in the tree."""
    count, level = 1, [root]
    for depth, shares in enumerate(FAN_OUT):
        role = "assistant" if depth % 2 == 0 else "prompter"
        below = []
        for parent in level:
            n = chance.choices(range(len(shares)), shares)[0]
            ranks = range(n) if role == "assistant" and n > 1 else [None] * n
            parent["replies"] = [
                message(chance, words, role, lang, parent["message_id"], rank) for rank in ranks
            ]
            below += parent["replies"]
        count += len(below)
        level = below
    return count


def message(
    chance: random.Random,
    words: "Words",
    role: str,
    lang: str,
    parent_id: str | None,
    rank: int | None,
) -> dict[str, Any]:
    """One message as OASST2's nested export writes it."""
    mean, deviation = WORDS[role]
    n = min(MOST_WORDS, max(1, round(chance.lognormvariate(mean, deviation))))
    is_failed = chance.random() < 0.03
    names = (*LABELS, *SCALES)
    return {
        "message_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "parent_id": parent_id,
        "user_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "created_date": (BEGINNING + timedelta(seconds=chance.randrange(10**7))).isoformat(),
        "text": words.some(n),
        "role": role,
        "lang": lang,
        "review_count": 3,
        "review_result": not is_failed,
        "deleted": chance.random() < 0.02,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "emojis": {"+1": chance.randrange(1, 9)} if chance.random() < 0.3 else None,
        "replies": [],
        "labels": {
            name: {"value": round(chance.random(), 4), "count": chance.randrange(1, 5)}
            for name in names
        },
        "events": None,
        "detoxify": {name: chance.random() / 100 for name in DETOXIFY},
        "message_tree_id": None,
        "tree_state": None,
    }


class Words:
    """Invented words, the n-th of them 1/n times as often as the first."""

    def __init__(self, chance: random.Random) -> None:
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        weights = list(range(len(letters), 0, -1))
        self.chance = chance
        self.all = [
            "".join(chance.choices(letters, weights, k=chance.randrange(1, 10)))
            for _ in range(VOCABULARY)
        ]
        self.weights = list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY)))

    def some(self, n: int) -> str:
        """A text of n words, a full stop after every twelfth."""
        drawn = self.chance.choices(self.all, cum_weights=self.weights, k=n)
        ends = range(11, n - 1, 12)
        for place in ends:
            drawn[place] += "."
        return " ".join(drawn).capitalize() + "."
