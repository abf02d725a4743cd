"""Pairs as the trainer gets them: both sequences of a pair side by side, with their reference.

The first dimension of every tensor is the pair, so that a micro-batch is cut into pieces as any
other (finetune.oom), and never between a chosen answer and the rejected one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dataset_builder.fit import FittedPair
from finetune.packing import pack
from finetune.rows import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, torch.Tensor]


def dataset_of_pairs(
    fitted: Sequence[FittedPair], order: Sequence[int], first: int = 0
) -> "Dataset":
    """The pairs in their order, each with its `place` among all pairs, `first` the place of the
    first of `fitted`.
    """
    from datasets import Dataset

    pairs = Dataset.from_dict(
        {
            "place": [first + place for place in range(len(fitted))],
            "prompt_ids": [pair.prompt_ids for pair in fitted],
            "chosen_ids": [pair.chosen_ids for pair in fitted],
            "rejected_ids": [pair.rejected_ids for pair in fitted],
            "words": [[pair.chosen_words, pair.rejected_words] for pair in fitted],
        }
    )
    return pairs.select(list(order))


def sequences(pair: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The pair's two sequences as `input_ids` and `labels`, the chosen one first."""
    prompt = pair["prompt_ids"]
    return [
        {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
        for answer in (pair["chosen_ids"], pair["rejected_ids"])
    ]


class PairCollator:
    """Rows of `dataset_of_pairs` as one padded batch: `input_ids`, `attention_mask` and `labels`,
    (pairs, 2, tokens); or, where `is_packed`, as one row of all sequences (finetune.packing).

    With `words` (pairs, 2), and `place` (pairs,), each pair's place among all; and with `reference`
    (pairs, 2), float32, the log-probabilities of the answers at the start, once they are known.
    """

    def __init__(self, padding_id: int) -> None:
        self.padding_id = padding_id
        self.is_packed = False
        self.reference: np.ndarray | None = None  # (places, 2)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        rows = [sequences(each) for each in examples]
        if self.is_packed:
            return pack([one for row in rows for one in row]) | self.beside(examples)
        width = max(len(one["input_ids"]) for row in rows for one in row)
        shape = (len(rows), 2, width)
        ids = np.full(shape, self.padding_id, np.int64)
        labels, mask = np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            for side, one in enumerate(row):
                length = len(one["input_ids"])
                ids[place, side, :length] = one["input_ids"]
                labels[place, side, :length] = one["labels"]
                mask[place, side, :length] = 1
        batch = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }
        return batch | self.beside(examples)

    def beside(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """What is known of each pair beside its tokens."""
        places = [each["place"] for each in examples]
        found = {
            "words": torch.tensor([each["words"] for each in examples]),
            "place": torch.tensor(places),
        }
        if self.reference is not None:
            found["reference"] = torch.from_numpy(self.reference[places])
        return found
