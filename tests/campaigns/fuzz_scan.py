"""The compiled reader of lines, under the sanitizers of a C compiler."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.compiled import compiler
from dataset_builder.errors import InputError
from tests.campaign import Attempt, Campaign, Outcome
from tests.usual_lines import USUAL

SOURCE = Path(__file__).with_name("scan_fuzz.c")
FLAGS = (
    *("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fsanitize-coverage=trace-pc",
)
RUNS = 200_000  # of an attempt


@contextmanager
def prepare(shared: Path, runs: int = RUNS) -> Iterator[Attempt]:
    """Compiles `scan_fuzz.c`. Raises InputError where no compiler here has sanitizers."""
    program, seeds = shared / "scan_fuzz", shared / "seeds"
    command = compiler()
    if command is None:
        raise InputError("no C compiler", "`apt-get install gcc`")
    compile_it = [*command, *FLAGS, "-o", program, SOURCE]
    if subprocess.run(compile_it, check=False, capture_output=True).returncode:
        raise InputError(f"`{command[0]}` compiles nothing with {' '.join(FLAGS)}", "try CC=gcc")
    seeds.write_bytes(b"\n".join(USUAL))

    def attempt(seed: int, folder: Path) -> Outcome:
        ran = subprocess.run(
            [program, seeds, str(runs), str(seed)],
            check=False,
            cwd=folder,
            env=os.environ | {"ASAN_OPTIONS": "quarantine_size_mb=8"},
            capture_output=True,
            text=True,
        )
        assert not ran.returncode, ran.stderr[-20_000:]
        return Outcome(tried=runs, note=ran.stdout.strip())

    yield attempt


CAMPAIGN = Campaign(
    code="R5",
    promise="whatever a line or a text holds, compiled code stays within its room",
    counted="executions",
    aim=10_000_000,
    prepare=prepare,
)
