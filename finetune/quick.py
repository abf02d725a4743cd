"""One token more for every answer, through the layers of a Phi or a Llama in few kernels.

Decoding launches thousands of tiny kernels a token, and waits for each of them; transformers'
layers take some fifty. Here projections of one input are one product, queries and keys are turned
together and in place, keys of grouped heads are not repeated, and sums with the residual ride on
the products: twelve to fourteen a layer. It computes what the model does, up to rounding; tests
hold its answers against the model's own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

# Keys and values of each layer: (answers, heads, slots, width).
Held = dict[int, tuple[torch.Tensor, torch.Tensor]]


class _Stack(NamedTuple):
    """Linear layers of one input, side by side."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class _Layer(NamedTuple):
    into: _Stack  # q, k, v, and for a Phi fc1
    out: Any
    gated: _Stack | None  # of a Llama
    down: Any
    norms: list[Any]


class Quick:
    """The layers of `model`, which only answers, ready for one token at a time.

    Raises ValueError for a model that it does not know. The stacked weights replace the model's
    own, which become views of them, so memory does not grow.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        make = {"phi": _phi, "llama": _llama, "qwen2": _llama}.get(config.model_type)
        if make is None or getattr(config, "qk_layernorm", False):
            raise ValueError(f"models of the type `{config.model_type}` are not known to it")
        kinds = {"phi": ("gelu_new", "gelu_pytorch_tanh")}.get(config.model_type, ("silu",))
        if config.hidden_act not in kinds:
            raise ValueError(f"the activation `{config.hidden_act}`")
        self.model, self.inner = model, model.model
        attention = self.inner.layers[0].self_attn
        self.heads = config.num_attention_heads
        self.kept = config.num_key_value_heads or self.heads
        self.width, self.scale = attention.head_dim, attention.scaling
        self.rotary = getattr(attention, "rotary_ndims", self.width)
        self.is_parallel = config.model_type == "phi"
        self.layers = [make(layer) for layer in self.inner.layers]
        self.final = getattr(self.inner, "final_layernorm", None) or self.inner.norm

    def logits(
        self,
        ids: torch.Tensor,
        position: torch.Tensor,
        place: torch.Tensor,
        mask: torch.Tensor,
        held: Held,
    ) -> torch.Tensor:
        """Scores (answers, vocabulary) of what follows `ids` (answers, 1), float32.

        `position` (answers, 1) is theirs, `place` (1,) the slot of `held` that they take, `mask`
        (answers, 1, 1, slots) is added to attention scores.
        """
        hidden = self.inner.embed_tokens(ids)[:, 0]
        cos, sin = self.inner.rotary_emb(hidden, position)
        half = self.rotary // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, layer in enumerate(self.layers):
            x = _normed(hidden, layer.norms[0])
            made = layer.into(x)
            attended = self._attend(made, cos, sin, place, mask, held[number])
            if self.is_parallel:
                up = functional.gelu(made[:, self._own() :], approximate="tanh")
                hidden = _onto(_onto(hidden, attended, layer.out), up, layer.down)
                continue
            hidden = _onto(hidden, attended, layer.out)
            assert layer.gated is not None
            gate, up = layer.gated(_normed(hidden, layer.norms[1])).chunk(2, dim=1)
            hidden = _onto(hidden, functional.silu(gate) * up, layer.down)
        scores: torch.Tensor = self.model.lm_head(_normed(hidden, self.final))
        return scores.float()

    def _own(self) -> int:
        return (self.heads + 2 * self.kept) * self.width

    def _attend(
        self,
        made: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        place: torch.Tensor,
        mask: torch.Tensor,
        held: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        rows = len(made)
        heads = made[:, : self._own()].view(rows, self.heads + 2 * self.kept, self.width)
        # Queries and keys at once: x cos + (its halves changed places, the second negated) sin.
        turned = heads[:, : self.heads + self.kept, : self.rotary]
        swapped = turned.unflatten(-1, (2, self.rotary // 2)).flip(-2).flatten(-2)
        turned.mul_(cos).addcmul_(swapped, sin)
        queries, keys, values = heads.split([self.heads, self.kept, self.kept], dim=1)
        for kept, new in zip(held, (keys, values), strict=True):
            kept.index_copy_(2, place, new[:, :, None])
        # Queries that share keys stand beside each other, as if they were tokens.
        queries = queries.unflatten(1, (self.kept, self.heads // self.kept))
        out = functional.scaled_dot_product_attention(
            queries, *held, attn_mask=mask, scale=self.scale
        )
        return out.reshape(rows, self.heads * self.width)


def quick_of(model: Any) -> Quick | None:
    """The quick way of `model`, made once; None where there is none.

    Only for a model that is there to answer, all of its projections plain: one in training, with
    adapters or packed weights, is left alone.
    """
    found: Quick | None = model.__dict__.get("_quick")
    if found is None and _is_plain(model):
        try:
            found = Quick(model)
        except ValueError:
            return None
        model.__dict__["_quick"] = found
    return found


def _is_plain(model: Any) -> bool:
    inner = getattr(model, "model", None)
    modules = [
        module
        for layer in getattr(inner, "layers", ())
        for module in layer.modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() == 2
    ]
    return (
        bool(modules)
        and not model.training
        and all(type(module) is torch.nn.Linear for module in modules)
        and not any(parameter.requires_grad for parameter in model.parameters())
    )


def _phi(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    into = _stacked([attention.q_proj, attention.k_proj, attention.v_proj, mlp.fc1])
    return _Layer(into, attention.dense, None, mlp.fc2, [layer.input_layernorm])


def _llama(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    into = _stacked([attention.q_proj, attention.k_proj, attention.v_proj])
    gated = _stacked([mlp.gate_proj, mlp.up_proj])
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    return _Layer(into, attention.o_proj, gated, mlp.down_proj, norms)


def _stacked(linears: Sequence[Any]) -> _Stack:
    weight = torch.cat([each.weight.data for each in linears])
    first = 0
    for each in linears:
        last = first + each.out_features
        each.weight = torch.nn.Parameter(weight[first:last], requires_grad=False)
        first = last
    if all(each.bias is None for each in linears):
        return _Stack(weight, None)
    biases = [
        weight.new_zeros(each.out_features) if each.bias is None else each.bias.data
        for each in linears
    ]
    return _Stack(weight, torch.cat(biases))


def _onto(hidden: torch.Tensor, x: torch.Tensor, linear: Any) -> torch.Tensor:
    """`hidden` and what `linear` makes of `x`, in one product."""
    if linear.bias is not None:
        hidden = hidden + linear.bias
    return torch.addmm(hidden, x, linear.weight.t())


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    if isinstance(norm, torch.nn.LayerNorm):
        normed: torch.Tensor = norm(x)
        return normed
    return functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
