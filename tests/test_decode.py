"""A batch of answers does only what is left to do: ended answers leave it, a group reads its prompt
once, empty slots are not looked at. The answers stay what they were.
"""

import random
from collections.abc import Iterator

import pytest
import torch

from finetune import decode as decoding
from finetune import slots
from finetune.decode import Decoding, Wanted, decode
from tests.test_quick import MODELS, made

# Tokens of 96 that end an answer: most are short, a few are long.
ENDS = list(range(88, 96))
MOST = 40
HOT = 5.0  # so that random models draw more than a few tokens


def groups(prompts: int, group: int, drawn: int) -> list[Wanted]:
    """Prompts of several lengths, the longest with the least allowed, each asked `group` times, the
    first `drawn` of them drawn.
    """
    chance = random.Random(0)
    return [
        Wanted(
            [(7 * n + k) % 80 for k in range(26 if n == 3 else 2 + n % 5)],
            6 if n == 3 else MOST - n % 3,
            [chance.random() for _ in range(MOST)] if place < drawn else (),
        )
        for n in range(prompts)
        for place in range(group)
    ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list]]:
    """Small batches that drop and grow often, and what they did."""
    told: dict[str, list] = {"dropped": [], "reach": [], "read": [], "width": []}
    monkeypatch.setattr(decoding, "LOOK", 4)
    monkeypatch.setattr(decoding, "FEWEST", 8)
    monkeypatch.setattr(slots, "STRIDE", 8)
    drop, ready, begin = Decoding._drop, Decoding.make_ready, Decoding.begin

    def dropped(batch: Decoding, *rest: int) -> None:
        before = len(batch.rows)
        drop(batch, *rest)
        told["dropped"].append((before, len(batch.rows)))
        told["width"].append(batch.width)

    def readied(batch: Decoding, *rest: int) -> bool:
        found = ready(batch, *rest)
        told["reach"].append(batch.cache.reach)
        return found

    def begun(batch: Decoding) -> None:
        told["read"].append(len(batch.ids))
        begin(batch)

    monkeypatch.setattr(Decoding, "_drop", dropped)
    monkeypatch.setattr(Decoding, "make_ready", readied)
    monkeypatch.setattr(Decoding, "begin", begun)
    return told


def without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "DROPS", False)
    monkeypatch.setattr(decoding, "SHARES", False)
    monkeypatch.setattr(slots, "STRIDE", 0)


@pytest.mark.parametrize("quick", [True, False], ids=["few kernels", "the model's layers"])
@pytest.mark.parametrize("drawn", [4, 2, 0])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_a_batch_that_goes_on_whole(
    name: str, drawn: int, quick: bool, told, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoding, "QUICK", quick)
    model, wanted = made(name), groups(prompts=10, group=4, drawn=drawn)
    found = decode(model, wanted, ENDS, top=None, temperature=HOT)
    assert told["read"] == [10]
    if drawn == 4:  # greedy answers of random models seldom end
        assert len(told["dropped"]) >= 2
        assert min(told["width"]) < 26  # the long prompt's answers have ended
    assert len(set(told["reach"])) > 1
    without_any(monkeypatch)
    told["dropped"].clear()
    assert decode(model, wanted, ENDS, top=None, temperature=HOT) == found
    assert told["read"][1:] == [40]
    assert not told["dropped"]
    assert len({len(ids) for ids in found}) > 3 or not drawn


def test_what_a_text_ends_leaves_the_batch_with_what_it_had(told, monkeypatch: pytest.MonkeyPatch):
    model, wanted = made("llama"), groups(prompts=10, group=4, drawn=4)

    def over(ids: list[int]) -> bool:
        return any(token % 5 == 0 for token in ids)

    def cut(ids: list[int]) -> list[int]:
        """As a reader does, who knows what ended it."""
        place = next((n + 1 for n, token in enumerate(ids) if token % 5 == 0), len(ids))
        return ids[:place]

    found = decode(model, wanted, [95], top=None, temperature=HOT, is_over=over)
    assert told["dropped"]
    without_any(monkeypatch)
    whole = decode(model, wanted, [95], top=None, temperature=HOT, is_over=over)
    assert list(map(cut, found)) == list(map(cut, whole))
    # Nothing stands behind an answer that nobody made.
    assert all(ids == long[: len(ids)] for ids, long in zip(found, whole, strict=True))


def test_rows_that_leave_take_their_keys_and_values_along(told):
    model, wanted = made("llama"), groups(prompts=10, group=4, drawn=4)
    held: list[int] = []
    step = Decoding.step

    def stepped(batch: Decoding) -> None:
        step(batch)
        held.append(sum(each.shape[0] for pair in batch.cache.layers.values() for each in pair))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoding, "step", stepped)
        decode(model, wanted, ENDS, top=None, temperature=HOT)
    layers = 3
    assert held[0] == 2 * layers * 40
    assert held[-1] == 2 * layers * told["dropped"][-1][1]
    assert all(after % 8 == 0 and after < before for before, after in told["dropped"])


def test_the_answers_of_one_row_are_its_own_wherever_it_stands(told):
    model, wanted = made("phi"), groups(prompts=10, group=4, drawn=4)
    with torch.no_grad():
        found = decode(model, wanted, ENDS, top=None, temperature=HOT)
        alone = [decode(model, [each], ENDS, top=None, temperature=HOT)[0] for each in wanted[::7]]
    assert alone == found[::7]
