"""The rows that `bench.train` and `bench.preference` train on: random ones that fill a length, or a
variant's own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dataset_builder.fit import FittedPair, FittedRow
from finetune.rows import Fitted, lengths_of

LENGTH = 256
COUNT = 4096  # random rows before they come again


class Rows(NamedTuple):
    """Rows of token ids in the order of training."""

    fitted: Sequence[Fitted]
    order: Sequence[int]  # places in `fitted`

    def tokens(self, first: int, last: int) -> int:
        """Real tokens of the examples from `first` up to `last`: no padding is counted."""
        rows = (self.fitted[place] for place in self.order[first:last])
        return sum(sum(lengths_of(row)) for row in rows)

    def waste(self, micro_batch: int, batches: int = 200) -> dict[str, float]:
        """The share of padding among what goes through the model: packed by us, and as a
        micro-batch is padded to its longest row.
        """
        from finetune.packing import granule

        real = packed = padded = 0
        for start in range(0, min(len(self.order), batches * micro_batch), micro_batch):
            picked = [self.fitted[place] for place in self.order[start : start + micro_batch]]
            lengths = [length for row in picked for length in lengths_of(row)]
            real += sum(lengths)
            packed += sum(lengths) + -sum(lengths) % granule(sum(lengths))
            padded += len(lengths) * max(lengths)
        return {"packed": 1 - real / packed, "padded": 1 - real / padded}


def random_rows(vocabulary: int, examples: int) -> Rows:
    """Rows of random tokens, all of them trained: the same for every contender."""
    ids = drawn(COUNT, vocabulary)
    fitted = [FittedRow(str(n), row[:1], row[1:]) for n, row in enumerate(ids)]
    return Rows(fitted, [n % COUNT for n in range(examples)])


def random_pairs(vocabulary: int, examples: int, count: int) -> Rows:
    """`count` pairs of random tokens, a quarter of each sequence their prompt, again and again."""
    prompt = LENGTH // 4
    sides = zip(drawn(count, vocabulary), drawn(count, vocabulary, seed=1), strict=True)
    fitted = [
        FittedPair(str(n), chosen[:prompt], chosen[prompt:], rejected[prompt:], 0, 0)
        for n, (chosen, rejected) in enumerate(sides)
    ]
    return Rows(fitted, [n % count for n in range(examples)])


def drawn(count: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = torch.randint(
        0, vocabulary, (count, LENGTH), generator=generator
    ).tolist()
    return rows


def real_rows(variant: str, preset: Any, tokenizer: Any, template: Any, examples: int) -> Rows:
    """The variant's rows as that preset fits them, in the order of seed 0."""
    from dataset_builder.manifest import find_variant
    from finetune.rows import order_of, read_rows

    directory, _ = find_variant(variant)
    fitted, _ = read_rows(directory, "train", template, tokenizer, preset)
    return Rows(fitted, order_of([row.example_id for row in fitted], 0, examples))
