"""What a finished run says of itself, and how runs are found by name."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import artifacts_root, file_digest, in_place, read_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The base a run was trained on, and the proof that every weight of it was loaded."""

    model: str  # as the preset says it
    revision: str | None  # the commit, or None for a directory or a package
    digest: str  # sha256 over its weight files
    parameters: int
    matched: int  # weights loaded from the files
    missing: list[str]  # empty: a run with any is refused; so are unexpected and mismatched ones
    unexpected: list[str]
    mismatched: list[str]
    unused: list[str] = []  # the head over words, where a reward model has none


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a run between two interruptions: on what it was computed, and how.

    Its steps are those after `after`, up to `until`.
    """

    after: int  # the step of the checkpoint it went on from; 0 from the beginning
    until: int | None  # its last step that counts; None while it goes on
    device: dict[str, Any]
    versions: dict[str, str]
    precision: str  # bf16 ...
    is_fast: bool  # computed on the fast path
    is_checkpointed: bool  # activations recomputed
    processes: int

    def differences(self, other: "Segment") -> list[str]:
        """How `other` computes otherwise, one phrase each, its own way first."""
        phrases = []
        for name, ours, theirs in (
            ("the device", _device_name(self), _device_name(other)),
            ("precision", self.precision, other.precision),
            ("path", _path(self), _path(other)),
            ("processes", str(self.processes), str(other.processes)),
            *(
                (library, self.versions.get(library, "absent"), version)
                for library, version in other.versions.items()
            ),
        ):
            if ours != theirs:
                phrases.append(f"{name} was {ours}, is now {theirs}")
        return phrases


def _device_name(segment: Segment) -> str:
    return str(segment.device.get("name") or segment.device.get("type"))


def _path(segment: Segment) -> str:
    way = "the fast one" if segment.is_fast else "the usual one"
    return f"{way}, recomputing activations" if segment.is_checkpointed else way


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose adapter another one starts from, and is held against while it trains."""

    name: str
    adapter_sha256: str
    seed: int
    manifest: Manifest  # of its variant, whole: what the model has seen before
    preset_name: str
    preset_digest: str
    preset: dict[str, Any]  # whole
    parent: "Parent | None" = None  # what it started from itself

    @property
    def lineage(self) -> tuple["Parent", ...]:
        """The runs that led here, this one last."""
        return (*(self.parent.lineage if self.parent else ()), self)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: everything that determines a run, and its final numbers."""

    name: str  # <preset>-<digest8>/<variant>-<digest12>[-from-<digest8>]-s<seed>
    variant: str  # the variant's name
    manifest: Manifest  # the variant's, whole
    preset_name: str
    preset: dict[str, Any]  # whole
    preset_digest: str
    seed: int
    parent: Parent | None = None  # None where it started from the base alone
    base: BaseModel
    started: str  # ISO 8601, UTC
    finished: str
    seconds: float  # of training, previews aside
    preview_seconds: float
    steps: int
    examples_seen: int
    epochs: float
    trained_tokens: int  # tokens that carried loss
    tokens: int  # tokens that went through the model, padding aside
    train_loss: float  # mean of the last tenth of the steps
    validation_loss: float | None  # None where the variant has no validation row
    peak_memory: int | None  # bytes on the GPU; None on a CPU
    device: dict[str, Any]
    versions: dict[str, str]
    adapter_sha256: str
    resumed: list[int]  # steps at which it was resumed
    segments: list[Segment] = []  # one more than it was resumed; none in older runs
    notes: dict[str, Any] = {}

    @property
    def method(self) -> str:
        """How it was trained: sft, dpo, grpo, reward."""
        return str(self.preset.get("method", "sft"))

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The variants that the model has seen rows of, in the order of training."""
        earlier = self.parent.lineage if self.parent else ()
        return (*(each.manifest for each in earlier), self.manifest)


def runs_root() -> Path:
    """The folder of all runs."""
    return artifacts_root() / "runs"


def run_name(
    manifest: Manifest, preset_name: str, preset_digest: str, seed: int, parent: Run | None = None
) -> str:
    """What the run of this variant under this preset with this seed, from that parent, is called.

    The parent's digest is its adapter's: one trained anew is another start.
    """
    start = f"-from-{parent.adapter_sha256[:8]}" if parent else ""
    variant = f"{manifest.name}-{manifest.digest[:12]}"
    return f"{preset_name}-{preset_digest[:8]}/{variant}{start}-s{seed}"


def run_directories() -> list[Path]:
    """Every finished run, sorted by name."""
    found = (path.parent for path in in_place(runs_root(), "*/*/run.json"))
    return [directory for directory in found if directory.suffix != ".unfinished"]


