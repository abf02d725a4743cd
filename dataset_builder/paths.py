"""The way down to every message, in arrays: what a recursive query would carry from row to row.

Messages go by number, their place in the order of their ids, so that a step up is one look into an
array, and a fact about whole paths is carried from level to level. Texts are copied once, at the
end, where a history needs them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.gather import Selected, Strings
from dataset_builder.tables import THREADS

# So many bytes of text stand in one chunk at most, but for a row that has more alone: Arrow's
# plain strings end at two gigabytes.
CHUNK_BYTES = 2**28

# What SQL decides by, beside numbers.
DECIDING = ("role", "rank", "place", "deleted", "synthetic", "review_result", "tree_state")

LABELS = THREADS.schema.field("labels").type

Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Numbered(NamedTuple):
    """A table of messages by number."""

    messages: pa.Table
    rows: np.ndarray  # int64: where message n stands in the table
    parents: np.ndarray  # int64: the number of n's parent; -1 at a root and below a gap
    depths: np.ndarray  # int64: the messages above n that are there
    levels: list[np.ndarray]  # the numbers of each depth
    trees: pa.DictionaryArray  # of n, with a number for each tree
    frame: pa.Table  # what SQL reads: numbers for ids, and no text
    ids: pa.Array  # of n
    texts: Strings  # of the table's rows
    path_bytes: np.ndarray  # int64: of the texts on the path down to n, its own included


def numbered(messages: pa.Table) -> Numbered:
    """`messages` by number. A parent that is missing gets a number that no message has, so that
    its replies are still siblings.
    """
    rows = pa.array(_order_of(whole(messages["message_id"])))
    narrow = messages.select(["message_id", "parent_id", "tree_id", *DECIDING])
    narrow = narrow.take(rows).combine_chunks()
    parent_ids, ids = (whole(narrow[name]) for name in ("parent_id", "message_id"))
    found = pc.index_in(parent_ids, value_set=ids)
    gaps = pc.if_else(pc.is_null(found), parent_ids, None).dictionary_encode().indices
    parents = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    depths = _depths(parents)
    order = np.argsort(depths, kind="stable")
    levels = np.split(order, np.cumsum(np.bincount(depths))[:-1]) if len(order) else []
    trees = whole(narrow["tree_id"]).dictionary_encode()
    frame = narrow.drop(["message_id", "parent_id", "tree_id"])
    numbers = {
        "message_id": np.arange(len(ids), dtype=np.int32),
        "parent_id": pc.coalesce(found, pc.add(gaps, pa.scalar(len(ids), pa.int32()))),
        "tree_id": trees.indices,
    }
    for name, column in numbers.items():
        frame = frame.append_column(name, pa.array(column, pa.int32()))
    texts = Strings(messages["text"])
    order = rows.to_numpy()
    sizes = _byte_lengths(messages["text"])[order]
    fields = messages, order, parents, depths, levels, trees, frame, ids, texts, sizes
    forest = Numbered(*fields)
    return forest._replace(path_bytes=carried(forest, sizes, np.add))


def _order_of(ids: pa.Array) -> np.ndarray:
    """The places of `ids` (strings, no two alike) in their order, by bytes."""
    # The first eight bytes part nearly all; numbers are sorted at once.
    heads = pc.binary_slice(ids.cast(pa.binary()), 0, 8)
    heads = pc.binary_join_element_wise(heads, bytes(8), b"")
    heads = pc.binary_slice(heads, 0, 8).cast(pa.binary(8))
    first = np.frombuffer(heads.buffers()[1], ">u8").astype(np.uint64)
    order = np.argsort(first, kind="stable")
    is_tied = np.flatnonzero(np.diff(first[order]) == 0)
    if len(is_tied) > len(ids) // 100:
        return pc.sort_indices(ids).to_numpy()
    for begin in is_tied[np.diff(is_tied, prepend=-2) > 1].tolist():
        end = begin + 1
        while end < len(order) and first[order[end]] == first[order[begin]]:
            end += 1
        tied = order[begin:end]
        order[begin:end] = tied[pc.sort_indices(ids.take(pa.array(tied))).to_numpy()]
    return order


def carried(forest: Numbered, own: np.ndarray, combine: Combine) -> np.ndarray:
    """What every message's path says: `own` at its top, and below it what is `combine`d of the path
    above and of the message itself.
    """
    found = own.copy()
    for level in forest.levels[1:]:
        found[level] = combine(found[forest.parents[level]], own[level])
    return found


def distinct_on_paths(forest: Numbered, values: pa.Array) -> pa.Array:
    """Of each message, the distinct `values` (strings by number, none of them null) on its path,
    sorted.
    """
    encoded = values.dictionary_encode()
    names, own = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
    # Few sets are met, however many paths: each gets a number when it is.
    sets: list[tuple[str, ...]] = [()]
    known: dict[tuple[str, ...], int] = {(): 0}

    def add(above: np.ndarray, here: np.ndarray) -> np.ndarray:
        pairs, which = np.unique(above * len(names) + here, return_inverse=True)
        grown = []
        for pair in pairs.tolist():
            at, name = divmod(pair, len(names))
            members = tuple(sorted({*sets[at], names[name]}))
            grown.append(known.setdefault(members, len(known)))
            if grown[-1] == len(sets):
                sets.append(members)
        return np.array(grown, np.int64)[which]

    found = add(np.zeros(len(own), np.int64), own)
    for level in forest.levels[1:]:
        found[level] = add(found[forest.parents[level]], own[level])
    return pa.array(sets, pa.list_(pa.string())).take(pa.array(found))


def sorted_labels(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of {name, value, count} as lists of {name, value}, by name, then by value."""
    return pa.chunked_array([_sorted_labels(chunk) for chunk in labels.chunks], LABELS)


