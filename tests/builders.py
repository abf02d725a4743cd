"""Small forests: a list of messages on screen, as files in every form that Open Assistant's data
comes in.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.export import read_export
from dataset_builder.recipe import Shape
from dataset_builder.shape import examples_of
from dataset_builder.tables import THREADS
from dataset_builder.threads import Tables, make_tables

Rows = list[dict[str, Any]]


def message(
    name: str,
    parent: str | None = None,
    role: str | None = None,
    text: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A message as a flat export writes it. Without a role: a prompter where it has no parent, else
    an assistant.
    """
    return {
        "message_id": name,
        "parent_id": parent,
        "text": f"The text of {name}." if text is None else text,
        "role": role or ("assistant" if parent else "prompter"),
        "lang": "en",
        "tree_state": "ready_for_export",
        "review_result": True,
        **fields,
    }


def prompt(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    """A prompter's message."""
    return message(name, parent, "prompter", **fields)


def reply(
    name: str, parent: str, rank: int | None = None, words: int | None = None, **fields: Any
) -> dict[str, Any]:
    """An assistant's message; of so many words where `words` says."""
    if words is not None:
        fields["text"] = " ".join([name.replace("_", ""), *["word"] * (words - 1)][:words])
    return message(name, parent, "assistant", rank=rank, **fields)


def nested(rows: Iterable[dict[str, Any]]) -> Rows:
    """The flat `rows` as trees, children in the order of the rows; every parent is among them."""
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows}
    trees = []
    for node in nodes.values():
        state = node.pop("tree_state", None)
        tree_id = node.pop("message_tree_id", None)
        if node["parent_id"] is None:
            tree_id = tree_id or node["message_id"]
            trees.append({"message_tree_id": tree_id, "tree_state": state, "prompt": node})
        else:
            nodes[node["parent_id"]]["replies"].append(node)
    return trees


def lines(rows: Iterable[Any]) -> bytes:
    """`rows` as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(out: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes `rows` in the form that the name of `out` says: .trees.jsonl, .jsonl, either with .gz
    or .zst, or .parquet.
    """
    rows = list(rows)
    if out.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), out)
        return out
    content = lines(nested(rows) if ".trees." in out.name else rows)
    if out.suffix == ".gz":
        content = gzip.compress(content)
    if out.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    out.write_bytes(content)
    return out


def tables_of(folder: Path, *files: Sequence[dict[str, Any]], held_out: float = 0.0) -> Tables:
    """The tables of flat files that hold these rows."""
    paths = [write(folder / f"{number}.jsonl", rows) for number, rows in enumerate(files)]
    return make_tables([read_export(path) for path in paths], held_out)


def threads_of(
    folder: Path, rows: Sequence[dict[str, Any]], held_out: float = 0.0
) -> dict[str, dict[str, Any]]:
    """The threads of `rows` by id."""
    return {
        row["thread_id"]: row
        for row in tables_of(folder, rows, held_out=held_out).threads.to_pylist()
    }


def example(thread: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The row of EXAMPLES that `thread` makes; absent columns are null."""
    return examples_of(pa.Table.from_pylist([thread], schema=THREADS.schema), shape).to_pylist()[0]
