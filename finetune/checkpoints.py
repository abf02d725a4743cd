"""An unfinished run on disk: whole checkpoints or none, continued on the same data or not at all.

The trainer writes into `trainer/`, where nobody looks; a checkpoint exists once it has been
flushed, has its `complete.json` with the digest of every file, and was renamed into `checkpoints/`.
So a kill at any moment leaves the last whole one.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import file_digest, flush, flush_directory, read_json, write_json
from dataset_builder.errors import InputError
from finetune.launch import die_with_parent
from finetune.run import Segment

UNFINISHED = ".unfinished"
# By handle, folders that this process holds the lock of, and its pid.
_HELD: dict[int, int] = {}
KEPT = 2  # the newest ones; the one before the last is there should a disk lose the last

# A pickle of the trainer's arguments, the Hub's token among them, and a card about nothing.
_UNWANTED = ("training_args.bin", "README.md")


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """guard.json: what an unfinished run is trained on.

    It is continued on exactly this or not at all.
    """

    variant: str
    variant_digest: str
    preset_name: str
    preset: dict[str, Any]  # whole
    base: dict[str, Any]  # model, revision, digest
    seed: int
    tokens: str  # of every token row in its order: notes a changed template or tokenizer
    parent: dict[str, str] | None = None  # run, adapter: what it started from


class Complete(msgspec.Struct, frozen=True, kw_only=True):
    """complete.json: a checkpoint's files, and where the run stood."""

    step: int
    seconds: float  # of training so far
    preview_seconds: float
    peak_memory: int | None
    resumed: list[int]  # steps at which it was resumed before
    files: dict[str, str]  # relative path -> sha256
    started: str | None = None  # ISO 8601, UTC: when the run was begun, resumed or not
    processes: int = 1  # that trained it together
    # How the steps were computed, one for each start of the run; the last one goes on.
    segments: list[Segment] = []
    halvings: list[dict[str, int]] = []  # of the micro-batch, where memory ran out: step, examples


def unfinished_of(run: Path) -> Path:
    """The folder in which the run is made until it is finished."""
    return run.with_name(run.name + UNFINISHED)


def refuse_unwanted(folder: Path, guard: Guard, *, resume: bool, restart: bool) -> None:
    """Raise InputError where the run in `folder` would be lost, or continued on something else.

    A rebuilt variant or an edited preset gives the run another folder, so with `resume` those of
    the same names are looked at too: going on with them is what was meant.
    """
    if restart:
        return
    if newest(folder) is not None:
        if not resume:
            raise InputError(
                f"{folder}: this run was begun and not finished",
                "`--resume` goes on from its last checkpoint, `--restart` begins again",
            )
        refuse_differences(folder, guard)
    elif resume:
        name = f"{guard.preset_name}-*/{guard.variant}-*-s{guard.seed}{UNFINISHED}"
        for other in sorted(folder.parents[1].glob(name)):
            if other != folder and newest(other) is not None:
                refuse_differences(other, guard)


def begin(
    folder: Path, guard: Guard, *, restart: bool, say: Callable[[str], None] = lambda line: None
) -> tuple[Path, Complete] | None:
    """Make `folder` ready to train in; `say` gets a line for each checkpoint that is passed over.

    The newest whole checkpoint to go on from, or None to begin at step 0.
    """
    found = None if restart else newest(folder, say)
    kept = (
        {"guard.json", "checkpoints", "metrics.jsonl", "previews.jsonl", "fit.json", "tensorboard"}
        if found
        else set()
    )
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "checkpoints").mkdir(exist_ok=True)
    if found is None:
        write_json(guard, folder / "guard.json")
    return found


def refuse_differences(folder: Path, guard: Guard) -> None:
    """Raise InputError with what differs between `guard` and the unfinished run in `folder`."""
    different = differences(read_json(folder / "guard.json", Guard), guard)
    if different:
        raise InputError(
            f"{folder}: was begun on something else: {'; '.join(different)}",
            "put that back to go on with it, or begin again with `--restart`",
        )


