"""Training on tiny models: what moves, what does not, and what is written down."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dataset_builder.artifacts import file_digest, read_json
from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from finetune import course, sft
from finetune.model import load_base, load_merged
from finetune.plan import Plan
from finetune.progress import Step, read_steps
from finetune.run import Run, load_run
from finetune.tokens import prepare_rows
from tests.tiny import adapter_tensors, example, tiny_llama, tiny_phi, tiny_preset, write_variant
from tests.training import Memory, planned, trained

CPU = torch.device("cpu")
MODELS = {"chatml": tiny_llama, "instruct": tiny_phi}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Two tiny models, a variant of ten rows, and a preset for each model, by template."""
    folder = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        for template, make in MODELS.items():
            model = make(folder / template)
            tiny_preset(folder / f"{template}.toml", model, template=template)
        yield folder


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, folder: Path) -> tuple[Plan, Memory, Path]:
    """A finished run of six steps, with its plan and what its watcher was told."""
    plan = planned(folder / f"{request.param}.toml")
    watcher = Memory()
    return plan, watcher, course.train(plan, watcher)


def test_a_finished_run_holds_what_is_promised_and_nothing_else(run):
    plan, _, directory = run
    names = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}

    assert directory == plan.directory
    assert not plan.unfinished.exists()
    assert names == {
        *("run.json", "fit.json", "metrics.jsonl", "previews.jsonl"),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"),
        *("adapter/tokenizer.json", "adapter/tokenizer_config.json"),
    }


def test_the_record_agrees_with_the_metrics_and_with_the_plan(run):
    plan, watcher, directory = run
    record = load_run(directory)
    steps = read_steps(directory)

    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6] == [s.step for s in watcher.steps]
    assert record.steps == 6
    assert record.examples_seen == steps[-1].examples_seen == 24
    assert record.epochs == 2.4
    assert record.tokens == sum(step.tokens for step in steps)
    assert record.trained_tokens == sum(step.trained_tokens for step in steps)
    assert record.train_loss == steps[-1].loss
    assert record.manifest == plan.manifest
    assert record.resumed == []
    assert record.adapter_sha256 == file_digest(directory / "adapter" / "adapter_model.safetensors")
    assert read_json(directory / "fit.json", Fit) == plan.fit == watcher.fit
    # A constant 0 would also be "fewer than the last": learning is seen on the whole.
    assert sum(step.loss for step in steps[-2:]) < sum(step.loss for step in steps[:2])


def test_every_weight_of_the_base_was_loaded_and_the_log_says_so(run):
    plan, watcher, directory = run
    base = load_run(directory).base
    stored = load_file(plan.files.directory / "model.safetensors")

    assert base.matched == len(stored)
    assert base.missing == base.unexpected == base.mismatched == []
    assert any(f"all {base.matched} tensors of the files loaded" in line for line in watcher.lines)


def test_the_adapter_is_on_every_projection_and_has_moved(run):
    plan, _, directory = run
    tensors = adapter_tensors(directory)
    ups = {name: tensor for name, tensor in tensors.items() if ".lora_B." in name}

    assert len(ups) == 2 * len(plan.preset.lora.targets)  # two layers
    assert len(tensors) == 2 * len(ups)  # nothing but A and B
    for name, tensor in ups.items():
        assert tensor.dtype == torch.float32
        assert tensor.abs().max() > 0, f"{name} stayed where it began"


