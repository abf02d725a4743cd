"""Parts of a measurement, each in a process of its own with a time limit; whatever cuts one off
loses none of the others, nor what that one had found.

A part calls `tell` with what it has found so far, the last time with all of it. The line of each
part is printed as it ends, and a line of JSON goes to `$OUT/BENCH.jsonl` where OUT is set.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_FOUND = "TREETUNE_BENCH_FOUND"  # the file that a part tells into


class Part(NamedTuple):
    """How a part ended."""

    name: str
    found: dict[str, Any]  # what it told last; empty where it told nothing
    trouble: str  # why it is not whole; empty where it is
    seconds: float  # that it took, its start among them


def tell(found: dict[str, Any]) -> None:
    """Keep what was found so far, whatever happens to this process afterwards."""
    place = os.environ.get(_FOUND)
    if place is None:
        print(json.dumps(found), flush=True)
        return
    half = Path(place + ".half")
    half.write_text(json.dumps(found))
    half.replace(place)


def run_part(name: str, arguments: Sequence[str], seconds: float) -> Part:
    """The part that Python with these arguments is, killed after so many seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place, said = Path(folder) / "found.json", Path(folder) / "said.txt"
        trouble = ""
        with said.open("w") as file:
            try:
                done = subprocess.run(
                    [sys.executable, *arguments],
                    stdout=file,
                    stderr=file,
                    timeout=seconds,
                    check=False,
                    env={**os.environ, _FOUND: str(place), "PYTHONFAULTHANDLER": "1"},
                )
                if done.returncode:
                    last = said.read_text(errors="replace").strip()[-1500:]
                    trouble = f"failed with exit code {done.returncode}: {last}"
            except subprocess.TimeoutExpired:
                trouble = f"cut off after {seconds:.0f} s"
        found = json.loads(place.read_text()) if place.exists() else {}
    if not found and not trouble:
        trouble = "told nothing"
    return Part(name, found, trouble, time.perf_counter() - began)


def keep(bench: str, part: Part, **more: Any) -> None:
    """Add a line for the part to `$OUT/BENCH.jsonl`, where OUT is set."""
    out = os.environ.get("OUT")
    if not out:
        return
    line = {"part": part.name, **more, "trouble": part.trouble, "took": round(part.seconds, 1)}
    with (Path(out) / f"{bench}.jsonl").open("a") as file:
        file.write(json.dumps(line | part.found) + "\n")
