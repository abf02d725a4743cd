"""Steps that are told of while the next one is made: the same lines, a step later."""

from pathlib import Path

import msgspec
import pytest

from dataset_builder.errors import InputError
from finetune import late, recorder
from finetune.fast import Fast
from finetune.progress import Step, read_steps
from tests.tiny import adapter_tensors, tiny_llama, tiny_preset, write_pairs, write_variant
from tests.training import trained

TIMES = ("seconds", "tokens_per_second", "peak_share", "seconds_left")


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()
    model = tiny_llama(tmp_path / "llama")
    # In float32, which a CPU without instructions for bf16 multiplies ten times as fast.
    tiny_preset(
        tmp_path / "tiny.toml",
        model,
        base='precision = "fp32"',
        training="checkpoint_steps = 4",
    )
    return tmp_path / "tiny.toml"


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A recorder that pauses where one on a GPU does; (step told of, step given) of each line."""
    pauses = recorder.Recorder.pauses
    order: list[tuple[int, int]] = []

    def on_a_gpu(made, state, control) -> bool:
        device, made.device = made.device, type("", (), {"type": "cuda"})
        try:
            return pauses(made, state, control)
        finally:
            made.device = device

    settle = late.LateLogs.settle

    def watched(trainer) -> None:
        if trainer._held is not None:
            order.append((trainer._held.step, trainer.state.global_step))
        settle(trainer)

    monkeypatch.setattr(recorder.Recorder, "pauses", on_a_gpu)
    monkeypatch.setattr(late.LateLogs, "settle", watched)
    return order


def without_times(steps: list[Step]) -> list[dict]:
    return [
        {k: v for k, v in msgspec.to_builtins(step).items() if k not in TIMES} for step in steps
    ]


def take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no GPU is, uncompiled."""

    def forced(model, preset, device, precision, **_):
        return Fast(model.get_base_model(), preset.length, precision, compiled=False)

    monkeypatch.setattr("finetune.trainer.fast_or_reason", forced)


def test_the_lines_are_those_that_are_told_at_once(preset: Path, monkeypatch: pytest.MonkeyPatch):
    take_the_fast_path(monkeypatch)
    with monkeypatch.context() as patch:
        patch.delattr(late.LateLogs, "_maybe_log_save_evaluate")  # transformers' own way
        at_once = trained(preset)
    kept, adapter = read_steps(at_once), adapter_tensors(at_once)
    order = as_on_a_gpu(monkeypatch)
    at_once.rename(at_once.with_name("aside"))
    later = trained(preset)
    steps = read_steps(later)

    assert without_times(steps) == without_times(kept)
    assert all((adapter[name] == value).all() for name, value in adapter_tensors(later).items())
    # A step late, but for those that something else comes after.
    assert any(told == given - 1 for told, given in order)
    assert order[-1] == (len(kept), len(kept))
    assert sorted(step.seconds for step in steps) == [step.seconds for step in steps]


def test_a_loss_that_is_no_number_is_told_before_anything_is_saved(
    preset: Path, monkeypatch: pytest.MonkeyPatch
):
    text = preset.read_text().replace("learning_rate = ", "learning_rate = 1e30 # ")
    text = text.replace("checkpoint_steps = 4", "checkpoint_steps = 3")
    preset.write_text(text)
    as_on_a_gpu(monkeypatch)
    take_the_fast_path(monkeypatch)
    with pytest.raises(InputError, match="the loss is"):
        trained(preset)
    assert not list((preset.parent / "artifacts" / "runs").glob("**/complete.json"))


def test_what_trl_tells_of_a_step_on_the_usual_path_is_of_that_step(
    preset: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[dict] = []
    on_log = recorder.Recorder.on_log

    def heard(made, args, state, control, logs, **named) -> None:
        told.append({"step": state.global_step, **logs})
        on_log(made, args, state, control, logs, **named)

    monkeypatch.setattr(recorder.Recorder, "on_log", heard)
    at_once = trained(preset)
    wanted, told[:] = [each for each in told if "loss" in each], []
    as_on_a_gpu(monkeypatch)
    at_once.rename(at_once.with_name("aside"))
    trained(preset)

    assert all("entropy" in each and "num_tokens" in each for each in wanted)
    assert [each for each in told if "loss" in each] == wanted


def test_the_terms_of_preferences_are_of_the_step_that_is_told_of(
    preset: Path, monkeypatch: pytest.MonkeyPatch
):
    write_pairs()
    shared = {"lora": "dropout = 0.0", "previews": "prompts = 0"}
    begun = {**shared, "training": "examples = 8"}
    trained(tiny_preset(preset.with_name("sft.toml"), preset.with_name("llama"), **begun))
    dpo = {**shared, "top": 'method = "dpo"', "dpo": "beta = 0.3"}
    training = "checkpoint_steps = 4"
    pairs = tiny_preset(
        preset.with_name("dpo.toml"), preset.with_name("llama"), training=training, **dpo
    )
    at_once = trained(pairs, "pairs", start="sft/tiny")
    kept = read_steps(at_once)
    order = as_on_a_gpu(monkeypatch)
    at_once.rename(at_once.with_name("aside"))
    steps = read_steps(trained(pairs, "pairs", start="sft/tiny"))

    assert without_times(steps) == without_times(kept)
    assert len({step.terms["chosen_words"] for step in steps}) > 1
    assert any(told == given - 1 for told, given in order)