def test_the_adapter_names_its_base_and_holds_no_pickle(run):
    plan, _, directory = run
    config = json.loads((directory / "adapter" / "adapter_config.json").read_text())

    assert config["base_model_name_or_path"] == plan.preset.base.model
    assert config["task_type"] == "CAUSAL_LM"
    assert config["target_modules"] == sorted(plan.preset.lora.targets)
    assert not [p for p in directory.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_the_model_card_is_filled_in(run):
    plan, _, directory = run
    card = (directory / "adapter" / "README.md").read_text()
    record = load_run(directory)

    assert card.startswith("---\n")
    assert "library_name: peft" in card
    for value in (plan.manifest.digest, record.adapter_sha256, str(record.trained_tokens)):
        assert value in card
    assert "None" not in card


def test_the_validation_loss_is_that_of_a_plain_cross_entropy(run):
    plan, _, directory = run
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, str(directory / "adapter")).eval()
    total, count = 0.0, 0
    for row in plan.validation_rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = model(ids).logits[0, :-1].float()
        answer = logits[len(row.prompt_ids) - 1 :].log_softmax(-1)
        total -= answer.gather(1, torch.tensor(row.completion_ids)[:, None]).sum().item()
        count += len(row.completion_ids)

    assert plan.validation_rows
    assert load_run(directory).validation_loss == pytest.approx(total / count, rel=5e-3)


def test_a_prompt_adds_nothing_to_the_loss_and_gets_no_gradient(folder: Path):
    plan = planned(folder / "chatml.toml")
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    trainer = sft.make_trainer(plan, model, CPU)
    trainer.model.eval()  # no dropout
    row = trainer.train_dataset[0]
    batch = trainer.data_collator([row])
    loss = trainer.compute_loss(trainer.model, dict(batch))

    with torch.no_grad():
        logits = trainer.model(batch["input_ids"]).logits[0].float().log_softmax(-1)
    labels = row["labels"]
    places = [n for n, label in enumerate(labels) if label != -100]
    expected = -sum(logits[n - 1, labels[n]] for n in places) / len(places)
    assert len(places) < len(labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_training_leaves_the_base_as_it_was(folder: Path):
    plan = planned(folder / "chatml.toml", seed=5)
    seen = {}

    def loaded(*arguments, **options):
        model, record = load_base(*arguments, **options)
        seen["model"] = model
        seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return model, record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.model.load_base", loaded)
        course.train(plan, Memory())
    after = {
        name.replace("base_layer.", ""): parameter
        for name, parameter in seen["model"].named_parameters()
        if "lora_" not in name
    }

    assert after.keys() == seen["before"].keys()
    for name, parameter in seen["before"].items():
        assert torch.equal(parameter, after[name]), name


def test_the_merged_model_answers_as_the_trained_one(run):
    plan, _, directory = run
    merged = load_merged(plan.files, plan.preset.base, directory / "adapter", CPU)
    base = load_merged(plan.files, plan.preset.base, None, CPU)
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, str(directory / "adapter")).eval()
    ids = torch.tensor([plan.rows[0].prompt_ids + plan.rows[0].completion_ids])
    with torch.no_grad():
        wanted, found, plain = (m(ids).logits.float() for m in (model, merged, base))

    assert (wanted - found).norm() < 0.03 * wanted.norm()  # bf16 rounding
    assert (wanted - plain).norm() > 0.06 * wanted.norm()


def test_equal_seeds_give_equal_adapters_and_others_do_not(folder: Path, run):
    plan, _, directory = run
    if plan.template.name != "chatml":
        pytest.skip("one model is enough")
    preset = folder / "chatml.toml"
    first = load_run(directory)
    assert load_run(trained(preset, seed=1)).adapter_sha256 != first.adapter_sha256
    directory.rename(folder / "put aside")
    again = trained(preset)

    assert load_run(again).adapter_sha256 == first.adapter_sha256
    assert [s.loss for s in read_steps(again)] == [s.loss for s in read_steps(folder / "put aside")]


def test_packed_weights_train_as_unpacked_ones(run, monkeypatch: pytest.MonkeyPatch):
    plan, watcher, directory = run
    monkeypatch.setattr("finetune.model._fits_unpacked", lambda *_: False)
    directory.rename(directory.with_name("unpacked"))
    packed = Memory()
    course.train(plan, packed)
    shutil.rmtree(directory)
    directory.with_name("unpacked").rename(directory)

    assert len(watcher.steps) == len(packed.steps) == 6
    for one, other in zip(watcher.steps, packed.steps, strict=True):
        # TRL rounds a 4-bit base's adapter to bf16 once, before the first step.
        assert one.loss == pytest.approx(other.loss, rel=2e-2)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=0.2)


