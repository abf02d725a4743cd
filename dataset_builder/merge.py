"""The same message met again: once in the forest, its fields settled, what contradicts it refused.

Nothing depends on the order of files or rows. Of several contents under one id in a file the
commonest stands; of several values of a field, the one from the source with the smallest sha256.
What was met once, or always alike, stays in its columns; only copies that differ are looked at one
by one.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.columns import CONTENT, FIELDS, MET, met_of_table, table_of_met, value_of
from dataset_builder.export import Export
from dataset_builder.memory import give_back
from dataset_builder.messages import Message
from dataset_builder.rows import Met, Refusal

# Beyond every place among siblings.
_NOWHERE = 2**31 - 1


@dataclass
class Merged:
    """Each message once: the rows of `met` that stand, with their places among their siblings and
    the numbers of their exports; by export what was refused, how many of its messages stood
    already, and for how many messages a field had another value.
    """

    met: pa.Table
    rows: np.ndarray
    place: np.ndarray
    export: np.ndarray
    refusals: list[list[Refusal]]
    repeats: list[int]
    conflicts: list[Counter[str]]


@dataclass(slots=True)
class _Kept:
    """A message whose copies differ, as it stands so far: the first copy met, its export, its
    places where files nest it, and what the copies say together.
    """

    met: Met
    export: int
    nested_places: set[int]
    fields: dict[str, Any]


def merge_exports(exports: list[Export]) -> Merged:
    """The messages of `exports`, which come sorted by sha256; other text, role or parent under a
    known id is refused.
    """
    met = pa.concat_tables([export.met for export in exports] or [MET.empty_table()])
    export = np.repeat(np.arange(len(exports)), [each.met.num_rows for each in exports])
    give_back(met.num_rows)
    code = _codes(met["message_id"])
    give_back(met.num_rows)
    first = np.full(len(code), -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    first = first[code]  # of each message, the row where its id was met first
    differs = np.zeros(len(code), bool)
    copies = np.flatnonzero(first != np.arange(len(code)))
    differs[first[copies[~_same_rows(met, copies, first[copies])]]] = True
    differs = differs[first]
    rows = np.flatnonzero((first == np.arange(len(code))) & ~differs)
    least = np.array(pc.fill_null(met["nested_place"], _NOWHERE), np.int64)
    most = np.array(pc.fill_null(met["nested_place"], -1), np.int64)
    alike = copies[~differs[copies]]
    np.minimum.at(least, first[alike], least[alike])
    np.maximum.at(most, first[alike], most[alike])
    merged = Merged(
        met,
        rows,
        rows,
        export[rows],
        [[] for _ in exports],
        np.bincount(export[alike], minlength=len(exports)).tolist(),
        [Counter() for _ in exports],
    )
    least, most = least[rows], most[rows]
    if differs.any():
        kept = _settle_differing(np.flatnonzero(differs), code, export, exports, merged)
        merged.met = pa.concat_tables([met, _table_of_kept(kept)])
        merged.rows = np.append(rows, np.arange(len(code), merged.met.num_rows))
        merged.export = np.append(merged.export, [each.export for each in kept]).astype(np.int64)
        places = [each.nested_places for each in kept]
        least = np.append(least, [min(each, default=_NOWHERE) for each in places])
        most = np.append(most, [max(each, default=-1) for each in places])
    del code, first, differs, copies, alike
    give_back(met.num_rows)
    merged.place = _places(merged, least, most)
    give_back(met.num_rows)
    return merged


def _codes(texts: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers, from 0, for equal texts."""
    encoded = texts.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy()


