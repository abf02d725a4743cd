"""`just bench engine`: a forest read by one process and by two workers of Ray, in turns.

Efficiency is the time of one process over the workers times theirs. Starting Ray is told apart: a
cluster that stands pays it once.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

from bench.data import OASST2, forest_file
from dataset_builder.engine import ray_workers, read_exports
from dataset_builder.export import read_export
from dataset_builder.hub import Source
from dataset_builder.threads import make_tables

T = TypeVar("T")


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` returns, and its seconds."""
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench engine", description=__doc__)
    parser.add_argument("--messages", type=int, default=OASST2)
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    arguments = parser.parse_args()
    path = forest_file(arguments.messages)
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
    began = time.perf_counter()
    with ray_workers() as workers:
        print(f"Ray started in {time.perf_counter() - began:.1f} s: {workers.n} workers")
        seconds: dict[str, list[float]] = {"one": [], "ray": [], "merge": []}
        # One more than counts: the first pays for imports and for what the disk has to fetch.
        for _ in range(arguments.repeats + 1):
            export, took = timed(lambda: read_export(path))
            seconds["one"].append(took)
            (exports, _), took = timed(lambda: read_exports([Source(path, None)], workers))
            seconds["ray"].append(took)
        digests = set()
        for each in ([export], exports):
            tables, took = timed(lambda each=each: make_tables(each, 0.1))
            seconds["merge"].append(took)
            digests.add(tables.sources.digest)
    assert len(digests) == 1, digests
    one, ray, merge = (median(each[1:]) for each in seconds.values())
    print(f"one process reads in {one:.2f} s, {workers.n} workers in {ray:.2f} s", end="")
    print(f": efficiency {one / (workers.n * ray):.0%}")
    print(f"one process merges and threads in {merge:.2f} s", end="")
    print(f": efficiency of both {(one + merge) / (workers.n * (ray + merge)):.0%}")
    print(f"the same digest of both: {digests.pop()[:12]}")


if __name__ == "__main__":
    main()
