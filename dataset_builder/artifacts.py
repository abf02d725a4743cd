"""Where things lie, how they are written so that a kill loses nothing, and how rows are digested.

A directory is built under a temporary name, flushed, given its JSON last, and renamed. Without its
JSON it does not exist.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dataset_builder.errors import InputError

Record = TypeVar("Record", bound=msgspec.Struct)

# A directory or a file that is made is called so, with the maker's pid, until it is renamed.
BUILDING = ".building-"
# What a system says where there is no more room: on the disk, for this user, for one file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# And where a disk is not to be written, or cannot be.
DISK = {*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
# As libraries say it in words, of a file that is read or written.
_SAID = re.compile(r"\(os error (\d+)\)|^unable to open file .* \((\d+)\)$")
# And so ends the name of one that another is about to take the place of.
_REPLACED = "~"
# How a struct's JSON ends, and the line that vouches for what stands before it.
_END = "\n}\n"
_CHECKSUM = re.compile(rb',\n  "checksum": "([0-9a-f]{64})"\n}\n\Z')
# As Linux has it: paths from the current folder, and two names exchanged.
_HERE, _EXCHANGE = -100, 2
# Of a file that is written: no `*.json` is to find it.
_TEXT = ".tmp"


def artifacts_root() -> Path:
    """The folder of all artefacts: `artifacts`, or what the variable ARTIFACTS says."""
    return Path(os.environ.get("ARTIFACTS") or "artifacts")


def write_json(record: Any, out: Path) -> None:
    """Write `record` (a struct, a dict, a list) to `out` as indented JSON: whole or not at all, and
    flushed. A struct's last line is the checksum of the others.
    """
    text = json.dumps(msgspec.to_builtins(record), indent=2, ensure_ascii=False) + "\n"
    if isinstance(record, msgspec.Struct) and text.endswith(_END):
        checksum = hashlib.sha256(text.encode()).hexdigest()
        text = f'{text.removesuffix(_END)},\n  "checksum": "{checksum}"{_END}'
    write_text(text, out)


def write_text(text: str, out: Path) -> None:
    """Write `text` to `out`: whole or not at all, and flushed to disk. What a kill left in that
    folder goes. Raises InputError where the disk refuses.
    """
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """The path of a file that takes the place of `out`, flushed, when the block ends well, and is
    removed when it does not. Raises InputError where the disk refuses.
    """
    temporary = out.with_name(f"{BUILDING}{os.getpid()}-{out.name}{_TEXT}")
    with writing(out):
        sweep(out.parent)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, out)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Makes an InputError, with path and cause, of what the disk refuses to the block, which writes
    `out` or below it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries say a full disk in kinds of their own: disk_cause
        cause = disk_cause(error)
        if cause is None:
            raise
        raise InputError(
            f"{out}: cannot be written: {os.strerror(cause)}",
            "make room, or let ARTIFACTS name a folder with more"
            if cause in _FULL
            else "look at the disk and its permissions, or let ARTIFACTS name another folder",
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes an InputError, with path and cause, of what a disk refuses to the block, which reads
    `path` or below it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # in kinds of their own here too; what no disk said goes on
        cause = disk_cause(error)
        if cause is None:
            raise
        raise unreadable(str(path), cause) from error


def unreadable(where: str, cause: int) -> InputError:
    """What a user is told of a disk that refuses to be read."""
    said = f"{where}: cannot be read: {os.strerror(cause)}"
    return InputError(said, "look at the disk and its permissions")


def disk_cause(error: Exception) -> int | None:
    """What a disk said, as a number of errno; None where it was something else.

    Libraries in Rust pass on the number in words alone, torch says something else about what Python
    had told it, and safetensors takes each file that it cannot open for one that is not there.
    """
    if isinstance(error, FileNotFoundError) and error.errno is None:
        try:
            open(str(error).rpartition(": ")[2], "rb").close()
        except OSError as opened:
            error = opened
    if isinstance(error, OSError):
        return error.errno if error.errno in DISK else None
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return disk_cause(error.__context__)
    found = _SAID.search(str(error))
    cause = int(found[1] or found[2]) if found else 0
    return cause if cause in DISK else None


def read_json(path: Path, struct: type[Record]) -> Record:
    """The `struct` stored at `path`. Raises InputError where it is absent, is not one, or does not
    have the checksum that its last line says.
    """
    try:
        stored = path.read_bytes()
        found = _CHECKSUM.search(stored)
        if found:
            stored = stored[: found.start()] + _END.encode()
            if hashlib.sha256(stored).hexdigest() != found[1].decode():
                raise InputError(
                    f"{path}: changed since it was written",
                    "bring it back or make it again; or take its line `checksum` out, if you "
                    "changed it yourself",
                )
        return msgspec.json.decode(stored, type=struct)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}",
            "look at the disk and its permissions; where it is gone, delete its folder and make it"
            " again",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not what treetune wrote: {error}", "delete its folder and build it again"
        ) from error


@contextmanager
def building(out: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A fresh directory that becomes `out` when the block ends well, and is removed when it does
    not.

    The block writes the directory's JSON last. A finished `out` is never overwritten: where one
    stands already, the new one is dropped, since names carry digests and equal names hold equal
    rows. With `replaces`, for a name that a user gave, the new one takes the place of the old one:
    whole, and where that is interrupted, the old one stands again after the next `sweep`. Raises
    InputError where the disk refuses; then nothing is left.
    """
    new = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    temporary = out.with_name(f"{BUILDING}{os.getpid()}-{out.name}")
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            sweep(out.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            # With its parents: another builder that failed may just have taken its folder away.
            temporary.mkdir(parents=True)
            yield temporary
            flush(temporary)
            if replaces and _is_finished(out):
                _replace(temporary, out)
            else:
                _take_place(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in new:  # nor are folders left that were made for it, unless another uses them
            with suppress(OSError):
                folder.rmdir()
        raise


def in_place(folder: Path, pattern: str) -> list[Path]:
    """What `pattern` finds below `folder`, sorted, but for what is still being made: it may be gone
    in the next moment, and what a killed process left of it was never whole.
    """
    try:
        found = sorted(folder.glob(pattern))
    except FileNotFoundError:  # a folder got another name while it was looked through
        return in_place(folder, pattern)
    return [
        path
        for path in found
        if not any(part.startswith(BUILDING) for part in path.relative_to(folder).parts)
    ]


def sweep(folder: Path) -> None:
    """Remove what builders that are no longer alive left unfinished in `folder`; what one of them
    had moved aside, and put nothing in the place of, goes back.
    """
    for left in folder.glob(f"{BUILDING}*"):
        pid, _, name = left.name.removeprefix(BUILDING).partition("-")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        place = folder / name.removesuffix(_REPLACED)
        if name.endswith(_REPLACED) and not place.exists():
            with suppress(FileNotFoundError):  # another one sweeps here too
                os.rename(left, place)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush(directory: Path) -> None:
    """Flush every file below `directory`, and the directories themselves, to disk."""
    for path in directory.rglob("*"):
        if path.is_dir():
            flush_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_directory(directory)


def flush_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal. Raises InputError where the disk refuses."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_order(salt: str, key: str) -> str:
    """Where `key` stands in the order that `salt` draws: sort by this and take the first n.

    Chance is a hash, not a generator: the first thousand lie inside the first four thousand.
    """
    return hashlib.sha256(f"{salt}\x00{key}".encode()).hexdigest()


def hash_share(salt: str, key: str) -> float:
    """A number in [0, 1) that `salt` and `key` fix, uniform over keys."""
    return int(hash_order(salt, key)[:13], 16) / 16**13


def _is_finished(directory: Path) -> bool:
    return directory.exists() and any(directory.glob("*.json"))


def _take_place(new: Path, out: Path) -> None:
    """Give the directory `new` its name, unless another builder has just finished one of it."""
    try:
        os.rename(new, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _is_finished(out):
            shutil.rmtree(new)
            return
        shutil.rmtree(out)  # without its JSON it does not exist
        os.rename(new, out)
    flush_directory(out.parent)


def _replace(new: Path, out: Path) -> None:
    """Put the directory `new` in the place of `out`: at one moment, where the system can do that.

    Elsewhere no directory can be renamed over another that holds something, so the old one is moved
    aside first, under a name that `sweep` brings back.
    """
    old = out.with_name(f"{BUILDING}{os.getpid()}-{out.name}{_REPLACED}")
    if _exchange(new, out):
        try:
            flush_directory(out.parent)
        except OSError:
            _exchange(new, out)
            raise
        shutil.rmtree(new, ignore_errors=True)
        return
    os.rename(out, old)
    try:
        os.rename(new, out)
        flush_directory(out.parent)
    except BaseException:
        if out.exists():
            os.rename(out, new)
        os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Gives each the name of the other, which Linux does at one moment; False where it cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    cause = ctypes.get_errno()
    if cause in DISK:
        raise OSError(cause, os.strerror(cause), str(other))
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
