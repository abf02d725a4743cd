"""Campaigns that feed one part whatever reaches a new branch of it: atheris, which is libFuzzer for
Python.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.errors import InputError
from tests.campaign import Attempt, Campaign, Outcome
from tests.warm import ROOT

RUNS = 100_000  # of an attempt: atheris itself grows by up to a kB each
SECONDS = 20  # that one execution may take on a busy machine
MEGABYTES = 512
LENGTH = 4096  # bytes of an input
SHORT = 512  # of three attempts of four: what breaks is rarely long, and is met sooner then


def fuzzing(target: str, promise: str, seeds: Callable[[], Iterable[bytes]]) -> Campaign:
    """The campaign against a function of `tests.fuzz_targets`, which begins with the `seeds`."""

    @contextmanager
    def prepare(shared: Path) -> Iterator[Attempt]:
        if importlib.util.find_spec("atheris") is None:
            raise InputError("needs atheris", "`uv pip install atheris`")
        for number, seed in enumerate(seeds()):
            (shared / f"seed-{number}").write_bytes(seed[:LENGTH])
        yield lambda seed, folder: _attempt(target, shared, seed, folder)

    return Campaign(
        code="R5",
        promise=promise,
        counted="executions",
        aim=10_000_000,
        prepare=prepare,
    )


def _attempt(target: str, corpus: Path, seed: int, folder: Path) -> Outcome:
    """So many executions; what reached a new branch is kept in `corpus`, what failed in `folder`.

    Raises AssertionError with what libFuzzer said where one failed.
    """
    length = SHORT if seed % 4 else LENGTH
    options = [f"-runs={RUNS}", f"-seed={seed + 1}", f"-max_len={length}", f"-timeout={SECONDS}"]
    options += [f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={folder}/"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_targets", target, corpus, *options],
        check=False,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    said = f"it ended with {ran.returncode}: {ran.stdout[-8000:]}{ran.stderr[-8000:]}"
    assert not ran.returncode, said
    done = re.search(r"#(\d+)\s+DONE\s+(cov: \d+).*?(corp: \d+).*?(rss: \d+Mb)", ran.stderr)
    assert done, said
    return Outcome(tried=int(done[1]), note=", ".join(done.groups()[1:]))
