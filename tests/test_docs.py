"""The docs say what is there: the command reference, the README's tree, commands and links, the
justfile.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "commands.md"

# Each recipe of just and the program behind it.
PROGRAMS = {
    "build-data": ("dataset_builder", "build"),
    "audit": ("dataset_builder", "audit"),
    "diff": ("dataset_builder", "diff"),
    "train": ("finetune", "train"),
    "eval": ("evals", "eval"),
    "export-task": ("evals", "export-task"),
    "import-generations": ("evals", "import"),
    "compare": ("reports", "compare"),
    "experiment": ("reports", "experiment"),
    "export": ("reports", "export"),
    "card": ("reports", "card"),
    "ask": ("evals", "ask"),
    "list": ("reports", "list"),
    "doctor": ("finetune", "doctor"),
    "campaign": ("tests.campaigns", ""),
}


# One process for all of them, whose consoles are made as wide as the page; a command may end the
# process after its help.
HELP = """
import importlib, json, sys
from contextlib import suppress
from dataset_builder.command_line import run
for module, command in json.loads(sys.argv[1]):
    app = importlib.import_module(f"{module}.__main__").app
    with suppress(SystemExit):
        run(app, [*command.split(), "--help"])
    print("\\0")
"""


def reference() -> str:
    shown = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps([*PROGRAMS.values()])],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    parts = ["# Commands\n\nWritten from `--help` by `just golden`; do not edit.\n"]
    *helps, rest = shown.stdout.split("\0\n")
    assert not rest
    for (recipe, (module, command)), told in zip(PROGRAMS.items(), helps, strict=True):
        text = told.replace(f"Usage: {module} {command}".strip(), f"Usage: just {recipe}")
        text = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## just {recipe}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def test_the_command_reference_is_what_help_says():
    now = reference()
    if os.environ.get("UPDATE_GOLDEN"):
        COMMANDS.write_text(now, encoding="utf-8")
    assert COMMANDS.read_text(encoding="utf-8") == now, "stale: type `just golden`"


def justfile_recipes() -> set[str]:
    text = (ROOT / "justfile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*)(?: [^:=\n]*)?:(?!=)", text, re.MULTILINE))


def test_every_recipe_of_just_that_the_docs_name_exists():
    recipes = justfile_recipes()
    assert {"demo", "test", "check", *PROGRAMS} <= recipes
    for document in [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        named = set(
            re.findall(r"(?:`|^\$? ?)just ([a-z][a-z-]*)", document.read_text(), re.MULTILINE)
        )
        assert named <= recipes, f"{document.name} names {sorted(named - recipes)}"


def test_the_readmes_tree_names_every_module():
    text = README.read_text(encoding="utf-8")
    for package in ("dataset_builder", "finetune", "evals", "reports"):
        files = sorted((ROOT / package).glob("[!_]*.py"))
        assert files
        missing = [path.name for path in files if not re.search(rf"\b{path.name}\b", text)]
        assert not missing, f"the README's tree lacks {package}/{missing}"


def test_the_readme_is_finished():
    assert "@@" not in README.read_text(encoding="utf-8")


def test_links_in_the_docs_lead_somewhere():
    seen = 0
    for document in [README, *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(
            r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")
        ):
            seen += 1
            assert (document.parent / target).exists(), f"{document.name}: {target}"
    assert seen


ODD = ["two words", "a*b?[c]", "$(touch hacked) `touch hacked`", 'it\'s "so"']


def test_just_passes_arguments_as_typed(tmp_path: Path):
    if subprocess.run(["which", "just"], capture_output=True, check=False).returncode:
        pytest.skip("just is not on the path")

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["just", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "ARTIFACTS": str(tmp_path)},
            check=False,
        )

    # What reaches the program, one a line.
    done = typed("python=printf '%s\\n'", "build-data", *ODD)
    assert done.stdout.splitlines() == ["-m", "dataset_builder", "build", *ODD]
    # And the program itself, which is told all of it in one.
    odd = " ".join(ODD)
    done = typed("build-data", odd)
    assert done.returncode == 2
    assert f"unknown recipe `{odd}`" in done.stderr
    assert not (ROOT / "hacked").exists()
