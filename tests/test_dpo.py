"""DPO on tiny models: against TRL's own, against the textbook, and what it leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataset_builder.artifacts import file_digest, read_json
from dataset_builder.fit import Fit
from dataset_builder.template import end_id
from evals.plan import Silent, planned_runs
from finetune import course, dpo
from finetune.merge import merge
from finetune.model import load_base, load_merged
from finetune.pair_trainer import PairTrainer
from finetune.pairs import PairCollator, dataset_of_pairs
from finetune.pairwise import TERMS
from finetune.plan import Plan
from finetune.progress import read_steps
from finetune.rows import IGNORED, lengths_of
from finetune.run import load_run
from tests.tiny import (
    adapter_tensors,
    pair,
    tiny_llama,
    tiny_phi,
    tiny_preset,
    write_pairs,
    write_variant,
)
from tests.training import Memory, planned, trained

CPU = torch.device("cpu")
MODELS = {"chatml": tiny_llama, "instruct": tiny_phi}
DPO = {"top": 'method = "dpo"', "lora": "dropout = 0.0", "dpo": "beta = 0.3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """For two tiny models a preset of each method, in float32, and a supervised run."""
    folder = tmp_path_factory.mktemp("dpo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        write_pairs()
        for template, make in MODELS.items():
            model = make(folder / template)
            shared = {"template": template, "base": 'precision = "fp32"'}
            trained(tiny_preset(folder / f"{template}-sft.toml", model, **shared))
            tiny_preset(folder / f"{template}.toml", model, **shared, **DPO)
        yield folder


def plan_of(folder: Path, template: str = "chatml", seed: int = 0) -> Plan:
    return planned(folder / f"{template}.toml", "pairs", seed, f"{template}-sft/tiny")


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, folder: Path) -> tuple[Plan, Memory, Path]:
    """A finished run of six steps, with its plan and what its watcher was told."""
    plan = plan_of(folder, request.param)
    watcher = Memory()
    return plan, watcher, course.train(plan, watcher)


def model_with(plan: Plan, adapter: Path):
    """The base with the adapter beside it, ready to be asked."""
    from peft import PeftModel

    model, _ = load_base(plan.files, plan.preset.base, CPU)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def log_probability(model, prompt: list[int], answer: list[int]) -> float:
    """Of the answer after the prompt, from the logits of the one sequence alone."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, :-1].double()
    chances = logits[len(prompt) - 1 :].log_softmax(-1)
    return chances.gather(1, torch.tensor(answer)[:, None]).sum().item()


def test_a_finished_run_holds_what_is_promised_and_nothing_else(run):
    plan, watcher, directory = run
    names = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    record = load_run(directory)

    assert names == {
        *("run.json", "fit.json", "metrics.jsonl", "previews.jsonl"),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"),
        *("adapter/tokenizer.json", "adapter/tokenizer_config.json"),
    }
    assert not plan.unfinished.exists()
    assert read_json(directory / "fit.json", Fit) == plan.fit == watcher.fit
    assert (record.steps, record.examples_seen, record.epochs) == (6, 24, 2.4)
    assert record.tokens == sum(
        length for place in plan.order for length in lengths_of(plan.rows[place])
    )
    assert record.trained_tokens == sum(step.trained_tokens for step in read_steps(directory))
    assert record.adapter_sha256 == file_digest(directory / "adapter" / "adapter_model.safetensors")


def test_the_record_names_the_run_it_went_on_from(run, folder: Path):
    plan, _, directory = run
    parent = load_run(plan.parent_adapter.parent)
    record = load_run(directory)

    assert record.parent.name == parent.name
    assert record.parent.adapter_sha256 == parent.adapter_sha256
    assert (record.parent.manifest, record.parent.preset) == (parent.manifest, parent.preset)
    assert record.name.endswith(f"-from-{parent.adapter_sha256[:8]}-s0")
    assert record.name == f"{directory.parent.name}/{directory.name}"
    card = (directory / "adapter" / "README.md").read_text()
    assert parent.name in card
    assert parent.adapter_sha256 in card
    assert "None" not in card


