"""The headers of a model's files, without the weights: shapes are all that an estimate reads."""

import json
from pathlib import Path


def smollm2_headers(out: Path, vocabulary: int = 49152) -> Path:
    """Those of SmolLM2-135M at `out`, whose head is its embedding."""
    hidden, inner, kept = 576, 1536, 192
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden]}
    widths = {"q": hidden, "k": kept, "v": kept, "o": hidden}
    for layer in range(30):
        for name, width in widths.items():
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = [width, hidden]
        for name in ("gate", "up"):
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = [inner, hidden]
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = [hidden, inner]
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    return _written(out, shapes, {"model_type": "llama", "hidden_size": hidden, **heads})


def phi2_headers(out: Path) -> Path:
    """Those of Phi-2 at `out`."""
    hidden, inner, vocabulary = 2560, 10240, 51200
    shapes = {
        "model.embed_tokens.weight": [vocabulary, hidden],
        "lm_head.weight": [vocabulary, hidden],
        "lm_head.bias": [vocabulary],
    }
    for layer in range(32):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"):
            shapes[f"model.layers.{layer}.{name}.weight"] = [hidden, hidden]
        shapes[f"model.layers.{layer}.mlp.fc1.weight"] = [inner, hidden]
        shapes[f"model.layers.{layer}.mlp.fc2.weight"] = [hidden, inner]
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32}
    return _written(out, shapes, {"model_type": "phi", "hidden_size": hidden, **heads})


def _written(out: Path, shapes: dict[str, list[int]], config: dict[str, object]) -> Path:
    header = {
        name: {"dtype": "F16", "shape": s, "data_offsets": [0, 0]} for name, s in shapes.items()
    }
    text = json.dumps(header).encode()
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    (out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return out
