"""The fast computation of a packed row against PEFT's own of each example alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, Qwen2Config
from transformers.models.qwen2 import Qwen2ForCausalLM

from finetune import course
from finetune.fast import FAMILIES, Fast, install
from finetune.memory import FAST_TYPES
from finetune.oom import pieces
from finetune.packing import pack
from finetune.pairs import PairCollator
from finetune.progress import read_steps
from finetune.rows import IGNORED
from finetune.run import load_run
from finetune.usual import fuse_gelu
from tests.tiny import tiny_llama, tiny_phi, tiny_preset, write_pairs, write_variant
from tests.training import Memory, planned, trained

VOCABULARY = 97


def phi() -> PhiForCausalLM:
    return PhiForCausalLM(
        PhiConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            resid_pdrop=0.0,
        )
    )


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True))


def qwen2() -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


TARGETS = {
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "some": ["q_proj", "v_proj", "down_proj"],
}


def adapted(make, targets: str):
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():  # biases and norms begin at 0 and 1: move them
        parameter.data += 0.05 * torch.randn_like(parameter)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS[targets], lora_dropout=0.0)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return model.train()


def examples(seed: int = 1) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length, prompt in ((7, 3), (12, 1), (3, 2), (20, 11)):
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        found.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return found


def loss_apart(model, rows) -> torch.Tensor:
    """Each example alone through PEFT's own modules, the losses summed."""
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        labels = torch.tensor(row["labels"])
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1].float(), labels[1:], ignore_index=IGNORED, reduction="sum"
        )
    return total


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    ("make", "targets"), [(phi, "phi"), (llama, "llama"), (qwen2, "llama"), (llama, "some")]
)
def test_a_packed_row_has_the_loss_and_gradients_of_its_examples_alone(make, targets):
    model = adapted(make, targets)
    rows = examples()
    wanted = loss_apart(model, rows)
    wanted.backward()
    wanted_gradients = gradients(model)

    inner = model.get_base_model()
    install(inner, Fast(inner, 64, torch.float32, compiled=False))
    packed = pack(rows)
    found = model(**packed).loss
    found.backward()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    found_gradients = gradients(model)
    assert found_gradients.keys() == wanted_gradients.keys()
    for name, gradient in found_gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=2e-4, atol=2e-5)
        assert gradient.abs().max() > 0, name


def test_a_step_of_the_optimizer_is_seen_by_the_next_forward():
    model = adapted(phi, "phi")
    inner = model.get_base_model()
    rows = examples()
    install(inner, Fast(inner, 64, torch.float32, compiled=False))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    before = model(**pack(rows)).loss
    before.backward()
    optimizer.step()
    after = model(**pack(rows)).loss
    assert abs(after.item() - before.item()) > 0.01
    torch.testing.assert_close(after, loss_apart(model, rows), rtol=1e-5, atol=1e-5)


def test_no_example_sees_another():
    model = adapted(llama, "llama")
    inner = model.get_base_model()
    fast = Fast(inner, 64, torch.float32, compiled=False)
    rows = examples()
    other = [rows[0], {**rows[1], "input_ids": examples(9)[1]["input_ids"]}, *rows[2:]]
    names = ("input_ids", "position_ids", "bounds")
    one, two = (fast.hidden(*(pack(each)[name] for name in names)) for each in (rows, other))
    start, end = 7, 19
    assert not torch.allclose(one[start:end], two[start:end])
    torch.testing.assert_close(one[:start], two[:start], rtol=0, atol=0)
    torch.testing.assert_close(one[end:39], two[end:39], rtol=0, atol=0)


def test_a_call_without_a_packed_row_is_the_models_own():
    model = adapted(phi, "phi").eval()
    ids = torch.tensor([examples()[3]["input_ids"]])
    wanted = model(input_ids=ids).logits
    inner = model.get_base_model()
    install(inner, Fast(inner, 64, torch.float32, compiled=False))
    torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=0, atol=0)


