"""What Open Assistant published of its exports, to hold a full import against.

The counts of the dataset cards of OpenAssistant/oasst1 and oasst2, for the *ready* export: the one
that the Hub serves as trees and, split by tree, as parquet.

What they do not allow: OASST1's list by language is of all trees (and adds up to 160,519 of their
161,443 messages), so that of the ready ones English alone is known; no rows say their split, so
that it is compared where file names do; ranks and reviews are published of OASST1's train split,
reviews and deletions of the whole of OASST2.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.errors import InputError
from dataset_builder.manifest import SourceFile
from dataset_builder.threads import Tables


@dataclass(frozen=True)
class Published:
    """The counts of one export; messages by Hub split, and by language as far as published."""

    trees: int
    messages: int
    splits: dict[str, int]
    languages: dict[str, int]
    # Of all messages, and of those of the train split: how many have what FACTS names.
    facts: dict[str, int] = field(default_factory=dict)
    train: dict[str, int] = field(default_factory=dict)


# What is counted of a table of messages, beside its rows.
FACTS: dict[str, Callable[[pa.Table], Any]] = {
    "roots": lambda messages: messages["parent_id"].null_count,
    "with a rank": lambda messages: _given(messages, "rank"),
    "reviewed": lambda messages: _given(messages, "review_result"),
    "with labels": lambda messages: _given(messages, "labels"),
    "with emojis": lambda messages: _given(messages, "emojis"),
    "accepted": lambda messages: pc.sum(messages["review_result"]).as_py() or 0,
    "deleted": lambda messages: pc.sum(messages["deleted"]).as_py() or 0,
}


def _given(messages: pa.Table, name: str) -> int:
    return int(messages.num_rows - messages[name].null_count)


PUBLISHED = {
    # The card's list of languages is of all trees; English was counted in the ready ones.
    "oasst1": Published(
        10_364,
        88_838,
        {"train": 84_437, "validation": 4_401},
        {"en": 41_305},
        train={
            "roots": 9_846,
            "with a rank": 48_730,
            "reviewed": 83_732,
            "with labels": 84_199,
            "with emojis": 71_496,
        },
    ),
    "oasst2": Published(
        13_854,
        135_174,
        {"train": 128_575, "validation": 6_599},
        {
            "en": 64_513,
            "es": 28_199,
            "ru": 13_935,
            "zh": 8_615,
            "de": 6_145,
            "fr": 3_880,
            "pt-BR": 2_699,
            "th": 1_560,
            "ca": 1_283,
            "it": 943,
            "uk-UA": 845,
            "ja": 788,
            "pl": 435,
            "eo": 295,
            "eu": 274,
            "vi": 207,
            "fi": 138,
            "hu": 113,
            "ar": 80,
            "nl": 72,
            "da": 44,
            "tr": 37,
            "ko": 24,
            "he": 24,
            "id": 12,
            "cs": 12,
            "bn": 1,
            "sv": 1,
        },
        facts={"accepted": 129_517, "deleted": 4_376},
    ),
}


def find_published(name: str) -> Published:
    """The counts called `name`. Raises InputError for another name."""
    if name not in PUBLISHED:
        raise InputError(
            f"unknown import `{name}` after `--expect`", f"known: {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


def _split_of(name: str) -> str | None:
    """The split that a file's name says: `train-00000-of-00001.parquet`, `en.validation.jsonl`."""
    found = re.search(r"(?<![a-z])(train|validation)(?![a-z])", PurePosixPath(name).name)
    return found.group(1) if found else None


def check_import(name: str, tables: Tables) -> None:
    """Raises InputError where `tables` are not the full import `name`: which counts differ, and by
    how much.

    Languages are compared with every message; one that is not published may not occur where the
    published ones make up the whole.
    """
    published, found = find_published(name), tables.sources
    pairs = [
        ("trees", published.trees, found.trees),
        ("messages", published.messages, found.messages),
    ]
    messages = tables.messages
    pairs += [(f"{fact} messages", n, FACTS[fact](messages)) for fact, n in published.facts.items()]
    files: dict[str, list[SourceFile]] = {split: [] for split in published.splits}
    for file in found.files:
        if split := _split_of(file.name):
            files[split].append(file)
    if any(files.values()):
        pairs += [
            (f"messages of {split}", n, sum(file.messages for file in files[split]))
            for split, n in published.splits.items()
        ]
        of = pa.array([file.sha256 for file in files["train"]], pa.string())
        train = messages.filter(pc.is_in(messages["source"], value_set=of))
        pairs += [
            (f"{fact} of train", n, FACTS[fact](train)) for fact, n in published.train.items()
        ]
    languages = Counter(str(lang) for lang in tables.messages["lang"].to_pylist())
    is_whole = sum(published.languages.values()) == published.messages
    wanted = dict.fromkeys(languages, 0) if is_whole else {}
    wanted |= published.languages
    pairs += [(f"messages in {lang}", n, languages[lang]) for lang, n in sorted(wanted.items())]
    differing = [
        f"{what}: {n:,} found, {want:,} published ({n - want:+,})"
        for what, want, n in pairs
        if n != want
    ]
    if differing:
        refused = sum(sum(file.refused.values()) for file in found.files)
        also = f"; {refused:,} messages were refused" if refused else ""
        raise InputError(
            f"the sources are not the full import `{name}`: {'; '.join(differing)}{also}",
            f"`--source OpenAssistant/{name}` reads it whole from the Hub; "
            "without `--expect` any source will do",
        )