def above(forest: Numbered, places: np.ndarray) -> np.ndarray:
    """The numbers of the parents of `places`; -1 of -1."""
    return np.where(places < 0, -1, forest.parents[places])


def taken(column: pa.ChunkedArray, forest: Numbered, places: np.ndarray) -> pa.ChunkedArray:
    """`column` of the messages with the numbers `places`; null at -1."""
    if not pa.types.is_string(column.type):
        return _chunked(column.take(pa.array(forest.rows[places], mask=places < 0)))
    views = Strings(column)
    sizes = _byte_lengths(column)[forest.rows[places]] * (places >= 0)
    found = [_gathered(views, forest, places[start:end]) for start, end in _chunks(sizes)]
    return pa.chunked_array(found, column.type)


def chunked_texts(forest: Numbered, places: np.ndarray) -> pa.ChunkedArray:
    """The texts of the messages with the numbers `places`, however many; null at -1."""
    # A text is no longer than its path.
    sizes = forest.path_bytes[places] * (places >= 0)
    found = [texts_of(forest, places[start:end]) for start, end in _chunks(sizes)]
    return pa.chunked_array(found, pa.string())


def batches_of(forest: Numbered, places: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Slices of `places` (numbers) of so many rows at most, and of CHUNK_BYTES of text on their
    paths.
    """
    for start in range(0, len(places), rows):
        for begin, end in _chunks(forest.path_bytes[places[start : start + rows]]):
            yield start + begin, start + end


def texts_of(forest: Numbered, places: np.ndarray) -> pa.Array:
    """The texts of the messages with the numbers `places`, 2 GiB at most; null at -1."""
    return _gathered(forest.texts, forest, places)


def selected(forest: Numbered, places: np.ndarray) -> pa.ChunkedArray | Selected:
    """The texts of the messages with the numbers `places`; copied where that is little."""
    sizes = _byte_lengths(forest.messages["text"])[forest.rows[places]]
    if sizes.sum() > CHUNK_BYTES:
        bounds = list(_chunks(sizes, CHUNK_BYTES // 8))
        return Selected(forest.texts, forest.rows[places], bounds)
    return pa.chunked_array([texts_of(forest, places)], pa.string())


def path_to(forest: Numbered, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the messages from the top of the path of each of `ends` (numbers; -1 for none)
    down to it, and where each path begins among them.
    """
    lengths = np.where(ends < 0, 0, forest.depths[ends] + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    turns = np.empty(offsets[-1], np.int64)
    # From the last message of each path up, a step at a time for all.
    places, at = offsets[1:][ends >= 0] - 1, ends[ends >= 0]
    while len(at):
        turns[places] = at
        at = forest.parents[at]
        places, at = places[at >= 0] - 1, at[at >= 0]
    return turns, offsets


def histories(forest: Numbered, ends: np.ndarray, type_: pa.DataType) -> pa.ChunkedArray:
    """For each of `ends` (numbers; -1 for none) the messages from the top of its path down to it,
    as lists of structs of the type `type_` (message_id, role, text).
    """
    sizes = forest.path_bytes[ends] * (ends >= 0)
    found = [_histories(forest, ends[start:end], type_) for start, end in _chunks(sizes)]
    return pa.chunked_array(found, type_)


def _histories(forest: Numbered, ends: np.ndarray, type_: pa.DataType) -> pa.Array:
    turns, offsets = path_to(forest, ends)
    told = {
        "message_id": forest.ids.take(pa.array(turns)),
        "role": whole(forest.frame["role"]).take(pa.array(turns)),
        "text": texts_of(forest, turns),
    }
    fields = [told[field.name] for field in type_.value_type]
    structs = pa.StructArray.from_arrays(fields, fields=list(type_.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=type_)


def _sorted_labels(labels: pa.Array) -> pa.Array:
    flat = labels.flatten()
    names, values = flat.field("name").dictionary_encode(), flat.field("value")
    lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy()
    # Dictionary codes in the order of the names.
    ranks = np.argsort(pc.sort_indices(names.dictionary).to_numpy())
    lists = np.repeat(np.arange(len(lengths)), lengths)
    keys = lists * len(ranks) + ranks[names.indices.to_numpy()]
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        # A name stands twice in a list. Null is NaN here and comes last.
        order = np.lexsort([values.to_numpy(zero_copy_only=False), keys])
    entries = flat.take(pa.array(order))
    fields = [entries.field(field.name) for field in LABELS.value_type]
    structs = pa.StructArray.from_arrays(fields, fields=list(LABELS.value_type))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), structs, type=LABELS, mask=labels.is_null()
    )


def _gathered(strings: Strings, forest: Numbered, places: np.ndarray) -> pa.Array:
    return strings.take(np.where(places < 0, -1, forest.rows[places]))


def _depths(parents: np.ndarray) -> np.ndarray:
    depths = np.zeros(len(parents), np.int64)
    below = np.flatnonzero(parents >= 0)
    at = parents[below]
    while len(below):
        depths[below] += 1
        at = parents[at]
        below, at = below[at >= 0], at[at >= 0]
    return depths


def _byte_lengths(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)


def _chunks(sizes: np.ndarray, most: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Slices of rows of so many bytes each that have at most `most` together, or one row."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield start, end
        start = end


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """`column` as one array."""
    if isinstance(column, pa.Array):
        return column
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    )


def _chunked(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
