"""A training step near what the card can do: the same model, computed in fewer and larger pieces.

PEFT's modules stay where they are and hold the adapters; only the computation of a packed
micro-batch is another: every decoder layer one compiled function, its projections one product
(finetune.products), attention over the packed row, the loss at trained positions alone
(finetune.head). `fast = false` in a preset switches it off; tests hold both against each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from finetune.attention import attend, fits
from finetune.head import chunk_losses, moving, token_losses
from finetune.packing import TOKENS
from finetune.products import Product, multiply, product_of, refresh

# Whether short rows on a GPU take kernels of their own (finetune.attention), or FlashAttention too.
SHORT_ROWS = True


class Fast:
    """The fast computation of one model: `losses` of a packed row.

    Raises ValueError, saying why, for a model it does not know.
    """

    def __init__(
        self,
        model: Any,
        length: int,
        dtype: torch.dtype,
        *,
        compiled: bool,
        checkpointing: bool = False,
    ) -> None:
        family = FAMILIES.get(model.config.model_type)
        if family is None:
            raise ValueError(f"models of the type `{model.config.model_type}` are not known to it")
        head = model.get_output_embeddings()
        # None where the model gives one number: its head is computed beside (finetune.scoring).
        if head is not None and any(weight.requires_grad for weight in head.parameters()):
            raise ValueError("the head is trained")
        if any(p.requires_grad for p in model.get_input_embeddings().parameters()):
            raise ValueError("the embedding is trained")
        self.model, self.dtype = model, dtype
        # The padding at the end of a packed row is an example too.
        self.length = max(length, TOKENS)
        self.head, self.checkpointing = head, checkpointing
        self.layers = [family.prepare(layer, model.config, dtype) for layer in model.model.layers]
        self.products: list[Product] = [each for layer in self.layers for each in layer.products]
        self.run_layer, self.final, self.of_chunk = family.run, family.final, chunk_losses
        if compiled:
            self.run_layer = _compiled(family.run)
            self.final = _compiled(family.final)
            self.of_chunk = _compiled(chunk_losses)

    def losses(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        bounds: torch.Tensor,
        targets: torch.Tensor,
        target_ids: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of each trained token of a packed row (finetune.packing), in the order of its
        `targets`, float32; 0 in their padding.
        """
        hidden = self.hidden(input_ids, position_ids, bounds)[targets]
        hidden = self.final(moving(hidden), *self.norm())
        weight = self.head.weight.to(self.dtype)
        bias = None if self.head.bias is None else self.head.bias.to(self.dtype)
        return token_losses(hidden, target_ids, weight, bias, self.of_chunk)

    def last(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, bounds: torch.Tensor
    ) -> torch.Tensor:
        """What stands at the last token of each example of a packed row, after the last norm:
        (examples, width).
        """
        # The last two bounds are those of the padding.
        ends = bounds[1:-1].long() - 1
        hidden = self.hidden(input_ids, position_ids, bounds)[ends]
        final: torch.Tensor = self.final(moving(hidden), *self.norm())
        return final

    def hidden(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, bounds: torch.Tensor
    ) -> torch.Tensor:
        """What the last layer gives for every token, before the last norm: (tokens, width)."""
        refresh(self.products)
        inner = self.model.model
        # Detached: for gradient checkpointing the trainer wants a gradient here that nobody reads.
        hidden = inner.embed_tokens(input_ids)[0].to(self.dtype).detach()
        # In float32, whatever the rest computes in: rotary angles grow with the position.
        like = torch.empty(0, dtype=torch.float32, device=hidden.device)
        cos, sin = inner.rotary_emb(like, position_ids)
        cos, sin, bounds = moving(cos[0]), moving(sin[0]), moving(bounds)
        training = self.model.training
        run = self.run_layer
        if self.checkpointing:
            run = partial(checkpoint, run, use_reentrant=False)
        for number, layer in enumerate(self.layers):
            args = layer.arguments(training)
            hidden = run(moving(hidden), cos, sin, bounds, self.length, number == 0, *args)
        return hidden

    def norm(self) -> tuple[Any, ...]:
        """The last norm's weights."""
        inner = self.model.model
        norm = inner.final_layernorm if hasattr(inner, "final_layernorm") else inner.norm
        return _norm_values(norm)


@dataclass
class PackedOutput(ModelOutput):
    """What a model answers a packed row with."""

    loss: torch.Tensor | None = None  # summed over its trained tokens
    losses: torch.Tensor | None = None  # of each of them


