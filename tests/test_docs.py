"""The docs say what is there: the command reference, the README's tree, commands and links, the
justfile.
"""

import importlib
import io
import os
import re
import subprocess
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from dataset_builder.command_line import run

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
    "export": ("reports", "export"),
    "card": ("reports", "card"),
    "ask": ("evals", "ask"),
    "list": ("reports", "list"),
    "doctor": ("finetune", "doctor"),
}


def help_text(module: str, command: str) -> str:
    app = importlib.import_module(f"{module}.__main__").app
    with redirect_stdout(io.StringIO()) as shown, pytest.MonkeyPatch.context() as patch:
        for name, value in {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}.items():
            patch.setenv(name, value)
        # A command may end the process after its help.
        with suppress(SystemExit):
            run(app, [command, "--help"])
    text = shown.getvalue().replace(f"Usage: {module} {command}", "Usage:")
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def reference() -> str:
    parts = ["# Commands\n\nWritten from `--help` by `just golden`; do not edit.\n"]
    for recipe, (module, command) in PROGRAMS.items():
        text = help_text(module, command).replace("Usage:", f"Usage: just {recipe}")
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
