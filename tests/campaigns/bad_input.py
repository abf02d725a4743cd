"""Exports with a fault, plain and packed, given to the command."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from tests.builders import lines, nested
from tests.campaign import Attempt, Campaign, Outcome
from tests.hostile_rows import FOREST, LINES, ORPHANS, SOUND, zstd
from tests.warm import DATA, DATASET_BUILDER, Warm

PACKS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, zstd)


class Case(NamedTuple):
    """A file with a fault: its bytes before they are packed, or after."""

    content: bytes
    # What is refused, and how many messages are read; None where the command may refuse the file.
    refused: dict[str, int] | None = None
    read: int = 0
    spoil: Callable[[bytes], bytes] = bytes  # what is packed


def _cases() -> Iterator[Case]:
    sound = lines(SOUND)
    half = len(sound) // 2
    half = sound.index(b"\n", half) + 1
    for reason, rows in LINES.items():
        for row in rows:
            yield Case(sound[:half] + row + b"\n" + sound[half:], {reason: 1}, len(SOUND))
    for reason, found, names in FOREST:
        refused = {reason: len(names)} if names else {}
        yield Case(lines([*SOUND, *found]), refused, len(SOUND) + len(found) - len(names))
    for found in ORPHANS:
        yield Case(lines([*SOUND, *found]), {}, len(SOUND) + len(found))
    n = len(SOUND)
    long = b'{"message_id": "x", "text": "' + b"a" * 2**24 + b'", "role": "prompter"}\n'
    yield Case(sound + long, {"too_long": 1}, n)
    yield Case(b"\xef\xbb\xbf" + sound.replace(b"\n", b"\r\n") + b"\n \t\n", {}, n)
    yield Case(sound.rstrip(), {}, n)
    yield Case(sound * 2, {}, n)
    yield Case(sound[:half] + b"\n" * 10_000 + sound[half:], {}, n)
    yield Case(sound[:-40], {"json": 1}, n - 1)
    yield Case(lines(nested(SOUND)) + sound, {}, n)
    # Files that are none, or no more.
    for content in (
        b"",
        b"\n \n",
        b"\0" * 4096,
        b"<!DOCTYPE html>\n<p>404",
        b"%PDF-1.7\n%\xe2\xe3",
    ):
        yield Case(content)
    yield Case(sound.decode().encode("utf-16"))
    yield Case(sound.decode().encode("utf-32-be"))
    yield Case(json.dumps([json.loads(line) for line in sound.splitlines()]).encode())
    yield Case(json.dumps(nested(SOUND), indent=1).encode())
    yield Case(b"message_id,text,role\na,b,prompter\n")
    for magic in (b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"SQLite format 3\0"):
        yield Case(magic + sound)
    yield Case(sound, spoil=lambda packed: packed[:-5])
    yield Case(sound, spoil=lambda packed: packed[: len(packed) // 2])
    yield Case(sound, spoil=lambda packed: packed[:1])
    yield Case(sound, spoil=lambda packed: packed + b"\0" * 9)
    yield Case(sound, spoil=lambda packed: packed + b"and more")
    yield Case(sound, spoil=lambda packed: packed + packed)
    for place in range(4, 100, 12):
        yield Case(sound, spoil=lambda packed, place=place: _flipped(packed, place))


def _flipped(packed: bytes, place: int) -> bytes:
    return packed[:place] + bytes([packed[place] ^ 0x10]) + packed[place + 1 :]


CASES = [*_cases()]
STRIDE = 3607  # a prime


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A process that is forked for each build."""
    process = Warm(shared / "warm", os.getpid(), DATA)

    def attempt(seed: int, folder: Path) -> Outcome:
        # In an order that meets every kind early.
        place = seed * STRIDE % (len(CASES) * len(PACKS))
        case, pack = CASES[place // len(PACKS)], PACKS[place % len(PACKS)]
        (folder / "x").write_bytes(case.spoil(pack(case.content)))
        arguments = ("build", "full", "--held-out", "0.3", "--source", folder / "x")
        started = process.start(DATASET_BUILDER, *arguments, ARTIFACTS=str(folder / "artifacts"))
        status = started.wait()
        said = started.said()
        assert "Traceback" not in said, said
        if case.refused is None and status:
            assert status == 2, said
            assert said.count("error: ") == said.count("hint: ") == 1, said
            assert not [*folder.rglob("*.parquet")]
            return Outcome()
        assert status == 0, said
        _check(folder / "artifacts", case)
        return Outcome()

    yield attempt


def _check(artifacts: Path, case: Case) -> None:
    """Rows in are rows out and rows refused, at every stage."""
    (source,) = artifacts.glob("tables/*/source.json")
    (file,) = _json(source)["files"]
    rejects = pq.read_table(source.parent / "rejects.parquet").column("reason").to_pylist()
    messages = pq.read_table(source.parent / "messages.parquet").num_rows
    assert Counter(rejects) == file["refused"]
    assert file["messages"] == messages + file["merged"] + len(rejects), file
    if case.refused is not None:
        assert (file["refused"], messages) == (case.refused, case.read)
    (place,) = artifacts.glob("variants/full-*/manifest.json")
    manifest = _json(place)
    for funnel, split in (("funnel", "train"), ("validation_funnel", "validation")):
        counts = manifest[funnel]
        assert counts.pop("threads") == sum(counts.values())
        assert counts["kept"] == pq.read_table(place.parent / f"{split}.parquet").num_rows
    ledger = pq.read_table(place.parent / "ledger.parquet").num_rows
    assert ledger == pq.read_table(source.parent / "threads.parquet").num_rows


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


CAMPAIGN = Campaign(
    code="R4",
    promise="no bad input crashes or vanishes: rows in are rows out and rows refused, by reason",
    counted="bad inputs, plain and packed by gzip and by zstd",
    aim=len(CASES) * len(PACKS),
    prepare=prepare,
    attempts=len(CASES) * len(PACKS),
)
