"""What the doctor finds, and what it says to type."""

import builtins

import pytest

from finetune import doctor
from finetune.base import BaseFiles
from tests.tiny import tiny_llama


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))


def test_every_line_is_ok_or_says_what_to_type(tmp_path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_llama(tmp_path / "model")

    def ready(base, *_):
        return BaseFiles(model=base.model, revision=None, digest="", directory=model, home=model)

    monkeypatch.setattr(doctor, "ready_base", ready)
    findings = list(doctor.examine())
    text = "\n".join(finding.line for finding in findings)

    assert len(findings) >= 6
    for word in ("Python 3.", "disk: ", "bitsandbytes ", "base microsoft/phi-2", "smollm2-demo"):
        assert word in text
    assert "GPU" in text
    for finding in findings:
        assert finding.is_ok or finding.hint, finding.line


def test_a_base_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "preset_names", lambda: ["phi2-oasst1-qlora"])
    (finding,) = doctor._bases()

    assert not finding.is_ok
    assert "microsoft/phi-2" in finding.line
    assert "hf download microsoft/phi-2" in str(finding.hint)


def test_without_torch_the_doctor_says_so_and_ends(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refusing(name, *rest):
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refusing)
    findings = list(doctor.examine())

    assert findings[-1].line == "torch is not installed"
    assert not findings[-1].is_ok


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch):
    class Usage:
        free = 10**9

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage)
    finding = doctor._disk()

    assert not finding.is_ok
    assert "1 GB free" in finding.line
    assert "ARTIFACTS" in str(finding.hint)


def test_bitsandbytes_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch):
    import bitsandbytes as bnb
    import torch

    cpu = torch.device("cpu")
    assert doctor._quantised(cpu).is_ok
    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", lambda self, x: 0 * x)
    assert not doctor._quantised(cpu).is_ok
