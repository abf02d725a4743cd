"""Answers of a model that is being trained, soon: one plain matrix a layer, one batch, one graph.

Step by step, decoding is bound by launching kernels, and through 4-bit layers, adapters and
autocast there are several times as many as the products need. So the answers come from a copy of
the model in which every adapted layer is one matrix, over a cache of fixed shape, whose step a GPU
can replay as a CUDA graph. Every row is greedy or drawn; the numbers that draw are given from
outside, so that the same step asks chance the same thing however often a run was resumed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from finetune.quick import quick_of

# The most likely tokens that a drawn answer is drawn from.
TOP = 50
# How often it is asked whether all answers have ended: a GPU waits for the answer.
LOOK = 16
# Whether a GPU records a step and replays it. On one H100 that takes half the time of few kernels
# for Phi-2's shapes and a quarter for SmolLM2's; tests/test_gpu.py holds both against the model.
RECORDS = True
# Whether a token goes through the layers in few kernels (finetune.quick), where they are known.
QUICK = True
# Tokens of each answer before a step is recorded: it takes one to have every kernel loaded.
FEW = 2


@dataclass(frozen=True)
class Wanted:
    """One answer to make."""

    ids: Sequence[int]  # the prompt's
    allowed: int  # tokens the answer may have
    chance: Sequence[float] = ()  # per token a number in [0, 1) that draws it; none: greedy


class Asked(Protocol):
    """What is known of an answer before it is made."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def allowed(self) -> int: ...


AnyAsked = TypeVar("AnyAsked", bound=Asked)


class Slots:
    """Keys and values of a fixed number of tokens: what transformers asks of a cache, and no more.

    `place` is the next token's slot and lies on the device, so that a recorded step moves on by
    itself.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and mask are always given

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if layer_idx not in self.layers:
            self.layers[layer_idx] = (self._room(keys), self._room(values))
        held = self.layers[layer_idx]
        slots = self.place + torch.arange(keys.shape[2], device=keys.device)
        for kept, new in zip(held, (keys, values), strict=True):
            kept.index_copy_(2, slots, new)
        return held

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        batch, heads, _, width = like.shape
        return like.new_zeros(batch, heads, self.size, width)


class Decoding:
    """The state of one batch of answers, all of it in tensors of fixed shape."""

    def __init__(
        self,
        model: Any,
        wanted: Sequence[Wanted],
        ends: Sequence[int],
        temperature: float,
        top: int | None = TOP,
    ) -> None:
        self.model = model
        self.temperature, self.top = temperature, top
        self.device = next(model.parameters()).device
        self.width = max(len(each.ids) for each in wanted)
        self.most = max(each.allowed for each in wanted)
        self.fixed = has_fixed_cache(model, self.width + self.most)
        self.quick = quick_of(model) if self.fixed and QUICK else None
        rows = len(wanted)
        self.ids = self._tensor(
            # Prompts end where answers begin, so padding goes left.
            [[ends[0]] * (self.width - len(each.ids)) + list(each.ids) for each in wanted]
        )
        lengths = self._tensor([[len(each.ids)] for each in wanted])
        # A multiple of eight, as attention kernels like their masks.
        size = (self.width + self.most + 7) // 8 * 8
        slots = torch.arange(size, device=self.device)
        self.seen = (slots >= self.width - lengths) & (slots < self.width)
        self.position = (slots[: self.width] - (self.width - lengths)).clamp(min=0)
        self.ends = self._tensor(list(ends))
        self.allowed = self._tensor([each.allowed for each in wanted])
        drawn = [row for row, each in enumerate(wanted) if each.chance]
        self.drawn = self._tensor(drawn) if drawn else None
        # Answers may be allowed fewer tokens than the longest; what stands beyond is not looked at.
        self.chance = self._tensor(
            [[*wanted[row].chance, *[0.0] * self.most][: self.most] for row in drawn]
        )
        self.answers = torch.full((rows, self.most), ends[0], device=self.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.made = torch.zeros(1, dtype=torch.long, device=self.device)  # tokens of each answer
        self.cache = Slots(size, self.device) if self.fixed else self._grows()

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=self.device)

    def _grows(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def begin(self) -> None:
        """Read the prompts and choose the first token of each answer."""
        if self.fixed:
            own = torch.arange(self.width, device=self.device)
            slots = torch.arange(self.seen.shape[1], device=self.device)
            causal = slots <= own[:, None]
            # A padded place looks at itself: at nothing, it would be no number.
            itself = slots == own[:, None]
            self.mask = self._bias(self.seen[:, None, :] & causal | itself)[:, None]
        logits = self._logits(self.ids, self.position)
        self.position = self.position[:, -1:].clone()
        if self.fixed:
            self.cache.place.add_(self.width)
            self.mask = self._bias(self.seen)[:, None, None]
        self.last = self._choose(logits)

    def step(self) -> None:
        """One token more for each answer. All that changes changes in place."""
        self.position.add_(1)
        if self.fixed:
            self.mask.index_fill_(3, self.cache.place, 0.0)
        if self.quick:
            logits = self.quick.logits(
                self.last[:, None], self.position, self.cache.place, self.mask, self.cache.layers
            )
        else:
            logits = self._logits(self.last[:, None], self.position)
        if self.fixed:
            self.cache.place.add_(1)
        self.last.copy_(self._choose(logits))

    def _bias(self, visible: torch.Tensor) -> torch.Tensor:
        """Added to attention scores: 0 where a token may look, the lowest number elsewhere."""
        kind = self.model.dtype
        return torch.where(visible, 0.0, torch.finfo(kind).min).to(kind)

    def _logits(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        if self.fixed:
            mask = self.mask
        else:
            done = self.cache.get_seq_length() + ids.shape[1]
            own = torch.ones_like(self.seen[:, : max(0, done - self.width)])
            mask = torch.cat([self.seen[:, : self.width], own], dim=1).long()
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        chosen = logits.argmax(dim=-1)
        if self.drawn is not None:
            values, tokens = logits.index_select(0, self.drawn), None
            if self.top is not None:
                values, tokens = values.topk(min(self.top, values.shape[-1]))
            below = (values / self.temperature).softmax(dim=-1).cumsum(dim=-1)
            chance = self.chance.index_select(1, self.made) * below[:, -1:]
            place = (below <= chance).sum(dim=-1, keepdim=True).clamp(max=below.shape[-1] - 1)
            found = place if tokens is None else tokens.gather(1, place)
            chosen.index_copy_(0, self.drawn, found.squeeze(1))
        self.answers.index_copy_(1, self.made, chosen[:, None])
        self.made.add_(1)
        is_end = (chosen[:, None] == self.ends).any(dim=-1)
        self.ended.logical_or_(is_end | (self.made >= self.allowed))
        return chosen


def has_fixed_cache(model: Any, tokens: int) -> bool:
    """Whether every layer of the model attends to all of `tokens` tokens, by a mask it is given."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["by its window"])
    window = getattr(config, "sliding_window", None)
    rotary = str(getattr(config, "rope_parameters", None))
    return (
        getattr(model, "_can_compile_fullgraph", False)  # transformers' word for a static cache
        and config._attn_implementation in ("sdpa", "eager")
        and kinds <= {"full_attention", "sliding_attention", "by its window"}
        and (kinds == {"full_attention"} or window is None or window >= tokens)
        # These look at the positions to choose their angles, which no recording can.
        and "dynamic" not in rotary
        and "longrope" not in rotary
    )


