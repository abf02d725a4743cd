"""A model's files as others made them: read without running anything that they hold.

A configuration may name code that comes with it, and transformers asks on the terminal whether to
run that; pickled weights are programs. Here the answer is no, whatever a file or a person says.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_builder.artifacts import disk_cause, unreadable
from dataset_builder.errors import InputError

# What every configuration, tokenizer and model is loaded with; and every model's weights.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
NO_PICKLES: dict[str, Any] = NO_CODE | {"use_safetensors": True}

# safetensors reads no longer one.
HEADER_BYTES = 100_000_000

_HINT = "give what `save_pretrained` wrote, as safetensors"
_PICKLES = "pickled weights are never loaded; convert the model to safetensors"


def weights_of(directory: Path, where: str) -> list[Path]:
    """The safetensors of the model in `directory`. Raises InputError about `where` where it has
    none, or an index of them names any other file, which transformers would read.
    """
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise InputError(f"{where}: no safetensors in {directory}", _PICKLES)
    for index in directory.glob("*.safetensors.index.json"):
        named = _json(index).get("weight_map")
        known = {path.name for path in found}
        files = named.values() if isinstance(named, dict) else [named]
        for name in files:
            if not isinstance(name, str) or name not in known:
                raise InputError(f"{index}: names `{name}`, which is no safetensors here", _PICKLES)
    return found


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Makes an InputError about `where` of what transformers and safetensors say of files that
    cannot be read, or only with code of their own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever kind a parser has; what is of no file goes on below
        cause = disk_cause(error)
        if cause is not None:
            raise unreadable(where, cause) from error
        if isinstance(error, RecursionError):
            said = "nested too deeply"
        elif isinstance(error, (OSError, ValueError, SafetensorError)):
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
        else:
            raise
        raise InputError(f"{where}: cannot be read: {said}", _HINT) from error


def adapter_of(folder: Path) -> str:
    """The folder of an adapter, for PEFT. Raises InputError where PEFT would read a pickle."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: no adapter_model.safetensors there", _PICKLES)
    return str(folder)


def configuration(directory: Path) -> dict[str, Any]:
    """config.json of the model in `directory`, empty where there is none. Raises InputError where
    it cannot be read.
    """
    path = directory / "config.json"
    return _json(path) if path.exists() else {}


def _json(path: Path) -> dict[str, Any]:
    with reading(str(path)):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}; wanted an object")
    return found


def tensor_shapes(directory: Path) -> dict[str, list[int]]:
    """The shape of every tensor in the directory's safetensors files, read from their headers.
    Raises InputError where one is none.
    """
    shapes: dict[str, list[int]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with reading(str(path)), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > HEADER_BYTES:
                raise ValueError("it is no safetensors")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            shapes |= {name: tensor["shape"] for name, tensor in header.items()}
    return shapes