def find_runs(name: str, others: Sequence[Path] = ()) -> list[Path]:
    """The finished runs that `name` means: one, or all seeds of an arm without the seed.

    `name` is a path, or a unique prefix of a run's name (`run_name`) or of its second part, or
    `PRESET/VARIANT` with a prefix of each. `others` are directories that may be meant too, and are
    no runs. Raises InputError where nothing or more than one arm matches, listing the choices.
    """
    if (Path(name) / "run.json").is_file():
        return [Path(name)]
    finished = [*run_directories(), *others]
    if Path(name).is_dir() and Path(name).resolve() in {d.resolve() for d in others}:
        return [Path(name)]
    full = {directory: f"{directory.parent.name}/{directory.name}" for directory in finished}
    folder, _, last = name.rpartition("/")
    found = (
        [d for d in finished if name in {full[d], d.name}]
        or [d for d in finished if full[d].startswith(name) or d.name.startswith(name)]
        or [d for d in finished if d.parent.name.startswith(folder) and d.name.startswith(last)]
    )
    # A whole name before its prefix: `concise` is not also `concise_best`, nor `tiny` `tiny-long`.
    runs = {d: load_run(d) for d in found if d not in others}
    if folder:
        found = [d for d, run in runs.items() if run.preset_name == folder] or found
    found = [d for d in found if d in runs and runs[d].variant == last] or found
    arms = {arm_of(d) for d in found}
    if len(arms) == 1:
        return sorted(found, key=lambda d: runs[d].seed if d in runs else 0)
    known = "\n      ".join(sorted(str(full[d]) for d in (found or finished)))
    begun = [] if found else _begun(name)
    if begun:
        raise InputError(
            f"run `{begun[0]}` is not finished",
            "type the same `just train` again with `--resume`, or let it end",
        )
    if not found:
        raise InputError(
            f"no finished run `{name}`",
            f"finished runs:\n      {known}" if finished else "type `just train VARIANT PRESET`",
        )
    raise InputError(
        f"`{name}` is the beginning of {len(found)} runs of {len(arms)} arms",
        f"choose one:\n      {known}",
    )


def _begun(name: str) -> list[str]:
    """The unfinished runs that `name` may mean."""
    found = sorted(runs_root().glob("*/*.unfinished"))
    full = [f"{path.parent.name}/{path.stem}" for path in found]
    return [
        each
        for path, each in zip(found, full, strict=True)
        if Path(name).resolve() in (path.resolve(), path.with_suffix("").resolve())
        or each.startswith(name)
        or path.name.startswith(name)
    ]


def arm_of(directory: Path) -> str:
    """A run's name without its seed.

    Of runs that started from others, `from` is followed by a digest of the parent's arm: seeds that
    each went on from another seed of one arm are one arm too.
    """
    name = f"{directory.parent.name}/{directory.name}"
    return _arm(name, load_run(directory).parent if "-from-" in name else None)


def _arm(name: str, parent: Parent | None) -> str:
    arm = without_seed(name)
    started = re.fullmatch(r"(.+-[0-9a-f]{12}-from-)[0-9a-f]{8}", arm)
    if started is None or parent is None:
        return arm
    start = _arm(parent.name, parent.parent)
    return started[1] + hashlib.sha256(start.encode()).hexdigest()[:8]


def without_seed(name: str) -> str:
    """A run's name without its seed."""
    return re.sub(r"-s\d+$", "", name)


def load_run(directory: Path) -> Run:
    """The record of the run in `directory`. Raises InputError where it is absent or unfinished."""
    return read_json(directory / "run.json", Run)


def refuse_changed_adapter(directory: Path, run: Run) -> None:
    """Raise InputError where the adapter in `directory` is not the one that `run` names."""
    path = directory / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        raise InputError(f"run `{run.name}` has no adapter at {path}", "train it again")
    # A flipped bit in safetensors goes unnoticed by every library that reads it.
    if file_digest(path) != run.adapter_sha256:
        raise InputError(
            f"{path}: not the adapter that run.json names",
            "bring back the file, or train the run again",
        )
    for name, sha256 in run.notes.get("adapter_files", {}).items():
        beside = path.with_name(name)
        if not beside.is_file() or file_digest(beside) != sha256:
            raise InputError(
                f"{beside}: not what the run wrote", "bring back the file, or train the run again"
            )


def files_beside(adapter: Path) -> dict[str, str]:
    """The sha256 of what else says how an adapter answers, its configuration and tokenizer, by
    name; the card says nothing of that, and is refreshed.
    """
    return {
        path.name: file_digest(path)
        for path in sorted(adapter.iterdir())
        if path.name not in ("adapter_model.safetensors", "README.md")
    }
