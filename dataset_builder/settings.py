"""Recipes, presets and suites: one small TOML file each, read strictly into a frozen struct.

A misspelt key is an error with the near miss. Were it ignored, two "different" variants would be
the same one.
"""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from dataset_builder.errors import InputError

Settings = TypeVar("Settings", bound=msgspec.Struct)

# No recipe, preset or suite comes near it; a stranger's file might never end.
SETTINGS_CHARACTERS = 2**20


def load_settings(name: str, folder: Path, kind: str, struct: type[Settings]) -> Settings:
    """The `struct` that `name` stands for: a file of `folder` without its ending, or the path of a
    TOML file.

    Raises InputError for an unknown name (listing the known ones), as `read_settings` does, for an
    unknown key or a value of the wrong type. `kind` is the word for the thing: recipe, preset or
    suite.
    """
    path = settings_path(name, folder, kind)
    return parse_settings(read_settings(path), struct, path.name)


def read_settings(path: Path) -> dict[str, Any]:
    """The tables and keys of the TOML file at `path`. Raises InputError where it cannot be read, is
    too long or not valid, or where a number has more bits than TOML's.
    """
    hint = "compare it with one that ships"
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(SETTINGS_CHARACTERS + 1)
        if len(text) > SETTINGS_CHARACTERS:
            raise InputError(f"{path}: more than {SETTINGS_CHARACTERS:,} characters", hint)
        table = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not valid TOML: nested too deeply", hint) from error
    except ValueError as error:  # no UTF-8, no TOML, or a number of thousands of digits
        raise InputError(f"{path}: not valid TOML: {error}", hint) from error
    for number in _integers(table):
        if not -(2**63) <= number < 2**63:
            raise InputError(f"{path}: {number} has more than the 64 bits of TOML's integers", hint)
    return table


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _integers(inside)


def settings_path(name: str, folder: Path, kind: str) -> Path:
    """The file that `name` stands for. Raises InputError where there is none."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"no {kind} file `{name}`", f"known {kind}s: {_known(folder)}")
        return path
    known = settings_names(folder)
    if name in known:
        return folder / f"{name}.toml"
    raise InputError(
        f"unknown {kind} `{name}`", _near(name, known) or f"known {kind}s: {_known(folder)}"
    )


def settings_names(folder: Path) -> list[str]:
    """The names in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def parse_settings(table: dict[str, Any], struct: type[Settings], where: str) -> Settings:
    """`table` as a `struct`. Raises InputError that names `where`, the key, what was found and what
    was wanted.
    """
    try:
        return msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        raise _explained(error, struct, where, table) from error


def settings_digest(settings: msgspec.Struct) -> str:
    """The sha256 of the settings as canonical JSON, in hexadecimal: equal settings, equal digest,
    any key order.
    """
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def as_stored(settings: msgspec.Struct) -> dict[str, Any]:
    """The settings as they come back from a JSON file: what was stored and what is now compare
    equal.
    """
    stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return stored


def _explained(
    error: msgspec.ValidationError, struct: type, where: str, table: dict[str, Any]
) -> InputError:
    text = str(error)
    inside = re.search(r" - at `\$\.?([^`]*)`$", text)
    place = inside.group(1) if inside else ""
    section = f" in `[{place}]`" if place else ""
    unknown = re.search(r"contains unknown field `(.*?)`", text)
    if unknown:
        keys = _keys(struct, place)
        hint = _near(unknown.group(1), keys) or f"known keys: {', '.join(keys)}"
        return InputError(f"{where}: unknown key `{unknown.group(1)}`{section}", hint)
    missing = re.search(r"missing required field `(.*?)`", text)
    if missing:
        return InputError(
            f"{where}: no key `{missing.group(1)}`{section}", "add it; it has no default"
        )
    found = re.sub(r" - at `.*`$", "", text)
    found = found[0].lower() + found[1:]
    value = re.search(r"invalid enum value '(.*)'", found)
    if value:
        choices = _choices(struct, place)
        hint = _near(value.group(1), choices) or f"known values: {', '.join(choices)}"
        return InputError(f"{where}: `{place}`: unknown value `{value.group(1)}`", hint)
    given = _given(table, place)
    if re.search(r" [<>]=? \S+$", found) and isinstance(given, int | float):
        found = f"{found}, got {given}"
    return InputError(
        f"{where}: `{place}`: {found}" if place else f"{where}: {found}", _near_value(found, given)
    )


def _near_value(found: str, given: Any) -> str | None:
    """What to write for `given`, of which msgspec says `found`."""
    if ", got `str`" in found:
        if "`array" in found:
            return f"a list stands in brackets: [{json.dumps(given, ensure_ascii=False)}]"
        return "numbers, lists and true or false stand without quotes"
    bound = re.search(r"([<>]=?) (\S+), got", found)
    if bound:
        ends = {">=": "the least is", "<=": "the most is", ">": "more than", "<": "less than"}
        return f"{ends[bound.group(1)]} {bound.group(2)}"
    return None


def _given(table: dict[str, Any], place: str) -> Any:
    """What stands at the dotted `place`; None where nothing does."""
    found: Any = table
    for part in re.findall(r"[^.\[\]]+", place):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            found = found.get(part) if isinstance(found, dict) else None
    return found


def _keys(struct: type, place: str) -> list[str]:
    """The keys that the struct at the dotted `place` below `struct` takes."""
    return list(_types(_inside(struct, place)))


def _choices(struct: type, place: str) -> list[str]:
    """The words that the key at the dotted `place` below `struct` takes."""
    section, _, key = place.partition("[")[0].rpartition(".")
    return _words(_types(_inside(struct, section)).get(key))


def _inside(struct: type, place: str) -> type:
    for part in filter(None, place.split(".")):
        inner = _types(struct).get(re.sub(r"\[.*\]$", "", part))
        struct = next((each for each in _members(inner) if _is_struct(each)), struct)
    return struct


def _types(struct: type) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    return [word for each in get_args(annotation) for word in _words(each)]


def _members(annotation: Any) -> list[Any]:
    return [annotation, *getattr(annotation, "__args__", ())]


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _near(name: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _known(folder: Path) -> str:
    return ", ".join(settings_names(folder))
