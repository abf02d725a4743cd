"""Reward models on tiny bases: against TRL's own, against the textbook, and what they leave."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataset_builder.artifacts import file_digest
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals.prompts import Prompt
from evals.reward import find_reward_model, rewards
from finetune import course, reward
from finetune.fast import Fast
from finetune.held_pairs import FILE, SCORED_PAIRS
from finetune.merge import merge
from finetune.model import load_base, load_merged
from finetune.pairs import dataset_of_pairs, sequences
from finetune.plan import Plan, find_target
from finetune.preset import load_preset
from finetune.progress import read_steps
from finetune.run import load_run
from finetune.scoring import STORED, rewards_of
from finetune.targets import projections
from tests.tiny import (
    QUESTIONS,
    adapter_tensors,
    pair,
    tiny_llama,
    tiny_phi,
    tiny_preset,
    write_pairs,
    write_variant,
)
from tests.training import Memory, planned

CPU = torch.device("cpu")
MODELS = {"chatml": tiny_llama, "instruct": tiny_phi}
REWARD = {
    "top": 'method = "reward"',
    "lora": "dropout = 0.0",
    "reward": "center_rewards_coefficient = 0.02",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """For two tiny models a preset, in float32; a variant of answers and one of pairs."""
    folder = tmp_path_factory.mktemp("reward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        write_pairs(validation=[pair(n) for n in range(100, 107)])
        for template, make in MODELS.items():
            shared = {"template": template, "base": 'precision = "fp32"'}
            tiny_preset(folder / f"{template}.toml", make(folder / template), **shared, **REWARD)
        yield folder


def plan_of(folder: Path, template: str = "chatml", seed: int = 0) -> Plan:
    return planned(folder / f"{template}.toml", "pairs", seed)


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, folder: Path) -> tuple[Plan, Memory, Path]:
    """A finished run of six steps, with its plan and what its watcher was told."""
    plan = plan_of(folder, request.param)
    watcher = Memory()
    return plan, watcher, course.train(plan, watcher)


def scored_pairs(directory: Path) -> list[dict]:
    return read_table(directory / FILE, SCORED_PAIRS).to_pylist()


def reward_by_hand(plan: Plan, directory: Path, ids: list[int]) -> float:
    """Of one sequence alone: the plain base, each adapter added to its weight, the head's product
    with what the last layer gives at the last token.
    """
    tensors = adapter_tensors(directory)
    model = load_merged(plan.files, plan.preset.base, None, CPU)
    scale = plan.preset.lora.alpha / plan.preset.lora.r
    for name, module in model.named_modules():
        stem = f"base_model.model.{name}"
        if f"{stem}.lora_A.weight" in tensors:
            a, b = (tensors[f"{stem}.lora_{part}.weight"] for part in "AB")
            module.weight.data += scale * b @ a
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
    return (tensors[STORED][0] @ hidden).item()


def test_a_finished_run_holds_what_is_promised_and_nothing_else(run):
    plan, _, directory = run
    names = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    record = load_run(directory)

    assert names == {
        *("run.json", "fit.json", "metrics.jsonl", "previews.jsonl", FILE),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"),
        *("adapter/tokenizer.json", "adapter/tokenizer_config.json"),
    }
    assert not plan.unfinished.exists()
    assert record.adapter_sha256 == file_digest(directory / "adapter" / "adapter_model.safetensors")
    assert (record.method, record.parent, record.steps) == ("reward", None, 6)


def test_every_weight_of_the_base_is_loaded_but_the_head_over_words(run):
    plan, watcher, directory = run
    base = load_run(directory).base
    stored = load_file(plan.files.directory / "model.safetensors")
    of_words = [name for name in stored if name.startswith("lm_head")]

    assert base.unused == sorted(of_words)
    assert base.matched == len(stored) - len(of_words)
    assert (base.missing, base.unexpected, base.mismatched) == ([], [], [])
    [proof] = [line for line in watcher.lines if "none missing" in line]
    assert bool(of_words) == ("those of its head over words aside" in proof)
    assert proof.endswith("; the head that gives a number is new")


def test_a_base_that_lacks_a_weight_is_refused(folder: Path, tmp_path: Path):
    model = tiny_llama(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    preset = tiny_preset(tmp_path / "lacking.toml", model, **REWARD)

    with pytest.raises(InputError, match="1 weights are missing from its files"):
        course.train(planned(preset, "pairs"), Memory())


def test_the_losses_and_the_adapter_are_those_of_trls_own_trainer(run, tmp_path: Path):
    """TRL with its own collator, loss and reading, over the same sequences. Its padding is not the
    end of text, or it would read the token before it.
    """
    from transformers import AutoModelForSequenceClassification, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from finetune.adapter import adapter_config
    from finetune.model import unpack_4bit
    from finetune.scoring import draw_head

    plan, _, directory = run
    if plan.template.name != "chatml":
        pytest.skip("a Phi's own dropout falls elsewhere")
    logged: list[dict] = []

    class Listening(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            if "loss" in logs:
                logged.append(logs)

    ours, _ = load_base(plan.files, plan.preset.base, CPU, answers=False)
    theirs = AutoModelForSequenceClassification.from_config(ours.config)
    unpack_4bit(ours, torch.float32)
    theirs.load_state_dict(ours.state_dict())
    draw_head(theirs, plan.seed)
    tokenizer = plan.tokenizer.__class__.from_pretrained(str(plan.files.directory))
    tokenizer.pad_token = "<|im_start|>"
    rows = dataset_of_pairs(plan.rows, plan.order)

    def whole(row):
        chosen, rejected = (one["input_ids"] for one in sequences(row))
        return {"chosen_ids": chosen, "rejected_ids": rejected}

    training = plan.preset.training
    trainer = RewardTrainer(
        model=theirs,
        args=RewardConfig(
            output_dir=str(tmp_path),
            center_rewards_coefficient=0.02,
            disable_dropout=False,
            seed=plan.seed,
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
        train_dataset=rows.map(whole),
        processing_class=tokenizer,
        peft_config=adapter_config(plan, theirs),
    )
    trainer.add_callback(Listening())
    trainer.train()
    steps = read_steps(directory)

    assert [step.loss for step in steps] == pytest.approx([one["loss"] for one in logged], abs=2e-4)
    for step, told in zip(steps, logged, strict=True):
        assert step.grad_norm == pytest.approx(float(told["grad_norm"]), rel=5e-3)
        assert step.terms["reward_margin"] == pytest.approx(told["margin"], abs=2e-3)
        assert step.terms["reward_accuracy"] == told["accuracy"]
    for name, tensor in adapter_tensors(directory).items():
        where = name.replace("score.weight", "score.modules_to_save.default.weight")
        other = trainer.model.get_parameter(
            where.replace("A.weight", "A.default.weight").replace("B.weight", "B.default.weight")
        )
        # Adam's first steps are of one size however small the gradient.
        assert (tensor - other).norm() < 0.03 * tensor.norm(), name


def test_held_out_pairs_are_scored_as_the_textbook_says(run):
    plan, _, directory = run
    rows = scored_pairs(directory)
    record = load_run(directory)

    assert [row["example_id"] for row in rows] == [each.example_id for each in plan.validation_rows]
    assert [row["tree_id"] for row in rows] == [f"t{n}" for n in range(100, 107)]
    for row, each in list(zip(rows, plan.validation_rows, strict=True))[:3]:
        for side, answer in zip(("chosen", "rejected"), each.answers, strict=True):
            wanted = reward_by_hand(plan, directory, each.prompt_ids + answer)
            assert row[f"{side}_reward"] == pytest.approx(wanted, abs=2e-4)
            assert row[f"{side}_words"] == getattr(each, f"{side}_words")
    chosen, rejected = (
        np.array([row[f"{side}_reward"] for row in rows]) for side in ("chosen", "rejected")
    )
    losses = np.log1p(np.exp(rejected - chosen)) + 0.02 * (chosen + rejected) ** 2
    assert record.validation_loss == pytest.approx(losses.mean(), rel=1e-4)
    assert record.notes["validation"]["reward_accuracy"] == np.mean(chosen > rejected)


def test_the_cards_figures_are_those_of_the_stored_scores(run):
    _, watcher, directory = run
    rows = scored_pairs(directory)
    card = (directory / "adapter" / "README.md").read_text()
    right = [(row["chosen_reward"] > row["rejected_reward"]) for row in rows]
    words = [row["chosen_words"] - row["rejected_words"] for row in rows]
    longer = [1.0 if n > 0 else 0.5 if n == 0 else 0.0 for n in words]
    short = [r for r, n in zip(right, words, strict=True) if n < 0]

    def line(name: str) -> str:
        [found] = [each for each in card.splitlines() if each.startswith(f"| {name} |")]
        return found

    assert f" {100 * np.mean(right):.1f} % (" in line("chosen reply scored higher")
    assert f") of {len(rows)}" in line("chosen reply scored higher")
    assert f" {100 * np.mean(longer):.1f} % (" in line("the rule: the longer reply")
    assert f" {100 * (np.mean(right) - np.mean(longer)):+.1f} points" in line("more than the rule")
    shown = line("right where the shorter was chosen")
    assert f" {100 * np.mean(short):.1f} % (" in shown
    assert f") of {len(short)}" in shown
    assert "the rule: the longer reply" in "\n".join(watcher.lines)
    assert "pipeline_tag: text-classification" in card
    assert "None" not in card


def test_only_the_adapter_and_the_head_move(folder: Path):
    plan = plan_of(folder, seed=4)
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
        if "lora_" not in name and not name.startswith("score")
    }
    assert after.keys() == seen["before"].keys() - {"score.weight"}
    for name, parameter in after.items():
        assert torch.equal(parameter, seen["before"][name]), name
    trained = adapter_tensors(directory)
    wrapped = seen["model"].score
    assert not torch.equal(trained[STORED], wrapped.original_module.weight)
    assert all(tensor.abs().sum() > 0 for name, tensor in trained.items() if "lora_B" in name)
    assert all(tensor.dtype == torch.float32 for tensor in trained.values())


def test_the_scorer_gives_what_the_run_gave_before_it_was_saved(run):
    plan, _, directory = run
    found = find_reward_model(str(directory))
    rows = scored_pairs(directory)
    prompts = {
        held.fitted.example_id: Prompt(held.fitted.example_id, "t", "held_out", "en", held.prompt)
        for held in plan.held_pairs
    }
    asked = [
        (prompts[held.fitted.example_id], said)
        for held in plan.held_pairs
        for said in (held.chosen, held.rejected)
    ]
    given = rewards(found, asked)
    # In full though all else is rounded, or rewards near each other would tie.
    rounded = msgspec.structs.replace(plan.preset.base, precision="bf16")
    model = load_merged(plan.files, rounded, directory / "adapter", CPU, answers=False)

    assert torch.equal(model.score.weight, adapter_tensors(directory)[STORED])
    for row, held in zip(rows, plan.held_pairs, strict=True):
        for side in ("chosen", "rejected"):
            value = given[row["example_id"], getattr(held, side)]
            assert value == pytest.approx(row[f"{side}_reward"], abs=2e-4)


def test_a_reward_is_read_at_the_end_though_that_is_the_padding_too(run):
    plan, _, directory = run
    model = load_merged(plan.files, plan.preset.base, directory / "adapter", CPU, answers=False)
    end = plan.tokenizer.pad_token_id
    whole = [pair.prompt_ids + pair.chosen_ids for pair in plan.rows[:3]]
    alone = [rewards_of(model, [ids], end, "one")[0] for ids in whole]

    assert all(ids[-1] == end for ids in whole)
    assert rewards_of(model, whole, end, "one") == pytest.approx(alone, abs=1e-5)
    assert rewards_of(model, [ids[:-1] for ids in whole], end, "one") != pytest.approx(
        alone, abs=1e-3
    )


def without_head(tensors: dict) -> None:
    del tensors[STORED]


def with_no_number(tensors: dict) -> None:
    tensors[STORED][0, 3] = float("nan")


def with_two_rows(tensors: dict) -> None:
    tensors[STORED] = tensors[STORED].repeat(2, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_head, r"holds no `score\.weight`, the head that gives a number"),
        (with_no_number, "a head of which some weights are no numbers"),
        (with_two_rows, r"a head of the shape \(2, 64\), and one number is wanted"),
    ],
)
def test_a_missing_or_poisoned_head_is_refused(folder: Path, run, tmp_path: Path, change, said):
    """Also where run.json names the changed file's digest."""
    _, _, directory = run
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    tensors = adapter_tensors(directory)
    change(tensors)
    path = copy / "adapter" / "adapter_model.safetensors"
    save_file(tensors, path)
    record = load_run(directory)
    (copy / "run.json").write_bytes(msgspec.json.encode(record))
    with pytest.raises(InputError, match=r"not the adapter that run\.json names"):
        find_reward_model(str(copy))
    named = msgspec.structs.replace(record, adapter_sha256=file_digest(path))
    (copy / "run.json").write_bytes(msgspec.json.encode(named))
    with pytest.raises(InputError, match=said) as error:
        find_reward_model(str(copy))
    assert error.value.hint == "train it again"


