"""The headers of a model's files, without the weights: shapes are all that an estimate reads."""

import json
from pathlib import Path


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
    header = {
        name: {"dtype": "F16", "shape": s, "data_offsets": [0, 0]} for name, s in shapes.items()
    }
    text = json.dumps(header).encode()
    out.mkdir()
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32}
    config = {"model_type": "phi", "hidden_size": hidden, **heads}
    (out / "config.json").write_text(json.dumps(config))
    (out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return out
