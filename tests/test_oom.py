"""Memory that runs out: smaller micro-batches, the same run; or one clear line."""

from pathlib import Path

import pytest
import torch

from dataset_builder.errors import InputError
from finetune import course, previews
from finetune.oom import Pieces, in_parts, one_line, pieces
from finetune.packing import pack, unpack
from finetune.progress import read_steps
from finetune.run import load_run
from tests.tiny import adapter_tensors, tiny_llama, tiny_preset, write_variant
from tests.training import Memory, Stopped, planned

TRAINING = "batch = 8\nmicro_batch = 8\nexamples = 24"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A preset in float32 without dropout: a cut micro-batch differs by rounding alone."""
    folder = tmp_path_factory.mktemp("oom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        tiny_preset(
            folder / "tiny.toml",
            tiny_llama(folder / "llama"),
            base='precision = "fp32"',
            lora="dropout = 0.0",
            training=TRAINING,
            previews="steps = 100",
        )
        yield folder


def short_of_memory(patch: pytest.MonkeyPatch, fits: int, seen: list[int]) -> None:
    """Let a pass over more than `fits` rows fail, after it has made gradients."""
    from trl import SFTTrainer

    whole = SFTTrainer.training_step

    def limited(self, model, inputs, items=None):
        loss = whole(self, model, inputs, items)
        seen.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return loss

    patch.setattr(SFTTrainer, "training_step", limited)


def test_a_step_that_does_not_fit_is_made_in_smaller_pieces(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(folder / "tiny.toml")
    whole = course.train(plan, Memory())
    whole.rename(folder / "whole")
    seen: list[int] = []
    short_of_memory(monkeypatch, 3, seen)
    watcher = Memory()
    directory = course.train(plan, watcher)

    # Eight, four, then two at a time to the end: every step sees its eight rows.
    assert seen == [8, 4] + 3 * [2, 2, 2, 2]
    said = [line for line in watcher.lines if "too little GPU memory" in line]
    assert said == [
        "step 1: too little GPU memory; from here on 4 examples at once, the batch as before",
        "step 1: too little GPU memory; from here on 2 examples at once, the batch as before",
    ]
    record = load_run(directory)
    assert record.notes["halvings"] == [
        {"step": 1, "micro_batch": 4},
        {"step": 1, "micro_batch": 2},
    ]
    assert (record.steps, record.examples_seen) == (3, 24)
    for ours, theirs in zip(read_steps(directory), read_steps(folder / "whole"), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    wanted = adapter_tensors(folder / "whole")
    for name, tensor in adapter_tensors(directory).items():
        assert torch.allclose(tensor, wanted[name], atol=1e-4), name


def test_micro_batches_before_the_one_that_failed_are_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The gradients gathered so far may hold a part of the failed pass."""
    gradients: list[float] = []
    forgotten: list[int] = []  # what was noted of the step
    weight = torch.nn.Parameter(torch.zeros(1))

    class Trainer:
        state = type("State", (), {"global_step": 6})
        args = type("Arguments", (), {"world_size": 1})

        def get_batch_samples(self):
            return [{"input_ids": torch.ones(4, 2)}, {"input_ids": 2 * torch.ones(4, 2)}], 16

        def training_step(self, model, inputs, items):
            loss = (weight * inputs["input_ids"]).sum() / items
            loss.backward()
            if inputs["input_ids"][0, 0] == 2 and len(inputs["input_ids"]) > 2:
                raise torch.OutOfMemoryError
            return loss.detach() + 1

        def forget(self):
            forgotten.append(self.state.global_step)

    model = torch.nn.Module()
    model.weight = weight
    trainer, said = Trainer(), Memory()
    Pieces(4, said.say).attach(trainer)
    samples, items = trainer.get_batch_samples()
    for inputs in samples:
        gradients.append(trainer.training_step(model, inputs, items).item())

    assert weight.grad.item() == (8 + 16) / 16
    assert gradients == [1, 2]  # two pieces
    assert forgotten == [6]
    assert "step 7" in said.lines[0]


def test_what_was_halved_stays_so_after_a_resume(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    short_of_memory(monkeypatch, 4, seen)
    plan = planned(folder / "tiny.toml", seed=1)
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    seen.clear()
    directory = course.train(plan, Memory(), resume=True)

    assert seen == [4, 4]
    assert load_run(directory).notes["halvings"] == [{"step": 1, "micro_batch": 4}]


def test_one_example_that_does_not_fit_ends_the_run_with_what_to_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    short_of_memory(monkeypatch, 0, [])
    with pytest.raises(InputError, match="step 1: too little GPU memory for one example") as error:
        course.train(planned(folder / "tiny.toml", seed=2), Memory())
    assert "gradient_checkpointing" in str(error.value.hint)


def test_another_failure_is_no_lack_of_memory(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("trl.SFTTrainer.training_step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        course.train(planned(folder / "tiny.toml", seed=3), Memory())


def test_previews_are_answered_fewer_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    whole = previews.answer

    def limited(model, template, tokenizer, questions, *rest):
        sizes.append(len(questions))
        if len(questions) > 2:
            raise torch.OutOfMemoryError
        return whole(model, template, tokenizer, questions, *rest)

    monkeypatch.setattr(previews, "answer", limited)
    watcher = Memory()
    course.train(planned(folder / "tiny.toml", seed=4), watcher)

    assert sizes == 2 * [4, 2, 2]
    # Greedy and drawn.
    assert [len(rows) for rows in watcher.previews] == [8, 8]


def test_a_model_that_does_not_fit_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(InputError, match="ran out while loading the base model") as error:
        course.train(planned(folder / "tiny.toml", seed=5), Memory())
    assert "nvidia-smi" in str(error.value.hint)


def test_one_at_a_time_that_does_not_fit_is_an_error():
    def never(_):
        raise torch.OutOfMemoryError

    with pytest.raises(InputError, match="too little GPU memory: an answer"):
        in_parts(never, [1, 2, 3], "an answer")
    with pytest.raises(ValueError, match="else"), one_line("x"):
        raise ValueError("something else")


def test_pieces_hold_every_row_once_without_padding_of_their_own():
    inputs = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]),
        "labels": torch.tensor([[1, 2, 3], [4, 5, -100], [6, -100, -100]]),
    }
    assert list(pieces(inputs, 3)) == [inputs]
    found = [piece["labels"].tolist() for piece in pieces(inputs, 2)]
    assert found == [[[1, 2, 3], [4, 5, -100]], [[6]]]
    assert [len(piece["input_ids"][0]) for piece in pieces(inputs, 1)] == [3, 2, 1]


def test_a_packed_row_is_cut_between_examples():
    examples = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"input_ids": [4], "labels": [-100]},
        {"input_ids": [5, 6], "labels": [-100, 6]},
    ]
    inputs = pack(examples)
    assert list(pieces(inputs, 3)) == [inputs]
    found = list(pieces(inputs, 2))
    assert [unpack(piece) for piece in found] == [examples[:2], examples[2:]]
    assert found[1]["target_ids"].tolist()[:2] == [6, -1]
