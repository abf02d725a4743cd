"""What only a GPU can show; skipped where there is none."""

from collections.abc import Iterator

import pytest
import torch

from finetune import decode as decoding
from finetune import slots
from finetune.decode import Wanted, decode
from tests import test_decode
from tests.test_quick import ENDS, MODELS, WANTED, made

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def alone(model, wanted: Wanted) -> list[int]:
    """transformers' own greedy answer."""
    ids = torch.tensor([list(wanted.ids)], device="cuda")
    out = model.generate(
        ids, max_new_tokens=wanted.allowed, do_sample=False, eos_token_id=ENDS, pad_token_id=0
    )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("quick", [True, False], ids=["few kernels", "the model's layers"])
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_step_answers_as_the_model_does(
    name: str, quick: bool, monkeypatch: pytest.MonkeyPatch
):
    model = made(name).to("cuda")
    monkeypatch.setattr(decoding, "QUICK", quick)
    monkeypatch.setattr(decoding, "RECORDS", False)
    launched = decode(model, WANTED, ENDS)
    recorded: list = []
    record = decoding._recorded
    monkeypatch.setattr(
        decoding, "_recorded", lambda batch: recorded.append(record(batch)) or recorded[-1]
    )
    monkeypatch.setattr(decoding, "RECORDS", True)
    assert decode(model, WANTED, ENDS) == launched
    assert len(recorded) == 1
    assert recorded[0] is not None
    # Twice: nothing of a recording is left for the next batch.
    assert decode(model, WANTED, ENDS) == launched
    for answer, each in zip(launched, WANTED, strict=True):
        if not each.chance:
            assert answer == alone(model, each)


@pytest.mark.parametrize("empties", [True, False], ids=["gives back", "keeps"])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_that_drops_and_grows_is_recorded_anew(
    name: str, empties: bool, monkeypatch: pytest.MonkeyPatch
):
    model, wanted = made(name).to("cuda"), test_decode.groups(prompts=10, group=4, drawn=4)
    ways = {"ends": test_decode.ENDS, "top": None, "temperature": test_decode.HOT}
    test_decode.without_any(monkeypatch)
    monkeypatch.setattr(decoding, "RECORDS", False)
    whole = decode(model, wanted, **ways)
    monkeypatch.undo()
    for module, option, value in [
        (decoding, "LOOK", 4),
        (decoding, "FEWEST", 8),
        (decoding, "EMPTIES", empties),
        (slots, "STRIDE", 8),
    ]:
        monkeypatch.setattr(module, option, value)
    recorded: list = []
    record = decoding._recorded
    monkeypatch.setattr(
        decoding, "_recorded", lambda batch: recorded.append(record(batch)) or recorded[-1]
    )
    assert decode(model, wanted, **ways) == whole
    assert len(recorded) > 2
    assert all(recorded)


def test_a_step_that_cannot_be_recorded_is_launched(monkeypatch: pytest.MonkeyPatch):
    model = made("llama").to("cuda")
    monkeypatch.setattr(decoding, "RECORDS", False)
    launched = decode(model, WANTED, ENDS)
    step = decoding.Decoding.step

    def asking(batch: decoding.Decoding) -> None:
        step(batch)
        batch.made.item()

    monkeypatch.setattr(decoding.Decoding, "step", asking)
    monkeypatch.setattr(decoding, "RECORDS", True)
    assert decode(model, WANTED, ENDS) == launched