def test_dropout_of_the_adapters_leaves_the_base_as_it_is():
    torch.manual_seed(0)
    model = get_peft_model(
        phi(), LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS["phi"], lora_dropout=0.5)
    ).train()
    rows = examples()
    wanted = loss_apart(model, rows)  # B is zero, so dropout of its input changes nothing
    inner = model.get_base_model()
    install(inner, Fast(inner, 64, torch.float32, compiled=False))
    torch.testing.assert_close(model(**pack(rows)).loss, wanted, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter)
    first, second = model(**pack(rows)).loss, model(**pack(rows)).loss
    assert first != second
    model.eval()
    torch.testing.assert_close(model(**pack(rows)).loss, loss_apart(model, rows))


@pytest.mark.parametrize(("make", "targets"), [(phi, "phi"), (llama, "llama")])
def test_checkpointing_changes_no_gradient_even_where_the_embedding_asks_for_one(make, targets):
    gradient = []
    for checkpointing in (False, True):
        model = adapted(make, targets)
        for module in model.modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = torch.nn.Dropout(0.3)
        inner = model.get_base_model()
        if checkpointing:
            inner.enable_input_require_grads()  # as TRL does for gradient checkpointing
        fast = Fast(inner, 64, torch.float32, compiled=False, checkpointing=checkpointing)
        install(inner, fast)
        torch.manual_seed(3)
        model(**pack(examples())).loss.backward()
        gradient.append(gradients(model))
    one, two = gradient
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_dropout_is_that_of_whatever_projections_are_adapted():
    config = LoraConfig(r=2, target_modules=["fc1", "fc2"], lora_dropout=0.5)
    model = get_peft_model(phi(), config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter)
    inner = model.get_base_model()
    install(inner, Fast(inner, 64, torch.float32, compiled=False))
    assert model(**pack(examples())).loss != model(**pack(examples())).loss


def test_dropout_that_it_does_not_make_is_refused():
    model = adapted(llama, "llama").get_base_model()
    model.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match="attention_dropout"):
        Fast(model, 64, torch.float32, compiled=False)


def test_the_estimate_and_the_fast_path_know_the_same_models():
    assert set(FAMILIES) == FAST_TYPES


def test_a_model_it_does_not_know_is_refused():
    model = adapted(llama, "llama").get_base_model()
    model.config.model_type = "unheard-of"
    with pytest.raises(ValueError, match="unheard-of"):
        Fast(model, 64, torch.float32, compiled=False)


def test_packing_keeps_every_token_and_every_label():
    rows = examples()
    packed = pack(rows)
    ids = packed["input_ids"][0].tolist()
    begins = packed["bounds"].tolist()
    assert [ids[a:b] for a, b in pairwise(begins)][: len(rows)] == [
        row["input_ids"] for row in rows
    ]
    assert len(ids) % 16 == 0
    trained = [
        (place, token)
        for place, token in zip(
            packed["targets"].tolist(), packed["target_ids"].tolist(), strict=True
        )
        if token >= 0
    ]
    assert [ids[place + 1] for place, _ in trained] == [token for _, token in trained]
    assert len(trained) == sum(label != IGNORED for row in rows for label in row["labels"][1:])


