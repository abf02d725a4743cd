"""What stands in a difference of two variants: values only."""

from typing import Any

import msgspec

# A key that one of two recipes has not; JSON has no value for it.
ABSENT = "(absent)"

# How a missing value is called where it counts as one.
NULL = "null"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe key, as `section.key`, with its value in either variant."""

    key: str
    a: Any
    b: Any


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two variants."""

    name: str
    build: str  # its directory's name
    title: str
    tables: str  # digest
    held_out: float
    word_counter: str
    rows: dict[str, int]  # train, validation


class Kinds(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of one split stand: a's rows and b's are each the sum of their four kinds."""

    same: int
    rewritten: int  # the same row, written otherwise: of answers, the same reply
    limit_changed: int  # of the rewritten: another stated limit, or one where there was none
    other_reply_prompts: int  # prompts that both answer, each with a reply that the other has not
    other_reply_a: int  # rows
    other_reply_b: int
    only_a: int
    only_b: int


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """A column of numbers in short; every value null where it holds none."""

    n: int
    mean: float | None
    quantiles: dict[str, int | None]  # by share, as "0.5"; the value at that place, none between


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """A column of numbers on both sides."""

    name: str
    a: Numbers
    b: Numbers
    mean_difference: float | None  # b less a


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A column of values on both sides, as rows by value."""

    name: str
    a: dict[str, int]
    b: dict[str, int]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One row, or the two that differ, whole."""

    kind: str  # only_a, only_b, other_reply, rewritten
    prompt_id: str
    lang: str | None
    question: str  # the last message before the reply, as `a` writes it where both do
    question_b: str | None  # where `b` writes it otherwise
    a: str | None  # the reply; null where it has none
    b: str | None  # null too where it is the same reply
    words_a: int | None
    words_b: int | None
    limit_a: int | None
    limit_b: int | None
    messages_a: int | None  # in the prompt
    messages_b: int | None
    rejected_a: str | None = None  # of pairs, the rejected reply, as `a` and `b` are the chosen
    rejected_b: str | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """All that `just diff` says; a is the first variant named."""

    a: Side
    b: Side
    keys: list[Key]
    warnings: list[str]
    splits: dict[str, Kinds]  # train, validation
    crossed: int  # rows that one trains on and the other validates on
    concise: dict[str, float | None]  # a, b: share of train rows with a reply of at most 100 words
    shifts: list[Shift]  # of train
    counts: list[Counts]  # of train
    examples: list[Example]  # of train
    form: str = "answers"  # of the rows of both: answers, pairs or prompts