def test_previews_are_the_scores_of_the_same_pairs_at_the_promised_steps(run):
    plan, watcher, directory = run
    lines = [json.loads(line) for line in (directory / "previews.jsonl").read_text().splitlines()]
    told = [row for rows in watcher.previews for row in rows]
    shown = {each.fitted.example_id for each in plan.questions}
    final = {row["example_id"]: row for row in scored_pairs(directory)}

    assert [line["step"] for line in lines] == [0, 0, 3, 3, 6, 6]
    assert len(shown) == 2
    assert lines == [msgspec.to_builtins(row) for row in told]
    for line in lines:
        assert line["example_id"] in shown
        assert line["is_right"] == (line["chosen_reward"] > line["rejected_reward"])
        assert line["prompt"] in QUESTIONS
        if line["step"] == 6:
            for side in ("chosen_reward", "rejected_reward"):
                assert line[side] == pytest.approx(final[line["example_id"]][side], abs=1e-5)


def test_the_head_is_trained_whole_and_gets_no_adapter(folder: Path):
    for template in MODELS:
        model, _ = model_on_cpu(plan_of(folder, template))
        found = projections(model, "all-linear", "x")

        assert "q_proj" in found
        assert "score" not in found


def test_a_seed_draws_its_own_head(folder: Path):
    def head(seed: int):
        plan = plan_of(folder, seed=seed)
        trainer = reward.make_trainer(plan, *model_on_cpu(plan))
        return trainer.model.base_model.model.score.original_module.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def model_on_cpu(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU, answers=False)
    return model, CPU


