"""Several projections of one input, with their adapters, as one matrix product.

LoRA adds `(x A') B'` to `x W'`. Done apart, as PEFT does it, the thin products read and write the
wide activations again and cost a fifth of a step. Here the thin side is laid beside the narrower of
the two: a product that widens (q, k, v and fc1 of one norm) takes `[x | xA']` times `[W | B]`, both
sums in float32 until they are rounded once, and its transpose gives `dx` and the gradient of `xA'`
together; one that narrows (fc2) is the mirror of it, times `[W ; A]`. Projections that read the
same input share one product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional

# Matrix products want inner sizes that are whole multiples of 16 bytes.
_ALIGNED = 8

# For each projection: its rows of the product, and its columns among the adapters'.
Layout = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class Product:
    """Projections of one input: shapes (in, out, and R, the sum of the adapters' ranks).

    A widening one has `weight` (out, in + R), which is `[W | B]`, and `thin` (R, in), A; a
    narrowing one `weight` (out + R, in), which is `[W ; A]`, `thin` (out, R), B, and zeros after
    its bias; all in the computing precision, A times its scale. `factors` are the adapters' own
    float32 parameters, A (r, in) and B (out_i, r) of each projection in turn.
    """

    weight: Tensor
    bias: Tensor | None
    thin: Tensor
    narrows: bool
    scales: tuple[float, ...]
    layout: Layout
    factors: tuple[torch.nn.Parameter, ...]

    def tensors(self) -> tuple[Any, ...]:
        """What `multiply` takes, as plain values that a compiled function may be given."""
        return (
            self.weight,
            self.bias,
            self.thin,
            self.narrows,
            self.scales,
            self.layout,
            self.factors,
        )

    def targets(self) -> list[Tensor]:
        """Where the factors go, one view for each."""
        if self.narrows:
            out = self.thin.shape[0]
            down, up = self.weight[out:], self.thin
        else:
            width = self.thin.shape[1]
            down, up = self.thin, self.weight[:, width:]
        found = []
        for first, last, left, right in self.layout:
            found += [down[left:right], up[first:last, left:right]]
        return found


def product_of(modules: Sequence[torch.nn.Module], dtype: torch.dtype) -> Product:
    """The product of PEFT's LoRA layers, or plain ones, that read the same input; NF4 weights are
    dequantised, which is what every product with them does.

    Raises ValueError where a module has more than one adapter, or one that is more than LoRA.
    """
    weights, biases, scales, layout, factors = [], [], [], [], []
    row = column = 0
    for module in modules:
        base, adapter = _parts(module)
        weight = plain_weight(base).to(dtype)
        weights.append(weight)
        biases.append(None if base.bias is None else base.bias.data.to(dtype))
        if adapter is not None:
            a, b, scale = adapter
            layout.append((row, row + weight.shape[0], column, column + a.shape[0]))
            factors += [a, b]
            scales.append(scale)
            column += a.shape[0]
        row += weight.shape[0]
    width = weights[0].shape[1]
    ranks = -(-column // _ALIGNED) * _ALIGNED
    narrows = row < width
    shape = (row + ranks, width) if narrows else (row, width + ranks)
    thin_shape = (row, ranks) if narrows else (ranks, width)
    device = weights[0].device
    whole = torch.zeros(shape, dtype=dtype, device=device)
    torch.cat(weights, out=whole[:row, :width])
    thin = torch.zeros(thin_shape, dtype=dtype, device=device)
    bias = _bias(biases, weights)
    if bias is not None and narrows:
        bias = torch.cat([bias, bias.new_zeros(ranks)])
    return Product(whole, bias, thin, narrows, tuple(scales), tuple(layout), tuple(factors))


def refresh(products: Sequence[Product]) -> None:
    """Copies the adapters as they now are into their products."""
    targets: list[Tensor] = []
    values: list[Tensor] = []
    for product in products:
        targets += product.targets()
        for scale, a, b in zip(
            product.scales, product.factors[::2], product.factors[1::2], strict=True
        ):
            values += [a.detach() * scale, b.detach()]
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(targets, values)


def multiply(
    x: Tensor, dropped: Tensor | None, tensors: tuple[Any, ...], is_first: bool = False
) -> Tensor:
    """The projections of `x` (tokens, in) side by side: (tokens, out).

    `dropped` is what the adapters read where dropout is on. `is_first`: nothing below `x` is
    trained, so that its gradient is not needed.
    """
    *plain, factors = tensors
    found: Tensor = _Multiply.apply(x, dropped, *plain, is_first, *factors)
    return found


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        thin: Tensor,
        narrows: bool,
        scales: tuple[float, ...],
        layout: Layout,
        is_first: bool,
        *factors: Tensor,
    ) -> Tensor:
        forward = narrow_forward if narrows else widen_forward
        y, kept = forward(x, dropped, weight, bias, thin)
        # What a widening product keeps holds its input already.
        ctx.save_for_backward(x if narrows else None, dropped, kept, weight, thin)
        ctx.narrows, ctx.scales, ctx.layout, ctx.is_first = narrows, scales, layout, is_first
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, dropped, kept, weight, thin = ctx.saved_tensors
        if ctx.narrows:
            found = narrow_backward(dy, x, dropped, kept, weight, thin)
        else:
            found = widen_backward(dy, dropped, kept, weight, thin, ctx.is_first)
        dx, d_dropped, d_down, d_up = found
        grads: list[Tensor] = []
        for scale, (first, last, left, right) in zip(ctx.scales, ctx.layout, strict=True):
            # The factors are float32, and A stands in the product times its scale.
            grads.append(d_down[left:right].float() * scale)
            grads.append(d_up[first:last, left:right].float())
        return (
            None if ctx.is_first else dx,
            None if dropped is None else d_dropped,
            *[None] * 7,
            *grads,
        )


# Opaque to the compiler, which would copy wide tensors to lay them side by side; here the products
# write where they are wanted.


@custom_op("treetune::widen_forward", mutates_args=())
def widen_forward(
    x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, thin: Tensor
) -> tuple[Tensor, Tensor]:
    """y (tokens, out), and `[x | xA']` (tokens, in + R)."""
    width = x.shape[1]
    both = x.new_empty(x.shape[0], weight.shape[1])
    both[:, :width].copy_(x)
    torch.mm(x if dropped is None else dropped, thin.t(), out=both[:, width:])
    return functional.linear(both, weight, bias), both


@widen_forward.register_fake
def _(x: Any, dropped: Any, weight: Any, bias: Any, thin: Any) -> Any:
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0], weight.shape[1])


@custom_op("treetune::widen_backward", mutates_args=())
def widen_backward(
    dy: Tensor, dropped: Tensor | None, both: Tensor, weight: Tensor, thin: Tensor, is_first: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of what the adapters read where that is another, of A and of B."""
    width = thin.shape[1]
    d_dropped = dy.new_empty(0)
    if is_first:
        dx, d_inner = dy.new_empty(0), dy @ weight[:, width:]
    else:
        d_both = dy @ weight
        dx, d_inner = d_both[:, :width], d_both[:, width:]
    read = both[:, :width] if dropped is None else dropped
    d_down = d_inner.t() @ read
    d_up = dy.t() @ both[:, width:]
    if not is_first and dropped is None:
        dx.addmm_(d_inner, thin)
    elif not is_first:
        d_dropped = d_inner @ thin
    return dx, d_dropped, d_down, d_up


@widen_backward.register_fake
def _(dy: Any, dropped: Any, both: Any, weight: Any, thin: Any, is_first: Any) -> Any:
    tokens, (ranks, width) = dy.shape[0], thin.shape
    nothing = dy.new_empty(0)
    if is_first:
        dx, d_dropped = nothing, dy.new_empty(0)
    else:
        dx = dy.new_empty_strided((tokens, width), (width + ranks, 1))
        d_dropped = nothing if dropped is None else dy.new_empty(tokens, width)
    return dx, d_dropped, dy.new_empty(ranks, width), dy.new_empty(weight.shape[0], ranks)


@custom_op("treetune::narrow_forward", mutates_args=())
def narrow_forward(
    x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, thin: Tensor
) -> tuple[Tensor, Tensor]:
    """y (tokens, out), and `xA'` (tokens, R)."""
    out = thin.shape[0]
    both = functional.linear(x, weight, bias)
    inner = both[:, out:].contiguous() if dropped is None else dropped @ weight[out:].t()
    y = both[:, :out]
    y.addmm_(inner, thin.t())
    return y, inner


@narrow_forward.register_fake
def _(x: Any, dropped: Any, weight: Any, bias: Any, thin: Any) -> Any:
    out, ranks = thin.shape
    y = x.new_empty_strided((x.shape[0], out), (out + ranks, 1))
    return y, x.new_empty(x.shape[0], ranks)


@custom_op("treetune::narrow_backward", mutates_args=())
def narrow_backward(
    dy: Tensor, x: Tensor, dropped: Tensor | None, inner: Tensor, weight: Tensor, thin: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of what the adapters read where that is another, of A and of B."""
    out, ranks = thin.shape
    both = dy.new_empty(dy.shape[0], out + ranks)
    both[:, :out].copy_(dy)
    d_inner = both[:, out:]
    torch.mm(dy, thin, out=d_inner)
    d_dropped = dy.new_empty(0)
    if dropped is None:
        dx = both @ weight
    else:
        dx = dy @ weight[:out]
        d_dropped = d_inner @ weight[out:]
    return dx, d_dropped, d_inner.t() @ (x if dropped is None else dropped), dy.t() @ inner


@narrow_backward.register_fake
def _(dy: Any, x: Any, dropped: Any, inner: Any, weight: Any, thin: Any) -> Any:
    out, ranks = thin.shape
    dx = dy.new_empty(x.shape)
    d_dropped = dy.new_empty(0) if dropped is None else dy.new_empty(x.shape)
    return dx, d_dropped, dy.new_empty(ranks, x.shape[1]), dy.new_empty(out, ranks)


def plain_weight(layer: torch.nn.Module) -> torch.Tensor:
    """A linear layer's weight (out, in), dequantised where it is in 4 bit."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.data
    import bitsandbytes as bnb

    return bnb.functional.dequantize_4bit(layer.weight.data, state)


def _parts(module: Any) -> tuple[Any, tuple[Any, Any, float] | None]:
    """A layer's base, and its adapter's A, B and scale where it has one."""
    if not hasattr(module, "lora_A"):
        return module, None
    names = list(module.lora_A)
    if len(names) != 1 or getattr(module, "lora_magnitude_vector", None):
        raise ValueError("more than one adapter, or more than LoRA")
    (name,) = names
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return module.get_base_layer(), (a, b, float(module.scaling[name]))


def _bias(biases: list[Any], weights: list[torch.Tensor]) -> torch.Tensor | None:
    if all(bias is None for bias in biases):
        return None
    filled = [
        torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if bias is None else bias
        for bias, weight in zip(biases, weights, strict=True)
    ]
    return torch.cat(filled)
