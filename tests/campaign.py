"""A campaign: one promise attacked again and again, what came of it kept in a journal.

A module of `tests/campaigns` is one campaign, of the module's name: its CAMPAIGN says what is
promised and how to attack it. `just campaign NAME --hours H` runs it; the same command goes on
after a kill, since an attempt is known by its seed and the journal holds those that ended.
"""

import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from scipy import special

LEVEL = 0.95


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt that saw the promise kept; one that did not raises AssertionError,
    or whatever else it died of.
    """

    tried: int = 1  # attacks that were made: 0 where the kill came too late, many where it counts
    failed: int = 0  # of these, where an attempt counts many and goes on
    note: str = ""  # what was met on the way, for the journal


# Attacks once, as `seed` says, in an empty folder of its own.
Attempt = Callable[[int, Path], Outcome]


@dataclass(frozen=True)
class Campaign:
    """A promise, and how it is attacked."""

    code: str  # of the promise: R1
    promise: str  # a sentence
    counted: str  # what `tried` counts: kills
    aim: int  # how many are wanted
    # Makes in an empty folder what all attempts share; when it is left, processes are ended.
    prepare: Callable[[Path], AbstractContextManager[Attempt]]
    attempts: int | None = None  # seeds end here, where there are only so many cases


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a journal."""

    seed: int
    tried: int
    failed: int
    note: str
    seconds: float
    ended: str  # a moment, ISO 8601


@dataclass(frozen=True)
class Tally:
    """What a journal's entries come to."""

    tried: int
    failed: int
    seconds: float

    def __str__(self) -> str:
        """Counts and the bound, in words."""
        if not self.tried:
            return "not attacked yet"
        bound = upper_bound(self.failed, self.tried)
        return f"{self.failed} of {self.tried:,} failed, rate below {100 * bound:.3g} % at 95 %"


def upper_bound(failed: int, tried: int) -> float:
    """The largest failure rate that `failed` of `tried` leave possible at 95 %, one-sided and
    exact: Clopper and Pearson (1934), Biometrika 26. With none it is 1 - 0.05^(1/n), which the rule
    of three rounds up to 3/n.
    """
    if failed >= tried:
        return 1.0
    return float(special.betaincinv(failed + 1, tried - failed, LEVEL))


def tally(entries: Sequence[Entry]) -> Tally:
    """What they come to."""
    return Tally(
        sum(entry.tried for entry in entries),
        sum(entry.failed for entry in entries),
        sum(entry.seconds for entry in entries),
    )


def read_journal(path: Path) -> list[Entry]:
    """The entries at `path`, none where it does not exist; without a line that a kill cut."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Entry) for line in whole.splitlines()]


def write_journal(entry: Entry, out: Path) -> None:
    """Add `entry` to the journal at `out`, in the place of a line that a kill cut."""
    line = msgspec.json.encode(entry) + b"\n"
    with out.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def attack(campaign: Campaign, root: Path, seconds: float) -> Iterator[Entry]:
    """Attack until the journal below `root` holds so many seconds of attempts, or all there are;
    gives each entry once it is written. The folder of an attempt that failed is kept.
    """
    journal, work = root / "journal.jsonl", root / "work"
    done = read_journal(journal)
    left = seconds - tally(done).seconds
    seed = len(done)
    shutil.rmtree(work, ignore_errors=True)
    (work / "shared").mkdir(parents=True)
    with campaign.prepare(work / "shared") as attempt:
        while left > 0 and (campaign.attempts is None or seed < campaign.attempts):
            entry = attempted(attempt, seed, work / f"{seed}")
            write_journal(entry, journal)
            if entry.failed:
                kept = root / f"failed-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                (work / f"{seed}").rename(kept)
            shutil.rmtree(work / f"{seed}", ignore_errors=True)
            yield entry
            left -= entry.seconds
            seed += 1
    shutil.rmtree(work, ignore_errors=True)


def attempted(attempt: Attempt, seed: int, folder: Path) -> Entry:
    """One attempt in a new `folder`, and what came of it."""
    folder.mkdir()
    began = time.monotonic()
    try:
        outcome = attempt(seed, folder)
    except Exception:  # noqa: BLE001 - whatever an attempt dies of is what it found
        outcome = Outcome(failed=1, note=traceback.format_exc())
    return Entry(
        seed=seed,
        tried=outcome.tried,
        failed=outcome.failed,
        note=outcome.note,
        seconds=round(time.monotonic() - began, 3),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
    )
