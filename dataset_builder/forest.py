"""Messages of several files joined into one forest: each message once, below a parent that fits it.

What two files both hold is merged; what contradicts itself is refused. Nothing here depends on the
order in which files were named or rows were written, but for `place`, which is that order among
siblings.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataset_builder.errors import InputError
from dataset_builder.export import WANTED, Export, Refusal
from dataset_builder.manifest import SourceFile
from dataset_builder.merge import FIELDS, Kept, merge_exports, values_of
from dataset_builder.tables import MESSAGES, REJECTS, checked, table_of
from dataset_builder.words import word_counts

# Messages from root to leaf. The deepest of Open Assistant's has 7; a history is stored with each
# of its replies, so that the cost of a chain grows with its square.
DEPTH = 200


@dataclass(frozen=True)
class Forest:
    """The joined messages, what was refused, and what each file held."""

    messages: pa.Table
    rejects: pa.Table
    files: list[SourceFile]


def join_exports(exports: Iterable[Export]) -> Forest:
    """The forest of all `exports`. Raises InputError where most of a file is refused."""
    # By content, so that naming the files in another order makes the same forest.
    exports = sorted(exports, key=lambda export: (export.sha256, export.name))
    refusals = {id(export): list(export.refusals) for export in exports}
    merged = merge_exports(exports, refusals)
    kept = merged.kept
    for find in (_cycles, _misfits, _depths):
        # Each looks at the links that the one before left: what hangs below a refused message is an
        # orphan.
        for message_id, reason, detail in find(kept):
            gone = kept.pop(message_id)
            refusals[id(gone.export)].append(Refusal(gone.met.at, message_id, reason, detail))
    _settle_trees(kept)
    kept_by_export = Counter(id(each.export) for each in kept.values())
    files = []
    for export in exports:
        refused = Counter(refusal.reason for refusal in refusals[id(export)])
        met = len(export.messages) + len(export.refusals)
        assert met == kept_by_export[id(export)] + refused.total() + merged.repeats[id(export)], (
            export.name
        )
        _refuse_file(export, refused, met)
        files.append(
            SourceFile(
                name=export.name,
                sha256=export.sha256,
                bytes=export.bytes,
                form=export.form,
                rows=export.rows,
                messages=met,
                refused=dict(sorted(refused.items())),
                merged=merged.repeats[id(export)],
                conflicts=dict(sorted(merged.conflicts[id(export)].items())),
            )
        )
    return Forest(_messages_table(kept), _rejects_table(exports, refusals), files)


Refused = tuple[str, str, str]


def _cycles(kept: dict[str, Kept]) -> list[Refused]:
    """Messages that are their own ancestors."""
    found = []
    finished: set[str] = set()
    for start in kept:
        path: dict[str, None] = {}
        at: str | None = start
        while at is not None and at in kept and at not in finished and at not in path:
            path[at] = None
            at = kept[at].parent_id
        if at in path:
            circle = list(path)[list(path).index(at) :]
            found += [
                (each, "cycle", f"one of {len(circle)} messages in a circle") for each in circle
            ]
        finished.update(path)
    return sorted(found)


def _misfits(kept: dict[str, Kept]) -> list[Refused]:
    """Messages by the same side as their parent, and roots that are replies."""
    found = []
    for message_id, each in kept.items():
        message = each.met.message
        parent = kept.get(each.parent_id) if each.parent_id is not None else None
        if each.parent_id is None and message.role == "assistant":
            found.append((message_id, "alternation", "a root by an assistant; wanted a prompter"))
        elif parent and parent.met.message.role == message.role:
            found.append((message_id, "alternation", f"{message.role} below {message.role}"))
    return found


def _depths(kept: dict[str, Kept]) -> list[Refused]:
    """Messages with DEPTH or more above them."""
    depths: dict[str, int] = {}
    for start in kept:
        path = []
        at: str | None = start
        while at is not None and at in kept and at not in depths:
            path.append(at)
            at = kept[at].parent_id
        depth = depths.get(at, 0) if at is not None else 0
        for each in reversed(path):
            depths[each] = depth = depth + 1
    return [
        (each, "too_deep", f"more than {DEPTH} messages deep")
        for each, n in depths.items()
        if n > DEPTH
    ]


def _settle_trees(kept: dict[str, Kept]) -> None:
    """Gives every message the tree of its topmost ancestor: what hangs together is one tree,
    whatever the rows say.
    """
    settled: set[str] = set()
    for start in kept:
        path = []
        at = start
        while at not in settled:
            path.append(at)
            parent_id = kept[at].parent_id
            if parent_id is None or parent_id not in kept:
                break
            at = parent_id
        for each in path:
            kept[each].tree_id = kept[at].tree_id
        settled.update(path)


def _refuse_file(export: Export, refused: Counter[str], met: int) -> None:
    if refused.total() * 2 > met:
        reason, n = refused.most_common(1)[0]
        examples = [refusal for refusal in export.refusals if refusal.reason == reason]
        detail = f"; line {examples[0].at.line}: {examples[0].detail}" if examples else ""
        raise InputError(
            f"{export.name}: {refused.total():,} of {met:,} messages refused, "
            f"{n:,} of them by `{reason}`{detail}",
            WANTED,
        )


def _messages_table(kept: dict[str, Kept]) -> pa.Table:
    # By tree and id, so that the same messages are the same table however they arrived.
    ordered = sorted(kept.items(), key=lambda item: (item[1].tree_id, item[0]))
    rows = [each for _, each in ordered]
    columns: dict[str, list[Any]] = {name: values_of(rows, name) for name in FIELDS}
    columns |= {
        "message_id": [message_id for message_id, _ in ordered],
        "parent_id": [each.parent_id for each in rows],
        "tree_id": [each.tree_id for each in rows],
        "role": [each.met.message.role for each in rows],
        "text": [each.met.message.text for each in rows],
        "place": [each.place for each in rows],
        # An exporter that drops false writes no key at all.
        "deleted": [bool(value) for value in columns["deleted"]],
        "synthetic": [bool(value) for value in columns["synthetic"]],
        "words": word_counts(
            pa.array((each.met.message.text for each in rows), pa.string())
        ).tolist(),
        "source": [each.export.sha256 for each in rows],
    }
    columns = {name: columns[name] for name in MESSAGES.schema.names}
    return checked(pa.table(columns, schema=MESSAGES.schema), MESSAGES)


def _rejects_table(exports: list[Export], refusals: dict[int, list[Refusal]]) -> pa.Table:
    rows = [
        {
            "source": export.name,
            "line": refusal.at.line,
            "byte_offset": refusal.at.byte_offset,
            "message_id": refusal.message_id,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }
        for export in exports
        for refusal in sorted(
            refusals[id(export)], key=lambda each: (each.at.line, each.message_id or "")
        )
    ]
    return table_of(rows, REJECTS)