def _same_rows(met: pa.Table, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the rows `one` say the same as the rows `other`, in all that is kept of them."""
    same = np.ones(len(one), bool)
    for name in (*CONTENT, *FIELDS):
        if len(one):
            column = met[name]
            ours, theirs = (column.take(pa.array(rows)).combine_chunks() for rows in (one, other))
            same &= _same(ours, theirs)
    return same


def _same(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Whether values are the same or both null; of numbers, bit for bit."""
    if pa.types.is_list(one.type):
        sizes, others = (
            np.array(pc.fill_null(pc.list_value_length(each), -1)) for each in (one, other)
        )
        same = sizes == others
        alike = pa.array(same)
        entries = _same(one.filter(alike).flatten(), other.filter(alike).flatten())
        of = np.repeat(np.flatnonzero(same), np.maximum(sizes[same], 0))
        same[of[~entries]] = False
        return same
    if pa.types.is_struct(one.type):
        fields = zip(one.flatten(), other.flatten(), strict=True)
        return np.logical_and.reduce([_same(*pair) for pair in fields])
    if pa.types.is_floating(one.type):
        one, other = one.view(pa.int64()), other.view(pa.int64())
    equal = pc.fill_null(pc.equal(one, other), False)
    return np.array(pc.or_(equal, pc.and_(pc.is_null(one), pc.is_null(other))))


def _places(merged: Merged, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Each message's place among its siblings, from 0: as exports nest them where those agree about
    all of them, else by rank and id, those without a rank last. A root's is 0.

    `least` and `most` are the places where files nest each. In Open Assistant's own exports both
    orders are the same. The order of a flat file's rows says nothing.
    """
    rows = pa.array(merged.rows)
    parents, ids, rank = (
        merged.met[name].take(rows) for name in ("parent_id", "message_id", "rank")
    )
    below = np.flatnonzero(np.array(parents.is_valid()))
    parent = _codes(parents.take(pa.array(below)))
    least, most = least[below], most[below]
    # A message in two places or none, two messages in one.
    order = np.lexsort((least, parent))
    crowded = order[1:][(np.diff(parent[order]) == 0) & (np.diff(least[order]) == 0)]
    is_told = np.ones(len(parent), bool)
    is_told[parent[crowded]] = is_told[parent[least != most]] = False
    # The others again, where they stand: a parent's are together.
    again = np.flatnonzero(~is_told[parent[order]])
    some = order[again]
    columns = {
        "parent": parent[some],
        "rank": rank.take(pa.array(below[some])),
        "id": ids.take(pa.array(below[some])),
    }
    by = [(name, "ascending") for name in columns]
    order[again] = some[pc.sort_indices(pa.table(columns), by)]
    begins = np.ones(len(order), bool)
    begins[1:] = np.diff(parent[order]) != 0
    at = np.arange(len(order))
    places = np.zeros(len(merged.rows), np.int64)
    places[below[order]] = at - np.maximum.accumulate(np.where(begins, at, 0))
    return places


# ------------------------------------------------------------------------------ copies that differ


def _settle_differing(
    rows: np.ndarray, code: np.ndarray, export: np.ndarray, exports: list[Export], merged: Merged
) -> list[_Kept]:
    """What becomes of the messages in `rows`, whose copies are all among them."""
    groups: dict[tuple[int, int], list[Met]] = {}
    mets = met_of_table(merged.met.take(pa.array(rows)))
    for row, met in zip(rows.tolist(), mets, strict=True):
        groups.setdefault((int(export[row]), int(code[row])), []).append(met)
    kept: dict[int, _Kept] = {}
    for (number, message), group in groups.items():
        _add(message, group, number, kept, exports, merged)
    return list(kept.values())


def _add(
    message: int,
    group: list[Met],
    number: int,
    kept: dict[int, _Kept],
    exports: list[Export],
    merged: Merged,
) -> None:
    standing = kept.get(message)
    first = standing.met if standing else _commonest(group)
    where = exports[standing.export if standing else number].name
    same = [met for met in group if _content(met) == _content(first)]
    for met in group:
        if _content(met) != _content(first):
            detail = _contradiction(first, where, met)
            message_id = str(met.message.message_id)
            merged.refusals[number].append(Refusal(met.at, message_id, "conflict", detail))
    if not same:
        return
    fields, differing = _settled(same)
    places = {met.nested_place for met in same if met.nested_place is not None}
    if standing is None:
        kept[message] = _Kept(first, number, places, fields)
        merged.repeats[number] += len(same) - 1
    else:
        differing |= _filled(standing, fields)
        standing.nested_places |= places
        merged.repeats[number] += len(same)
    merged.conflicts[number].update(differing)


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


def _filled(standing: _Kept, fields: dict[str, Any]) -> set[str]:
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


def _contradiction(first: Met, where: str, met: Met) -> str:
    names = ("text", "role", "parent_id")
    pairs = zip(names, _content(first), _content(met), strict=True)
    other = [name for name, one, two in pairs if one != two]
    return f"line {first.at.line} of {where} has this id with another {', '.join(other)}"


def _content(met: Met) -> tuple[Any, Any, Any]:
    message: Message = met.message
    return message.text, message.role, message.parent_id


def _table_of_kept(kept: list[_Kept]) -> pa.Table:
    table = table_of_met([each.met for each in kept])
    for name in FIELDS:
        kind = table.schema.field(name)
        values = pa.array([each.fields[name] for each in kept], kind.type)
        table = table.set_column(table.schema.get_field_index(name), kind, values)
    return table
