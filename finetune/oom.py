"""Too little GPU memory in the middle of a run: smaller micro-batches, the same steps.

A step is made of micro-batches whose losses are divided by the step's trained tokens, so cutting
one into pieces changes no gradient but by rounding. Where a piece does not fit, what the step had
gathered is dropped and the step is made again from its first micro-batch in pieces of half the
size: the rows, their order and the batch stay as planned.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from accelerate.utils.memory import should_reduce_batch_size

from dataset_builder.errors import InputError
from finetune.packing import PACKED, pack, unpack

Inputs = dict[str, Any]
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Made = TypeVar("Made")


class Halving(msgspec.Struct, frozen=True, kw_only=True):
    """Once that memory did not do."""

    step: int  # the optimizer step that was made anew
    micro_batch: int  # examples per forward pass from then on


class _Tried(NamedTuple):
    loss: torch.Tensor | None  # None: memory did not do


class Pieces:
    """Runs each micro-batch of a trainer in pieces that fit, smaller ones where memory runs out."""

    def __init__(
        self, largest: int, say: Callable[[str], None], before: Sequence[Halving] = ()
    ) -> None:
        self.halvings = [*before]
        self.largest = min([largest, *(each.micro_batch for each in before)])
        self.say = say
        self._samples: list[Inputs] = []  # of the step that is being made
        self._place = 0

    def attach(self, trainer: Any) -> None:
        """Put itself between the trainer's loop and what makes one forward and backward pass."""
        self._trainer = trainer
        self._pass = trainer.training_step
        self._collect = trainer.get_batch_samples
        trainer.training_step = self._training_step
        trainer.get_batch_samples = self._get_batch_samples

    def _get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        collected = self._collect(*arguments, **options)
        self._samples, self._place = collected[0], 0
        return collected

    def _training_step(self, model: Any, inputs: Inputs, items: Any = None) -> torch.Tensor:
        todo = [inputs]
        while True:
            tried = self._try(model, todo, items)
            if tried.loss is not None:
                self._place += 1
                return tried.loss
            # Only here is nothing of the failed pass referred to any more.
            give_back()
            self._halve()
            model.zero_grad()
            self._trainer.forget()
            todo = [*self._samples[: self._place], inputs]

    def _try(self, model: Any, todo: Sequence[Inputs], items: Any) -> _Tried:
        """The loss of the last of `todo`, after all of them ran forward and backward."""
        try:
            for inputs in todo:
                losses = [self._pass(model, piece, items) for piece in pieces(inputs, self.largest)]
            return _Tried(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return _Tried(None)

    def _halve(self) -> None:
        step = self._trainer.state.global_step + 1
        if self._trainer.args.world_size > 1:
            # The others are in the middle of a pass whose sums need this one.
            raise InputError(
                f"step {step}: too little GPU memory for {self.largest} examples at once",
                "with several GPUs, halve `micro_batch` in the preset yourself",
            )
        if self.largest == 1:
            raise InputError(
                f"step {step}: too little GPU memory for one example at once",
                "set `gradient_checkpointing = true` or a smaller `length` in the preset,"
                " or free the GPU and go on with `--resume`",
            )
        self.largest //= 2
        self.halvings.append(Halving(step=step, micro_batch=self.largest))
        self.say(
            f"step {step}: too little GPU memory; from here on {self.largest} examples at once,"
            f" the batch as before"
        )


def pieces(inputs: Inputs, largest: int) -> Iterator[Inputs]:
    """A micro-batch in pieces of at most `largest` examples, padding that no row needs cut off.

    Every tensor is (examples, ...), or the micro-batch is a packed row (finetune.packing), beside
    which every tensor is.
    """
    if "bounds" in inputs:
        # Counted by shape: reading values back would wait for the card at every micro-batch.
        sequences = len(inputs["bounds"]) - 2
        beside = {name: value for name, value in inputs.items() if name not in PACKED}
        examples = min((len(value) for value in beside.values()), default=sequences)
        if examples <= largest:
            yield inputs
            return
        each = sequences // examples
        apart = unpack(inputs)
        device = inputs["input_ids"].device
        for start in range(0, examples, largest):
            piece = pack(apart[each * start : each * (start + largest)])
            yield {
                **{name: value.to(device) for name, value in piece.items()},
                **{name: value[start : start + largest] for name, value in beside.items()},
            }
        return
    rows = len(inputs["input_ids"])
    if rows <= largest:
        yield inputs
        return
    for start in range(0, rows, largest):
        piece = {key: value[start : start + largest] for key, value in inputs.items()}
        mask = piece.get("attention_mask")
        if mask is not None:
            width = int(mask.sum(dim=-1).max())  # padding is on the right
            piece = {
                key: value[..., :width] if value.shape == mask.shape else value
                for key, value in piece.items()
            }
        yield piece


def in_parts(
    ask: Callable[[Sequence[Asked]], list[Answer]], asked: Sequence[Asked], what: str
) -> list[Answer]:
    """`ask(asked)`, in smaller and smaller parts where memory runs out.

    Raises InputError where one at a time is too much; `what` names what was done.
    """

    def made(size: int) -> list[Answer]:
        parts = [asked[start : start + size] for start in range(0, len(asked), size)]
        return [answer for part in parts for answer in ask(part)]

    return _smaller(made, len(asked), what)


def in_pieces(ask: Callable[[Inputs], torch.Tensor], inputs: Inputs, what: str) -> torch.Tensor:
    """`ask` of a micro-batch, whose first dimension is its examples, in smaller and smaller pieces
    where memory runs out; else as `in_parts`.
    """
    examples = min(len(value) for name, value in inputs.items() if name not in PACKED)

    def made(size: int) -> torch.Tensor:
        return torch.cat([ask(piece) for piece in pieces(inputs, size)])

    return _smaller(made, examples, what)


def _smaller(make: Callable[[int], Made], size: int, what: str) -> Made:
    """What `make` makes at the first size that memory does for, each half of the one before."""
    while True:
        try:
            return make(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here is nothing of what failed referred to any more.
        give_back()
        if size == 1:
            raise _too_little(what)
        size = (size + 1) // 2


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Raise InputError where GPU memory runs out inside; `what` says what was being done."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little(what) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory ran out, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def give_back() -> None:
    """Give what nothing refers to any more back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _too_little(what: str) -> InputError:
    return InputError(
        f"too little GPU memory: {what}",
        "free the GPU (`nvidia-smi` lists who uses it), or choose a preset for a smaller one",
    )
