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
import subprocess
import sys
import sysconfig
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
    for folder in _folders():
        try:
            code = ctypes.CDLL(str(_compiled(folder)))
            for name, kinds in _ARGUMENTS.items():
                # In their order: `p` for where an array stands, `n` for a number.
                kind_of = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
                getattr(code, name).argtypes = [kind_of[kind] for kind in kinds]
            return code
        except OSError:
            continue  # a folder that cannot be written, or a file of another machine
    return None


def is_at_hand() -> bool:
    """Whether `library` has nothing to compile."""
    return any((folder / _name()).is_file() for folder in _folders())


def compiler() -> list[str] | None:
    """The command of a C compiler: what CC says, or the first that is there."""
    said = shlex.split(os.environ.get("CC", ""))
    found = next((name for name in (said[:1] or _COMPILERS) if shutil.which(name)), None)
    return [found, *said[1:]] if found else None


def _folders() -> list[Path]:
    """Where what was compiled may lie: beside the bytecode; else with this user's caches."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [SOURCE.parent / "__pycache__", caches / "treetune"]


@cache
def _name() -> str:
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(repr((_FLAGS, platform.machine(), sysconfig.get_platform())).encode())
    return f"scan-{key.hexdigest()[:16]}.so"


def _compiled(folder: Path) -> Path:
    """The library in `folder`, compiled now or long there. Raises OSError where that fails."""
    out = folder / _name()
    if out.is_file():
        return out
    command = compiler()
    if command is None:
        raise OSError("no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        subprocess.run(
            [*command, *_FLAGS, "-o", str(temporary), str(SOURCE)],
            check=True,
            capture_output=True,
            timeout=_SECONDS,
        )
        os.replace(temporary, out)
    except subprocess.SubprocessError as error:
        raise OSError(f"{command[0]} failed") from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


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
