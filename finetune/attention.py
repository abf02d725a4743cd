"""Causal attention over packed short rows, with the rotary embedding inside.

FlashAttention is made for long rows: over rows of 256 its backward adds up gradients of queries by
atomics, which costs more than the products and gives other bits at every run, and the embedding
reads and writes queries and keys twice more. A short row fits a few tiles, so here (finetune.gpu)
every gradient is summed by one program, and q, k and v are read where the projection left them.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

# The longest row, and the widest head.
LENGTH, WIDTH = 256, 128

_IS_THERE = find_spec("triton") is not None

# Heads of queries, heads of keys and values, their width, how much of it is turned, and the scale
# of scores.
Sizes = tuple[int, int, int, int, float]


def fits(length: int, sizes: Sizes, device: torch.device) -> bool:
    """Whether `attend` takes rows of at most `length` tokens and heads of such `sizes` there."""
    _, _, width, rotary, _ = sizes
    fitting = length <= LENGTH and 16 <= width <= WIDTH and rotary % 2 == 0
    return _IS_THERE and device.type == "cuda" and fitting


def attend(
    qkv: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor, length: int, sizes: Sizes
) -> Tensor:
    """What each token reads of those before it in its row: (tokens, heads * width).

    `qkv` (tokens, (heads + 2 * kept) * width): queries, keys and values side by side. `cos`, `sin`
    (tokens, rotary) float32, two equal halves. `bounds` (rows + 1,) int32: where each row begins,
    and the number of tokens last; a row may be empty and has at most `length` tokens. `sizes` as
    `Sizes` says; see `fits`. Gradients are the same bits at every run.
    """
    if not torch.is_grad_enabled():
        # As in finetune.products: torch 2.11 compiles no Function that is not differentiated.
        return attend_forward(qkv, cos, sin, bounds, length, *sizes)[0]
    out: Tensor = _Attend.apply(qkv, cos, sin, bounds, length, sizes)
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor, length: int, sizes: Sizes
    ) -> Tensor:
        out, sums = attend_forward(qkv, cos, sin, bounds, length, *sizes)
        ctx.save_for_backward(out, sums, qkv, cos, sin, bounds)
        ctx.length, ctx.sizes = length, sizes
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        d_qkv = attend_backward(d_out, *ctx.saved_tensors, ctx.length, *ctx.sizes)
        return d_qkv, *[None] * 5


@custom_op("treetune::attend_forward", mutates_args=())
def attend_forward(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    bounds: Tensor,
    length: int,
    heads: int,
    kept: int,
    width: int,
    rotary: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """What `attend` gives, and (heads, tokens) float32: the base 2 logarithm of the sum of the
    exponentials of each query's scores.
    """
    from finetune.gpu import attention as gpu

    tokens = len(qkv)
    qkv, cos, sin = _dense(qkv), cos.contiguous(), sin.contiguous()
    out = qkv.new_empty(tokens, heads * width)
    sums = qkv.new_empty(heads, tokens, dtype=torch.float32)
    tiles = _tiles(gpu, gpu.FORWARD, qkv, width)
    blocks = -(-length // tiles.queries)
    programs = (len(bounds) - 1) * heads * blocks
    if programs:
        gpu.forward_kernel[(programs,)](
            qkv,
            cos,
            sin,
            bounds,
            out,
            sums,
            tokens,
            qkv.stride(0),
            scale * _LOG2_E,
            **_chunks(heads, kept, width, rotary),
            **_cut(tiles, blocks),
        )
    return out, sums


@attend_forward.register_fake
def _(
    qkv: Any,
    cos: Any,
    sin: Any,
    bounds: Any,
    length: Any,
    heads: Any,
    kept: Any,
    width: Any,
    rotary: Any,
    scale: Any,
) -> Any:
    tokens = qkv.shape[0]
    sums = qkv.new_empty(heads, tokens, dtype=torch.float32)
    return qkv.new_empty(tokens, heads * width), sums


@custom_op("treetune::attend_backward", mutates_args=())
def attend_backward(
    d_out: Tensor,
    out: Tensor,
    sums: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    bounds: Tensor,
    length: int,
    heads: int,
    kept: int,
    width: int,
    rotary: int,
    scale: float,
) -> Tensor:
    """The gradient of `qkv`, contiguous."""
    from finetune.gpu import attention as gpu

    tokens, rows = len(qkv), len(bounds) - 1
    d_out, qkv, cos, sin = _dense(d_out), _dense(qkv), cos.contiguous(), sin.contiguous()
    d_qkv = qkv.new_empty(tokens, (heads + 2 * kept) * width)
    deltas = torch.empty_like(sums)
    chunks = _chunks(heads, kept, width, rotary)
    given = qkv, cos, sin, bounds, d_qkv, tokens, d_out.stride(0), qkv.stride(0), scale
    if rows and length:
        tiles = _tiles(gpu, gpu.BACKWARD_QUERIES, qkv, width)
        blocks = -(-length // tiles.queries)
        gpu.backward_queries_kernel[(rows * heads * blocks,)](
            d_out, out, sums, deltas, *given, **chunks, **_cut(tiles, blocks)
        )
        tiles = _tiles(gpu, gpu.BACKWARD_KEYS, qkv, width)
        blocks = -(-length // tiles.keys)
        gpu.backward_keys_kernel[(rows * kept * blocks,)](
            d_out, sums, deltas, *given, **chunks, **_cut(tiles, blocks)
        )
    return d_qkv


@attend_backward.register_fake
def _(
    d_out: Any,
    out: Any,
    sums: Any,
    qkv: Any,
    cos: Any,
    sin: Any,
    bounds: Any,
    length: Any,
    heads: Any,
    kept: Any,
    width: Any,
    rotary: Any,
    scale: Any,
) -> Any:
    return qkv.new_empty(qkv.shape[0], (heads + 2 * kept) * width)


_LOG2_E = 1.4426950408889634


def _dense(x: Tensor) -> Tensor:
    """`x` (tokens, columns) with its columns side by side."""
    return x if x.stride(1) == 1 else x.contiguous()


def _tiles(gpu: Any, table: dict[bool, Any], x: Tensor, width: int) -> Any:
    return gpu.EXACT if x.dtype == torch.float32 else table[width <= 96]


def _cut(tiles: Any, blocks: int) -> dict[str, int]:
    return {
        "BLOCKS": blocks,
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _chunks(heads: int, kept: int, width: int, rotary: int) -> dict[str, int]:
    """A head's columns in powers of two, 16 at least, as a product takes them: the turned ones and
    the rest of a query or key, the most and the tail of a value.
    """
    rest = width - rotary
    value = 1 << (width.bit_length() - 1)
    tail = width - value
    return {
        "HEADS": heads,
        "KEPT": kept,
        "WIDTH": width,
        "HALF": rotary // 2,
        "PADDED_HALF": max(8, _power_of_two(rotary // 2)),
        "REST": rest,
        "PADDED_REST": max(16, _power_of_two(rest)),
        "VALUE": value,
        "TAIL": tail,
        "PADDED_TAIL": max(16, _power_of_two(tail)),
    }


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()
