"""Sources on the Hub: a dataset at a pinned revision, fetched once; Open Assistant's first export
where no source is named.
"""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset_builder.errors import InputError

REPOSITORY = "OpenAssistant/oasst1"
REVISION = "fdf72ae0827c1cda404aff25b6603abec9e3399b"
FILE = "2023-04-12_oasst_ready.trees.jsonl.gz"

# How the source is called in manifests.
NAME = f"{REPOSITORY}@{REVISION}/{FILE}"


class Pin(NamedTuple):
    """The revision that a repository stands for where none is named, and its file of trees."""

    revision: str
    file: str


PINS = {
    REPOSITORY: Pin(REVISION, FILE),
    "OpenAssistant/oasst2": Pin(
        "179dd21fc55192153d94adb0e0ce8f69e222bf75", "2023-11-05_oasst2_ready.trees.jsonl.gz"
    ),
}

# owner/name or owner/name@revision; what ends like a file is a file.
_DATASET = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*?)(@(?P<revision>[\w.-]+))?")
_ENDINGS = (".json", ".jsonl", ".gz", ".zst", ".parquet")

HINT = (
    "name a file you have: `--source FILE`; "
    "dataset_builder/sample/forest.trees.jsonl comes with treetune"
)


class Source(NamedTuple):
    """A file to read, and what it is called in manifests; None: by its file name."""

    path: Path
    name: str | None


def find_sources(named: Sequence[Path] | None) -> list[Source]:
    """The files that `named` stand for: local ones, or those of Hub datasets, fetched. Without any,
    OASST1's trees.

    Raises InputError where a dataset names no revision, has no parquet, or cannot be had, and where
    `named` is empty: an option without a value.
    """
    if named is not None and not named:
        raise InputError("`--source` without a file", HINT)
    if named is None:
        return _fetched(REPOSITORY, None)
    return _told_apart([source for path in named for source in _found(path)])


def _told_apart(sources: list[Source]) -> list[Source]:
    """`sources` with longer names for files that are called alike: as much of their paths, from the
    end, as no two share.

    Raises InputError where one file is named twice.
    """
    paths = [Path(os.path.abspath(source.path)) for source in sources]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"source `{path}` is named twice", "name each file once")
    names = [source.name or source.path.name for source in sources]
    for n in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        alike = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(path.parts[-n:]) if name in alike and not source.name else name
            for source, path, name in zip(sources, paths, names, strict=True)
        ]
    return [
        source if name == source.path.name else Source(source.path, name)
        for source, name in zip(sources, names, strict=True)
    ]


def from_hub(name: str) -> str | None:
    """What to type after `--source` for a file of a manifest: `owner/name@revision` where it came
    from the Hub, else None.
    """
    found = re.match(r"([^/@]+/[^/@]+@[0-9a-f]{40})/", name)
    return found.group(1) if found else None


def _found(path: Path) -> list[Source]:
    dataset = _DATASET.fullmatch(path.as_posix())
    if path.exists() or not dataset or path.suffix in _ENDINGS:
        near = None if path.exists() else _near(path.as_posix())
        if near:
            raise InputError(f"{path}: cannot be read: No such file or directory", near)
        return [Source(path, None)]
    return _fetched(dataset["repository"], dataset["revision"])


def _fetched(repository: str, revision: str | None) -> list[Source]:
    pin = PINS.get(repository)
    revision = revision or (pin.revision if pin else None)
    if revision is None:
        raise InputError(
            f"no file `{repository}`, and as a Hub dataset it names no revision",
            _near(repository)
            or f"name a file that is there, or `--source {repository}@COMMIT` for the Hub's",
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f"no file `{repository}@{revision}`, and as a Hub dataset not at a commit; "
            "wanted 40 hexadecimal digits",
            _near(f"{repository}@{revision}")
            or "a branch moves: the commit stands on the dataset's page, under its history",
        )
    if pin and pin.revision == revision:
        paths = {pin.file: _download(repository, pin.file, revision)}
    else:
        folder = _snapshot(repository, revision)
        files = sorted((folder / "data").rglob("*.parquet"))
        paths = {path.relative_to(folder).as_posix(): path for path in files}
    if not paths:
        raise InputError(
            f"{repository}@{revision}: no parquet under data/", "download a file and name it"
        )
    return [Source(path, f"{repository}@{revision}/{file}") for file, path in paths.items()]


def _download(repository: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(repository, file, revision=revision, repo_type="dataset"))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise _out_of_reach(repository) from error


def _snapshot(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                repo_type="dataset",
                allow_patterns=["data/*.parquet", "data/**/*.parquet"],
            )
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise _out_of_reach(repository) from error


def _near(name: str) -> str | None:
    """A hint with the file that `name` is most like, or the folder of such a name that is most like
    its own; None where neither is.
    """
    folder, file = Path(name).parent, Path(name).name
    folders = [each for each in sorted(Path().glob("*")) if each.is_dir()]
    close = difflib.get_close_matches(str(folder), [each.name for each in folders], n=1)
    for place in (folder, *map(Path, close)):
        names = sorted(each.name for each in place.glob("*") if each.is_file())
        stems = {_stem(each): each for each in reversed(names)}
        near = difflib.get_close_matches(file, [*names, *stems], n=1)
        if near:
            return f"did you mean `{place / stems.get(near[0], near[0])}`?"
    known = difflib.get_close_matches(name.partition("@")[0], PINS, n=1, cutoff=0.8)
    return f"did you mean `{known[0]}`?" if known else None


def _stem(name: str) -> str:
    return name.partition(".")[0]


def _out_of_reach(repository: str) -> InputError:
    return InputError(f"{repository} is not on this disk and the Hub cannot be reached", HINT)