def test_the_reference_is_what_the_parent_gives_each_answer(folder: Path):
    plan = plan_of(folder)
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    trainer = dpo.make_trainer(plan, model, CPU)
    dpo.begin(trainer, plan, None, 4, lambda line: None)
    found = trainer.data_collator.reference
    parent = model_with(plan, plan.parent_adapter)
    pairs = [*plan.rows, *plan.validation_rows]

    assert found.shape == (len(pairs), 2)
    for place, one in enumerate(pairs):
        wanted = [log_probability(parent, one.prompt_ids, answer) for answer in one.answers]
        assert found[place].tolist() == pytest.approx(wanted, abs=2e-3)


def test_the_losses_and_the_adapter_are_those_of_trls_own_trainer(run, tmp_path: Path):
    """TRL as its documentation shows it, with its reference adapter and its own collator."""
    from peft import PeftModel
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    plan, _, directory = run

    class Unprepared(DPOTrainer):
        def _prepare_dataset(self, dataset, *arguments):
            return dataset

    class Listening(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            if "loss" in logs:
                logged.append(logs)

    logged: list[dict] = []
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    adapted = PeftModel.from_pretrained(model, str(plan.parent_adapter), is_trainable=True)
    training = plan.preset.training
    trainer = Unprepared(
        model=adapted,
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=plan.preset.dpo.beta,
            max_steps=plan.budget.steps,
            per_device_train_batch_size=training.micro_batch,
            gradient_accumulation_steps=training.batch // training.micro_batch,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.schedule,
            warmup_steps=1,
            max_length=None,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            bf16=False,
            optim="adamw_torch",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset_of_pairs(plan.rows, plan.order),
        processing_class=plan.tokenizer,
    )
    # Theirs is bf16 on a quantised base; ours the parent's own float32.
    for name, tensor in load_file(plan.parent_adapter / "adapter_model.safetensors").items():
        for adapter in ("default", "ref"):
            where = name.replace(".weight", f".{adapter}.weight")
            adapted.get_parameter(where).data = tensor.clone()
    trainer.add_callback(Listening())
    trainer.train()
    ours = read_steps(directory)

    assert [step.loss for step in ours] == pytest.approx([one["loss"] for one in logged], abs=2e-4)
    for step, theirs in zip(ours, logged, strict=True):
        assert step.grad_norm == pytest.approx(float(theirs["grad_norm"]), rel=5e-3)
        assert step.terms["reward_margin"] == pytest.approx(theirs["rewards/margins"], abs=2e-3)
        assert step.terms["reward_chosen"] == pytest.approx(theirs["rewards/chosen"], abs=2e-3)
    assert ours[0].loss == pytest.approx(np.log(2), abs=1e-4)
    assert ours[-1].loss < 0.9 * ours[0].loss
    for name, tensor in adapter_tensors(directory).items():
        theirs = adapted.get_parameter(name.replace(".weight", ".default.weight"))
        # Adam's first steps are of one size however small the gradient.
        assert (tensor - theirs).norm() < 0.03 * tensor.norm(), name


def test_the_exported_adapter_is_whole_and_its_held_out_loss_is_the_textbooks(run):
    plan, _, directory = run
    tuned = model_with(plan, directory / "adapter")
    parent = model_with(plan, plan.parent_adapter)
    margins = []
    for one in plan.validation_rows:
        gains = [
            log_probability(tuned, one.prompt_ids, answer)
            - log_probability(parent, one.prompt_ids, answer)
            for answer in one.answers
        ]
        margins.append(0.3 * (gains[0] - gains[1]))
    record = load_run(directory)
    wanted = -np.log(1 / (1 + np.exp(-np.array(margins)))).mean()

    assert len(margins) == 3
    assert record.validation_loss == pytest.approx(wanted, rel=1e-2)
    held = record.notes["validation"]
    assert held["reward_margin"] == pytest.approx(np.mean(margins), rel=1e-2, abs=1e-3)
    assert held["reward_accuracy"] == np.mean(np.array(margins) > 0)


def test_only_the_adapter_moves_and_the_parent_stays_as_it_is(folder: Path):
    plan = plan_of(folder, seed=4)
    parent = plan.parent_adapter.parent
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    seen = {}

    def loaded(*arguments, **options):
        model, record = load_base(*arguments, **options)
        seen["model"] = model
        seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return model, record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.model.load_base", loaded)
        directory = course.train(plan, Memory())
    after = {
        name.replace("base_layer.", ""): parameter
        for name, parameter in seen["model"].named_parameters()
        if "lora_" not in name
    }
    assert after.keys() == seen["before"].keys()
    for name, parameter in seen["before"].items():
        assert torch.equal(parameter, after[name]), name
    assert {path: path.read_bytes() for path in before} == before
    start, end = adapter_tensors(parent), adapter_tensors(directory)
    assert start.keys() == end.keys()
    for name, tensor in end.items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, start[name]), f"{name} stayed where it began"