def test_a_trainer_that_drops_rows_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(folder / "chatml.toml", seed=7)
    whole = sft.dataset_of
    monkeypatch.setattr(sft, "dataset_of", lambda rows, order: whole(rows, order[:-1]))
    model, _ = load_base(plan.files, plan.preset.base, CPU)

    with pytest.raises(RuntimeError, match="the trainer holds 23 rows, not 24"):
        sft.make_trainer(plan, model, CPU)


def test_a_trainer_that_masks_answers_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(folder / "chatml.toml", seed=7)
    whole = sft.dataset_of

    def shortened(rows, order):
        return whole(rows, order).map(lambda row: {"labels": [*row["labels"][:-1], -100]})

    monkeypatch.setattr(sft, "dataset_of", shortened)
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    with pytest.raises(RuntimeError, match=r"would train \d+ tokens, not \d+"):
        sft.make_trainer(plan, model, CPU)


def test_a_loss_that_is_no_number_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(folder / "chatml.toml", seed=8)
    monkeypatch.setattr(
        "trl.SFTTrainer.compute_loss",
        lambda self, model, *_, **__: (
            sum(p.sum() for p in model.parameters() if p.requires_grad) * math.nan
        ),
    )
    with pytest.raises(InputError, match="step 1: the loss is nan") as error:
        course.train(plan, Memory())
    assert "learning_rate" in str(error.value.hint)
    assert not plan.unfinished.exists()
    assert not plan.directory.exists()


def test_the_budget_is_examples_seen_whatever_the_variants_size(folder: Path):
    preset = tiny_preset(
        folder / "nine.toml", folder / "chatml", training="examples = 9", previews="prompts = 0"
    )
    write_variant("small", [example(n) for n in range(3)], validation=[])
    run = load_run(trained(preset, "small"))

    # Nine examples are two steps of four and one more; a step is never a smaller batch.
    assert (run.steps, run.examples_seen, run.epochs) == (3, 12, 4.0)
    assert run.trained_tokens == 4 * sum(
        len(row.completion_ids) for row in planned(preset, "small").rows
    )
    assert run.validation_loss is None

    write_variant("large", [example(n) for n in range(48)], validation=[])
    plan = planned(preset, "large")
    run = load_run(course.train(plan, Memory()))
    assert (run.steps, run.examples_seen, run.epochs) == (3, 12, 0.25)
    seen = [plan.rows[place] for place in plan.order]
    assert len({row.example_id for row in seen}) == 12  # none twice
    assert run.trained_tokens == sum(len(row.completion_ids) for row in seen)
    assert run.tokens == sum(len(row.prompt_ids + row.completion_ids) for row in seen)


def test_the_fit_and_every_dropped_id_are_on_disk_and_told_before_the_first_step(folder: Path):
    rows = [example(n, answer="word " * 200 if n % 3 == 0 else None) for n in range(10)]
    write_variant("long", rows, validation=[])
    preset = tiny_preset(
        folder / "long.toml", folder / "chatml", training="examples = 4", previews="prompts = 0"
    )
    plan = planned(preset, "long")
    found: list[Fit] = []

    class Looking(Memory):
        def stepped(self, step: Step, steps: int) -> None:
            found.append(read_json(plan.unfinished / "fit.json", Fit))

    watcher = Looking()
    course.train(plan, watcher)
    assert [fit.dropped for fit in found] == [["e0", "e3", "e6", "e9"]]
    assert found[0] == watcher.fit == plan.fit
    assert found[0].rows == found[0].kept + len(found[0].dropped) == 10


