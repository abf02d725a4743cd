"""A second statement of reading, merging and joining: dicts, one message after another.

It reads what the tests write: nested trees and flat messages of sound JSON, one a line, with labels
and emojis as maps.
"""

import json
from collections import Counter
from typing import Any

FIELDS = ["lang", "rank", "deleted", "labels", "emojis", "tree_id", "tree_state"]
Row = dict[str, Any]


def plain_forest(files: list[tuple[str, str, bytes]]) -> tuple[list[Row], list[tuple], list[Row]]:
    """Messages, rejects and counts by file of `files`, each a sha256, a name and its content."""
    kept: dict[str, Row] = {}
    rejects: list[list[tuple]] = []
    counts = []
    for number, (sha256, name, content) in enumerate(sorted(files)):
        met, refused, rows = _read(content)
        rejects.append([(name, *each) for each in refused])
        counts.append(Counter(rows=rows, messages=len(met) + len(refused), merged=0))
        _merge(met, kept, number, name, sha256, rejects[-1], counts[-1], sorted(files))
    _number_siblings(kept)
    for find in (_in_circles, _misfits, _deep, _further_roots):
        for message_id, reason in find(kept).items():
            row = kept.pop(message_id)
            name = row["name"]
            rejects[row["file"]].append((name, row["line"], row["offset"], message_id, reason))
    messages = []
    for row in kept.values():
        top = row
        while top["parent_id"] in kept:
            top = kept[top["parent_id"]]
        tree_id = top["tree_id"] or top["message_id"]
        deleted = bool(row["deleted"])
        messages.append({**row, "tree_id": tree_id, "deleted": deleted})
    messages.sort(key=lambda row: (row["tree_id"], row["message_id"]))
    in_order = [
        each for part in rejects for each in sorted(part, key=lambda one: (one[1], one[3] or ""))
    ]
    return messages, in_order, counts


def _read(content: bytes) -> tuple[list[Row], list[tuple], int]:
    met: list[Row] = []
    refused: list[tuple] = []
    offset = rows = 0
    for line, text in enumerate(content.split(b"\n"), start=1):
        if text.strip():
            rows += 1
            row = json.loads(text)
            for node, place, above in _nodes(row):
                found = _message(node, place, above, row if "prompt" in row else node)
                if isinstance(found, str):
                    refused.append((line, offset, node.get("message_id"), found))
                else:
                    met.append({**found, "line": line, "offset": offset})
        offset += len(text) + 1
    return met, refused, rows


def _nodes(row: Row) -> list[tuple[Row, int | None, Any]]:
    def below(node: Row, place: int, above: Any) -> list[tuple[Row, int | None, Any]]:
        found: list[tuple[Row, int | None, Any]] = [(node, place, above)]
        for number, reply in enumerate(node.get("replies") or []):
            found += below(reply, number, node)
        return found

    return below(row["prompt"], 0, None) if "prompt" in row else [(row, None, None)]


def _message(node: Row, place: int | None, above: Any, tree: Row) -> Row | str:
    parent_id = node.get("parent_id")
    if above is not None:
        above_id = above["message_id"] or None
        parent_id = above_id if parent_id is None else parent_id
        if above_id is None or parent_id != above_id:
            return "parent"
    if not node.get("message_id") or node.get("text") is None or node.get("role") is None:
        return "incomplete"
    if node["role"] not in ("prompter", "assistant"):
        return "role"
    if parent_id == node["message_id"]:
        return "self_parent"
    if "\0" in node["text"]:
        return "nul"
    labels, emojis = (
        None if node.get(name) is None else node[name].items() for name in ("labels", "emojis")
    )
    return {
        "message_id": node["message_id"],
        "parent_id": parent_id,
        "text": node["text"],
        "role": node["role"],
        "lang": node.get("lang"),
        "rank": node.get("rank"),
        "deleted": node.get("deleted"),
        "labels": None if labels is None else [{"name": key, **label} for key, label in labels],
        "emojis": None if emojis is None else [{"name": key, "count": n} for key, n in emojis],
        "tree_id": tree.get("message_tree_id") or node.get("message_tree_id") or None,
        "tree_state": tree.get("tree_state") or node.get("tree_state"),
        "nested": place,
    }


