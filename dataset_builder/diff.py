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
from dataset_builder.tables import FORMS, read_table
from dataset_builder.words import CONCISE_WORDS

Row = dict[str, Any]

# Rows shown of each kind, the first by hash.
EXAMPLES_SHOWN = 3
SALT = "examples of a difference"

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def diff_variants(a: tuple[Path, Manifest], b: tuple[Path, Manifest]) -> Difference:
    """How `b` differs from `a`; each is what `find_variant` gives.

    Raises InputError where they are of different forms, or their files are damaged.
    """
    form = a[1].form
    if form not in FORMS or b[1].form != form:
        raise InputError(
            f"`{a[1].name}` holds {form} and `{b[1].name}` {b[1].form}: their rows are no match",
            f"compare variants of one form: {', '.join(FORMS)}",
        )
    rows = {
        split: tuple(_rows(directory / f"{split}.parquet", form) for directory, _ in (a, b))
        for split in ("train", "validation")
    }
    train_a, train_b = rows["train"]
    crossed = len(train_a.keys() & rows["validation"][1].keys())
    crossed += len(train_b.keys() & rows["validation"][0].keys())
    return Difference(
        form=form,
        a=_side(*a),
        b=_side(*b),
        keys=changed_keys(a[1].recipe, b[1].recipe),
        warnings=_warnings(a[1], b[1], crossed),
        splits={split: kinds(*both) for split, both in rows.items()},
        crossed=crossed,
        concise={"a": _concise(train_a), "b": _concise(train_b)},
        shifts=[_shift(name, of, train_a, train_b) for name, of in NUMBERS[form].items()],
        counts=[_counts(name, of, train_a, train_b) for name, of in VALUES[form].items()],
        examples=_examples(train_a, train_b),
    )


def changed_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Key]:
    """The keys in which two recipes differ, as `section.key`, titles aside; sorted. Of a control
    beside a recipe that is none, `of` and `match` say it all: the target's keys are left out.
    """
    flat_a, flat_b = _flat(a), _flat(b)
    is_one_control = bool(a.get("control")) != bool(b.get("control"))

    def is_told(key: str) -> bool:
        if is_one_control and (key == "control" or key.startswith("control.recipe.")):
            return False
        return key not in ("title", "control.recipe.title")

    return [
        Key(key=key, a=flat_a.get(key, ABSENT), b=flat_b.get(key, ABSENT))
        for key in sorted(flat_a.keys() | flat_b.keys())
        if is_told(key) and flat_a.get(key, ABSENT) != flat_b.get(key, ABSENT)
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


def train_kinds(a: Path, b: Path, form: str) -> Kinds:
    """Where the rows of two files of one form stand, such as the train.parquet of two variants.

    Raises InputError where one is damaged.
    """
    return kinds(_rows(a, form), _rows(b, form))


# What is compared as numbers, and as values: each a function of a row, by the form of the rows.
_Of = Callable[[Row], Any]

_LIMITS: dict[str, _Of] = {
    "stated limit": lambda row: row["limit"],
    "limit less reply words": lambda row: (
        None if row["limit"] is None else row["limit"] - row["reply_words"]
    ),
    "messages in the prompt": lambda row: len(row["prompt"]),
}
NUMBERS: dict[str, dict[str, _Of]] = {
    "answers": {"reply words": lambda row: row["reply_words"], **_LIMITS},
    "pairs": {
        "chosen words": lambda row: row["chosen_words"],
        "rejected words": lambda row: row["rejected_words"],
        "chosen less rejected": lambda row: row["chosen_words"] - row["rejected_words"],
        "stated limit": _LIMITS["stated limit"],
        "limit less chosen words": _LIMITS["limit less reply words"],
        "messages in the prompt": _LIMITS["messages in the prompt"],
    },
    "prompts": {"words of the human reply": lambda row: row["reply_words"], **_LIMITS},
}
_COMMON: dict[str, _Of] = {
    "language": lambda row: row["lang"],
    "turns": lambda row: row["turns"],
    "stated limit": lambda row: row["limit"],
}
VALUES: dict[str, dict[str, _Of]] = {
    "answers": {"rank": lambda row: row["rank"], **_COMMON},
    "pairs": {
        "augmentation": lambda row: row["augmentation"],
        "the chosen reply is": lambda row: _longer(row["chosen_words"] - row["rejected_words"]),
        "chosen rank": lambda row: row["chosen_rank"],
        "rejected rank": lambda row: row["rejected_rank"],
        **_COMMON,
    },
    "prompts": {"rank of the human reply": lambda row: row["rank"], **_COMMON},
}


def _longer(words: int) -> str:
    return "longer" if words > 0 else "shorter" if words else "of equal length"


def _rows(path: Path, form: str = "answers") -> dict[str, Row]:
    rows = read_table(path, FORMS[form]).to_pylist()
    if form == "pairs":
        # The reply that is taught is the chosen one.
        rows = [row | {"reply_words": row["chosen_words"]} for row in rows]
    return {row["example_id"]: row for row in rows}


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
    replies = [_said(row, "completion", "chosen") for row in (a, b)]
    rejected = [_said(row, "rejected") for row in (a, b)]
    is_same = kind == "rewritten" and (replies, rejected) == (replies[::-1], rejected[::-1])
    question = first["prompt"][-1]["content"]
    return Example(
        kind=kind,
        prompt_id=first["prompt_id"],
        lang=first["lang"],
        question=question,
        question_b=questions[1] if questions[1] not in (None, question) else None,
        a=replies[0],
        b=replies[1] if not is_same else None,
        rejected_a=rejected[0],
        rejected_b=rejected[1] if not is_same else None,
        words_a=a["reply_words"] if a else None,
        words_b=b["reply_words"] if b else None,
        limit_a=a["limit"] if a else None,
        limit_b=b["limit"] if b else None,
        messages_a=len(a["prompt"]) if a else None,
        messages_b=len(b["prompt"]) if b else None,
    )


def _said(row: Row | None, *columns: str) -> str | None:
    """The reply in the first of `columns` that the row has."""
    found = (row[name] for name in columns if row and name in row)
    said = next(found, None)
    return said[0]["content"] if said else None