def test_the_fast_path_gives_the_usual_ones_rewards_and_gradients(folder: Path):
    for template in MODELS:
        plan = plan_of(folder, template)
        trainer = reward.make_trainer(plan, *model_on_cpu(plan))
        trainer.model.eval()  # a Phi's own dropout aside
        rows = [trainer.train_dataset[n] for n in range(3)]

        def gradients(trainer=trainer, rows=rows):
            trainer.model.zero_grad()
            losses, terms = trainer.losses_of(trainer.model, trainer.data_collator(rows))
            losses.sum().backward()
            weights = trainer.model.named_parameters()
            return terms.detach(), {n: p.grad.clone() for n, p in weights if p.requires_grad}

        usual, wanted = gradients()
        inner = trainer.model.get_base_model()
        trainer.use(Fast(inner, plan.preset.length, torch.float32, compiled=False))
        packed, found = gradients()

        assert "bounds" in trainer.data_collator(rows)
        assert torch.allclose(usual, packed, atol=1e-5)
        for name, gradient in wanted.items():
            assert torch.allclose(gradient, found[name], atol=1e-5), name


def test_the_method_takes_pairs_and_refuses_other_forms(folder: Path):
    with pytest.raises(InputError) as error:
        find_target("tiny", str(folder / "chatml.toml"), 0)
    assert str(error.value) == (
        "variant `tiny` has rows of the form `answers`; the method `reward` trains on `pairs`"
    )