def _content(row: Row) -> tuple[Any, ...]:
    return row["text"], row["role"], row["parent_id"]


def _merge(
    met: list[Row],
    kept: dict[str, Row],
    number: int,
    name: str,
    sha256: str,
    rejects: list[tuple],
    counts: Counter,
    files: list[tuple[str, str, bytes]],
) -> None:
    for message_id in dict.fromkeys(row["message_id"] for row in met):
        group = [row for row in met if row["message_id"] == message_id]
        often = Counter(map(_content, group))
        standing = kept.get(message_id)
        first = standing or min(
            group,
            key=lambda row: (
                -often[_content(row)],
                row["parent_id"] or "",
                row["role"],
                row["text"],
            ),
        )
        same = [row for row in group if _content(row) == _content(first)]
        for row in group:
            if row not in same:
                rejects.append((name, row["line"], row["offset"], message_id, "conflict"))
        if not same:
            continue
        counts["merged"] += len(same) - (standing is None)
        settled = {}
        differing = set()
        for field in FIELDS:
            values = [row[field] for row in same if row[field] is not None]
            if any(_plain(value) != _plain(values[0]) for value in values):
                differing.add(field)
            key = lambda value: json.dumps(value, separators=(",", ":"))  # noqa: E731
            settled[field] = min(values, key=key) if len(values) > 1 else (values or [None])[0]
        if standing is None:
            facts = {"nests": set(), "file": number, "name": name, "source": sha256}
            standing = kept[message_id] = {**first, **settled, **facts}
        else:
            for field, value in settled.items():
                if standing[field] is None:
                    standing[field] = value
                elif value is not None and _plain(value) != _plain(standing[field]):
                    differing.add(field)
        standing["nests"] |= {row["nested"] for row in same if row["nested"] is not None}
        for field in differing:
            counts[f"conflict {field}"] += 1


def _number_siblings(kept: dict[str, Row]) -> None:
    for parent_id in {row["parent_id"] for row in kept.values()}:
        mates = [row for row in kept.values() if row["parent_id"] == parent_id]
        nests = [row["nests"] for row in mates]
        if all(len(each) == 1 for each in nests) and len(set().union(*nests)) == len(mates):
            mates.sort(key=lambda row: min(row["nests"]))
        else:
            mates.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, row["message_id"]))
        for place, row in enumerate(mates):
            row["place"] = 0 if parent_id is None else place


def _plain(value: Any) -> Any:
    return sorted(value, key=lambda each: each["name"]) if isinstance(value, list) else value


def _above(kept: dict[str, Row], row: Row) -> list[str]:
    """Who is above, as far as anybody is, or until somebody comes again."""
    found: list[str] = []
    while row["parent_id"] in kept and row["parent_id"] not in found:
        found.append(row["parent_id"])
        row = kept[row["parent_id"]]
    return found


def _in_circles(kept: dict[str, Row]) -> dict[str, str]:
    return {name: "cycle" for name, row in kept.items() if name in _above(kept, row)}


def _misfits(kept: dict[str, Row]) -> dict[str, str]:
    found = {}
    for name, row in kept.items():
        above = kept.get(row["parent_id"])
        is_root_reply = row["parent_id"] is None and row["role"] == "assistant"
        if is_root_reply or (above and above["role"] == row["role"]):
            found[name] = "alternation"
    return found


def _deep(kept: dict[str, Row]) -> dict[str, str]:
    return {name: "too_deep" for name, row in kept.items() if len(_above(kept, row)) >= 200}


def _further_roots(kept: dict[str, Row]) -> dict[str, str]:
    found = {}
    roots = [
        (row["tree_id"] or name, name) for name, row in kept.items() if row["parent_id"] is None
    ]
    for tree_id in {tree_id for tree_id, _ in roots}:
        names = [name for each, name in roots if each == tree_id]
        first = tree_id if tree_id in names else min(names)
        found |= {name: "several_roots" for name in names if name != first}
    return found
