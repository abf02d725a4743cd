"""Our C, compiled where it is first wanted and kept: half a second, once for each version of it.

Everything that it does is done without it too, and with the same result. So it is never needed: a
machine without a C compiler waits longer and sees no difference.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

SOURCE = Path(__file__).parent / "scan.c"

_FLAGS = ("-O3", "-shared", "-fPIC")
_ARGUMENTS = {
    "scan": "pnp",
    "copy_strings": "pppnnp",
    "copy_texts": "ppnp",
    "count_words": "ppnnp",
    "count_kinds": "ppnpp",
    "gather": "ppnp",
    "fold_texts": "ppnpp",
    "hash_runs": "ppnnppp",
    "tag_runs": "ppppnp",
    "compare_runs": "pppnppnp",
}
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 60


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions of `scan.c`; None where they cannot be had."""
    # C reads numbers as they lie in files: the lowest byte first.
    if sys.byteorder != "little":
        return None
    for loaded in (_loaded, _compiled):
        for folder in _folders():
            try:
                return loaded(folder)
            except subprocess.SubprocessError:
                return None  # it would be no better for another folder
            except (OSError, AttributeError):
                continue  # nothing there, a file of another machine, or no room to write
    return None


def is_at_hand() -> bool:
    """Whether `library` has nothing to compile."""
    return any((folder / _name()).is_file() for folder in _folders())


def compiler() -> list[str] | None:
    """The command of a C compiler: what CC says, or the first that is there."""
    try:
        said = shlex.split(os.environ.get("CC", ""))
    except ValueError:
        return None  # a quote that never ends
    found = next((name for name in (said[:1] or _COMPILERS) if shutil.which(name)), None)
    return [found, *said[1:]] if found else None


def _folders() -> list[Path]:
    """Where what was compiled may lie: beside the bytecode; else with this user's caches, where
    nobody else may write.
    """
    beside = SOURCE.parent / "__pycache__"
    try:
        said = Path(os.environ.get("XDG_CACHE_HOME", ""))
        ours = (said if said.is_absolute() else Path.home() / ".cache") / "treetune"
    except RuntimeError:
        return [beside]  # a user without a home
    return [beside, ours] if _is_private(ours) else [beside]


def _is_private(folder: Path) -> bool:
    """Whether nobody but this user can have put what lies in `folder` there, or it is not there."""
    try:
        found = folder.stat()
    except OSError:
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


@cache
def _name() -> str:
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(repr((_FLAGS, platform.machine(), sysconfig.get_platform())).encode())
    return f"scan-{key.hexdigest()[:16]}.so"


def _loaded(folder: Path) -> ctypes.CDLL:
    """The library in `folder`. Raises OSError where there is none, AttributeError where it is
    another.
    """
    code = ctypes.CDLL(str(folder / _name()))
    for name, kinds in _ARGUMENTS.items():
        # In their order: `p` for where an array stands, `n` for a number.
        kind_of = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
        getattr(code, name).argtypes = [kind_of[kind] for kind in kinds]
    return code


def _compiled(folder: Path) -> ctypes.CDLL:
    """The library, compiled into `folder`. Raises OSError where that cannot be written, and
    SubprocessError where the compiler fails.
    """
    command = compiler()
    if command is None:
        raise subprocess.SubprocessError("no C compiler")
    folder.mkdir(0o700, parents=True, exist_ok=True)
    if folder not in _folders():
        raise PermissionError(f"{folder}: another made it meanwhile")
    handle, temporary = tempfile.mkstemp(".tmp", f"{_name()}.", folder)
    os.close(handle)
    try:
        _run([*command, *_FLAGS, "-o", temporary, str(SOURCE)])
        os.replace(temporary, folder / _name())
    finally:
        Path(temporary).unlink(missing_ok=True)
    return _loaded(folder)


def _run(command: list[str]) -> None:
    """Runs a compiler, and stops it and all that it started where it takes too long."""
    none = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=none, stdout=none, stderr=none, start_new_session=True
    ) as process:
        try:
            failed = process.wait(_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if failed:
        raise subprocess.CalledProcessError(failed, command)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Where the first value of `array` stands, for a compiled function; holds the array."""
    return array.ctypes.data_as(ctypes.c_void_p)


def buffers_of(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of some strings and where each begins among them, and the last ends (int32)."""
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int32)
    texts = texts.cast(pa.string())
    _, offsets, data = texts.buffers()
    held = data if data is not None else b""
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(held, np.uint8), ends


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
