"""A recipe as the TOML file that makes it: a card prints it, so that a stranger can build again."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from dataset_builder.recipe import Recipe, load_recipe, recipe_names


def recipe_files(name: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The files, by name, that make the `recipe` of a manifest a recipe called `name`; none where
    it ships. The first is the recipe, a second the target of a control.
    """
    if ships(name, recipe):
        return {}
    control = recipe.get("control")
    if control is None:
        usual = _plain(Recipe(title=""))
        del usual["title"]  # every recipe says its own, an empty one too
        return {f"{name}.toml": _toml(_changed(recipe, usual))}
    of, targets = control["of"], recipe_files(control["of"], control["recipe"])
    # A target called as its control would be the same file.
    names = {each: f"target-{each}" if each == f"{name}.toml" else each for each in targets}
    first = next(iter(names.values()), of)
    own = {"title": recipe["title"], "control": {"of": first, "match": control["match"]}}
    return {f"{name}.toml": _toml(own), **{names[each]: text for each, text in targets.items()}}


def ships(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether `recipe` is one of those that come with treetune, under its own name."""
    return name in recipe_names() and _plain(load_recipe(name)) == recipe


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(recipe))
    return plain


def _changed(table: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `table` says otherwise than `plain`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        usual = plain.get(key)
        if isinstance(value, Mapping) and (inside := _changed(value, usual or {})):
            found[key] = inside
        elif not isinstance(value, Mapping) and value != usual:
            found[key] = value
    return found


def _toml(table: Mapping[str, Any], under: str = "") -> str:
    lines = [
        f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)
    ]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            body = _toml(value, f"{under}{key}.")
            text += f"\n[{under}{key}]\n{body}"
    return text


def _value(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