def install(model: Any, fast: Fast) -> None:
    """Lets `model` (inside PEFT's wrapper) answer a packed row with its losses; everything else
    goes its usual way.
    """
    usual = model.forward

    def forward(*args: Any, bounds: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if bounds is None:
            return usual(*args, **kwargs)
        names = ("input_ids", "position_ids", "targets", "target_ids")
        with torch.autocast(kwargs["input_ids"].device.type, enabled=False):
            losses = fast.losses(bounds=bounds, **{name: kwargs[name] for name in names})
        return PackedOutput(loss=losses.sum(), losses=losses)

    model.forward = forward


class _Layer:
    """A decoder layer's weights as its function takes them."""

    def __init__(
        self, products: list[Product], norms: list[Any], sizes: tuple[Any, ...], drops: list[Any]
    ) -> None:
        self.products = products
        self._values = (tuple(norms), tuple(each.tensors() for each in products), sizes)
        self._drops = drops

    def arguments(self, training: bool) -> tuple[Any, ...]:
        rates = tuple(_rate(drop) if training else 0.0 for drop in self._drops)
        return (*self._values, rates)


def _rate(drop: Any) -> float:
    return float(getattr(drop, "p", 0.0))


def _norm_values(norm: Any) -> tuple[Any, ...]:
    bias = getattr(norm, "bias", None)
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return norm.weight.data, None if bias is None else bias.data, float(epsilon)


def _lora_dropout(modules: Sequence[Any]) -> Any:
    """The adapters' dropout in a layer, which is one for all; None where there is none."""
    found = [drop for each in modules for drop in getattr(each, "lora_dropout", {}).values()]
    if len({_rate(drop) for drop in found}) > 1:
        raise ValueError("adapters with several rates of dropout")
    return found[0] if found else None


def _refuse_dropout(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name, 0.0):
            raise ValueError(f"`{name}` of {getattr(config, name)}")


# Phi: attention and MLP side by side on one norm.


def _prepare_phi(layer: Any, config: Any, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    if attention.qk_layernorm or config.hidden_act not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError("Phi with norms of queries and keys, or another activation")
    _refuse_dropout(config, "embd_pdrop", "attention_dropout")
    # Apart, so that the compiler need not lay their gradients side by side.
    into = [[attention.q_proj, attention.k_proj, attention.v_proj], [mlp.fc1]]
    products = [product_of(group, dtype) for group in (into, [[attention.dense]], [[mlp.fc2]])]
    heads, kept = config.num_attention_heads, config.num_key_value_heads
    sizes = (heads, kept, attention.head_dim, attention.rotary_ndims, attention.scaling)
    adapted = [*into[0], *into[1], attention.dense, mlp.fc2]
    drops = [_lora_dropout(adapted), layer.resid_dropout]
    return _Layer(products, [_norm_values(layer.input_layernorm)], sizes, drops)


def run_phi(
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bounds: torch.Tensor,
    length: int,
    is_first: bool,
    norms: tuple[Any, ...],
    products: tuple[Any, ...],
    sizes: tuple[Any, ...],
    rates: tuple[float, float],
) -> torch.Tensor:
    """One layer of a Phi over a packed row: (tokens, width) in and out."""
    rate, residual_rate = rates
    into, out, down = products
    x = functional.layer_norm(
        hidden.float(), hidden.shape[1:], norms[0][0].float(), norms[0][1].float(), norms[0][2]
    )
    x = x.to(hidden.dtype)
    qkv, up = multiply(x, _dropped(x, rate), into, is_first)
    attended = _attend(qkv, cos, sin, bounds, length, sizes)
    (attended,) = multiply(attended, _dropped(attended, rate), out)
    up = _gelu(up)
    (forward,) = multiply(up, _dropped(up, rate), down)
    if residual_rate:
        attended = functional.dropout(attended, residual_rate)
        forward = functional.dropout(forward, residual_rate)
    return hidden + attended + forward


def _gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by tanh, as `gelu_new` has it, written with the logistic function: half of one plus tanh
    of u is the logistic of 2u, which a GPU computes in a few instructions and tanh in many.
    """
    wide = x.float()
    inner = wide * (1 + 0.044715 * wide * wide)
    return (wide * torch.sigmoid(2 * math.sqrt(2 / math.pi) * inner)).to(x.dtype)


def _final_phi(hidden: torch.Tensor, weight: Any, bias: Any, epsilon: float) -> torch.Tensor:
    normed = functional.layer_norm(
        hidden.float(), hidden.shape[1:], weight.float(), bias.float(), epsilon
    )
    return normed.to(hidden.dtype)


# Llama and its like: attention, then a gated MLP, each on a norm of its own.


def _prepare_llama(layer: Any, config: Any, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    groups = (
        [[attention.q_proj, attention.k_proj, attention.v_proj]],
        [[attention.o_proj]],
        [[mlp.gate_proj, mlp.up_proj]],
        [[mlp.down_proj]],
    )
    if config.hidden_act != "silu" or getattr(config, "sliding_window", None):
        raise ValueError("another activation, or a sliding window")
    _refuse_dropout(config, "attention_dropout")
    norms = [_norm_values(layer.input_layernorm), _norm_values(layer.post_attention_layernorm)]
    heads, kept = config.num_attention_heads, config.num_key_value_heads
    sizes = (heads, kept, attention.head_dim, attention.head_dim, attention.scaling)
    products = [product_of(group, dtype) for group in groups]
    adapted = [each for group in groups for part in group for each in part]
    return _Layer(products, norms, sizes, [_lora_dropout(adapted)])


def run_llama(
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bounds: torch.Tensor,
    length: int,
    is_first: bool,
    norms: tuple[Any, ...],
    products: tuple[Any, ...],
    sizes: tuple[Any, ...],
    rates: tuple[float],
) -> torch.Tensor:
    """One layer of a Llama over a packed row: (tokens, width) in and out."""
    (rate,) = rates
    into, out, gated, down = products
    x = _final_llama(hidden, *norms[0])
    (qkv,) = multiply(x, _dropped(x, rate), into, is_first)
    attended = _attend(qkv, cos, sin, bounds, length, sizes)
    (attended,) = multiply(attended, _dropped(attended, rate), out)
    hidden = hidden + attended
    x = _final_llama(hidden, *norms[1])
    (both,) = multiply(x, _dropped(x, rate), gated)
    gate, up = both.chunk(2, dim=1)
    inner = functional.silu(gate) * up
    (forward,) = multiply(inner, _dropped(inner, rate), down)
    return hidden + forward


def _final_llama(hidden: torch.Tensor, weight: Any, bias: Any, epsilon: float) -> torch.Tensor:
    wide = hidden.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(hidden.dtype)


class _Family:
    """How the layers of one kind of model are prepared and run."""

    def __init__(self, prepare: Callable, run: Callable, final: Callable) -> None:
        self.prepare, self.run, self.final = prepare, run, final


FAMILIES = {
    "phi": _Family(_prepare_phi, run_phi, _final_phi),
    "llama": _Family(_prepare_llama, run_llama, _final_llama),
    "qwen2": _Family(_prepare_llama, run_llama, _final_llama),
}


def _dropped(x: torch.Tensor, rate: float) -> torch.Tensor | None:
    return functional.dropout(x, rate) if rate else None


def _attend(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bounds: torch.Tensor,
    length: int,
    sizes: tuple[Any, ...],
) -> torch.Tensor:
    """What each token reads of its example, of queries, keys and values side by side."""
    if SHORT_ROWS and fits(length, sizes, qkv.device):
        return attend(qkv, cos, sin, bounds, length, sizes)
    heads, kept, width, rotary, scale = sizes
    q, k, v = qkv.split([heads * width, kept * width, kept * width], dim=1)
    q = _rotated(q.reshape(-1, heads, width), cos, sin, rotary)
    k = _rotated(k.reshape(-1, kept, width), cos, sin, rotary)
    v = v.reshape(-1, kept, width)
    if kept != heads:
        k = k.repeat_interleave(heads // kept, dim=1)
        v = v.repeat_interleave(heads // kept, dim=1)
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, bounds, bounds, length, length, scale=scale, window_size=(-1, 0))
    else:
        out = _attend_masked(q, k, v, bounds, scale)
    return out.reshape(-1, heads * width)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotary: int) -> torch.Tensor:
    turned = x[..., :rotary].float()
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
    turned = turned.to(x.dtype)
    return turned if rotary == x.shape[-1] else torch.cat([turned, x[..., rotary:]], dim=-1)


def _attend_masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, scale: float
) -> torch.Tensor:
    """The same by a mask, where there is no kernel for packed rows: a CPU."""
    tokens = torch.arange(len(q), device=q.device)
    example = torch.searchsorted(bounds[1:].contiguous(), tokens, right=True)
    mask = (example[:, None] == example[None]) & (tokens[:, None] >= tokens[None])
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out[0].transpose(0, 1)


@lru_cache(maxsize=8)
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)
