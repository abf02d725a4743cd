"""How two built variants differ: their recipes, their rows, and what both do to lengths and ranks.

Rows are matched by `example_id`. On each side a row is in one kind only, and the kinds add up:
the same, written otherwise, another reply to the same prompt, or only there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dataset_builder.artifacts import hash_order
from dataset_builder.difference import (
    ABSENT,
    NULL,
    Counts,
    Difference,
    Example,
    Key,
    Kinds,
    Numbers,
    Shift,
    Side,
)
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from dataset_builder.tables import EXAMPLES, read_table
from dataset_builder.words import CONCISE_WORDS

Row = dict[str, Any]

# Rows shown of each kind, the first by hash.
EXAMPLES_SHOWN = 3
SALT = "examples of a difference"

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def diff_variants(a: tuple[Path, Manifest], b: tuple[Path, Manifest]) -> Difference:
    """How `b` differs from `a`; each is what `find_variant` gives.

    Raises InputError where one is no variant of answers, or its files are damaged.
    """
    sides = (a, b)
    for _, manifest in sides:
        form = getattr(manifest, "form", "answers")
        if form != "answers":
            raise InputError(
                f"variant `{manifest.name}` holds {form}; wanted answers",
                'compare variants whose recipe has no `form`, or `form = "answers"`',
            )
    rows = {
        split: tuple(_rows(directory / f"{split}.parquet") for directory, _ in sides)
        for split in ("train", "validation")
    }
    train_a, train_b = rows["train"]
    crossed = len(train_a.keys() & rows["validation"][1].keys())
    crossed += len(train_b.keys() & rows["validation"][0].keys())
    return Difference(
        a=_side(*a),
        b=_side(*b),
        keys=changed_keys(a[1].recipe, b[1].recipe),
        warnings=_warnings(a[1], b[1], crossed),
        splits={split: kinds(*both) for split, both in rows.items()},
        crossed=crossed,
        concise={"a": _concise(train_a), "b": _concise(train_b)},
        shifts=[_shift(name, of, train_a, train_b) for name, of in NUMBERS.items()],
        counts=[_counts(name, of, train_a, train_b) for name, of in VALUES.items()],
        examples=_examples(train_a, train_b),
    )


def changed_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Key]:
    """The keys in which two recipes differ, as `section.key`, titles aside; sorted."""
    flat_a, flat_b = _flat(a), _flat(b)
    return [
        Key(key=key, a=flat_a.get(key, ABSENT), b=flat_b.get(key, ABSENT))
        for key in sorted(flat_a.keys() | flat_b.keys())
        if key != "title" and flat_a.get(key, ABSENT) != flat_b.get(key, ABSENT)
    ]


def kinds(a: Mapping[str, Row], b: Mapping[str, Row]) -> Kinds:
    """Where the rows of one split stand; both are rows by `example_id`."""
    both = a.keys() & b.keys()
    rewritten = [name for name in both if a[name] != b[name]]
    swapped = _swapped(a, b)
    only_a, only_b = a.keys() - b.keys(), b.keys() - a.keys()
    other_a = sum(a[name]["prompt_id"] in swapped for name in only_a)
    other_b = sum(b[name]["prompt_id"] in swapped for name in only_b)
    return Kinds(
        same=len(both) - len(rewritten),
        rewritten=len(rewritten),
        limit_changed=sum(a[name]["limit"] != b[name]["limit"] for name in rewritten),
        other_reply_prompts=len(swapped),
        other_reply_a=other_a,
        other_reply_b=other_b,
        only_a=len(only_a) - other_a,
        only_b=len(only_b) - other_b,
    )


# What is compared as numbers, and as values: each a function of a row.
NUMBERS: dict[str, Callable[[Row], int | None]] = {
    "reply words": lambda row: row["reply_words"],
    "stated limit": lambda row: row["limit"],
    "limit less reply words": lambda row: (
        None if row["limit"] is None else row["limit"] - row["reply_words"]
    ),
    "messages in the prompt": lambda row: len(row["prompt"]),
}
VALUES: dict[str, Callable[[Row], Any]] = {
    "rank": lambda row: row["rank"],
    "language": lambda row: row["lang"],
    "turns": lambda row: row["turns"],
    "stated limit": lambda row: row["limit"],
}


def _rows(path: Path) -> dict[str, Row]:
    return {row["example_id"]: row for row in read_table(path, EXAMPLES).to_pylist()}


def _side(directory: Path, manifest: Manifest) -> Side:
    return Side(
        name=manifest.name,
        build=directory.resolve().name,
        title=manifest.title,
        tables=manifest.tables,
        held_out=manifest.held_out,
        word_counter=manifest.word_counter,
        rows={split: count.rows for split, count in manifest.splits.items()},
    )


def _warnings(a: Manifest, b: Manifest, crossed: int) -> list[str]:
    found = []
    if a.tables != b.tables:
        files = [{file.sha256 for file in each.sources} for each in (a, b)]
        why = "other sources" if files[0] != files[1] else "the same sources read otherwise"
        if files[0] == files[1] and a.held_out != b.held_out:
            why = f"held-out shares {a.held_out:g} and {b.held_out:g}"
        found.append(
            f"They were built from different tables ({why}): rows may differ for that alone"
        )
    if a.word_counter != b.word_counter:
        found.append(f"Words were counted by {a.word_counter} and by {b.word_counter}")
    if crossed:
        found.append(f"Rows that one trains on and the other validates on: {crossed:,}")
    return found


def _flat(recipe: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{under}{key}.")
        else:
            flat[f"{under}{key}"] = value
    return flat


def _swapped(a: Mapping[str, Row], b: Mapping[str, Row]) -> set[str]:
    """Prompts to which either side has a reply that the other has not."""
    return {a[name]["prompt_id"] for name in a.keys() - b.keys()} & {
        b[name]["prompt_id"] for name in b.keys() - a.keys()
    }


def _concise(rows: Mapping[str, Row]) -> float | None:
    if not rows:
        return None
    return sum(row["reply_words"] <= CONCISE_WORDS for row in rows.values()) / len(rows)


def _shift(
    name: str, of: Callable[[Row], int | None], a: Mapping[str, Row], b: Mapping[str, Row]
) -> Shift:
    ours, theirs = (numbers(of(row) for row in side.values()) for side in (a, b))
    both = ours.mean is not None and theirs.mean is not None
    return Shift(
        name=name,
        a=ours,
        b=theirs,
        mean_difference=(theirs.mean or 0.0) - (ours.mean or 0.0) if both else None,
    )


def numbers(found: Iterable[int | None]) -> Numbers:
    """The numbers among `found` in short. A quantile is a value that is there: of n in order, the
    one at place ⌊share · (n - 1)⌋.
    """
    values = sorted(value for value in found if value is not None)
    n = len(values)
    return Numbers(
        n=n,
        mean=sum(values) / n if n else None,
        quantiles={
            f"{part:g}": values[int(part * (n - 1))] if values else None for part in QUANTILES
        },
    )


def _counts(
    name: str, of: Callable[[Row], Any], a: Mapping[str, Row], b: Mapping[str, Row]
) -> Counts:
    sides = [Counter(of(row) for row in side.values()) for side in (a, b)]
    values = {value for side in sides for value in side}
    if all(isinstance(value, int | None) for value in values):
        ordered = sorted(values, key=lambda value: (value is None, value or 0))
    else:
        ordered = sorted(
            values, key=lambda value: (-sum(side[value] for side in sides), str(value))
        )
    named = [
        {NULL if value is None else str(value): side[value] for value in ordered} for side in sides
    ]
    return Counts(name=name, a=named[0], b=named[1])


def _examples(a: Mapping[str, Row], b: Mapping[str, Row]) -> list[Example]:
    """The first by hash of each kind."""
    swapped = _swapped(a, b)
    only_a = {name for name in a.keys() - b.keys() if a[name]["prompt_id"] not in swapped}
    only_b = {name for name in b.keys() - a.keys() if b[name]["prompt_id"] not in swapped}
    rewritten = {name for name in a.keys() & b.keys() if a[name] != b[name]}
    shown = [_example("only_a", a[name], None) for name in _first(only_a)]
    shown += [_example("only_b", None, b[name]) for name in _first(only_b)]
    by_prompt = [_by_prompt(one, other) for one, other in ((a, b), (b, a))]
    shown += [
        _example("other_reply", by_prompt[0][name], by_prompt[1][name]) for name in _first(swapped)
    ]
    return shown + [_example("rewritten", a[name], b[name]) for name in _first(rewritten)]


def _first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hash_order(SALT, name))[:EXAMPLES_SHOWN]


def _by_prompt(rows: Mapping[str, Row], others: Mapping[str, Row]) -> dict[str, Row]:
    """Of the rows that `others` has not, one for each prompt: the first by hash."""
    names = sorted(
        rows.keys() - others.keys(), key=lambda name: hash_order(SALT, name), reverse=True
    )
    return {rows[name]["prompt_id"]: rows[name] for name in names}


def _example(kind: str, a: Row | None, b: Row | None) -> Example:
    first = a or b
    assert first is not None, kind
    questions = [row["prompt"][-1]["content"] if row else None for row in (a, b)]
    replies = [row["completion"][0]["content"] if row else None for row in (a, b)]
    question = first["prompt"][-1]["content"]
    return Example(
        kind=kind,
        prompt_id=first["prompt_id"],
        lang=first["lang"],
        question=question,
        question_b=questions[1] if questions[1] not in (None, question) else None,
        a=replies[0],
        b=replies[1] if kind != "rewritten" else None,
        words_a=a["reply_words"] if a else None,
        words_b=b["reply_words"] if b else None,
        limit_a=a["limit"] if a else None,
        limit_b=b["limit"] if b else None,
        messages_a=len(a["prompt"]) if a else None,
        messages_b=len(b["prompt"]) if b else None,
    )
