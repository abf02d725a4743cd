"""Held-out prompts and those of a prompt file, planted in training trees in five ways."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from dataset_builder.contamination import Against
from dataset_builder.prompt_files import PromptLines
from dataset_builder.recipe import load_recipe
from dataset_builder.split import side
from dataset_builder.variant import plan_variant
from tests.builders import prompt, reply, tables_of
from tests.builds import SAMPLE
from tests.campaign import Attempt, Campaign, Outcome

HELD_OUT = 0.3
TREES, LEAKS = 400, 20  # of an attempt; leaks of each kind


def _as_it_is(text: str, chance: random.Random) -> str:
    return text


def _other_signs(text: str, chance: random.Random) -> str:
    """Another case, other punctuation, other blanks."""
    marks = ["", ",", "...", " -", "!?", " \n", "\u201d"]
    return "\u201c" + " ".join(word.swapcase() + chance.choice(marks) for word in text.split())


def _edited(text: str, chance: random.Random) -> str:
    """One word of thirty or more is another one."""
    said = text.split()
    said[chance.randrange(len(said))] = "otherwise"
    return " ".join(said)


def _quoted(text: str, chance: random.Random) -> str:
    """Amid words of one's own."""
    return f"{_said(chance, 12)}: {text}? {_said(chance, 12)}"


# How a leak stands in a training tree, whether its source is held out or stands in a prompt file,
# and whether it is a turn before the last one.
KINDS: dict[str, tuple[Callable[[str, random.Random], str], bool, bool]] = {
    "equal to a held-out prompt": (_as_it_is, True, False),
    "equal but for case and signs": (_other_signs, True, False),
    "a held-out prompt with one word changed": (_edited, True, False),
    "a file's prompt quoted": (_quoted, False, False),
    "a file's prompt in an earlier turn": (_other_signs, False, True),
}


@cache
def _words() -> list[str]:
    text = SAMPLE.read_text(encoding="utf-8").lower()
    return sorted({word for word in text.split() if word.isascii() and word.isalpha()})


def _said(chance: random.Random, n: int) -> str:
    return " ".join(chance.choices(_words(), k=n))


def plant(seed: int, folder: Path) -> tuple[int, int, int, int]:
    """How many leaks were planted and how many stayed, how many other threads there are to train on
    and how many of them were taken for leaks.
    """
    chance = random.Random(seed)
    roots = [_said(chance, chance.randint(30, 60)) for _ in range(TREES)]
    held = [text for text in roots if side(text, HELD_OUT) != "train"]
    asked = [_said(chance, chance.randint(8, 40)) for _ in range(2 * LEAKS)]
    rows, leaks = [], dict[str, str]()
    for at, text in enumerate(roots):
        rows += [prompt(f"p{at}", text=text), reply(f"r{at}", f"p{at}", rank=0, words=9)]
    free = iter(at for at, text in enumerate(roots) if side(text, HELD_OUT) == "train")
    for kind, (changed, is_held, is_before) in KINDS.items():
        for n in range(LEAKS):
            at = next(free)
            source = chance.choice(held) if is_held else asked[n + LEAKS * is_before]
            name = f"{kind} {n}"
            rows.append(prompt(f"leak {name}", f"r{at}", text=changed(source, chance)))
            rows.append(reply(name, f"leak {name}", rank=0, words=9))
            leaks[name] = name
            if is_before:
                more = [prompt(f"more {name}", name, text=_said(chance, 9))]
                rows += [*more, reply(f"last {name}", f"more {name}", rank=0, words=9)]
                leaks[f"last {name}"] = name  # the same leak, in a longer thread
    lines = tuple(enumerate(asked, start=1))
    against = Against((PromptLines("asked.jsonl", "0", lines, {}, ()),))
    made = plan_variant(
        "full", load_recipe("full"), tables_of(folder, rows, held_out=HELD_OUT), against
    )
    found = {row["thread_id"]: row["dropped_by"] for row in made.ledger.to_pylist()}
    reasons = ("near_held_out", "contamination")
    train = {row["thread_id"] for row in made.ledger.to_pylist() if row["split"] == "train"}
    others = train - leaks.keys()
    alarms = sum(found[name] in reasons for name in others)
    missed = {leak for name, leak in leaks.items() if found[name] not in reasons}
    return len(KINDS) * LEAKS, len(missed), len(others), alarms


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Nothing."""

    def attempt(seed: int, folder: Path) -> Outcome:
        planted, missed, others, alarms = plant(seed, folder)
        assert alarms < 0.01 * others, f"{alarms} of {others} others were taken for leaks"
        return Outcome(planted, missed, f"false alarms: {alarms} of {others}")

    yield attempt


CAMPAIGN = Campaign(
    code="Q2",
    promise="a leak is found: at least 99 %, with less than 1 % false alarms",
    counted="planted leaks of five kinds",
    aim=1000,
    prepare=prepare,
)
