"""The same message met again: once in the forest, its fields settled, what contradicts it refused.

Nothing depends on the order of files or rows. Of several contents under one id in a file the
commonest stands; of several values of a field, the one from the source with the smallest sha256.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET

from dataset_builder.export import Export
from dataset_builder.messages import Message, emojis_of, known, labels_of
from dataset_builder.rows import Met, Refusal

# What two copies of a message may differ in. Text, role and parent are what makes it the same.
FIELDS = (
    "lang",
    "rank",
    "deleted",
    "synthetic",
    "model_name",
    "review_result",
    "review_count",
    "created_date",
    "labels",
    "emojis",
    "tree_id",
    "tree_state",
)


@dataclass(slots=True)
class Kept:
    """A message that stands in the forest so far; `place` and `tree_id` are settled.

    `fields` holds, for a message met several times, what its copies say together.
    """

    met: Met
    export: Export
    place: int
    tree_id: str
    fields: dict[str, Any] | None = None

    @property
    def parent_id(self) -> str | None:
        """The message above it; None at a root."""
        return _parent(self.met)


@dataclass
class Merged:
    """Each message once by id, and for each export, by its `id`: how many of its messages stood
    already, and for how many messages a field had another value.
    """

    kept: dict[str, Kept]
    repeats: Counter[int]
    conflicts: dict[int, Counter[str]]


def merge_exports(exports: list[Export], refusals: dict[int, list[Refusal]]) -> Merged:
    """The messages of `exports`, which come sorted by sha256; other text, role or parent under a
    known id is added to `refusals`.
    """
    merged = Merged({}, Counter(), {id(export): Counter() for export in exports})
    for export in exports:
        places: dict[str | None, Callable[[], int]] = defaultdict(lambda: count().__next__)
        for group in _by_id(export):
            _add(group, export, places, merged, refusals[id(export)])
    return merged


def tree_state(met: Met) -> str | None:
    """The state of the message's tree, wherever its row says it."""
    return met.tree_state or known(met.message.tree_state)


def value_of(met: Met, name: str) -> Any:
    """The field `name` of a message in the one form that all exports share; None where unknown."""
    if name == "labels":
        return labels_of(met.message)
    if name == "emojis":
        return emojis_of(met.message)
    if name == "tree_id":
        return met.tree_id
    return tree_state(met) if name == "tree_state" else known(getattr(met.message, name))


def values_of(rows: list[Kept], name: str) -> list[Any]:
    """The field `name` of each of `rows`, None where unknown."""
    if name in ("labels", "emojis", "tree_id", "tree_state"):
        return [each.fields[name] if each.fields else value_of(each.met, name) for each in rows]
    get = attrgetter(name)
    values = (each.fields[name] if each.fields else get(each.met.message) for each in rows)
    return [None if value is UNSET else value for value in values]


def _by_id(export: Export) -> list[list[Met]]:
    """The messages of one file, copies together, in the order in which they first appear."""
    groups: dict[Any, list[Met]] = {}
    for met in export.messages:
        group = groups.setdefault(met.message.message_id, [])
        group.append(met)
    return list(groups.values())


def _add(
    group: list[Met],
    export: Export,
    places: dict[str | None, Callable[[], int]],
    merged: Merged,
    refusals: list[Refusal],
) -> None:
    message_id = str(group[0].message.message_id)
    standing = merged.kept.get(message_id)
    if standing is None and len(group) == 1:
        met = group[0]
        place = _place(met, places)
        merged.kept[message_id] = Kept(met, export, place, met.tree_id or message_id)
        return
    first, where = (standing.met, standing.export) if standing else (_commonest(group), export)
    same = [met for met in group if _content(met) == _content(first)]
    for met in group:
        if _content(met) != _content(first):
            detail = _contradiction(first, where, met)
            refusals.append(Refusal(met.at, message_id, "conflict", detail))
    if not same:
        return
    fields, differing = _settled(same)
    if standing is None:
        given = [met for met in same if met.nested_place is not None]
        place = _place(
            min(given, key=lambda met: met.nested_place or 0) if given else first, places
        )
        tree_id = fields["tree_id"] or message_id
        merged.kept[message_id] = Kept(first, export, place, tree_id, fields)
        merged.repeats[id(export)] += len(same) - 1
    else:
        differing |= _filled(standing, fields)
        merged.repeats[id(export)] += len(same)
    merged.conflicts[id(export)].update(differing)


def _place(met: Met, places: dict[str | None, Callable[[], int]]) -> int:
    """Its place among its siblings, as nested or as met so far; roots have no siblings."""
    parent_id = _parent(met)
    if met.nested_place is not None:
        return met.nested_place
    return 0 if parent_id is None else places[parent_id]()


def _settled(copies: list[Met]) -> tuple[dict[str, Any], set[str]]:
    """What the copies within one file say of each field, and where they disagree: of several
    values, the smallest as JSON.
    """
    fields, differing = {}, set()
    for name in FIELDS:
        values = [value for met in copies if (value := value_of(met, name)) is not None]
        fields[name] = min(values, key=msgspec.json.encode) if len(values) > 1 else None
        if len(values) == 1:
            fields[name] = values[0]
        if any(_plain(value) != _plain(values[0]) for value in values[1:]):
            differing.add(name)
    return fields, differing


def _filled(standing: Kept, fields: dict[str, Any]) -> set[str]:
    """Gives `standing` what it lacks; the names in which it says otherwise."""
    if standing.fields is None:
        standing.fields = {name: value_of(standing.met, name) for name in FIELDS}
    differing = set()
    for name, value in fields.items():
        stands = standing.fields[name]
        if stands is None:
            standing.fields[name] = value
        elif value is not None and _plain(stands) != _plain(value):
            differing.add(name)
    standing.tree_id = standing.fields["tree_id"] or standing.tree_id
    return differing


def _plain(value: Any) -> Any:
    # The order of labels means nothing.
    return sorted(value, key=lambda each: each["name"]) if isinstance(value, list) else value


def _commonest(group: list[Met]) -> Met:
    """The message whose content stands most often in the file; of equals, the smallest by parent,
    a root before all others, role and text.
    """
    copies = Counter(map(_content, group))

    def order(met: Met) -> tuple[Any, ...]:
        text, role, parent_id = _content(met)
        return -copies[text, role, parent_id], parent_id or "", role, text

    return min(group, key=order)


def _contradiction(first: Met, where: Export, met: Met) -> str:
    names = ("text", "role", "parent_id")
    pairs = zip(names, _content(first), _content(met), strict=True)
    other = [name for name, one, two in pairs if one != two]
    return f"line {first.at.line} of {where.name} has this id with another {', '.join(other)}"


def _content(met: Met) -> tuple[Any, Any, Any]:
    message: Message = met.message
    return message.text, message.role, message.parent_id


def _parent(met: Met) -> str | None:
    parent_id = met.message.parent_id
    return parent_id if isinstance(parent_id, str) else None
