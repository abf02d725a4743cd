"""What a reward model says while it trains: the scores of the same few held-out pairs.

They are read by the model as it stands, its adapter beside it, and change nothing of the training.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dataset_builder.artifacts import hash_order
from finetune.held_pairs import HeldPair
from finetune.previews import Previewer
from finetune.scoring import rewards_of


class PairPreview(msgspec.Struct, frozen=True, kw_only=True):
    """A line of previews.jsonl of a reward model: one held-out pair at one step."""

    step: int
    example_id: str
    prompt: str  # its last turn
    chosen: str
    rejected: str
    chosen_words: int
    rejected_words: int
    chosen_reward: float
    rejected_reward: float
    is_right: bool  # the chosen reply scored higher; a tie is not right
    first_right: int | None = None  # the first step at which it was; null while it was not


def shown_pairs(held: Sequence[HeldPair], count: int) -> tuple[list[HeldPair], str | None]:
    """The pairs to preview on, the first `count` by hash, and a note where they are fewer."""
    ordered = sorted(held, key=lambda pair: hash_order("preview", pair.fitted.example_id))
    few = len(held) < count
    return ordered[:count], (
        f"previews: {len(held)} of {count} pairs, as no more held-out ones fit" if few else None
    )


class PairPreviewer(Previewer):
    """As `Previewer`; its questions are pairs."""

    kind = PairPreview

    def expected(self) -> int:
        return len(self.questions)

    def with_first_steps(self, rows: Sequence[Any]) -> list[Any]:
        return with_first_right(self.rows, rows)

    def answers(self, step: int, model: Any) -> list[Any]:
        """Each pair's line. Adapter and 4-bit weights are as they train: a few pairs cost little,
        and the numbers are those of the steps.
        """
        with self.autocast():
            rewards = rewards_of(
                model,
                [
                    [*pair.fitted.prompt_ids, *answer]
                    for pair in self.questions
                    for answer in pair.fitted.answers
                ],
                self.tokenizer.pad_token_id,
                "a preview of one pair",
            )
        each = zip(self.questions, rewards[::2], rewards[1::2], strict=True)
        return [_line(pair, step, chosen, rejected) for pair, chosen, rejected in each]


def _line(pair: HeldPair, step: int, chosen: float, rejected: float) -> PairPreview:
    return PairPreview(
        step=step,
        example_id=pair.fitted.example_id,
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=pair.rejected,
        chosen_words=pair.fitted.chosen_words,
        rejected_words=pair.fitted.rejected_words,
        chosen_reward=chosen,
        rejected_reward=rejected,
        is_right=chosen > rejected,
    )


def with_first_right(
    before: Iterable[PairPreview], now: Sequence[PairPreview]
) -> list[PairPreview]:
    """`now`, each row with the first step at which its pair was scored right; `before` are the rows
    of earlier steps.
    """
    right: dict[str, int] = {}
    for row in sorted([*before, *now], key=lambda row: row.step):
        if row.is_right:
            right.setdefault(row.example_id, row.step)
    return [msgspec.structs.replace(row, first_right=right.get(row.example_id)) for row in now]