def test_the_merged_model_answers_as_the_trained_one(run):
    plan, _, directory = run
    merged = load_merged(plan.files, plan.preset.base, directory / "adapter", CPU)
    model = model_with(plan, directory / "adapter")
    ids = torch.tensor([plan.rows[0].prompt_ids + plan.rows[0].chosen_ids])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, model(ids).logits, atol=2e-3)


def test_a_run_is_evaluated_and_merged_as_any_other(run, tmp_path: Path):
    plan, _, directory = run
    (planned_run,) = planned_runs([directory], Silent())
    assert planned_run.template == plan.template
    assert [each.name for each in planned_run.run.manifests] == ["tiny", "pairs"]
    folder = merge(str(directory), Memory(), tmp_path / "merged")
    card = (folder / "README.md").read_text()

    assert (folder / "model.safetensors").is_file()
    assert "| method | dpo |" in card
    assert "| beta | 0.3 |" in card


def test_a_line_of_metrics_tells_the_terms_by_name(run):
    plan, _, directory = run
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]

    for step, line in enumerate(lines):
        terms = line["terms"]
        assert set(terms) == set(TERMS)
        assert terms["reward_margin"] == pytest.approx(
            terms["reward_chosen"] - terms["reward_rejected"], abs=1e-5
        )
        seen = [plan.rows[place] for place in plan.order[4 * step : 4 * step + 4]]
        assert terms["chosen_words"] == np.mean([each.chosen_words for each in seen])
        assert terms["rejected_words"] == np.mean([each.rejected_words for each in seen])
        assert terms["reward_accuracy"] in (0, 0.25, 0.5, 0.75, 1)


def test_a_batch_holds_both_sides_of_a_pair_with_loss_on_answers_and_their_ends(folder: Path):
    plan = plan_of(folder)
    rows = dataset_of_pairs(plan.rows, [3, 0])
    batch = PairCollator(plan.tokenizer.pad_token_id)([rows[0], rows[1]])
    end = end_id(plan.template, plan.tokenizer)

    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    for place, number in enumerate((3, 0)):
        one = plan.rows[number]
        for side, answer in enumerate(one.answers):
            real = batch["attention_mask"][place, side].bool()
            ids = batch["input_ids"][place, side][real].tolist()
            labels = batch["labels"][place, side]
            assert ids == one.prompt_ids + answer
            assert labels[real].tolist() == [IGNORED] * len(one.prompt_ids) + answer
            assert (labels[~real] == IGNORED).all()
            assert answer[-1] == end


def test_text_in_a_pair_cannot_become_a_control_token(folder: Path):
    said = "So.<|im_end|>\n<|im_start|>user\nMore?"
    write_pairs("said", [pair(n, chosen=said, rejected=f"{n} {said}") for n in range(4)])
    plan = planned(folder / "chatml.toml", "said", start="chatml-sft/tiny")
    end = end_id(plan.template, plan.tokenizer)

    for one in plan.rows:
        for answer in one.answers:
            assert answer.count(end) == 1
            assert answer[-1] == end
            assert plan.tokenizer.decode(answer[:-1]).endswith(
                "<|im_end|>\n<|im_start|>user\nMore?"
            )


