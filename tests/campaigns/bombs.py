"""Files that grow when they are read, given to what builds read exports by: how long it takes, in
seconds of CPU, and in how much memory.
"""

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.builders import lines
from tests.campaign import Attempt, Campaign, Outcome
from tests.hostile_rows import SOUND
from tests.warm import ROOT

MEGABYTES = 300  # beyond what importing the command takes
SECONDS = 5
RATE = 40e6  # unpacked bytes a second, or the machine is too busy to say anything

READ = """
import resource, sys, time
from pathlib import Path
from dataset_builder.errors import InputError
from dataset_builder.forest import join_exports
from dataset_builder.export import read_export
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_export(Path(sys.argv[1]))  # what reading imports and compiles
before, began = peak(), time.process_time()
try:
    join_exports([read_export(Path(sys.argv[2]))])
    said = "read"
except InputError as error:
    said = f"refused: {error}"
print(time.process_time() - began, peak() - before, said.replace("\\n", " "))
"""


def _line() -> Iterable[bytes]:
    """One line of 1 GiB."""
    yield b'{"message_id": "x", "role": "prompter", "text": "'
    yield from [b"a" * 2**20] * 2**10
    yield b'"}\n'


def _blanks() -> Iterable[bytes]:
    """10 GiB of line ends, or as much of it as is read before it is refused."""
    yield from [b"\n" * 2**20] * (10 * 2**10)


def _deep(opening: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: [opening * 10**6, b"\n"]


def _nested_deep() -> Iterable[bytes]:
    """A tree as deep as a line can hold."""
    opening = b'{"message_id":"a","replies":['
    n = 2**24 // (len(opening) + 2) - 8
    yield opening * n + b"]}" * n + b"\n"


def _wide() -> Iterable[bytes]:
    """A tree of a million replies, a line each."""
    yield json.dumps({**SOUND[0], "message_id": "root"}).encode() + b"\n"
    reply = '{"message_id":"%d","parent_id":"root","role":"assistant","text":"a"}\n'
    for start in range(0, 10**6, 10_000):
        yield "".join(reply % n for n in range(start, start + 10_000)).encode()


def _numbers() -> Iterable[bytes]:
    """64 MiB of lines of two bytes, none of which is a message."""
    yield from [b"1\n" * 2**19] * 2**6


def _in_one_line() -> Iterable[bytes]:
    """As many replies as a line can hold."""
    reply = b'{"message_id":"%d","role":"assistant","text":"a"}'
    yield b'{"message_id":"root","role":"prompter","text":"a","replies":['
    yield b",".join(reply % n for n in range(2**24 // 60))
    yield b"]}\n"


# What is written, and whether it is packed.
BOMBS: dict[str, tuple[Callable[[], Iterable[bytes]], bool]] = {
    "a million brackets": (_deep(b"["), False),
    "a million keys": (_deep(b'{"a":'), False),
    "a million replies in replies": (_deep(b'{"replies":['), False),
    "a tree as deep as a line": (_nested_deep, False),
    "a line of replies": (_in_one_line, False),
    "a line of 1 GiB in gzip": (_line, True),
    "a line of 1 GiB": (_line, False),
    "a million replies": (_wide, False),
    "10 GiB of line ends in gzip": (_blanks, True),
    "32 million numbers": (_numbers, False),
}


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A small sound file."""
    (shared / "sound").write_bytes(lines(SOUND))

    def attempt(seed: int, folder: Path) -> Outcome:
        name, (made, is_packed) = list(BOMBS.items())[seed]
        size = write(folder / "bomb", made, is_packed)
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-c", READ, shared / "sound", folder / "bomb"],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert not ran.returncode, ran.stderr[-2000:]
        seconds, megabytes, said = ran.stdout.split(" ", 2)
        note = (
            f"{name}: {float(seconds):.1f} s of CPU, {float(megabytes):.0f} MB more, {said.strip()}"
        )
        assert float(megabytes) < MEGABYTES, note
        assert float(seconds) < max(SECONDS, size / RATE), note
        return Outcome(note=f"{note}; {time.monotonic() - began:.0f} s")

    yield attempt


def write(out: Path, made: Callable[[], Iterable[bytes]], is_packed: bool) -> int:
    """Writes a bomb; how many bytes it holds, unpacked."""
    size = 0
    with gzip.open(out, "wb", 1) if is_packed else out.open("wb") as file:
        for chunk in made():
            file.write(chunk)
            size += len(chunk)
    return size


CAMPAIGN = Campaign(
    code="R6",
    promise="bombs are refused or read in less than 300 MB, in 5 s or at reading speed",
    counted="bombs",
    aim=len(BOMBS),
    prepare=prepare,
    attempts=len(BOMBS),
)