def decode(
    model: Any,
    wanted: Sequence[Wanted],
    ends: Sequence[int],
    *,
    temperature: float = 1.0,
    top: int | None = TOP,
    is_over: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """The ids of one answer to each prompt, in one batch, each with the end id that ended it.

    A token of a drawn answer is drawn from the `top` most likely ones, or from all where that is
    None, at `temperature`. `is_over` may end an answer for what its ids say; it is asked every
    `LOOK` tokens, so such an answer runs on by less than that. The rows are padded to one length,
    and each comes out as it would alone, but for rounding.
    """
    with torch.no_grad():
        batch = Decoding(model, wanted, ends, temperature, top)
        batch.begin()
        advance: Callable[[], None] = batch.step
        made = 1
        while made < batch.most and not (made % LOOK == 1 and _are_over(batch, made, is_over)):
            if RECORDS and made == FEW and batch.fixed and batch.device.type == "cuda":
                advance = _recorded(batch) or advance
            advance()
            made += 1
        rows = batch.answers[:, :made].tolist()
    return [_cut(row[: each.allowed], ends) for row, each in zip(rows, wanted, strict=True)]


def _recorded(batch: Decoding) -> Callable[[], None] | None:
    """A step as one launch; None where the model does what cannot be recorded, such as asking the
    device for a number. Recording computes nothing, so nothing was changed then. What it allocates
    is given back with it.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(batch.device)
    stream.wait_stream(torch.cuda.current_stream(batch.device))
    try:
        # Other threads (pinned memory, NCCL's watchdog) may talk to the device meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            batch.step()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    replay: Callable[[], None] = graph.replay
    return replay


def _are_over(batch: Decoding, made: int, is_over: Callable[[list[int]], bool] | None) -> bool:
    if is_over is not None:
        rows = batch.answers[:, :made].tolist()
        batch.ended |= torch.tensor([is_over(row) for row in rows], device=batch.device)
    return bool(batch.ended.all())


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    place = next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))
    return ids[:place]


def batches(asked: Sequence[AnyAsked], tokens: int, rows: int) -> Iterator[list[AnyAsked]]:
    """The questions in batches of at most `rows` answers and about `tokens` tokens, padding
    counted; those of one cap stand together.
    """
    batch: list[AnyAsked] = []
    prompt = allowed = 0
    for question in sorted(asked, key=longest_first):
        prompt, allowed = max(prompt, len(question.ids)), max(allowed, question.allowed)
        size = len(batch) + 1
        if batch and (size > rows or size * (prompt + allowed) > tokens):
            yield batch
            batch, prompt, allowed = [], len(question.ids), question.allowed
        batch.append(question)
    if batch:
        yield batch


def longest_first(question: Asked) -> tuple[int, int]:
    """The order in which a batch holds little padding."""
    return -question.allowed, -len(question.ids)


def batch_tokens(model: Any) -> int:
    """How many tokens of keys and values fit beside the model: two fifths of what the GPU has
    free.
    """
    config = model.config
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 16_384
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    held = getattr(config, "num_key_value_heads", None) or heads
    size = 2 * config.num_hidden_layers * held * head * model.dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    # What the allocator keeps is free too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, int(0.4 * free / size))
