"""docs/recipes.md has every key of a recipe with its default, and every rule of a ledger."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from dataset_builder.labels import Labels
from dataset_builder.recipe import Cap, Control, Keep, Shape
from dataset_builder.summary import FUNNEL
from dataset_builder.wordings import EVALUATION

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")


def keys(section: str) -> dict[str, str]:
    """The keys that the table of `section` explains, each with what it says is the default."""
    part = PAGE.split(f"## `[{section}]`")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", part, re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "struct"), [("keep", Keep), ("shape", Shape), ("cap", Cap), ("control", Control)]
)
def test_the_page_has_every_key_with_its_default(section: str, struct: type[msgspec.Struct]):
    told = keys(section)
    # `recipe` is filled in, never written.
    assert told.keys() == set(struct.__struct_fields__) - {"recipe"}
    for field in msgspec.structs.fields(struct):
        said = told.get(field.name, "")
        if field.required or field.name == "recipe":
            assert not said
        elif field.default is None:
            assert said == "–"
        else:
            value = tomllib.loads(f"v = {said.strip('`')}")["v"]
            assert msgspec.json.decode(msgspec.json.encode(field.default)) == value


def test_the_page_has_every_rule_label_and_wording():
    of_labels = ("min_labels.", "max_labels.")
    names = [name for name in FUNNEL if not name.startswith(of_labels)]
    assert len(names) > 20
    for name in [*names, *Labels.__struct_fields__, *EVALUATION]:
        if name not in ("threads", "kept"):
            assert f"`{name}`" in PAGE, name
