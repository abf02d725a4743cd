"""How likely answers are that are there already, many at a time."""

from collections.abc import Callable, Iterator, Sequence

import torch

from finetune.groups import Read
from finetune.oom import in_parts

# Gives of each answer the log-probabilities of its tokens (answers, width), and 1 where it has one.
Reader = Callable[[Sequence[Read]], tuple[torch.Tensor, torch.Tensor]]


def likelihoods(reads: Sequence[Read], room: int, read: Reader) -> list[tuple[float, float]]:
    """Of each answer its log-likelihood and that of its last token, in nats.

    At most `room` tokens at a time, padding counted, the longest first; fewer where memory runs
    out.
    """
    found: dict[int, tuple[float, float]] = {}

    def ask(part: Sequence[int]) -> list[tuple[float, float]]:
        values, answered = read([reads[place] for place in part])
        ends = answered.sum(dim=1, keepdim=True) - 1
        last = values.gather(1, ends)[:, 0]
        whole = torch.where(answered > 0, values, 0.0).sum(dim=1)
        return [(own, end) for own, end in torch.stack([whole, last], dim=1).tolist()]

    for part in _parts([len(each.prompt) + len(each.answer) for each in reads], room):
        found |= zip(part, in_parts(ask, part, "one answer, read"), strict=True)
    return [found[place] for place in range(len(reads))]


def _parts(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Places, the longest first, in parts of at most `room` tokens, padding counted."""
    part: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if part and (len(part) + 1) * lengths[part[0]] > room:
            yield part
            part = []
        part.append(place)
    if part:
        yield part
