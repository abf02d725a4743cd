"""A variant's rows in forms that other programs read."""

import json
from pathlib import Path

from dataset_builder.artifacts import building, write_text
from dataset_builder.variant import Plan


def write_messages(plan: Plan, out: Path) -> None:
    """Write train.jsonl and val.jsonl, `{"messages": [{"role": …, "content": …}, …]}` a line, into
    the directory `out`.
    """
    with building(out) as directory:
        for file, rows in (("train.jsonl", plan.train), ("val.jsonl", plan.validation)):
            lines = [
                json.dumps({"messages": [*row["prompt"], *row["completion"]]}, ensure_ascii=False)
                for row in rows.to_pylist()
            ]
            write_text("".join(f"{line}\n" for line in lines), directory / file)
