"""Messages as columns, between the border and the forest: one row for each message met, its fields
in the one form that all exports share.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dataset_builder.lines import Place
from dataset_builder.messages import Message, emojis_of, known, labels_of
from dataset_builder.rows import Met
from dataset_builder.tables import MESSAGES

# What makes two messages of one id the same, and what two copies may differ in.
CONTENT = ("text", "role", "parent_id")
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

# A message, and where it was met.
MET = pa.schema(
    [
        *(MESSAGES.schema.field(name) for name in ("message_id", *CONTENT, *FIELDS)),
        ("nested_place", pa.int32()),  # among its siblings where the file nests them
        ("line", pa.int64()),  # from 1; of parquet, the row from 1
        ("byte_offset", pa.int64()),  # of the line in the unpacked file; null for parquet
    ]
)


def table_of_met(mets: Sequence[Met]) -> pa.Table:
    """The table of messages that were read one by one."""
    messages = [met.message for met in mets]
    columns: dict[str, list[Any]] = {
        "message_id": [message.message_id for message in messages],
        "parent_id": [message.parent_id for message in messages],
        "role": [message.role for message in messages],
        "text": [message.text for message in messages],
        "nested_place": [met.nested_place for met in mets],
        "line": [met.at.line for met in mets],
        "byte_offset": [met.at.byte_offset for met in mets],
    }
    columns |= {name: [value_of(met, name) for met in mets] for name in FIELDS}
    return pa.table({name: columns[name] for name in MET.names}, schema=MET)


def met_of_table(table: pa.Table) -> list[Met]:
    """The messages of a table of them one by one, for what needs looking at each."""
    return [_met(row) for row in table.to_pylist()]


def value_of(met: Met, name: str) -> Any:
    """The field `name` of a message in the one form that all exports share; None where unknown."""
    if name == "labels":
        return labels_of(met.message)
    if name == "emojis":
        return emojis_of(met.message)
    if name == "tree_id":
        return met.tree_id
    if name == "tree_state":
        # Wherever its row says it.
        return met.tree_state or known(met.message.tree_state)
    return known(getattr(met.message, name))


def _met(row: dict[str, Any]) -> Met:
    labels, emojis = row.pop("labels"), row.pop("emojis")
    place, at = row.pop("nested_place"), Place(row.pop("line"), row.pop("byte_offset"))
    tree_id, tree_state = row.pop("tree_id"), row["tree_state"]
    message = Message(
        **row,
        labels=None if labels is None else _lists(labels, "name", "value", "count"),
        emojis=None if emojis is None else _lists(emojis, "name", "count"),
    )
    return Met(message, tree_id, tree_state, place, at)


def _lists(entries: list[dict[str, Any]], *keys: str) -> dict[str, Any]:
    return {key: [entry[key] for entry in entries] for key in keys}
