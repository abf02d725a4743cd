"""Messages of several files joined into one forest: each message once, below a parent that fits it.

What two files both hold is merged; what contradicts itself is refused. Nothing here depends on the
order in which files were named or rows were written, but for `place`, which is that order among
siblings.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pyarrow as pa

from dataset_builder.errors import InputError
from dataset_builder.export import WANTED, Export, Label, Met, Refusal
from dataset_builder.manifest import SourceFile
from dataset_builder.tables import MESSAGES, REJECTS, checked, table_of
from dataset_builder.words import count_words

# Messages from root to leaf. The deepest of Open Assistant's has 7; a history is stored with each
# of its replies, so that the cost of a chain grows with its square.
DEPTH = 200


@dataclass(frozen=True)
class Forest:
    """The joined messages, what was refused, and what each file held."""

    messages: pa.Table
    rejects: pa.Table
    files: list[SourceFile]


@dataclass
class _Kept:
    """A message that stands in the forest so far; `place` and `tree_id` are settled."""

    met: Met
    export: Export
    place: int
    tree_id: str


def join_exports(exports: Iterable[Export]) -> Forest:
    """The forest of all `exports`. Raises InputError where most of a file is refused."""
    # By content, so that naming the files in another order makes the same forest.
    exports = sorted(exports, key=lambda export: export.sha256)
    refusals = {id(export): list(export.refusals) for export in exports}
    kept, merged = _merged(exports, refusals)
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
        assert met == kept_by_export[id(export)] + refused.total() + merged[id(export)], export.name
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
                merged=merged[id(export)],
            )
        )
    return Forest(_messages_table(kept), _rejects_table(exports, refusals), files)


def _merged(
    exports: list[Export], refusals: dict[int, list[Refusal]]
) -> tuple[dict[str, _Kept], Counter[int]]:
    """Each message once, by id, and how many of each file stood already; other content under a
    known id is refused.
    """
    kept: dict[str, _Kept] = {}
    merged: Counter[int] = Counter()
    for export in exports:
        places: dict[str | None, Callable[[], int]] = defaultdict(lambda: count().__next__)
        for met in export.messages:
            message = met.message
            message_id = message.message_id or ""
            first = kept.get(message_id)
            if first is None:
                place = (
                    places[message.parent_id]() if met.nested_place is None else met.nested_place
                )
                kept[message_id] = _Kept(met, export, place, met.tree_id or message_id)
            elif _content(first.met) == _content(met):
                merged[id(export)] += 1
            else:
                names = ("text", "role", "parent_id")
                pairs = zip(names, _content(first.met), _content(met), strict=True)
                other = [name for name, one, two in pairs if one != two]
                earlier = f"line {first.met.at.line} of {first.export.name}"
                detail = f"{earlier} has this id with another {', '.join(other)}"
                refusals[id(export)].append(Refusal(met.at, message_id, "conflict", detail))
    return kept, merged


def _content(met: Met) -> tuple[str | None, str | None, str | None]:
    return met.message.text, met.message.role, met.message.parent_id


Refused = tuple[str, str, str]


def _cycles(kept: dict[str, _Kept]) -> list[Refused]:
    """Messages that are their own ancestors."""
    found = []
    finished: set[str] = set()
    for start in kept:
        path: dict[str, None] = {}
        at: str | None = start
        while at is not None and at in kept and at not in finished and at not in path:
            path[at] = None
            at = kept[at].met.message.parent_id
        if at in path:
            circle = list(path)[list(path).index(at) :]
            found += [
                (each, "cycle", f"one of {len(circle)} messages in a circle") for each in circle
            ]
        finished.update(path)
    return sorted(found)


def _misfits(kept: dict[str, _Kept]) -> list[Refused]:
    """Messages by the same side as their parent, and roots that are replies."""
    found = []
    for message_id, each in kept.items():
        message = each.met.message
        parent = kept.get(message.parent_id) if message.parent_id is not None else None
        if message.parent_id is None and message.role == "assistant":
            found.append((message_id, "alternation", "a root by an assistant; wanted a prompter"))
        elif parent and parent.met.message.role == message.role:
            found.append((message_id, "alternation", f"{message.role} below {message.role}"))
    return found


def _depths(kept: dict[str, _Kept]) -> list[Refused]:
    """Messages with DEPTH or more above them."""
    depths: dict[str, int] = {}
    for start in kept:
        path = []
        at: str | None = start
        while at is not None and at in kept and at not in depths:
            path.append(at)
            at = kept[at].met.message.parent_id
        depth = depths.get(at, 0) if at is not None else 0
        for each in reversed(path):
            depths[each] = depth = depth + 1
    return [
        (each, "too_deep", f"more than {DEPTH} messages deep")
        for each, n in depths.items()
        if n > DEPTH
    ]


def _settle_trees(kept: dict[str, _Kept]) -> None:
    """Gives every message the tree of its topmost ancestor: what hangs together is one tree,
    whatever the rows say.
    """
    settled: set[str] = set()
    for start in kept:
        path = []
        at = start
        while at not in settled:
            path.append(at)
            parent_id = kept[at].met.message.parent_id
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


def _messages_table(kept: dict[str, _Kept]) -> pa.Table:
    # By tree and id, so that the same messages are the same table however they arrived.
    ordered = sorted(kept.items(), key=lambda item: (item[1].tree_id, item[0]))
    columns: dict[str, list[Any]] = {name: [] for name in MESSAGES.schema.names}
    for message_id, each in ordered:
        message = each.met.message
        values = {
            "message_id": message_id,
            "parent_id": message.parent_id,
            "tree_id": each.tree_id,
            "tree_state": each.met.tree_state or message.tree_state,
            "role": message.role,
            "lang": message.lang,
            "text": message.text,
            "rank": message.rank,
            "place": each.place,
            # An exporter that drops false writes no key at all.
            "deleted": bool(message.deleted),
            "synthetic": bool(message.synthetic),
            "model_name": message.model_name,
            "review_result": message.review_result,
            "review_count": message.review_count,
            "created_date": message.created_date,
            "labels": _labels(message.labels),
            "emojis": _emojis(message.emojis),
            "words": count_words(message.text or ""),
            "source": each.export.sha256,
        }
        for name, value in values.items():
            columns[name].append(value)
    return checked(pa.table(columns, schema=MESSAGES.schema), MESSAGES)


def _labels(labels: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if labels is None:
        return None
    if isinstance(labels.get("name"), list):
        names, values, counts = (labels.get(key) or [] for key in ("name", "value", "count"))
        return [
            {"name": name, "value": value, "count": n}
            for name, value, n in zip(names, values, counts, strict=False)
        ]
    return [
        {"name": name, "value": label.value, "count": label.count}
        for name, label in labels.items()
        if isinstance(label, Label)
    ]


def _emojis(emojis: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if emojis is None:
        return None
    if isinstance(emojis.get("name"), list):
        pairs = zip(emojis["name"], emojis.get("count") or [], strict=False)
        return [{"name": name, "count": n} for name, n in pairs]
    return [{"name": name, "count": n} for name, n in emojis.items() if isinstance(n, int)]


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
