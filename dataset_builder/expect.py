"""What Open Assistant published of its exports, to hold a full import against.

The counts of the dataset cards of OpenAssistant/oasst1 and oasst2, for the *ready* export: the one
that the Hub serves as trees and, split by tree, as parquet.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from dataset_builder.errors import InputError
from dataset_builder.threads import Tables


@dataclass(frozen=True)
class Published:
    """The counts of one export; messages by Hub split, and by language as far as published."""

    trees: int
    messages: int
    splits: dict[str, int]
    languages: dict[str, int]


PUBLISHED = {
    # The card's list of languages is of all trees; English was counted in the ready ones.
    "oasst1": Published(10_364, 88_838, {"train": 84_437, "validation": 4_401}, {"en": 41_305}),
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
    ),
}


def find_published(name: str) -> Published:
    """The counts called `name`. Raises InputError for another name."""
    if name not in PUBLISHED:
        raise InputError(
            f"unknown import `{name}` after `--expect`", f"known: {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


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
    splits: Counter[str] = Counter()
    for file in found.files:
        splits[PurePosixPath(file.name).name.partition("-")[0]] += file.messages
    if any(splits[split] for split in published.splits):
        pairs += [
            (f"messages of {split}", n, splits[split]) for split, n in published.splits.items()
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
