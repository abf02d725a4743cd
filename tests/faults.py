"""Disks that fail at a chosen operation, for native code too: `faults.c`, loaded before libc."""

import errno
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.warm import ROOT, Started, Warm

CAUSES = (errno.ENOSPC, errno.EIO, errno.EACCES)


@dataclass(frozen=True)
class Fault:
    """What the disk does."""

    at: int = 0  # the operation that fails, from 1; 0 is none
    cause: int = errno.ENOSPC
    lasts: bool = False  # and all after it
    reads: bool = False  # what reads is counted and fails, not what writes


@dataclass(frozen=True)
class Met:
    """What a process met."""

    operations: int
    cause: int  # 0 where nothing failed
    where: str  # the operation and its path


def failing_warm(place: Path, names: Sequence[str]) -> Warm:
    """A process that can be given such a disk when it is forked. Needs a C compiler."""
    place.mkdir()
    library = place / "faults.so"
    source = ROOT / "tests" / "faults.c"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return Warm(place, os.getpid(), names, LD_PRELOAD=str(library))


def failing(code: str, root: Path, fault: Fault) -> str:
    """The one line `code` on a disk that fails so below `root`; what it met is its last line."""
    return f"""
import ctypes, json
disk = ctypes.CDLL(None)
disk.faults_where.restype, disk.faults_met.restype = ctypes.c_char_p, ctypes.c_long
at, flags = ctypes.c_long({fault.at}), ({int(fault.lasts)}, {int(fault.reads)})
disk.faults_arm({os.fsencode(root)!r}, at, {fault.cause}, *flags)
try:
    {code}
finally:
    met = disk.faults_met(), disk.faults_failed(), disk.faults_where().decode()
    print("\\n" + json.dumps(met))
"""


def met(ended: Started) -> Met:
    """What that process met."""
    return Met(*json.loads(ended.printed().splitlines()[-1]))
