"""Answers of a model that is being trained, soon: one plain matrix a layer, one batch, one graph.

Step by step, decoding is bound by launching kernels, and through 4-bit layers, adapters and
autocast there are several times as many as the products need. So the answers come from a copy of
the model in which every adapted layer is one matrix, over a cache of fixed shape, whose step a GPU
can replay as a CUDA graph. Of many answers a step is bound by reading keys and values: a prompt
that is asked often is read once, answers that have ended leave the batch, slots that nothing fills
yet are not looked at, and the step is recorded anew. Every row is greedy or drawn; the numbers that
draw are given from outside, so that the same step asks chance the same thing however often a run
was resumed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from finetune.quick import quick_of
from finetune.slots import Slots, has_fixed_cache

# The most likely tokens that a drawn answer is drawn from.
TOP = 50
# How often it is asked whether all answers have ended: a GPU waits for the answer.
LOOK = 16
# Whether a GPU records a step and replays it. On one H100 that takes half the time of few kernels
# for Phi-2's shapes and a quarter for SmolLM2's; tests/test_gpu.py holds both against the model.
RECORDS = True
# Whether recording first gives back what the allocator keeps, as `torch.cuda.graph` does: the next
# training step has to ask the card for all of it again.
EMPTIES = True
# Whether a token goes through the layers in few kernels (finetune.quick), where they are known.
QUICK = True
# Whether the answers to one prompt share its reading.
SHARES = True
# Whether answers that have ended leave the batch, once no more than half of it goes on: by halves,
# so that the same shapes come again and kernels chosen for them serve. Fewer than `FEWEST` rows
# would save no time; they stay a multiple of eight, as products like them.
DROPS = True
FEWEST, EIGHT = 32, 8


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
        prompts, owners = _prompts(wanted, is_shared=self.fixed and SHARES)
        self.owners = None if owners is None else self._tensor(owners)
        self.ids = self._tensor(
            # Prompts end where answers begin, so padding goes left.
            [[ends[0]] * (self.width - len(each)) + list(each) for each in prompts]
        )
        lengths = self._tensor([[len(each)] for each in prompts])
        # A multiple of eight, as attention kernels like their masks.
        size = (self.width + self.most + EIGHT - 1) // EIGHT * EIGHT
        slots = torch.arange(size, device=self.device)
        self.seen = (slots >= self.width - lengths) & (slots < self.width)
        self.position = (slots[: self.width] - (self.width - lengths)).clamp(min=0)
        self.ends = self._tensor(list(ends))
        self.allowed = self._tensor([each.allowed for each in wanted])
        self.is_drawn = [bool(each.chance) for each in wanted]
        # Answers may be allowed fewer tokens than the longest; what stands beyond is not looked at.
        self.chance = self._tensor(
            [[*each.chance, *[0.0] * self.most][: self.most] for each in wanted if each.chance]
        )
        self.drawn = self._drawn()
        self.answers = torch.full((rows, self.most), ends[0], device=self.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.made = torch.zeros(1, dtype=torch.long, device=self.device)  # tokens of each answer
        self.lengths = [len(each.ids) for each in wanted]
        self.rows = list(range(rows))  # whose answers are going on, as they were asked
        self.over: dict[int, list[int]] = {}  # those that left the batch
        self.cache = Slots(size, self.device) if self.fixed else self._grows()

    def _drawn_rows(self) -> list[int]:
        """The rows that are drawn, in the order of `chance`."""
        return [row for row, is_drawn in enumerate(self.is_drawn) if is_drawn]

    def _drawn(self) -> torch.Tensor | None:
        drawn = self._drawn_rows()
        return self._tensor(drawn) if drawn else None

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=self.device)

    def _grows(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def begin(self) -> None:
        """Read the prompts and choose the first token of each answer."""
        if self.fixed:
            self.cache.reach = self.cache.reaches(self.width + LOOK)
            own = torch.arange(self.width, device=self.device)
            slots = torch.arange(self.seen.shape[1], device=self.device)
            causal = slots <= own[:, None]
            # A padded place looks at itself: at nothing, it would be no number.
            itself = slots == own[:, None]
            self.mask = self._bias(self.seen[:, None, :] & causal | itself)[:, None]
        logits = self._logits(self.ids, self.position)
        self.position = self.position[:, -1:].clone()
        if self.owners is not None:
            logits, self.position, self.seen = (
                each.index_select(0, self.owners) for each in (logits, self.position, self.seen)
            )
            self.cache.take(self.owners)
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
            mask = self.mask[..., : self.cache.reach]
            logits = self.quick.logits(
                self.last[:, None], self.position, self.cache.place, mask, self.cache.held()
            )
        else:
            logits = self._logits(self.last[:, None], self.position)
        if self.fixed:
            self.cache.place.add_(1)
        self.last.copy_(self._choose(logits))

    def make_ready(self, made: int, going: int) -> bool:
        """What the next `LOOK` tokens need, where answers have `made` and `going` of them go on;
        whether anything is in another place now, so that a recorded step is none any more.
        """
        if not self.fixed:
            return False
        kept = len(self.rows)
        while DROPS and kept >= 2 * FEWEST and going <= kept // 2:
            kept = (kept // 2 + EIGHT - 1) // EIGHT * EIGHT
        is_moved = kept < len(self.rows)
        if is_moved:
            self._drop(made, kept)
        reach = self.cache.reaches(self.width + made + LOOK - 1)
        is_moved |= reach != self.cache.reach
        self.cache.reach = reach
        return is_moved

    def _drop(self, made: int, kept: int) -> None:
        """Leave out answers that have ended, all but so many rows, and slots that pad what is left
        of their prompts.
        """
        # Those that go on first, then the others, each in their order.
        order = sorted(range(len(self.rows)), key=self.ended.tolist().__getitem__)
        take, leave = sorted(order[:kept]), sorted(order[kept:])
        gone = self.answers.index_select(0, self._tensor(leave))[:, :made].tolist()
        self.over |= {self.rows[row]: ids for row, ids in zip(leave, gone, strict=True)}
        places = {row: place for place, row in enumerate(self._drawn_rows())}
        drawn = [places[row] for row in take if row in places]
        rows = self._tensor(take)
        for name in ("position", "mask", "last", "ended", "allowed", "answers"):
            setattr(self, name, getattr(self, name).index_select(0, rows))
        self.chance = self.chance.index_select(0, self._tensor(drawn)) if drawn else self.chance
        self.rows = [self.rows[row] for row in take]
        self.is_drawn = [self.is_drawn[row] for row in take]
        self.drawn = self._drawn()
        longest = max(self.lengths[row] for row in self.rows)
        padding = (self.width - longest) // EIGHT * EIGHT
        self.width -= padding
        self.mask = self.mask[..., padding:].contiguous()
        self.cache.take(rows, padding)

    def found(self, made: int) -> list[list[int]]:
        """The ids of each answer in the order asked, with what was made after its end."""
        rows = self.answers[:, :made].tolist()
        whole = self.over | dict(zip(self.rows, rows, strict=True))
        return [whole[row] for row in range(len(whole))]

    def _bias(self, visible: torch.Tensor) -> torch.Tensor:
        """Added to attention scores: 0 where a token may look, the lowest number elsewhere."""
        kind = self.model.dtype
        return torch.where(visible, 0.0, torch.finfo(kind).min).to(kind)

    def _logits(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        if self.fixed:
            mask = self.mask[..., : self.cache.reach]
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
        made, launched = 1, 0
        while made < batch.most:
            if made % LOOK == 1:
                going = _going(batch, made, is_over)
                if not going:
                    break
                if batch.make_ready(made, going):
                    advance, launched = batch.step, 0
            # It takes one step to have every kernel of these shapes loaded.
            if RECORDS and launched == 1 and batch.fixed and batch.device.type == "cuda":
                advance = _recorded(batch) or advance
            advance()
            made += 1
            launched += 1
        rows = batch.found(made)
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
        mode = "thread_local"
        with (
            torch.cuda.graph(graph, stream=stream, capture_error_mode=mode)
            if EMPTIES
            else _capture(graph, stream, mode)
        ):
            batch.step()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    replay: Callable[[], None] = graph.replay
    return replay


@contextmanager
def _capture(graph: Any, stream: Any, mode: str) -> Iterator[None]:
    """`torch.cuda.graph`, but that the allocator keeps what it has."""
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode=mode)
        try:
            yield
        finally:
            graph.capture_end()


def _going(batch: Decoding, made: int, is_over: Callable[[list[int]], bool] | None) -> int:
    """How many answers have not ended."""
    if is_over is not None:
        rows = batch.answers[:, :made].tolist()
        batch.ended |= torch.tensor([is_over(row) for row in rows], device=batch.device)
    return int((~batch.ended).sum())


def _prompts(
    wanted: Sequence[Wanted], *, is_shared: bool
) -> tuple[list[Sequence[int]], list[int] | None]:
    """The prompts to read, and whose each answer is; None where every answer has its own."""
    places: dict[tuple[int, ...], int] = {}
    owners = [places.setdefault(tuple(each.ids), len(places)) for each in wanted]
    if not is_shared or len(places) == len(wanted):
        return [each.ids for each in wanted], None
    return list(places), owners


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
