"""What stands in source.json and manifest.json: values only, read by every package."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from dataset_builder.artifacts import artifacts_root, read_json
from dataset_builder.errors import InputError
from dataset_builder.tables import FORMS, read_table


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that was read, and what it held."""

    name: str  # file name, or `repository@revision/file` from the Hub
    sha256: str
    bytes: int
    form: str  # trees, messages, threads or parquet
    rows: int  # lines or rows met, blank ones aside
    messages: int  # messages met in them
    refused: dict[str, int]  # messages (or unreadable rows) refused, by reason
    merged: int  # messages that stood already, with the same text, role and parent
    # Messages that said otherwise of a field than what stood, by field.
    conflicts: dict[str, int] = {}


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """tables/<digest12>/source.json: the messages of some sources, threaded and split."""

    digest: str  # of rows, source files, refused rows, word counter, held-out share
    files: list[SourceFile]
    held_out: float  # share of root texts
    trees: int
    messages: int
    threads: int
    trees_by_split: dict[str, int]  # train, validation, test
    prompts_by_split: dict[str, int]  # held-out prompts: validation, test
    word_counter: str


class SplitCount(msgspec.Struct, frozen=True, kw_only=True):
    """The size of one split of a variant."""

    rows: int
    words: int  # in replies; of pairs, in the chosen ones
    concise: int  # rows whose reply has at most 100 words; of pairs, whose chosen one has
    limits_stated: int  # rows whose prompt states a limit


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """variants/<name>-<digest12>/manifest.json: what determines a variant, and what came of it."""

    name: str
    digest: str  # of the rows and the ledger, the recipe and the tables: all that is in here
    title: str
    recipe: dict[str, Any]  # whole
    sources: list[SourceFile]
    tables: str  # digest of the tables it was made from
    held_out: float
    # All threads, then how many each reason dropped, in order, then those kept: rows of `train`. Of
    # the form `pairs` they are the threads that stand in a row; notes["pairs"] counts the rows.
    funnel: dict[str, int]
    validation_funnel: dict[str, int]
    splits: dict[str, SplitCount]  # train, validation
    notes: dict[str, Any]  # what a rule decided for the whole, such as the n of `concise_share`
    word_counter: str
    form: str = "answers"  # of the rows: answers, pairs or prompts


def find_variant(name: str) -> tuple[Path, Manifest]:
    """The current build of the variant `name`, or the build whose path or full name it is.

    Raises InputError where there is none, listing those that exist, and where the pointer to it
    leads out of the artefacts.
    """
    folder = artifacts_root() / "variants"
    pointer = folder / f"{name}.json"
    candidates = [Path(name)]
    if Path(name).name == name:
        candidates.append(folder / name)
        if pointer.is_file():
            build = read_json(pointer, Pointer).build
            if Path(build).name != build:
                raise InputError(
                    f"{pointer}: `{build}` is no name of a build", f"type `just build-data {name}`"
                )
            candidates.insert(0, folder / build)
    for directory in candidates:
        if (directory / "manifest.json").is_file():
            return directory, read_json(directory / "manifest.json", Manifest)
    known = sorted(path.stem for path in folder.glob("*.json"))
    near = difflib.get_close_matches(name, known, n=1)
    raise InputError(
        f"no variant `{name}` has been built",
        f"did you mean `{near[0]}`? If not, type `just build-data {name}`"
        if near
        else f"built: {', '.join(known)}; or type `just build-data {name}`"
        if known
        else f"type `just build-data {name}`",
    )


def read_variant(
    directory: Path, manifest: Manifest, split: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of `split`, train or validation, as the table of the variant's form, or these
    columns of it.

    Raises InputError where they are absent, damaged, or of a form that is not known here.
    """
    if manifest.form not in FORMS:
        raise InputError(
            f"{directory}: a variant of the form `{manifest.form}`; known: {', '.join(FORMS)}",
            f"type `just build-data {manifest.name}`",
        )
    return read_table(directory / f"{split}.parquet", FORMS[manifest.form], columns)


class Pointer(msgspec.Struct, frozen=True):
    """variants/<name>.json: which build is the current one."""

    build: str  # the directory's name


def find_tables(digest: str) -> Path:
    """The tables with this digest. Raises InputError where they are gone."""
    directory = artifacts_root() / "tables" / digest[:12]
    if not (directory / "source.json").is_file():
        raise InputError(
            f"{directory}: these tables are gone", "type `just build-data` with the same sources"
        )
    return directory
