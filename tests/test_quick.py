"""One token at a time in few kernels: the answers of the model itself, in half of the launches."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from finetune import decode as decoding
from finetune.decode import Decoding, Wanted, decode
from finetune.quick import quick_of

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
MODELS = {
    "llama": lambda **n: LlamaForCausalLM(LlamaConfig(**SIZES, **n, num_key_value_heads=2)),
    "llama with biases": lambda **n: LlamaForCausalLM(
        LlamaConfig(**SIZES, **n, num_key_value_heads=4, attention_bias=True, mlp_bias=True)
    ),
    "phi": lambda **n: PhiForCausalLM(PhiConfig(**SIZES, **n, partial_rotary_factor=0.5)),
    "qwen2": lambda **n: Qwen2ForCausalLM(Qwen2Config(**SIZES, **n, num_key_value_heads=1)),
}
WANTED = [
    Wanted([5, 6, 7, 8, 9], 20),
    Wanted([40, 41], 20),
    Wanted([11, 12, 13], 12, [n / 12 for n in range(12)]),
]
ENDS = [95]


def made(name: str, layers: int = 3):
    torch.manual_seed(0)
    model = MODELS[name](num_hidden_layers=layers).eval().requires_grad_(False)
    for parameter in model.parameters():
        # Norms and biases too, so that none of them could be left out unnoticed.
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_the_models_own(name: str, monkeypatch: pytest.MonkeyPatch):
    model = made(name)
    monkeypatch.setattr(decoding, "QUICK", False)
    wanted = decode(model, WANTED, ENDS)
    monkeypatch.setattr(decoding, "QUICK", True)
    assert decode(model, WANTED, ENDS) == wanted
    assert quick_of(model) is not None
    assert len({tuple(answer) for answer in wanted}) == 3
    # Its weights are views of the stacked ones, and the model computes with them as before.
    monkeypatch.setattr(decoding, "QUICK", False)
    assert decode(model, WANTED, ENDS) == wanted


class Launches(TorchDispatchMode):
    """Counts the operators that would be a kernel: all but views and bare allocations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_view = any(a.alias_info and not a.alias_info.is_write for a in func._schema.returns)
        self.count += not is_view and "empty" not in func.name() and "_view" not in func.name()
        return func(*args, **(kwargs or {}))


def launches_of_a_token(name: str, layers: int) -> int:
    model = made(name, layers)
    with torch.no_grad():
        batch = Decoding(model, WANTED, ENDS, 1.0)
        batch.begin()
        batch.step()
        with Launches() as counted:
            batch.step()
    return counted.count


@pytest.mark.parametrize(("name", "most", "usual"), [("phi", 13, 33), ("llama", 24, 37)])
def test_a_token_takes_few_launches_a_layer(
    name: str, most: int, usual: int, monkeypatch: pytest.MonkeyPatch
):
    one, two = (launches_of_a_token(name, layers) for layers in (1, 2))
    # A CPU makes a Llama's two norms in six operators each, a GPU in one: 14 there.
    assert two - one <= most, two - one
    assert one - (two - one) <= 41  # angles, the head, the choice
    monkeypatch.setattr(decoding, "QUICK", False)
    one, two = (launches_of_a_token(name, layers) for layers in (1, 2))
    assert two - one > usual, two - one  # else this module is not needed


def test_a_model_in_training_or_of_another_kind_is_left_alone():
    model = made("llama")
    assert quick_of(model.train()) is None
    model.eval().model.layers[1].mlp.up_proj.weight.requires_grad = True
    assert quick_of(model) is None
    model = made("phi")
    model.config.model_type = "gpt_neox"
    assert quick_of(model) is None
