"""The whole path where there is no network, with every attempt to reach one written down."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.errors import InputError
from tests.campaign import Attempt, Campaign, Outcome
from tests.warm import ROOT

# A tiny model first; then the demo, which takes minutes.
PATHS = ([sys.executable, "-m", "tests.whole_path"], ["bash", "bench/demo.sh", sys.executable])
TRACED = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o")


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """What hides the network, and what writes down the calls."""
    for name in ("unshare", "strace"):
        if shutil.which(name) is None:
            raise InputError(f"needs {name}", "`apt-get install util-linux strace`")
    if subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode:
        raise InputError("`unshare -n` is not allowed here", "run it as root")
    yield attempt


def attempt(seed: int, folder: Path) -> Outcome:
    """One of the paths; how many calls were written down, none to an address."""
    trace, path = folder / "trace", PATHS[seed]
    where = [str(folder)] if seed == 0 else []
    ran = subprocess.run(
        ["unshare", "-n", *TRACED, trace, *path, *where],
        check=False,
        cwd=ROOT,
        env=os.environ | {"ARTIFACTS": str(folder / "artifacts")},
        capture_output=True,
        text=True,
    )
    assert not ran.returncode, ran.stderr[-3000:]
    calls = trace.read_text(errors="replace").splitlines()
    reaching = [call for call in calls if re.search(r"AF_INET6?|AF_PACKET", call)]
    assert not reaching, reaching[:5]
    local = sum("AF_UNIX" in call for call in calls)
    return Outcome(note=f"{len(calls)} calls, {local} of them to a socket of this machine")


CAMPAIGN = Campaign(
    code="S5",
    promise="nothing reaches for a network, from exports to a verdict",
    counted="whole paths",
    aim=len(PATHS),
    prepare=prepare,
    attempts=len(PATHS),
)