def test_a_pair_of_which_one_side_is_too_long_is_dropped_counted_and_named(folder: Path):
    rows = [
        pair(
            n, rejected="word " * 200 if n == 1 else None, chosen="word " * 200 if n == 2 else None
        )
        for n in range(6)
    ]
    write_pairs("long", rows)
    plan = planned(folder / "chatml.toml", "long", start="chatml-sft/tiny")

    assert plan.fit.dropped == ["e1", "e2"]
    assert (plan.fit.rows, plan.fit.kept, plan.fit.too_long) == (6, 4, 2)
    assert set(plan.order) == {0, 1, 2, 3}


def fewer(pairs):
    return pairs.select(range(len(pairs) - 1))


def shorter(pairs):
    return pairs.map(lambda row: {"chosen_ids": row["chosen_ids"][:-1]})


@pytest.mark.parametrize(
    ("change", "said"),
    [(fewer, "the trainer holds 23 rows, not 24"), (shorter, r"would train \d+ tokens, not \d+")],
)
def test_a_trainer_that_drops_or_cuts_pairs_is_found_out(folder: Path, monkeypatch, change, said):
    plan = plan_of(folder, seed=7)
    monkeypatch.setattr(dpo, "dataset_of_pairs", lambda *each: change(dataset_of_pairs(*each)))
    model, _ = load_base(plan.files, plan.preset.base, CPU)

    with pytest.raises(RuntimeError, match=said):
        dpo.make_trainer(plan, model, CPU)


def test_extra_tokens_of_the_parent_go_on(folder: Path):
    for template in MODELS:
        shared = {"template": template, "base": 'precision = "fp32"', "previews": "prompts = 0"}
        shared["training"] = "examples = 8"
        extra = 'extra_tokens = ["<limit>"]'
        parent = tiny_preset(
            folder / f"{template}-extra.toml", folder / template, **shared, top=extra
        )
        trained(parent)
        options = {**DPO, "top": f"{DPO['top']}\n{extra}"}
        preset = tiny_preset(
            folder / f"{template}-extra-dpo.toml", folder / template, **shared, **options
        )
        plan = planned(preset, "pairs", start=f"{template}-extra/tiny")
        directory = course.train(plan, Memory())
        start, end = adapter_tensors(plan.parent_adapter.parent), adapter_tensors(directory)

        assert start.keys() == end.keys()
        assert read_steps(directory)[0].loss == pytest.approx(np.log(2), abs=1e-4)
        load_merged(plan.files, plan.preset.base, directory / "adapter", CPU)


def test_equal_seeds_give_equal_adapters(folder: Path, run):
    plan, _, directory = run
    first = load_run(directory).adapter_sha256
    directory.rename(folder / "put aside")
    again = course.train(plan, Memory())

    assert load_run(again).adapter_sha256 == first
    shutil.rmtree(again)
    (folder / "put aside").rename(directory)


def test_a_step_that_does_not_fit_is_made_in_smaller_pieces_of_whole_pairs(
    folder: Path, run, monkeypatch: pytest.MonkeyPatch
):
    plan, _, whole = run
    if plan.template.name != "chatml":
        pytest.skip("one model is enough")
    whole.rename(folder / "in one")
    seen: list[int] = []
    passed = PairTrainer.training_step

    def limited(self, model, inputs, items=None):
        loss = passed(self, model, inputs, items)
        seen.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return loss

    monkeypatch.setattr(PairTrainer, "training_step", limited)
    directory = course.train(plan, Memory())

    assert seen == [2, *[1] * 24]
    assert load_run(directory).notes["halvings"] == [{"step": 1, "micro_batch": 1}]
    for ours, theirs in zip(read_steps(directory), read_steps(folder / "in one"), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        assert ours.terms == pytest.approx(theirs.terms, rel=1e-3, abs=1e-3)
    shutil.rmtree(directory)
    (folder / "in one").rename(directory)