@pytest.mark.parametrize("template", list(MODELS))
def test_extra_tokens_change_nothing_else_before_the_first_step(folder: Path, template: str):
    model_folder = folder / template
    plain = planned(folder / f"{template}.toml")
    preset = tiny_preset(
        folder / f"{template}-extra.toml",
        model_folder,
        template=template,
        top='extra_tokens = ["<limit>", "<words>"]',
        training="fast = false",  # the base rounds as its own layers do
    )
    plan = planned(preset)
    base, _ = load_base(plain.files, plain.preset.base, CPU)
    size = base.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([plain.rows[0].prompt_ids])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the trainer computes
        wanted = base(ids).logits

    model, _ = load_base(plan.files, plan.preset.base, CPU)
    trainer = sft.make_trainer(plan, model, CPU)
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        found = trainer.model(ids).logits
    known = len(plain.tokenizer)

    assert plan.extra_ids == [known, known + 1]
    # The Llama's embedding is full and grows; the Phi's has free ids and stays as large as it was.
    assert model.get_input_embeddings().weight.shape[0] == max(size, known + 2)
    assert torch.equal(found[..., :known], wanted[..., :known])


@pytest.mark.parametrize("template", list(MODELS))
def test_extra_tokens_are_trained_and_come_back_with_the_adapter(folder: Path, template: str):
    preset = tiny_preset(
        folder / f"{template}-said.toml",
        folder / template,
        template=template,
        top='extra_tokens = ["<limit>"]',
        previews="steps = 100",
    )
    rows = [example(n, question=f"What is {n}? <limit>", answer=f"{n}. <limit>") for n in range(4)]
    write_variant("said", rows)
    plan = planned(preset, "said")
    (new,) = plan.extra_ids
    assert all(new in row.prompt_ids and new in row.completion_ids for row in plan.rows)
    start, _ = load_base(plan.files, plan.preset.base, CPU)
    prepare_rows(start, plan.extra_ids)
    directory = course.train(plan, Memory())
    merged = load_merged(plan.files, plan.preset.base, directory / "adapter", CPU)
    before, after = (m.get_input_embeddings().weight for m in (start, merged))

    assert not torch.equal(after[new], before[new])
    assert torch.equal(after[:new], before[:new])
    head = merged.get_output_embeddings()
    if template == "chatml":  # tied: the head is the embedding, so the token can be said too
        assert torch.equal(head.weight[new], after[new])
    else:
        assert not torch.equal(head.weight[new], start.get_output_embeddings().weight[new])
    row = plan.rows[0]
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    with torch.no_grad():
        chances = merged(ids).logits[0].float().log_softmax(-1)
        at_start = start(ids).logits[0].float().log_softmax(-1)
    place = len(row.prompt_ids) + row.completion_ids.index(new) - 1
    assert chances[place, new] > at_start[place, new]


def test_a_line_of_metrics_says_its_units_by_name(run):
    _, _, directory = run
    line = json.loads((directory / "metrics.jsonl").read_text().splitlines()[0])

    assert set(line) == set(Step.__struct_fields__)
    assert line["memory"] is None  # a CPU
    assert line["tokens_per_second"] > 0
    assert line["peak_share"] > 0  # of a rate measured before: a busy machine may be beyond it
    assert line["seconds_left"] > 0


def test_the_share_of_the_peak_is_the_tokens_times_their_flops(run):
    plan, _, directory = run
    record, steps = load_run(directory), read_steps(directory)
    base, _ = load_base(plan.files, plan.preset.base, CPU, quantized=False)
    embedding = base.get_input_embeddings().weight.numel()
    # The head multiplies, whether it is the embedding (the Llama) or a matrix beside it (the Phi).
    multiplied = record.base.parameters - (0 if plan.template.name == "chatml" else embedding)

    assert record.notes["flops_per_token"] == 4 * multiplied
    for step in steps:
        share = step.tokens_per_second * 4 * multiplied / record.notes["matmul_peak"]
        assert step.peak_share == pytest.approx(share, rel=0.02, abs=1e-4)


def test_the_record_reads_back_as_it_was_written(run):
    _, _, directory = run
    record = load_run(directory)

    assert re.fullmatch(r"\w+-[0-9a-f]{8}/tiny-[0-9a-f]{12}-s0", record.name)
    assert record.started <= record.finished
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes"} <= set(record.versions)
    assert isinstance(record, Run)
