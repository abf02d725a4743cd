"""What a card tells a stranger to type makes the same build."""

import re
import shlex
from pathlib import Path

import msgspec
import pytest
from builders import prompt, reply, write

from dataset_builder import hub
from dataset_builder.__main__ import app
from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from dataset_builder.manifest import find_variant
from dataset_builder.recipe import Recipe, load_recipe, recipe_names
from dataset_builder.recipe_file import recipe_files

ODD = """
title = 'A "test" \\ of \u00e9 \U0001f600 and \\u007f'
[keep]
languages = ["en"]
tree_states = []
reply_words = [1, 60]
[keep.min_labels]
quality = 0.25
[shape]
state_word_limit = 0.3333333333333333
slack = [1.5, 3.0]
limit_from = "slack"
[cap]
examples = 30
stratify = ["length"]
"""
CONTROL = 'title = "Control"\n[control]\nof = "{of}"\nmatch = "words"\n'


def labelled(folder: Path) -> list[Path]:
    """Two files of one name."""
    paths = []
    for at, part in enumerate(("one", "two")):
        rows = []
        for n in range(20):
            name = f"{part}{n}"
            labels = {"quality": {"value": 0.5, "count": 3}}
            rows += [prompt(f"p{name}", text=f"What is {name}, and why {n * 7919}?")]
            rows += [reply(f"a{name}", f"p{name}", rank=0, words=5 + n + at, labels=labels)]
            rows += [reply(f"b{name}", f"p{name}", rank=1, words=50 + n, labels=labels)]
        (folder / part).mkdir()
        paths.append(write(folder / part / "rows.jsonl", rows))
    return paths


def build(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        run(app, ["build", *map(str, arguments)])
    assert not end.value.code


@pytest.mark.parametrize("name", ["odd", "control", "of_shipped", "full"])
def test_the_command_on_a_card_builds_the_same_again(tmp_path, monkeypatch, name):
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    sources = labelled(tmp_path / "first")
    Path("odd.toml").write_text(ODD, encoding="utf-8")
    Path("control.toml").write_text(CONTROL.format(of="odd.toml"), encoding="utf-8")
    Path("of_shipped.toml").write_text(CONTROL.format(of="concise_best"), encoding="utf-8")
    asked = name if name in recipe_names() else f"{name}.toml"
    build(asked, "--source", *sources, "--held-out", "0.123456789")
    directory, manifest = find_variant(name)
    card = (directory / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"Write this as `([^`]+)`:\n\n```toml\n(.*?)```", card, re.DOTALL)
    assert len(files) == {"odd": 1, "control": 2, "of_shipped": 1}.get(name, 0)
    (command,) = re.findall(r"^just build-data (.*)$", card, re.MULTILINE)
    # Elsewhere, with nothing but the sources.
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "other"))
    for part in ("one", "two"):
        (tmp_path / "again" / part).symlink_to(tmp_path / "first" / part)
    for file, text in files:
        Path(file).write_text(text, encoding="utf-8")
    build(*shlex.split(command))
    again, same = find_variant(name)
    assert again.name == directory.name
    assert same == manifest


@pytest.mark.parametrize("name", recipe_names())
def test_what_ships_needs_no_file_and_as_a_file_says_the_same(tmp_path, name):
    recipe = msgspec.json.decode(msgspec.json.encode(load_recipe(name)))
    assert recipe_files(name, recipe) == {}
    files = recipe_files("mine", recipe)
    for file, text in files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe(name)


@pytest.mark.parametrize("title", ["", "'", '"', "\x7f"])
def test_a_recipe_written_as_a_file_keeps_its_title_an_empty_one_too(tmp_path, title):
    recipe = msgspec.json.decode(msgspec.json.encode(Recipe(title=title)))
    [(file, text)] = recipe_files("mine", recipe).items()
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / file)).title == title


def test_files_of_one_name_are_told_apart_by_as_much_of_their_paths_as_it_takes(tmp_path):
    paths = [Path(each) for each in ("a/x/r.jsonl", "b/x/r.jsonl", "b/y/r.jsonl", "s.jsonl")]
    names = [source.name for source in hub.find_sources(paths)]
    assert names == ["a/x/r.jsonl", "b/x/r.jsonl", "y/r.jsonl", None]
    with pytest.raises(InputError, match="is named twice"):
        hub.find_sources([paths[0], Path("a/../a/x/r.jsonl")])
