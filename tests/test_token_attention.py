"""What a token reads of the answers before it, against PyTorch's attention under a mask.

On a CUDA device where there is one; elsewhere in Triton's interpreter, which a process takes or
leaves as a whole: `TRITON_INTERPRET=1 python -m pytest tests/test_token_attention.py`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from finetune import decode as decoding
from finetune import quick, slots
from finetune.decode import decode
from finetune.token_attention import can_look, look
from tests import test_decode
from tests.test_quick import ENDS, WANTED, made

HAS_CUDA = torch.cuda.is_available()
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
needs_kernels = pytest.mark.skipif(
    not (HAS_CUDA or IS_INTERPRETED), reason="no CUDA device, and not in Triton's interpreter"
)
# Heads, kept heads, width.
SHAPES = {"phi": (2, 2, 80), "llama": (9, 3, 64), "odd": (4, 1, 24)}


@needs_kernels
@pytest.mark.parametrize("place", [0, 63, 64, 130])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_attention_to_the_slots_between(shape: str, place: int):
    heads, kept, width = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    answers, size = 4, 136

    def drawn(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).to(DEVICE)

    # The queries are part of a wider row, as projections give them; slots beyond hold anything.
    queries = drawn(answers, heads + 5, width)[:, :heads]
    keys, values = (drawn(answers, kept, size, width) for _ in range(2))
    keys[:, :, place + 1 :] = values[:, :, place + 1 :] = float("nan")
    firsts = torch.tensor([0, place // 2, max(0, place - 1), place], device=DEVICE)
    for row, first in enumerate(firsts.tolist()):
        keys[row, :, :first] = values[row, :, :first] = float("nan")
    found = look(queries, keys, values, firsts, torch.tensor([place], device=DEVICE), 0.3)
    for row, first in enumerate(firsts.tolist()):
        k, v = (
            each[row, :, first : place + 1].repeat_interleave(heads // kept, dim=0)
            for each in (keys, values)
        )
        wanted = functional.scaled_dot_product_attention(queries[row][:, None], k, v, scale=0.3)
        torch.testing.assert_close(found[row], wanted[:, 0], rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("name", ["llama", "phi"])
def test_answers_are_those_under_a_mask(name: str, monkeypatch: pytest.MonkeyPatch):
    model = made(name, layers=2).to(DEVICE)
    wanted = test_decode.groups(prompts=5, group=2, drawn=2)
    ways = {"ends": test_decode.ENDS, "top": None, "temperature": test_decode.HOT}
    whole, plain = decode(model, wanted, **ways), decode(model, WANTED, ENDS)
    looked: list[int] = []

    def looking(*given):
        looked.append(len(given[0]))
        return look(*given)

    monkeypatch.setattr(quick, "look", looking)
    monkeypatch.setattr(decoding, "can_look", lambda width, device: True)
    monkeypatch.setattr(decoding, "LOOKS", True)
    assert decode(model, WANTED, ENDS) == plain
    monkeypatch.setattr(decoding, "LOOK", 4)
    monkeypatch.setattr(decoding, "FEWEST", 4)
    monkeypatch.setattr(decoding, "EIGHT", 2)
    monkeypatch.setattr(slots, "STRIDE", 8)
    assert decode(model, wanted, **ways) == whole
    assert {10, 6} <= set(looked)  # all of them, and what was left when some had ended


def test_a_cpu_and_narrow_heads_have_no_use_for_it():
    assert not can_look(64, torch.device("cpu"))
    assert not can_look(8, torch.device("cuda"))


@pytest.mark.skipif(HAS_CUDA or IS_INTERPRETED, reason="they run here as they are")
@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_in_the_interpreter():
    """One shape; all of it takes minutes there."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", "between and llama and 64"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
