"""Gradients of one step on a GPU: the fast path and PEFT's own, each against float32.

    python -m bench.parity MODEL

All three begin with the same NF4 weights, dequantised; dropout is off; adapters are random, B too.
Printed for each path: the loss, the cosine and the relative distance of all gradients to the
float32 ones, and the worst of any one matrix.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from bench.rows import drawn
from bench.train import targets_of
from finetune.base import ready_base
from finetune.fast import Fast, install
from finetune.model import load_base, unpack_4bit
from finetune.packing import pack
from finetune.preset import load_preset

EXAMPLES = 8


def adapted(model: Path, dtype: torch.dtype, *, packed: bool) -> Any:
    """The base with random adapters, the same for every dtype."""
    import msgspec
    from peft import LoraConfig, get_peft_model

    preset = load_preset("phi2-oasst1-qlora")
    base = msgspec.structs.replace(preset.base, model=str(model), revision=None)
    loaded, _ = load_base(ready_base(base), base, torch.device("cuda"))
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if not packed:
        unpack_4bit(loaded, torch.bfloat16)
        loaded = loaded.to(dtype)
    made = get_peft_model(
        loaded, LoraConfig(r=16, lora_alpha=32, target_modules=list(targets_of(model)))
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = (0.02 * drawn).to(parameter.device)
    return made.train()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {
        name.replace(".default", ""): p.grad.float().cpu()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def usual_loss(model: Any, batch: torch.Tensor, precision: torch.dtype | None) -> torch.Tensor:
    """The mean loss as a plain forward gives it, under autocast where `precision` is given."""
    with torch.autocast("cuda", dtype=precision, enabled=precision is not None):
        logits = model(input_ids=batch).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten()
    )


def main() -> None:
    """Print both distances."""
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=__doc__)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model
    rows = drawn(EXAMPLES, 40_000)
    batch = torch.tensor(rows, device="cuda")
    found: dict[str, tuple[float, dict[str, torch.Tensor]]] = {}
    for name in ("float32", "PEFT", "fast", "fast, compiled"):
        made = adapted(
            model, torch.float32 if name == "float32" else torch.bfloat16, packed=name != "float32"
        )
        if name.startswith("fast"):
            inner = made.get_base_model()
            install(inner, Fast(inner, 256, torch.bfloat16, compiled="compiled" in name))
            packed = pack([{"input_ids": ids, "labels": ids} for ids in rows])
            batch_ = {key: value.to("cuda") for key, value in packed.items()}
            loss = made(**batch_).loss / (packed["target_ids"] >= 0).sum()
        else:
            loss = usual_loss(made, batch, None if name == "float32" else torch.bfloat16)
        found[name] = loss.item(), gradients(made, loss)
        del made, loss
        torch.cuda.empty_cache()
    _, wanted = found.pop("float32")
    for name, (loss, grads) in found.items():
        assert grads.keys() == wanted.keys(), sorted(grads.keys() ^ wanted.keys())[:3]
        whole = torch.cat([grads[key].flatten() for key in wanted])
        right = torch.cat([wanted[key].flatten() for key in wanted])
        worst = max(
            ((grads[key] - wanted[key]).norm() / wanted[key].norm()).item() for key in wanted
        )
        cosine = torch.nn.functional.cosine_similarity(whole.double(), right.double(), dim=0).item()
        apart = ((whole - right).norm() / right.norm()).item()
        print(f"{name:15} loss {loss:.5f} cosine {cosine:.6f} apart {apart:.4f} worst {worst:.4f}")


if __name__ == "__main__":
    main()