def test_it_starts_from_the_base_and_nothing_goes_on_from_it(folder: Path, run):
    plan, _, directory = run
    with pytest.raises(InputError, match="the method `reward` starts from the base"):
        find_target("pairs", str(folder / "chatml.toml"), 0, str(directory))
    dpo = {"top": 'method = "dpo"', "lora": "dropout = 0.0", "dpo": "beta = 0.1"}
    shared = {"template": plan.template.name, "base": 'precision = "fp32"'}
    preset = tiny_preset(folder / "dpo.toml", folder / plan.template.name, **shared, **dpo)
    with pytest.raises(InputError, match="is a reward model, and gives no answers"):
        find_target("pairs", str(preset), 0, str(directory))
    with pytest.raises(InputError, match="is a reward model, and merged it would answer nothing"):
        merge(str(directory), Memory())


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"reward": "center_rewards_coefficient = 0.1"}, r"`sft` does not read `\[reward\]`"),
        ({**REWARD, "dpo": "beta = 0.1"}, r"`reward` does not read `\[dpo\]`"),
        (
            {**REWARD, "top": 'method = "reward"\nextra_tokens = ["<limit>"]'},
            "`reward` trains no `extra_tokens`",
        ),
        ({**REWARD, "reward": "center = 0.1"}, "unknown key `center`"),
    ],
)
def test_a_preset_that_says_what_is_not_read_is_refused(tmp_path: Path, texts, said: str):
    preset = tiny_preset(tmp_path / "x.toml", tmp_path, **texts)
    with pytest.raises(InputError, match=said):
        load_preset(str(preset))
