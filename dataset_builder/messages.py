"""A message as exports write it, typed, and the one form of its labels and emojis."""

import json
import re
from math import isfinite
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

# What fits the column it goes to.
Count = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]

# Characters of an id, or of a tree's state: a line that nests its messages says it once, and it is
# held once for each of them.
NAME = 256

# Structs outside the garbage collector's sight: exports are trees, so no message is part of a
# cycle, and tracking them costs a third of the reading.


class Label(msgspec.Struct, gc=False):
    """One label in the nested form: a mean and the number of people behind it."""

    value: float | UnsetType | None = UNSET
    count: Count | UnsetType | None = UNSET


class Message(msgspec.Struct, gc=False):
    """A message as any export writes it; an absent key and an explicit null mean the same."""

    message_id: str | UnsetType | None = UNSET
    parent_id: str | UnsetType | None = UNSET
    text: str | UnsetType | None = UNSET
    role: str | UnsetType | None = UNSET
    lang: str | UnsetType | None = UNSET
    rank: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | UnsetType | None = UNSET
    deleted: bool | UnsetType | None = UNSET
    synthetic: bool | UnsetType | None = UNSET
    model_name: str | UnsetType | None = UNSET
    review_result: bool | UnsetType | None = UNSET
    review_count: Count | UnsetType | None = UNSET
    created_date: str | UnsetType | None = UNSET
    # A map by name in nested files, parallel lists in flat ones.
    labels: dict[str, Label | list[str | float | Count | None] | None] | UnsetType | None = UNSET
    emojis: dict[str, Count | list[str | Count | None] | None] | UnsetType | None = UNSET
    message_tree_id: str | UnsetType | None = UNSET
    tree_state: str | UnsetType | None = UNSET
    replies: list["Message"] | UnsetType | None = UNSET


class Thread(msgspec.Struct, gc=False):
    """What a thread row may hold its messages in."""

    messages: list[Message] | UnsetType | None = UNSET


class Row(Message, gc=False):
    """A line: a message, the tree whose root is `prompt`, or the messages of one thread."""

    prompt: Message | UnsetType | None = UNSET
    thread_id: str | UnsetType | None = UNSET
    thread: Thread | list[Message] | UnsetType | None = UNSET
    messages: list[Message] | UnsetType | None = UNSET


# An escape that may hide a colon, or is a NUL character.
ESCAPED = re.compile(rb"\\u00(?:[2-7]|00)")

# What the parallel lists hold.
_ENTRIES: dict[str, set[type]] = {
    "name": {str},
    "value": {float, int, type(None)},
    "count": {int, type(None)},
}


def known(value: Any) -> Any:
    """`value`, or None where its key is absent."""
    return None if value is UNSET else value


class _Repeated(Exception):
    pass


def repeated_key(content: bytes) -> str | None:
    """A key that some object of the JSON in `content` names twice. Slow, exact. Raises ValueError
    and RecursionError as `json` does.
    """
    try:
        json.loads(content.decode(), object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except _Repeated as error:
        return str(error)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _Repeated(key)
        seen.add(key)


def as_maps(row: dict[str, Any]) -> str | None:
    """Makes `labels` and `emojis` of a row without types what JSON has: a list of entries (Arrow
    maps, lists of structs) becomes a map by name. Returns a name that stands twice, if any.
    """
    for field in ("labels", "emojis"):
        entries = row.get(field)
        if not isinstance(entries, list):
            continue
        pairs = [_pair(field, entry) for entry in entries]
        if any(pair is None for pair in pairs):
            continue  # typing it says what is wrong
        found = dict(pair for pair in pairs if pair is not None)
        if len(found) < len(pairs):
            names = [pair[0] for pair in pairs if pair is not None]
            return next(str(name) for name in names if names.count(name) > 1)
        row[field] = found
    return None


def _pair(field: str, entry: Any) -> tuple[str, Any] | None:
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        return entry[0], entry[1]
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        label = {key: value for key, value in entry.items() if key != "name"}
        return entry["name"], label if field == "labels" else label.get("count")
    return None


def labels_of(message: Message) -> list[dict[str, Any]] | None:
    """The labels as {name, value, count}, whichever form they came in; `check_lists` found them
    sound.
    """
    labels = known(message.labels)
    if labels is None:
        return None
    if isinstance(labels.get("name"), list):
        names, values, counts = _lists(labels, "value", "count")
        return [
            {"name": name, "value": None if value is None else float(value), "count": n}
            for name, value, n in zip(names, values, counts, strict=True)
        ]
    found = []
    for name, label in labels.items():
        value, n = (known(label.value), known(label.count)) if label else (None, None)
        found.append({"name": name, "value": value, "count": n})
    return found


def emojis_of(message: Message) -> list[dict[str, Any]] | None:
    """The emojis as {name, count}, whichever form they came in, as `labels_of`."""
    emojis = known(message.emojis)
    if emojis is None:
        return None
    if isinstance(emojis.get("name"), list):
        names, counts = _lists(emojis, "count")
        return [{"name": name, "count": n} for name, n in zip(names, counts, strict=True)]
    return [{"name": name, "count": n} for name, n in emojis.items()]


def check_lists(message: Message) -> None:
    """Raises ValueError saying what is wrong where labels or emojis are parallel lists; as maps
    they are typed.
    """
    labels, emojis = message.labels, message.emojis
    if labels:
        _check_finite(labels)
    if labels and list in map(type, labels.values()) and not _are_plain(labels, 3):
        _check_lists("labels", labels, "value", "count")
    if emojis and list in map(type, emojis.values()) and not _are_plain(emojis, 2):
        _check_lists("emojis", emojis, "count")


def _check_finite(labels: dict[str, Any]) -> None:
    """Raises ValueError at a value that is no number. JSON has none such; Parquet has."""
    for name, label in labels.items():
        values = label if isinstance(label, list) else [label and known(label.value)]
        for value in values:
            if type(value) is float and not isfinite(value):
                raise ValueError(f"`labels` has {value} as `{name}`")


def _are_plain(lists: dict[str, Any], wanted: int) -> bool:
    """Whether the lists are sound and without nulls; False is only a suspicion. Summing is the
    quickest way to look at every value.
    """
    try:
        names, counts = lists["name"], lists["count"]
        values = lists["value"] if wanted == 3 else counts
        "".join(names)
        sum(values)
        return (
            type(sum(counts)) is int
            and len(lists) == wanted
            and len(names) == len(values) == len(counts)
        )
    except (KeyError, TypeError):
        return False


def _lists(lists: dict[str, Any], *others: str) -> list[list[Any]]:
    """The lists `name` and `others`; an absent one holds nulls."""
    names = lists["name"]
    return [names, *(lists.get(key) or [None] * len(names) for key in others)]


def _check_lists(field: str, lists: dict[str, Any], *others: str) -> None:
    names = lists.get("name")
    if not isinstance(names, list):
        raise ValueError(f"`{field}` holds a list beside no list `name`")
    extra = sorted(lists.keys() - {"name", *others})
    if extra:
        raise ValueError(f"`{field}` has `{extra[0]}` beside `name`")
    for key, values in zip(("name", *others), _lists(lists, *others), strict=True):
        if not isinstance(values, list):
            raise ValueError(f"`{field}.{key}` is a {type(values).__name__}; wanted a list")
        if len(values) != len(names):
            raise ValueError(f"`{field}` has {len(names)} names and {len(values)} of `{key}`")
        odd = [value for value in values if type(value) not in _ENTRIES[key]]
        if odd:
            raise ValueError(f"`{field}.{key}` holds {odd[0]!r}")
