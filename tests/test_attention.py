"""Attention over packed short rows against the plain masked one.

On a CUDA device where there is one; elsewhere in Triton's interpreter, which a process takes or
leaves as a whole: `TRITON_INTERPRET=1 python -m pytest tests/test_attention.py`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from finetune.attention import attend, fits
from finetune.fast import _attend_masked, _rotated

HAS_CUDA = torch.cuda.is_available()
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
# The interpreter multiplies the bits of bf16 as whole numbers.
HALF = torch.bfloat16 if HAS_CUDA else torch.float16
needs_kernels = pytest.mark.skipif(
    not (HAS_CUDA or IS_INTERPRETED), reason="no CUDA device, and not in Triton's interpreter"
)
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")

# Heads, kept heads, width, rotary part of it.
SHAPES = {
    "phi": (2, 2, 80, 32),
    "llama": (4, 2, 64, 64),
    "thirds": (3, 1, 64, 64),
    "wide": (2, 1, 128, 128),
    "odd": (2, 1, 24, 12),
}
# What the interpreter tries of these where nobody asked for it, which is slow.
IN_SHORT = "float32 and single and (phi or thirds)"
# The last row is the padding, which may be empty.
ROWS = {
    "ragged": [1, 17, 64, 65, 255, 256, 0],
    "padded": [3, 128, 0, 130, 11],
    "single": [16, 0],
}


def sizes_of(shape: str) -> tuple[int, int, int, int, float]:
    heads, kept, width, rotary = SHAPES[shape]
    return heads, kept, width, rotary, width**-0.5


def inputs(shape: str, lengths: list[int], dtype: torch.dtype, seed: int = 0):
    """qkv, cos, sin, bounds, and a gradient of the output."""
    heads, kept, width, rotary, _ = sizes_of(shape)
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    qkv = torch.randn(tokens, (heads + 2 * kept) * width, generator=generator)
    d_out = torch.randn(tokens, heads * width, generator=generator)
    places = torch.cat([torch.arange(length) for length in lengths])
    rates = 10000 ** (-torch.arange(0, rotary, 2) / rotary)
    angles = places[:, None] * torch.cat([rates, rates])
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    found = qkv.to(dtype), angles.cos(), angles.sin(), bounds, d_out.to(dtype)
    return tuple(each.to(DEVICE) for each in found)


def plain(qkv, cos, sin, bounds, length, sizes):
    heads, kept, width, rotary, scale = sizes
    q, k, v = qkv.split([heads * width, kept * width, kept * width], dim=1)
    q = _rotated(q.reshape(-1, heads, width), cos, sin, rotary)
    k = _rotated(k.reshape(-1, kept, width), cos, sin, rotary)
    k, v = (
        each.reshape(-1, kept, width).repeat_interleave(heads // kept, dim=1) for each in (k, v)
    )
    return _attend_masked(q, k, v, bounds, scale).reshape(-1, heads * width)


def both(function, qkv, cos, sin, bounds, d_out, sizes, length=256):
    """What `function` gives, and the gradient of qkv."""
    qkv = qkv.detach().requires_grad_()
    out = function(qkv, cos, sin, bounds, length, sizes)
    out.backward(d_out)
    return out.detach(), qkv.grad


@needs_kernels
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_masked_attention_in_float32(shape, rows):
    given, sizes = inputs(shape, ROWS[rows], torch.float32), sizes_of(shape)
    for found, wanted in zip(both(attend, *given, sizes), both(plain, *given, sizes), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_in_half_precision_it_is_as_near_to_float32_as_the_masked_attention_is(shape, rows):
    given, sizes = inputs(shape, ROWS[rows], HALF), sizes_of(shape)
    wide = tuple(each.float() if each.is_floating_point() else each for each in given)
    found = both(attend, *given, sizes)
    usual, exact = both(plain, *given, sizes), both(plain, *wide, sizes)
    for one, other, wanted in zip(found, usual, exact, strict=True):
        assert one.dtype == HALF
        error, usual_error = ((each.float() - wanted).norm() for each in (one, other))
        assert error <= 1.5 * usual_error
        torch.testing.assert_close(one.float(), wanted, rtol=0.05, atol=0.05)


@needs_kernels
def test_shorter_rows_may_be_said_to_be_shorter():
    given, sizes = inputs("phi", [65, 70, 9], torch.float32), sizes_of("phi")
    for one, two in zip(
        both(attend, *given, sizes, 70), both(attend, *given, sizes, 256), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@needs_kernels
def test_no_row_sees_another():
    sizes = sizes_of("llama")
    qkv, *rest = inputs("llama", [40, 70, 30], torch.float32)
    other = qkv.clone()
    other[40:110] = inputs("llama", [70], torch.float32, seed=1)[0]
    one_way, other_way = both(attend, qkv, *rest, sizes), both(attend, other, *rest, sizes)
    for one, two in zip(one_way, other_way, strict=True):
        assert not torch.equal(one[40:110], two[40:110])
        assert torch.equal(one[:40], two[:40])
        assert torch.equal(one[110:], two[110:])


@needs_kernels
def test_a_product_with_more_columns_may_be_cut():
    qkv, cos, sin, bounds, d_out = inputs("phi", [40, 70, 30], torch.float32)
    sizes = sizes_of("phi")
    wanted = both(attend, qkv, cos, sin, bounds, d_out, sizes)
    qkv, d_out = (torch.nn.functional.pad(x, (0, 16))[:, :-16] for x in (qkv, d_out))
    assert not qkv.is_contiguous()
    leaf = qkv.detach().requires_grad_()
    out = attend(leaf, cos, sin, bounds, 256, sizes)
    (gradient,) = torch.autograd.grad(out, leaf, d_out)
    for found, expected in zip((out, gradient), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@needs_kernels
def test_without_gradients_it_gives_the_same():
    qkv, cos, sin, bounds, _ = inputs("phi", [40, 30], torch.float32)
    sizes = sizes_of("phi")
    with torch.no_grad():
        found = attend(qkv, cos, sin, bounds, 256, sizes)
    qkv.requires_grad_()
    torch.testing.assert_close(found, attend(qkv, cos, sin, bounds, 256, sizes), rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("shape", ["phi", "llama"])
def test_what_the_compiler_is_told_of_the_operators_is_true(shape):
    qkv, cos, sin, bounds, d_out = inputs(shape, [40, 30], torch.float32)
    sizes = sizes_of(shape)
    forward = torch.ops.treetune.attend_forward.default
    backward = torch.ops.treetune.attend_backward.default
    checks = ("test_schema", "test_faketensor")
    arguments = (qkv, cos, sin, bounds, 256, *sizes)
    torch.library.opcheck(forward, arguments, test_utils=checks)
    out, sums = forward(*arguments)
    torch.library.opcheck(backward, (d_out, out, sums, *arguments), test_utils=checks)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_two_runs_give_the_same_bits(shape, dtype):
    given, sizes = inputs(shape, ROWS["ragged"] * 8, dtype), sizes_of(shape)
    one, two = both(attend, *given, sizes), both(attend, *given, sizes)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@needs_cuda
@pytest.mark.parametrize("shape", ["phi", "llama"])
def test_compiled_it_gives_the_same_bits_for_any_number_of_tokens(shape):
    sizes = sizes_of(shape)

    def around(qkv, cos, sin, bounds, length, sizes):
        return attend(qkv * 2, cos, sin, bounds, length, sizes) + 1

    compiled = torch.compile(around)
    for lengths in (ROWS["ragged"], ROWS["padded"], [200, 100, 4]):
        given = inputs(shape, lengths, torch.bfloat16)
        for found, wanted in zip(
            both(compiled, *given, sizes), both(around, *given, sizes), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        with torch.no_grad():
            found = compiled(*given[:4], 256, sizes)
        torch.testing.assert_close(found, around(*given[:4], 256, sizes), rtol=0, atol=0)


def test_long_rows_wide_heads_and_a_cpu_take_another_way():
    cuda = torch.device("cuda", 0)
    assert fits(256, sizes_of("phi"), cuda) == (find_spec("triton") is not None)
    assert not fits(257, sizes_of("phi"), cuda)
    assert not fits(256, (8, 8, 256, 256, 1.0), cuda)
    assert not fits(256, sizes_of("phi"), torch.device("cpu"))


@pytest.mark.skipif(HAS_CUDA, reason="the kernels run on the CUDA device")
@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_the_kernels_pass_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", IN_SHORT],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
