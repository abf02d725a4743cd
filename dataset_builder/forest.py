"""Messages of several files joined into one forest: each message once, below a parent that fits it.

What two files both hold is merged; what contradicts itself is refused. Nothing here depends on the
order in which files were named or rows were written.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.columns import MET
from dataset_builder.errors import InputError
from dataset_builder.export import Export
from dataset_builder.gather import Strings
from dataset_builder.lines import Place
from dataset_builder.manifest import SourceFile
from dataset_builder.memory import give_back
from dataset_builder.merge import Merged, merge_exports
from dataset_builder.rows import Refusal
from dataset_builder.shards import WANTED
from dataset_builder.tables import MESSAGES, REJECTS, table_of
from dataset_builder.words import word_counts

# Messages from root to leaf. The deepest of Open Assistant's has 7; a history is stored with each
# of its replies, so that the cost of a chain grows with its square.
DEPTH = 200

# Texts that become one array.
PIECE_ROWS = 2**17

# And values that are all the same.
ALIKE_ROWS = 2**13


@dataclass(frozen=True)
class Forest:
    """The joined messages, what was refused, and what each file held."""

    messages: pa.Table
    rejects: pa.Table
    files: list[SourceFile]


@dataclass
class _Links:
    """The messages that stand, by number: which is above which."""

    ids: pa.ChunkedArray
    trees: pa.ChunkedArray  # as their rows say
    role: pa.ChunkedArray
    is_root: np.ndarray  # names no parent
    parent: np.ndarray  # the number of the message above; -1 where there is none
    standing: np.ndarray

    def refuse(self, gone: list[int]) -> None:
        """Takes messages out. What hangs below them is an orphan."""
        self.standing[gone] = False
        self.parent[~self.standing] = -1
        above = np.flatnonzero(self.parent >= 0)
        self.parent[above[~self.standing[self.parent[above]]]] = -1


# Reasons and details by the number of the message.
Refused = dict[int, tuple[str, str]]


def join_exports(exports: Iterable[Export]) -> Forest:
    """The forest of all `exports`. Raises InputError where most of a file is refused.

    Of exports that come by an iterator no column is held twice.
    """
    # By content, so that naming the files in another order makes the same forest.
    exports = sorted(exports, key=lambda export: (export.sha256, export.name))
    merged = merge_exports(exports)
    counts = [export.met.num_rows + len(export.refusals) for export in exports]
    exports = [replace(export, met=MET.empty_table()) for export in exports]
    refusals = [
        [*export.refusals, *more] for export, more in zip(exports, merged.refusals, strict=True)
    ]
    links = _links(merged)
    for find in (_cycles, _misfits, _depths, _further_roots):
        # Each looks at the links that the one before left.
        found = find(links)
        for number, (reason, detail) in found.items():
            row = int(merged.rows[number])
            at = Place(merged.met["line"][row].as_py(), merged.met["byte_offset"][row].as_py())
            refusal = Refusal(at, links.ids[number].as_py(), reason, detail)
            refusals[merged.export[number]].append(refusal)
        links.refuse(list(found))
    kept = np.bincount(merged.export[links.standing], minlength=len(exports))
    files = []
    for number, export in enumerate(exports):
        refused = Counter(refusal.reason for refusal in refusals[number])
        met = counts[number]
        assert met == kept[number] + refused.total() + merged.repeats[number], export.name
        _refuse_file(export, refusals[number], met)
        files.append(
            SourceFile(
                name=export.name,
                sha256=export.sha256,
                bytes=export.bytes,
                form=export.form,
                rows=export.rows,
                messages=met,
                refused=dict(sorted(refused.items())),
                merged=merged.repeats[number],
                conflicts=dict(sorted(merged.conflicts[number].items())),
            )
        )
    messages = _messages_table(merged, links, [export.sha256 for export in exports])
    return Forest(messages, _rejects_table(exports, refusals), files)


def _links(merged: Merged) -> _Links:
    rows = pa.array(merged.rows)
    ids, trees, parents, role = (
        merged.met[name].take(rows) for name in ("message_id", "tree_id", "parent_id", "role")
    )
    # Nobody is named null.
    parent = pc.fill_null(pc.index_in(parents, value_set=ids, skip_nulls=True), -1)
    return _Links(
        ids,
        pc.coalesce(trees, ids),
        role,
        np.array(parents.is_null()),
        np.array(parent, np.int64),
        np.ones(len(rows), bool),
    )


def _cycles(links: _Links) -> Refused:
    """Messages that are their own ancestors."""
    above, _, _ = _lifted(links.parent)
    # Who still has somebody above after so many steps has come into a circle, and all of a circle
    # is come to.
    found: Refused = {}
    for start in np.unique(above[above >= 0]).tolist():
        if start in found:
            continue
        circle = [start]
        while (onward := int(links.parent[circle[-1]])) != start:
            circle.append(onward)
        found |= dict.fromkeys(circle, ("cycle", f"one of {len(circle)} messages in a circle"))
    return found


def _misfits(links: _Links) -> Refused:
    """Messages by the same side as their parent, and roots that are replies."""
    is_reply = np.array(pc.equal(links.role, "assistant"))
    roots = np.flatnonzero(links.standing & links.is_root & is_reply)
    root = ("alternation", "a root by an assistant; wanted a prompter")
    found: Refused = dict.fromkeys(roots.tolist(), root)
    same = (links.parent >= 0) & (is_reply == is_reply[links.parent])
    for number in np.flatnonzero(same).tolist():
        role = links.role[number].as_py()
        found[number] = ("alternation", f"{role} below {role}")
    return found


def _depths(links: _Links) -> Refused:
    """Messages with DEPTH or more above them."""
    _, _, depth = _lifted(links.parent)
    refused = ("too_deep", f"more than {DEPTH} messages deep")
    return dict.fromkeys(np.flatnonzero(depth > DEPTH).tolist(), refused)


def _further_roots(links: _Links) -> Refused:
    """All but one of the roots that name the same tree: the one with the tree's id stands, else the
    first by id.
    """
    numbers = np.flatnonzero(links.standing & links.is_root)
    roots = pa.table({"tree": links.trees.take(numbers), "id": links.ids.take(numbers)})
    is_other = pc.not_equal(roots["tree"], roots["id"])
    roots = roots.append_column("is_other", is_other)
    order = pc.sort_indices(roots, [(name, "ascending") for name in ("tree", "is_other", "id")])
    tree = roots["tree"].take(order).combine_chunks()
    again = np.flatnonzero(pc.equal(tree[1:], tree[:-1])) + 1
    found: Refused = {}
    for place in again.tolist():
        detail = f"tree {tree[place]} has another root"
        found[int(numbers[order[place].as_py()])] = ("several_roots", detail)
    return found


def _lifted(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each message: who is above its topmost known ancestor, -1 but for circles; that ancestor;
    and how many messages there are from it down. Each round sees twice as far.
    """
    above, top, depth = parent.copy(), np.arange(len(parent)), np.ones(len(parent), np.int64)
    below = np.flatnonzero(above >= 0)
    for _ in range(len(parent).bit_length()):
        if not len(below):
            break
        onward = above[below]
        above[below], top[below] = above[onward], top[onward]
        depth[below] += depth[onward]
        below = below[above[below] >= 0]
    return above, top, depth


