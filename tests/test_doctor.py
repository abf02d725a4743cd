"""What the doctor finds, and what it says to type."""

import builtins
import email.message
import urllib.error
import urllib.request

import pytest

from dataset_builder import compiled
from dataset_builder.command_line import run
from finetune import doctor
from finetune.__main__ import app
from finetune.base import BaseFiles
from finetune.preset import load_preset
from finetune.route import routes
from tests.tiny import tiny_llama, tiny_preset


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    hub(monkeypatch, urllib.error.URLError("no network"))


class Answer:
    """What a server says to a HEAD."""

    status = 200

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def hub(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """Let the Hub answer so, or fail so."""

    def opened(request, timeout):
        assert request.get_method() == "HEAD"
        assert timeout <= 5
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", opened)


def test_every_line_is_ok_or_says_what_to_type(tmp_path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_llama(tmp_path / "model")

    def ready(base, *_):
        return BaseFiles(model=base.model, revision=None, digest="", directory=model, home=model)

    monkeypatch.setattr(doctor, "ready_base", ready)
    findings = list(doctor.examine())
    text = "\n".join(finding.line for finding in findings)

    assert len(findings) >= 6
    for word in (
        *("Python 3.", "disk: ", "bitsandbytes ", "base microsoft/phi-2", "smollm2-demo"),
        *("Hub cache: ", "Hub: ", "preset phi2-oasst1-qlora: about", "preset smollm2: about"),
    ):
        assert word in text
    assert "GPU" in text
    for finding in findings:
        assert finding.is_ok or finding.hint, finding.line


def test_a_machine_without_a_compiler_is_told_what_it_costs(monkeypatch: pytest.MonkeyPatch):
    lines = {}
    for library in (None, object()):
        monkeypatch.setattr(compiled, "library", lambda library=library: library)
        finding = doctor._reader()
        assert finding.is_ok
        lines[library is None] = finding.line
    assert "five times as fast" in lines[False]
    assert "five times as slowly" in lines[True]
    assert "CC" in lines[True]


def test_a_base_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    on_disk: dict = {}
    preset = load_preset("phi2-oasst1-qlora")
    (finding,) = doctor._bases({"phi2-oasst1-qlora": preset}, on_disk)

    assert on_disk == {}
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


@pytest.mark.parametrize(
    ("answer", "has_bases", "is_ok", "said"),
    [
        (Answer(), False, True, "answers (200)"),
        (urllib.error.HTTPError("", 403, "", email.message.Message(), None), False, True, "403"),
        (urllib.error.HTTPError("", 503, "", email.message.Message(), None), False, False, "503"),
        (urllib.error.URLError("no network"), False, False, "(no network), and a base is not"),
        (urllib.error.URLError("no network"), True, True, "nothing here needs it"),
        (TimeoutError("timed out"), False, False, "timed out"),
    ],
)
def test_a_hub_that_does_not_answer_matters_where_a_base_is_missing(
    monkeypatch: pytest.MonkeyPatch, answer, has_bases: bool, is_ok: bool, said: str
):
    hub(monkeypatch, answer)
    finding = doctor._hub(has_bases)

    assert finding.is_ok == is_ok
    assert said in finding.line
    assert finding.is_ok or "hf download" in str(finding.hint)


def test_a_preset_that_the_gpu_is_too_small_for_says_what_to_do(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    model = tiny_llama(tmp_path / "model")
    preset = load_preset(str(tiny_preset(tmp_path / "tiny.toml", model)))
    line = doctor._memory("tiny", preset, model).line
    assert line.endswith("here on the CPU")
    newer = routes(model, preset, (8, 0))[0].needed
    assert newer is not None
    assert f"{newer.total / 1e9:.1f} GB by the fast path of a card that computes bf16" in line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**8, 10**10))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    finding = doctor._memory("tiny", preset, model)

    assert not finding.is_ok
    assert finding.line.endswith("0.1 GB are free")
    assert "micro_batch" in str(finding.hint)


def test_the_doctor_looks_at_one_preset_where_it_is_asked_to(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tiny_preset(tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"))
    with pytest.raises(SystemExit) as stopped:
        run(app, ["doctor", str(path)])
    shown = capsys.readouterr().out

    assert stopped.value.code == 0
    assert "preset " in shown
    assert "phi2" not in shown
    for line in shown.splitlines():
        assert line.startswith(("OK   ", "no   ", "     hint: "))
    with pytest.raises(SystemExit) as stopped:
        run(app, ["doctor", "smolm2"])
    assert stopped.value.code == 2
    assert "did you mean `smollm2`?" in capsys.readouterr().err
