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

# For each projection: its part, its rows there, and its columns among the adapters'.
Layout = tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True)
class Product:
    """Projections of one input: shapes (in, out, and R, the sum of the adapters' ranks).

    A widening one has `weights`, one or several (out, in + R), which are `[W | B]`, and `thin`
    (R, in), A; a narrowing one a single weight (out + R, in), which is `[W ; A]`, `thin` (out, R),
    B, and zeros after its bias; all in the computing precision, A times its scale. `biases` has one
    for each weight or none. `factors` are the adapters' own float32 parameters, A (r, in) and
    B (out_i, r) of each projection in turn.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    thin: Tensor
    narrows: bool
    scales: tuple[float, ...]
    layout: Layout
    factors: tuple[torch.nn.Parameter, ...]

    def tensors(self) -> tuple[Any, ...]:
        """What `multiply` takes, as plain values that a compiled function may be given."""
        return (
            self.weights,
            self.biases,
            self.thin,
            self.narrows,
            self.scales,
            self.layout,
            self.factors,
        )

    def targets(self) -> list[Tensor]:
        """Where the factors go, one view for each."""
        found = []
        for part, first, last, left, right in self.layout:
            if self.narrows:
                out = self.thin.shape[0]
                down, up = self.weights[part][out:], self.thin
            else:
                down, up = self.thin, self.weights[part][:, self.thin.shape[1] :]
            found += [down[left:right], up[first:last, left:right]]
        return found


def product_of(parts: Sequence[Sequence[torch.nn.Module]], dtype: torch.dtype) -> Product:
    """The product of PEFT's LoRA layers, or plain ones, that read the same input; NF4 weights are
    dequantised, which is what every product with them does. The layers of one part stand side by
    side in its output; parts are apart.

    Raises ValueError where a module has more than one adapter, or one that is more than LoRA.
    """
    adapters = [[_parts(module) for module in part] for part in parts]
    flat = [each for part in adapters for each in part]
    column = sum(adapter[0].shape[0] for _, adapter in flat if adapter)
    ranks = max(1, -(-column // _ALIGNED)) * _ALIGNED
    out = sum(base.out_features for base, _ in flat)
    width, device = flat[0][0].in_features, flat[0][0].weight.device
    narrows = len(parts) == 1 and out <= width
    weights, biases, scales, layout, factors = [], [], [], [], []
    left = 0
    for number, part in enumerate(adapters):
        rows = sum(base.out_features for base, _ in part)
        shape = (rows + ranks, width) if narrows else (rows, width + ranks)
        whole = torch.zeros(shape, dtype=dtype, device=device)
        first = 0
        for base, adapter in part:
            last = first + base.out_features
            whole[first:last, :width] = plain_weight(base).to(dtype)
            if adapter is not None:
                a, b, scale = adapter
                layout.append((number, first, last, left, left + a.shape[0]))
                factors += [a, b]
                scales.append(scale)
                left += a.shape[0]
            first = last
        weights.append(whole)
        biases.append(_bias([base for base, _ in part], whole, ranks if narrows else 0))
    given = [bias for bias in biases if bias is not None]
    if given and len(given) < len(biases):
        raise ValueError("a bias in one part of a product and none in another")
    thin = torch.zeros((out, ranks) if narrows else (ranks, width), dtype=dtype, device=device)
    return Product(
        tuple(weights), tuple(given), thin, narrows, tuple(scales), tuple(layout), tuple(factors)
    )


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
) -> tuple[Tensor, ...]:
    """The projections of `x` (tokens, in): (tokens, out), one for each part of the product.

    `dropped` is what the adapters read where dropout is on. `is_first`: nothing below `x` is
    trained, so that its gradient is not needed.
    """
    weights, biases, thin, narrows, scales, layout, factors = tensors
    bias = biases[0] if narrows and biases else None
    if not torch.is_grad_enabled():
        # torch 2.11's compiler mistakes the arguments of a Function that is not differentiated.
        if narrows:
            return (narrow_forward(x, dropped, weights[0], bias, thin)[0],)
        return tuple(widen_forward(x, dropped, list(weights), list(biases), thin)[0])
    if narrows:
        y: Tensor = _Narrow.apply(x, dropped, weights[0], bias, thin, scales, layout, *factors)
        return (y,)
    sizes = len(weights), len(biases)
    ys: tuple[Tensor, ...] = _Widen.apply(
        x, dropped, thin, scales, layout, is_first, sizes, *weights, *biases, *factors
    )
    return ys


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        thin: Tensor,
        scales: tuple[float, ...],
        layout: Layout,
        is_first: bool,
        sizes: tuple[int, int],
        *rest: Tensor,
    ) -> tuple[Tensor, ...]:
        weights, biases = rest[: sizes[0]], rest[sizes[0] : sum(sizes)]
        ys, both = widen_forward(x, dropped, list(weights), list(biases), thin)
        ctx.save_for_backward(dropped, both, thin, *weights)
        ctx.scales, ctx.layout, ctx.is_first, ctx.untrained = scales, layout, is_first, sum(sizes)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        dropped, both, thin, *weights = ctx.saved_tensors
        dx, d_dropped, d_down, d_ups = widen_backward(
            list(dys), dropped, both, weights, thin, ctx.is_first
        )
        grads = _factor_gradients(d_down, d_ups, ctx.scales, ctx.layout)
        return (
            None if ctx.is_first else dx,
            None if dropped is None or ctx.is_first else d_dropped,
            *[None] * (5 + ctx.untrained),
            *grads,
        )


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        thin: Tensor,
        scales: tuple[float, ...],
        layout: Layout,
        *factors: Tensor,
    ) -> Tensor:
        y, inner = narrow_forward(x, dropped, weight, bias, thin)
        # What the adapter read is all of the input that the gradients want; keeping the other too
        # cost 13 GB of Phi-2's 64 rows.
        ctx.save_for_backward(x if dropped is None else dropped, inner, weight, thin)
        ctx.scales, ctx.layout, ctx.is_dropped = scales, layout, dropped is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        read, inner, weight, thin = ctx.saved_tensors
        is_dropped = ctx.is_dropped
        dx, d_dropped, d_down, d_up = narrow_backward(dy, read, inner, weight, thin, is_dropped)
        grads = _factor_gradients(d_down, [d_up], ctx.scales, ctx.layout)
        return dx, d_dropped if is_dropped else None, *[None] * 5, *grads


def _factor_gradients(
    d_down: Tensor, d_ups: Sequence[Tensor], scales: tuple[float, ...], layout: Layout
) -> list[Tensor]:
    """The factors' gradients, float32 as they are; A stands in the product times its scale."""
    grads: list[Tensor] = []
    for scale, (part, first, last, left, right) in zip(scales, layout, strict=True):
        grads.append(d_down[left:right].float() * scale)
        grads.append(d_ups[part][first:last, left:right].float())
    return grads