def _refuse_file(export: Export, refusals: list[Refusal], met: int) -> None:
    if len(refusals) * 2 > met:
        reason, n = Counter(each.reason for each in refusals).most_common(1)[0]
        first = min((each for each in refusals if each.reason == reason), key=lambda each: each.at)
        raise InputError(
            f"{export.path or export.name}: {len(refusals):,} of {met:,} messages refused, "
            f"{n:,} of them by `{reason}`; line {first.at.line}: {first.detail}",
            WANTED,
        )


def _messages_table(merged: Merged, links: _Links, sources: list[str]) -> pa.Table:
    """The messages by tree and id, so that the same ones are the same table however they arrived.

    What hangs together is one tree, whatever the rows say: that of its topmost message.
    """
    _, top, _ = _lifted(links.parent)
    give_back(len(top))
    met, tops = merged.met, pa.array(merged.rows[top])
    tree_ids = pc.coalesce(met["tree_id"].take(tops), met["message_id"].take(tops))
    numbers = np.flatnonzero(links.standing)
    keys = pa.table({"tree_id": tree_ids, "message_id": links.ids}).take(pa.array(numbers))
    by_key = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    numbers = numbers[by_key]
    columns = {
        "tree_id": keys["tree_id"].take(by_key),
        "place": pa.array(merged.place[numbers], pa.int32()),
        "source": _sources(merged.export[numbers], sources),
    }
    # Each is let go of when it is taken.
    left = {name: met[name] for name in met.column_names if name in MESSAGES.schema.names}
    merged.met = met = MET.empty_table()
    rows = merged.rows[numbers]
    del keys, tree_ids, tops, top, by_key, numbers
    give_back(len(rows))
    with ThreadPoolExecutor(1) as beside:
        columns["text"] = _taken(left.pop("text"), rows)
        words = beside.submit(_words, columns["text"])
        for name in list(left):
            column = left.pop(name)
            if name not in columns:
                columns[name] = _taken(column, rows)
            del column
        columns["words"] = words.result()
    # An exporter that drops false writes no key at all.
    for name in ("deleted", "synthetic"):
        columns[name] = pc.fill_null(columns[name], False)
    pa.default_memory_pool().release_unused()
    # Of one id each, which is not looked at again before it is written.
    return pa.table({name: columns[name] for name in MESSAGES.schema.names}, MESSAGES.schema)


def _sources(numbers: np.ndarray, sources: list[str]) -> pa.ChunkedArray:
    """The source of each message. Where there is but one, all pieces are the same one."""
    if len(sources) > 1:
        return pa.chunked_array([pa.array(sources, pa.string()).take(pa.array(numbers))])
    piece = pa.array(sources * min(len(numbers), ALIKE_ROWS), pa.string())
    begins = range(0, len(numbers), ALIKE_ROWS)
    return pa.chunked_array([piece[: len(numbers) - at] for at in begins], pa.string())


def _taken(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """The values in these rows, texts a piece at a time: 2 GiB is the most that one array of
    Arrow's strings can hold.
    """
    if not pa.types.is_string(column.type):
        return column.take(pa.array(rows))
    texts = Strings(column)
    pieces = [rows[begin : begin + PIECE_ROWS] for begin in range(0, len(rows), PIECE_ROWS)]
    return pa.chunked_array([texts.take(piece) for piece in pieces], pa.string())


def _words(texts: pa.ChunkedArray) -> pa.Array:
    return pa.array(word_counts(texts), pa.int32())


def _rejects_table(exports: list[Export], refusals: list[list[Refusal]]) -> pa.Table:
    rows = [
        {
            "source": export.name,
            "line": refusal.at.line,
            "byte_offset": refusal.at.byte_offset,
            "message_id": refusal.message_id,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }
        for export, refused in zip(exports, refusals, strict=True)
        for refusal in sorted(refused, key=lambda each: (each.at.line, each.message_id or ""))
    ]
    return table_of(rows, REJECTS)
