"""The reader that Open Assistant's users have: `oasst_data`'s models under the Pydantic it pins.

Runs alone, in an environment that holds Pydantic 1.10 as compiled code and nothing of treetune:
`python bench/pydantic1.py FILE` prints rows, seconds and gigabytes as `bench.data` does. The
declarations are those of the contender `pydantic`; the reading is `oasst_data`'s: `json.loads`,
then `parse_obj_as`, then a walk that calls itself.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pydantic


class Label(pydantic.BaseModel):
    value: float | None
    count: int


class Message(pydantic.BaseModel):
    message_id: str
    parent_id: str | None
    user_id: str | None
    text: str
    role: str
    lang: str | None
    rank: int | None
    review_count: int | None
    review_result: bool | None
    deleted: bool | None
    synthetic: bool | None
    model_name: str | None
    created_date: str | None
    emojis: dict[str, int] | None
    labels: dict[str, Label] | None
    detoxify: dict[str, float] | None
    replies: list[Message] | None


class Tree(pydantic.BaseModel):
    message_tree_id: str
    tree_state: str | None
    prompt: Message | None


def threads(path: Path) -> int:
    """How many threads were made: one per reply."""
    found: list[dict[str, Any]] = []

    def visit(node: Message, above: list[Message], tree: Tree) -> None:
        if node.role == "assistant":
            *history, question = above
            found.append(
                {
                    "thread_id": node.message_id,
                    "tree_id": tree.message_tree_id,
                    "history": [{"role": each.role, "text": each.text} for each in history],
                    "question": question.text,
                    "reply": node.text,
                    "rank": node.rank,
                    "words": len(node.text.split()),
                }
            )
        for reply in node.replies or []:
            visit(reply, [*above, node], tree)

    with path.open(encoding="utf-8") as file:
        for line in file:
            tree = pydantic.parse_obj_as(Tree, json.loads(line))
            if tree.prompt is not None:
                visit(tree.prompt, [], tree)
    return len(found)


def main() -> None:
    """Print the figures of one reading; a first, tiny one pays for what is made once."""
    # Without its compiled code it would be unfairly slow.
    if not pydantic.VERSION.startswith("1.10.") or not pydantic.compiled:
        sys.exit(f"pydantic {pydantic.VERSION} is not a compiled 1.10")
    if not sys.argv[1:]:
        return
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, path.open("rb") as file:
        small = Path(folder) / "small.jsonl"
        small.write_bytes(b"".join(file.readline() for _ in range(40)))
        threads(small)
    began = time.perf_counter()
    rows = threads(path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "gigabytes": peak / 1e9}))


if __name__ == "__main__":
    main()