# Opaque to the compiler, which would copy whole activations before it adds to them in place.


@custom_op("treetune::widen_forward", mutates_args=())
def widen_forward(
    x: Tensor, dropped: Tensor | None, weights: list[Tensor], biases: list[Tensor], thin: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Each y (tokens, out_i), and `[x | xA']` (tokens, in + R)."""
    inner = (x if dropped is None else dropped) @ thin.t()
    both = torch.cat([x, inner], dim=1)
    padded = biases or [None] * len(weights)
    pairs = zip(weights, padded, strict=True)
    return [functional.linear(both, weight, bias) for weight, bias in pairs], both


@widen_forward.register_fake
def _(x: Any, dropped: Any, weights: Any, biases: Any, thin: Any) -> Any:
    tokens = x.shape[0]
    outs = [x.new_empty(tokens, weight.shape[0]) for weight in weights]
    return outs, x.new_empty(tokens, weights[0].shape[1])


@custom_op("treetune::widen_backward", mutates_args=())
def widen_backward(
    dys: list[Tensor],
    dropped: Tensor | None,
    both: Tensor,
    weights: list[Tensor],
    thin: Tensor,
    is_first: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients of x, of what the adapters read where that is another, of A and of each B."""
    width = thin.shape[1]
    d_dropped = both.new_empty(0)
    if is_first:
        dx = both.new_empty(0)
        d_inner = torch.stack(
            [dy @ weight[:, width:] for dy, weight in zip(dys, weights, strict=True)]
        ).sum(0)
    else:
        d_both = dys[0] @ weights[0]
        for dy, weight in zip(dys[1:], weights[1:], strict=True):
            d_both.addmm_(dy, weight)
        dx, d_inner = d_both[:, :width], d_both[:, width:]
    d_down = d_inner.t() @ (both[:, :width] if dropped is None else dropped)
    d_ups = [dy.t() @ both[:, width:] for dy in dys]
    if not is_first and dropped is None:
        dx.addmm_(d_inner, thin)
    elif not is_first:
        d_dropped = d_inner @ thin
    return dx, d_dropped, d_down, d_ups


@widen_backward.register_fake
def _(dys: Any, dropped: Any, both: Any, weights: Any, thin: Any, is_first: Any) -> Any:
    tokens, (ranks, width) = both.shape[0], thin.shape
    d_dropped = both.new_empty(0)
    if is_first:
        dx = both.new_empty(0)
    else:
        dx = both.new_empty_strided((tokens, width), (width + ranks, 1))
        d_dropped = d_dropped if dropped is None else both.new_empty(tokens, width)
    d_ups = [both.new_empty(weight.shape[0], ranks) for weight in weights]
    return dx, d_dropped, both.new_empty(ranks, width), d_ups


@custom_op("treetune::narrow_forward", mutates_args=())
def narrow_forward(
    x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, thin: Tensor
) -> tuple[Tensor, Tensor]:
    """y (tokens, out), and `xA'` (tokens, R)."""
    out = thin.shape[0]
    both = functional.linear(x, weight, bias)
    # An operator's results may not share memory.
    inner = both[:, out:].clone() if dropped is None else dropped @ weight[out:].t()
    inner = inner.contiguous()
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
    dy: Tensor, read: Tensor, inner: Tensor, weight: Tensor, thin: Tensor, is_dropped: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of what the adapters `read` where that is another, of A and of B."""
    out = thin.shape[0]
    d_inner = dy @ thin
    d_dropped = dy.new_empty(0)
    if is_dropped:
        dx = dy @ weight[:out]
        d_dropped = d_inner @ weight[out:]
    else:
        dx = torch.cat([dy, d_inner], dim=1) @ weight
    return dx, d_dropped, d_inner.t() @ read, dy.t() @ inner


@narrow_backward.register_fake
def _(dy: Any, read: Any, inner: Any, weight: Any, thin: Any, is_dropped: Any) -> Any:
    out, ranks = thin.shape
    dx = dy.new_empty(read.shape)
    d_dropped = dy.new_empty(read.shape) if is_dropped else dy.new_empty(0)
    return dx, d_dropped, dy.new_empty(ranks, read.shape[1]), dy.new_empty(out, ranks)


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


def _bias(bases: Sequence[Any], like: Tensor, zeros: int) -> Tensor | None:
    """The layers' biases side by side, zeros where one has none and `zeros` more at the end."""
    if all(base.bias is None for base in bases):
        return None
    filled = [
        like.new_zeros(base.out_features) if base.bias is None else base.bias.data.to(like.dtype)
        for base in bases
    ]
    return torch.cat([*filled, like.new_zeros(zeros)])
