"""What a run wrote down while it trained, read back: a point per step, a point per preview."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

Record = TypeVar("Record", bound=msgspec.Struct)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Of a line of metrics.jsonl, what a curve shows."""

    step: int
    loss: float
    examples_seen: int


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Of a line of previews.jsonl, what a curve shows."""

    step: int
    words: int
    limit: int | None = None
    keeps_limit: bool | None = None
    is_sampled: bool = False


@dataclass(frozen=True)
class Previewed:
    """The likeliest answers to all preview questions at one step."""

    step: int
    kept: float | None  # the share of limits kept; None where none was stated
    words: float | None  # median of the answers without a limit; None where there are none


@dataclass(frozen=True)
class Training:
    """One run's steps and previews, in order."""

    steps: list[Step]
    previews: list[Previewed]


def read_training(directory: Path) -> Training:
    """The training of the run in `directory`; empty where it wrote nothing down."""
    return Training(
        list(_lines(directory / "metrics.jsonl", Step)),
        _previewed(list(_lines(directory / "previews.jsonl", Said))),
    )


def _lines(path: Path, struct: type[Record]) -> Iterator[Record]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=struct)
        except msgspec.DecodeError:
            return  # a torn last line, of a run that was killed


def _previewed(rows: list[Said]) -> list[Previewed]:
    # What is drawn at random is left aside: it would move without any training.
    by_step: dict[int, list[Said]] = {}
    for row in rows:
        if not row.is_sampled:
            by_step.setdefault(row.step, []).append(row)
    points = []
    for step, said in sorted(by_step.items()):
        kept = [row.keeps_limit for row in said if row.keeps_limit is not None]
        free = [row.words for row in said if row.limit is None]
        points.append(
            Previewed(
                step,
                sum(kept) / len(kept) if kept else None,
                float(median(free)) if free else None,
            )
        )
    return points