def differences(before: Guard, now: Guard) -> list[str]:
    """What differs, one phrase each, the reasons before their consequences."""
    flat_before, flat_now = (_flat(msgspec.to_builtins(guard)) for guard in (before, now))
    keys = sorted(flat_before.keys() | flat_now.keys(), key=lambda key: key == "tokens")
    phrases: list[str] = []
    for key in keys:
        old, new = flat_before.get(key), flat_now.get(key)
        if old != new and not (key == "tokens" and phrases):
            name = "the token rows (template or tokenizer)" if key == "tokens" else f"`{key}`"
            phrases.append(f"{name} was {_short(old)}, is now {_short(new)}")
    return phrases


def newest(
    folder: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[Path, Complete] | None:
    """The newest checkpoint whose files all have the bytes they were written with, or None.

    A damaged one is passed over, and `say` gets a line about it.
    """
    for directory in sorted((folder / "checkpoints").glob("step-*"), key=_step, reverse=True):
        try:
            complete = read_json(directory / "complete.json", Complete)
        except InputError as error:
            say(f"checkpoint {directory.name} is passed over: {error}")
            continue
        found = _digests(directory)
        if complete.files == found:
            return directory, complete
        names = sorted(
            name
            for name in complete.files.keys() | found.keys()
            if complete.files.get(name) != found.get(name)
        )
        say(
            f"checkpoint {directory.name} is passed over: {', '.join(names)}"
            " changed since it was written"
        )
    return None


def keep(written: Path, folder: Path, complete: Complete) -> Path:
    """Turn what the trainer wrote into the checkpoint of that step; the older ones go."""
    for name in _UNWANTED:
        (written / name).unlink(missing_ok=True)
    write_json(
        msgspec.structs.replace(complete, files=_digests(written)), written / "complete.json"
    )
    flush(written)
    final = folder / "checkpoints" / f"step-{complete.step}"
    shutil.rmtree(final, ignore_errors=True)  # a damaged one that the run was not resumed from
    os.rename(written, final)
    flush_directory(final.parent)
    for old in sorted(final.parent.glob("step-*"), key=_step)[:-KEPT]:
        shutil.rmtree(old)
    return final


def drop_leftovers(run: Path) -> None:
    """Remove from a finished run what only served to resume it."""
    for name in ("checkpoints", "trainer"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "guard.json").unlink(missing_ok=True)


def truncate_lines(path: Path, step: int) -> None:
    """Leave in a JSON Lines file what was written up to `step`; a torn last line goes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            break
        if record["step"] <= step:
            kept.append(line)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made where it is absent, for this process alone.

    Raises InputError where another one trains in it.

    A folder in which no checkpoint was reached is removed when the block fails: nothing in it could
    be continued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The lock is on the folder itself, so it stays with it when it gets its final name, and no kill
    # leaves it behind.
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: another process is training this run",
                "wait for it, or choose another `--seed`",
            ) from error
        _HELD[handle] = os.getpid()
        try:
            yield
        except BaseException:
            if folder.exists() and newest(folder) is None:
                shutil.rmtree(folder)
            raise
    finally:
        _HELD.pop(handle, None)
        os.close(handle)


def _let_go() -> None:
    """In a process that was forked from one that trains: what packs its batches.

    Such a process shares the lock and outlives a killed parent by seconds, in which the run could
    not be resumed.
    """
    if _HELD:
        die_with_parent(next(iter(_HELD.values())))
    while _HELD:
        os.close(_HELD.popitem()[0])


os.register_at_fork(after_in_child=_let_go)


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): file_digest(path)
        for path in files
        if path.name != "complete.json"
    }


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return f"`{text[:12]}`" if len(text) == 64 else f"`{text}`"


def _step(directory: Path) -> int:
    return int(directory.name.rpartition("-")[2])