def forced(model, preset, device, precision, **_):
    """The fast path where no GPU is, uncompiled."""
    return Fast(model.get_base_model(), preset.length, precision, compiled=False)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_run_on_the_fast_path_is_the_usual_run_up_to_rounding(tmp_path, monkeypatch, micro_batch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()
    tiny_preset(
        tmp_path / "tiny.toml",
        tiny_llama(tmp_path / "llama"),
        base='precision = "fp32"',
        lora="dropout = 0.0",
        training=f"micro_batch = {micro_batch}",
    )
    usual = course.train(planned(tmp_path / "tiny.toml"), Memory())
    kept = tmp_path / "usual"
    usual.rename(kept)
    monkeypatch.setattr("finetune.trainer.fast_or_reason", forced)
    fast = course.train(planned(tmp_path / "tiny.toml"), Memory())

    one, two = read_steps(kept), read_steps(fast)
    assert [step.trained_tokens for step in one] == [step.trained_tokens for step in two]
    for before, after in zip(one, two, strict=True):
        assert after.loss == pytest.approx(before.loss, rel=1e-4)
        assert after.grad_norm == pytest.approx(before.grad_norm, rel=1e-3)
    assert load_run(fast).validation_loss == pytest.approx(load_run(kept).validation_loss, rel=1e-4)


def test_a_gelu_in_one_operator_is_the_one_that_was_spelt_out():
    model = phi()
    x = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
    spelt = model(input_ids=x).logits
    assert fuse_gelu(model) == model.config.num_hidden_layers
    assert fuse_gelu(model) == 0
    torch.testing.assert_close(model(input_ids=x).logits, spelt, rtol=0, atol=1e-5)
    assert fuse_gelu(llama()) == 0


@pytest.mark.parametrize(("make", "template"), [(tiny_llama, "chatml"), (tiny_phi, "instruct")])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_run_of_preferences_on_the_fast_path_is_the_usual_run_up_to_rounding(
    tmp_path, monkeypatch, micro_batch, make, template
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()
    write_pairs()
    model = make(tmp_path / "model")
    shared = {
        "template": template,
        "base": 'precision = "fp32"',
        "lora": "dropout = 0.0",
        "training": f"micro_batch = {micro_batch}",
        "previews": "prompts = 0",
    }
    trained(tiny_preset(tmp_path / "sft.toml", model, **shared | {"training": "examples = 8"}))
    preset = tiny_preset(
        tmp_path / "dpo.toml", model, **shared, top='method = "dpo"', dpo="beta = 0.3"
    )
    plan = planned(preset, "pairs", start="sft/tiny")
    kept = course.train(plan, Memory()).rename(tmp_path / "usual")
    monkeypatch.setattr("finetune.trainer.fast_or_reason", forced)
    fast = course.train(plan, Memory())

    assert load_run(fast).notes["fast"] is True
    for before, after in zip(read_steps(kept), read_steps(fast), strict=True):
        assert after.loss == pytest.approx(before.loss, rel=1e-3)
        assert after.grad_norm == pytest.approx(before.grad_norm, rel=1e-2)
        if before.step <= 2:  # before the first change every margin is a rounding error
            for terms in (before.terms, after.terms):
                assert terms.pop("reward_accuracy") <= 1
        assert after.terms == pytest.approx(before.terms, rel=1e-2, abs=1e-3)
    one, two = load_run(kept), load_run(fast)
    assert two.validation_loss == pytest.approx(one.validation_loss, rel=1e-3)


def test_a_packed_row_of_pairs_is_cut_into_whole_pairs():
    rows = [
        {"place": n, "prompt_ids": [1] * (n + 1), "chosen_ids": [2] * 3, "rejected_ids": [3] * n}
        | {"words": [n, n + 1]}
        for n in range(1, 6)
    ]
    collator = PairCollator(0)
    collator.reference = np.arange(12, dtype=np.float32).reshape(6, 2)
    collator.is_packed = True
    found = list(pieces(collator(rows), 2))

    assert [piece["words"].tolist() for piece in found] == [
        [[1, 2], [2, 3]],
        [[3, 4], [4, 5]],
        [[5, 6]],
    ]
    for start, piece in zip((0, 2, 4), found, strict=True):
        wanted = collator(rows[start : start + 2])
        assert piece.keys() == wanted.keys()
        for name, value in wanted.items():
            assert torch.equal(piece[name], value), name
    (whole,) = pieces(collator(rows), 5)
    assert whole["words"].tolist() == [row["words"] for row in rows]
