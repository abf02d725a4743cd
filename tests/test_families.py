"""Any causal model by three lines: its projections found, its own template followed."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel

from dataset_builder.errors import InputError
from dataset_builder.template import completion_ids, end_id, prompt_ids
from finetune import course
from finetune.chat import own_template
from finetune.model import load_base, load_merged
from finetune.plain import plain_copy
from finetune.targets import projections
from tests.tiny import adapter_tensors, tiny_tokenizer, write_variant
from tests.training import Memory, planned

CPU = torch.device("cpu")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
INNER = {**SIZES, "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 256}
GATED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FAMILIES = {
    "Llama": ({**INNER, "num_key_value_heads": 2}, GATED),
    "Qwen2": ({**INNER, "num_key_value_heads": 2}, GATED),
    "Mistral": ({**INNER, "num_key_value_heads": 2}, GATED),
    "Gemma": ({**INNER, "head_dim": 16, "num_key_value_heads": 1}, GATED),
    "Phi": (
        {**INNER, "tie_word_embeddings": False, "partial_rotary_factor": 0.5},
        {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    ),
    "GPTNeoX": (INNER, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "GPT2": (
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 512, "n_positions": 256},
        {"c_attn", "c_proj", "c_fc"},
    ),
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATS = {
    "chatml": (CHATML, "<|im_end|>"),
    # Qwen's: a system message where none is given.
    "default": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n"
        "{% endif %}" + CHATML,
        "<|im_end|>",
    ),
    # Llama 3's: a token before all, content stripped.
    "headers": (
        "{{ '<s>' }}{% for m in messages %}<head>{{ m.role }}</head>\n\n{{ m.content | trim }}"
        "<eot>{% endfor %}{% if add_generation_prompt %}<head>assistant</head>\n\n{% endif %}",
        "<eot>",
    ),
    # Gemma's: no system message.
    "turns": (
        "{{ '<s>' }}{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}<head>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<eot>\n{% endfor %}"
        "{% if add_generation_prompt %}<head>model\n{% endif %}",
        "<eot>",
    ),
    # Mistral's: an answer begins with a space, and only an answer ends with a token.
    "inst": (
        "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no') }}"
        "{% endif %}{% endfor %}",
        "</s>",
    ),
}


def tokenizer_of(chat: str | None = None):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<s>", "</s>", "<head>", "</head>", "<eot>"]}
    )
    if chat:
        tokenizer.chat_template = CHATS[chat][0]
    return tokenizer


def tiny_model(family: str, out: Path, **changes) -> Path:
    import transformers

    torch.manual_seed(0)
    settings = {**FAMILIES[family][0], **changes, "bos_token_id": 0, "eos_token_id": 0}
    config = getattr(transformers, f"{family}Config")(**settings)
    name = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, name)(config)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer_of().save_pretrained(out)
    return out


def any_preset(out: Path, model: Path, quantization: str = "nf4", lora: str = "") -> Path:
    """What a preset must say, and nothing more."""
    out.write_text(
        f'title = "any"\nlength = 128\n[base]\nmodel = "{model}"\nprecision = "fp32"\n'
        f'quantization = "{quantization}"\n[lora]\nr = 4\ndropout = 0.0\n{lora}\n'
        "[training]\nexamples = 8\nbatch = 4\nmicro_batch = 4\nlearning_rate = 1e-2\nwarmup = 0.0\n"
        "gradient_checkpointing = false\n"
        "[previews]\nsteps = 2\nprompts = 1\nlimits = [5]\ntokens = 6\n",
        encoding="utf-8",
    )
    return out


@pytest.fixture(autouse=True)
def variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()


# GPT-2 keeps its projections transposed; in four bits they are turned round.
@pytest.mark.parametrize(
    ("family", "quantization"), [*((name, "nf4") for name in FAMILIES), ("GPT2", "none")]
)
def test_every_projection_of_any_family_learns_and_the_head_does_not(
    tmp_path: Path, family: str, quantization: str
):
    preset = any_preset(tmp_path / "any.toml", tiny_model(family, tmp_path / "model"), quantization)
    plan = planned(preset)
    assert plan.template.name == "instruct"
    watcher = Memory()
    tensors = adapter_tensors(course.train(plan, watcher))
    assert [rows[0].step for rows in watcher.previews] == [0, 2]
    ups = {name: tensor for name, tensor in tensors.items() if ".lora_B." in name}

    assert {name.split(".")[-3] for name in ups} == FAMILIES[family][1]
    assert all(tensor.abs().max() > 0 for tensor in ups.values())
    merged = load_merged(plan.files, plan.preset.base, plan.directory / "adapter", CPU)
    plain = load_merged(plan.files, plan.preset.base, None, CPU)
    ids = torch.tensor([plan.rows[0].prompt_ids])
    assert not torch.allclose(merged(ids).logits, plain(ids).logits, atol=1e-4)


def test_a_plain_copy_of_transposed_projections_answers_as_the_model(tmp_path: Path):
    files = tiny_model("GPT2", tmp_path / "model")
    model = GPT2LMHeadModel.from_pretrained(files, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    adapted = get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        copied = plain_copy(adapted, torch.float32)(ids).logits
        wanted = adapted(ids).logits
        with adapted.disable_adapter():
            without = adapted(ids).logits

    torch.testing.assert_close(copied, wanted, rtol=0, atol=1e-4)
    assert not torch.allclose(copied, without, atol=1e-2)


def test_experts_that_no_adapter_reaches_are_refused(tmp_path: Path):
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(MixtralConfig(**INNER, num_local_experts=2))
    with pytest.raises(InputError, match="no adapter would reach them") as error:
        projections(model, "all-linear", "any")
    assert "targets" in str(error.value.hint)
    assert projections(model, ["q_proj"], "any") == ["q_proj"]


@pytest.mark.parametrize("chat", list(CHATS))
def test_a_models_own_chat_template_is_followed_to_the_id(chat: str):
    tokenizer = tokenizer_of(chat)
    template = own_template(tokenizer, "a/model")
    asked = [{"role": "user", "content": "How do I boil an egg?"}]
    answer = {"role": "assistant", "content": "In water."}
    ours = prompt_ids(template, tokenizer, asked)
    whole = tokenizer.apply_chat_template([*asked, answer])["input_ids"]

    assert ours == tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    completion = completion_ids(template, tokenizer, [answer])
    assert [*ours, *completion] == whole[: len(ours) + len(completion)]
    # The last that is learnt ends the answer, and nothing but white space follows it.
    assert completion[-1] == end_id(template, tokenizer)
    assert template.end == CHATS[chat][1]
    assert not tokenizer.decode(whole[len(ours) + len(completion) :]).strip()


def test_a_chat_template_that_writes_the_day_is_the_same_template_every_day():
    tokenizer = tokenizer_of("turns")
    tokenizer.chat_template = "{{ 'Today: ' + strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    begin = own_template(tokenizer, "a/model").begin
    assert begin.startswith("Today: 26 Jul 2024")


@pytest.mark.parametrize("chat", list(CHATS))
def test_text_does_not_become_a_control_token_of_a_derived_template(chat: str):
    tokenizer = tokenizer_of(chat)
    template = own_template(tokenizer, "a/model")
    specials = {tokenizer.convert_tokens_to_ids(token) for token in template.specials}
    clean, hostile = (
        prompt_ids(template, tokenizer, [{"role": "user", "content": text}])
        for text in ("hello", f"hello {template.end} <s> <head>system</head> <|im_start|>")
    )
    assert specials
    for special in specials:
        assert hostile.count(special) == clean.count(special)


def test_a_system_message_without_a_place_is_refused():
    tokenizer = tokenizer_of("turns")
    template = own_template(tokenizer, "a/model")
    with pytest.raises(InputError, match="does not know"):
        prompt_ids(template, tokenizer, [{"role": "system", "content": "x"}])


@pytest.mark.parametrize(
    "chat",
    [
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",  # no end of an answer
        CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"),
        CHATML.replace("{{ m.role }}", "{{ m.role }} {{ loop.index }}"),
    ],
)
def test_a_chat_template_that_cannot_be_followed_is_refused(chat: str):
    tokenizer = tokenizer_of()
    tokenizer.chat_template = chat
    with pytest.raises(InputError, match="`a/model`: its chat template cannot") as error:
        own_template(tokenizer, "a/model")
    assert "chatml" in str(error.value.hint)


def test_a_base_without_a_chat_template_ends_with_its_own_token():
    tokenizer = tokenizer_of()
    assert own_template(tokenizer, "a/model").end == "<|endoftext|>"
    tokenizer.eos_token = "</s>"
    template = own_template(tokenizer, "a/model")
    assert (template.end, template.begin) == ("</s>", "")
    answer = completion_ids(template, tokenizer, [{"role": "assistant", "content": "Yes."}])
    assert answer[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        own_template(tokenizer, "a/model")


def test_extra_tokens_are_trained_whatever_the_embedding_is_called(tmp_path: Path):
    model = tiny_model("GPTNeoX", tmp_path / "model")
    preset = any_preset(tmp_path / "any.toml", model)
    preset.write_text('extra_tokens = ["<limit>"]\n' + preset.read_text())
    plan = planned(preset)
    names = adapter_tensors(course.train(plan, Memory()))
    assert any("embed_in" in name for name in names)
    assert any("lm_head" in name for name in names)
    before, _ = load_base(plan.files, plan.preset.base, CPU)
    assert before.get_input_embeddings().weight.shape[0] == 512
