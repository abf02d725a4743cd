"""`just bench data`: from an export to threads and a variant, against what users would write.

Every contender runs in a process of its own, one after another, on the same file; the ratios of one
run are what counts. Times leave out the interpreter's start and imports.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.forest import write_forest, write_prompts
from dataset_builder.artifacts import artifacts_root

OASST2 = 135_000  # messages


def treetune_threads(path: Path) -> int:
    """The border, the join, the split and the threads with all their texts, some rows at a time;
    nothing is held out, as by the others.
    """
    from dataset_builder.export import read_export
    from dataset_builder.forest import join_exports
    from dataset_builder.threads import thread_messages

    threads, _, _ = thread_messages(join_exports([read_export(path)]).messages, 0.0)
    return sum(rows.num_rows for rows in threads.batches())


def treetune_build(path: Path) -> int:
    """A whole build: every usable English reply, near-duplicate rows and those that meet a file of
    1,000 prompts dropped, written with all its tables.
    """
    from dataset_builder.contamination import read_against

    prompts = path.with_name("prompts-1000.jsonl")
    if not prompts.is_file():
        write_prompts(prompts)
    return _build(path, "full", "rows", read_against([prompts]))


def treetune_capped(path: Path) -> int:
    """The variant `capped`, written with all its tables."""
    return _build(path, "capped", "keep", None)


def _build(path: Path, name: str, near_duplicates: Any, against: Any) -> int:
    """What `python -m dataset_builder build` does."""
    import msgspec

    from dataset_builder.export import read_export
    from dataset_builder.recipe import load_recipe
    from dataset_builder.threads import make_tables, writing_tables
    from dataset_builder.variant import plan_variant, write_variant

    recipe = load_recipe(name)
    keep = msgspec.structs.replace(recipe.keep, near_duplicates=near_duplicates)
    recipe = msgspec.structs.replace(recipe, keep=keep)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARTIFACTS"] = folder
        tables = make_tables([read_export(path)], 0.1)
        with writing_tables(tables):
            plan = plan_variant(name, recipe, tables, against)
        write_variant(plan)
        return plan.train.num_rows


def pydantic_threads(path: Path) -> int:
    """Models as Open Assistant's own reader declares them, and a walk that calls itself."""
    from pydantic import BaseModel

    class Label(BaseModel):
        value: float
        count: int

    class Message(BaseModel):
        message_id: str
        parent_id: str | None = None
        user_id: str | None = None
        text: str
        role: str
        lang: str | None = None
        rank: int | None = None
        review_count: int | None = None
        review_result: bool | None = None
        deleted: bool | None = None
        synthetic: bool | None = None
        model_name: str | None = None
        created_date: str | None = None
        emojis: dict[str, int] | None = None
        labels: dict[str, Label] | None = None
        detoxify: dict[str, float] | None = None
        replies: list["Message"] = []

    class Tree(BaseModel):
        message_tree_id: str
        tree_state: str
        prompt: Message

    threads: list[dict[str, Any]] = []

    def visit(node: Message, above: list[Message], tree: Tree) -> None:
        if node.role == "assistant":
            *history, question = above
            threads.append(
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
        for reply in node.replies:
            visit(reply, [*above, node], tree)

    with path.open() as file:
        for line in file:
            tree = Tree.model_validate_json(line)
            visit(tree.prompt, [], tree)
    return len(threads)


def _thread(messages: list[dict[str, Any]], tree_id: str) -> dict[str, Any]:
    *history, question, reply = messages
    return {
        "thread_id": reply["message_id"],
        "tree_id": tree_id,
        "history": [{"role": each["role"], "text": each["text"]} for each in history],
        "question": question["text"],
        "reply": reply["text"],
        "rank": reply["rank"],
        "words": len(reply["text"].split()),
    }


def pandas_threads(path: Path) -> int:
    """Rows of messages in a frame, and for each reply a walk up by its index."""
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def flatten(node: dict[str, Any], tree_id: str) -> None:
        rows.append(
            {key: value for key, value in node.items() if key != "replies"} | {"tree_id": tree_id}
        )
        for reply in node["replies"]:
            flatten(reply, tree_id)

    with path.open() as file:
        for line in file:
            tree = json.loads(line)
            flatten(tree["prompt"], tree["message_tree_id"])
    frame = pd.DataFrame(rows).set_index("message_id", drop=False)

    def build(reply: pd.Series) -> dict[str, Any]:
        above = [reply]
        while isinstance(above[-1]["parent_id"], str):
            above.append(frame.loc[above[-1]["parent_id"]])
        return _thread(list(reversed(above)), reply["tree_id"])

    replies = frame[frame["role"] == "assistant"]
    return len(pd.DataFrame(list(replies.apply(build, axis=1))))


def datasets_threads(path: Path) -> int:
    """`load_dataset`, then a batched map from trees to threads."""
    import datasets

    datasets.disable_progress_bars()

    def build(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: list[dict[str, Any]] = []

        def visit(node: dict[str, Any], above: list[dict[str, Any]], tree_id: str) -> None:
            here = [*above, node]
            if node["role"] == "assistant":
                found.append(_thread(here, tree_id))
            for reply in node["replies"]:
                visit(reply, here, tree_id)

        for tree_id, tree in zip(batch["message_tree_id"], batch["prompt"], strict=True):
            visit(json.loads(tree), [], tree_id)
        return {key: [each[key] for each in found] for key in found[0]}

    def lines() -> Any:
        with path.open() as file:
            for line in file:
                tree = json.loads(line)
                # As text: a nested type is as deep as the deepest tree.
                yield {
                    "message_tree_id": tree["message_tree_id"],
                    "prompt": json.dumps(tree["prompt"]),
                }

    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.Dataset.from_generator(lines, cache_dir=cache)
        made = loaded.map(build, batched=True, remove_columns=loaded.column_names)
        return made.num_rows


CONTENDERS: dict[str, Callable[[Path], int]] = {
    "treetune": treetune_threads,
    "pydantic": pydantic_threads,
    "pandas": pandas_threads,
    "datasets": datasets_threads,
    "capped": treetune_capped,
    "build": treetune_build,
}


# Scripts that need a package at another version than ours: `uv` makes them an environment.
APART = {"pydantic1": ("bench/pydantic1.py", "pydantic==1.10.26")}


def apart(name: str) -> list[str]:
    """The command that runs a script of `APART`; a file's path is to follow."""
    script, package = APART[name]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", version]
    return [*command, "--with", package, "python", script]


def can_run(name: str) -> bool:
    """Whether the contender can run here; says why not. Fetches what a script of `APART` needs."""
    if name not in APART:
        return True
    try:
        done = subprocess.run(apart(name), check=False, capture_output=True, text=True)
        why = (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else None
    except FileNotFoundError:
        why = "no `uv` on the path"
    if why:
        print(f"{name} is left out: {why}")
    return not why


def measured(name: str, path: Path) -> dict[str, Any]:
    """One contender in a process of its own: rows, seconds, peak memory in GB."""
    command = [sys.executable, "-m", "bench.data", "--one", name, str(path)]
    if name in APART:
        command = [*apart(name), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, path: Path) -> None:
    """What a child process prints. Imports are paid for by a first, tiny call."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.jsonl"
        write_forest(small, 400)
        CONTENDERS[name](small)
    began = time.perf_counter()
    rows = CONTENDERS[name](path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "gigabytes": peak / 1e9}))


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench data", description=__doc__)
    parser.add_argument("--messages", type=int, default=OASST2)
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--scale", type=int, help="also this many times as many messages, built")
    parser.add_argument("--only", nargs="*", choices=[*CONTENDERS, *APART], help="these contenders")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one[0], Path(arguments.one[1]))
        return
    path = forest_file(arguments.messages)
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
    names = [name for name in arguments.only or [*CONTENDERS, *APART] if can_run(name)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    # Interleaved, so that a slow minute of the machine is everybody's.
    for _ in range(arguments.repeats):
        for name in names:
            found[name].append(measured(name, path))
    medians = {name: _median(runs) for name, runs in found.items()}
    ours = medians.get("treetune", {}).get("seconds")
    for name, one in medians.items():
        ratio = f"{one['seconds'] / ours:6.1f}x" if ours else ""
        print(f"{name:10} {one['rows']:9,} rows {one['seconds']:8.2f} s {ratio:>8}", end="")
        print(f" {one['gigabytes']:6.2f} GB")
    if arguments.scale:
        bigger = measured("build", forest_file(arguments.messages * arguments.scale))
        times = bigger["seconds"] / medians["build"]["seconds"]
        print(f"{arguments.scale} times the messages: {bigger['seconds']:.1f} s, {times:.1f} times")
        print(f"the time, {bigger['gigabytes']:.2f} GB")


def forest_file(messages: int) -> Path:
    """The forest of that size, written once."""
    path = artifacts_root() / "bench" / f"forest-{messages}.trees.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write_forest(unfinished, messages)
        unfinished.replace(path)
    return path


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda one: one["seconds"])[len(runs) // 2]


if __name__ == "__main__":
    main()
