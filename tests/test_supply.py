"""What comes from elsewhere is pinned: models and data sets by commit, packages by version."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from dataset_builder import hub
from finetune.preset import load_preset, preset_names
from tests.warm import ROOT

COMMIT = re.compile("[0-9a-f]{40}")
PACKAGES = ("dataset_builder", "finetune", "evals", "reports", "bench")

# What fetches, or reads what may say of itself that it needs code.
FETCHES = ("hf_hub_download", "snapshot_download", "load_dataset")
READS = ("from_pretrained",)


def calls(*names: str) -> Iterator[tuple[Path, ast.Call]]:
    """Every call of a function or method of these names, and every `partial` of one."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func
                if isinstance(called, ast.Name) and called.id == "partial":
                    called = node.args[0]
                name = getattr(called, "attr", None) or getattr(called, "id", None)
                if name in names:
                    yield path, node


def test_every_hub_model_of_a_preset_is_named_with_its_commit():
    bases = [load_preset(name).base for name in preset_names()]
    on_hub = [base for base in bases if not base.model.startswith("package:")]
    assert on_hub
    assert all(COMMIT.fullmatch(base.revision or "") for base in on_hub)


def test_every_hub_data_set_that_is_known_is_known_by_its_commit():
    pins = [hub.REVISION, *(pin.revision for pin in hub.PINS.values())]
    assert len(pins) > 1
    assert all(map(COMMIT.fullmatch, pins))


def test_nothing_is_fetched_without_a_revision():
    found = list(calls(*FETCHES))
    assert found
    for path, call in found:
        named = {keyword.arg for keyword in call.keywords}
        assert "revision" in named or path.parent.name == "bench", f"{path}:{call.lineno}"


def test_nothing_is_read_by_transformers_that_could_run_code():
    found = [each for each in calls(*READS) if each[0].parent.name != "bench"]
    assert len(found) > 8
    for path, call in found:
        said = ast.unparse(call)
        is_told = "NO_CODE" in said or "NO_PICKLES" in said or "trust_remote_code=False" in said
        # PEFT's adapters hold no code; `options` begins with NO_CODE.
        is_told |= "adapter_of" in said or "**options" in said
        assert is_told, f"{path}:{call.lineno}: {said}"


def test_every_package_of_the_lock_has_one_version():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert len(named) > 100
    assert all(re.match(r"[\w.-]+==[\w.!+]+( ; .*)?$", line) for line in named)
