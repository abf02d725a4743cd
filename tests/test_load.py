"""What a run's own prompts ask of a card, and what was measured of such runs."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from dataset_builder.fit import FittedPrompt
from finetune import load as loads
from finetune.load import Load, load_of
from finetune.memory import estimate
from finetune.preset import load_preset
from finetune.route import routes
from tests.shapes import smollm2_headers

# Bytes of a token's keys and values in SmolLM2-135M.
SLOT = 30 * 2 * 3 * 64 * 2


def prompt(tokens: int, allowed: int) -> FittedPrompt:
    return FittedPrompt("", "", [0] * tokens, [0], "", None, allowed, 4)


def planned(preset: str = "smollm2-grpo", **training: int) -> SimpleNamespace:
    """Eight prompts, 4 a step, 2 a micro-batch, 4 answers to each, two steps a rollout."""
    loaded = load_preset(preset)
    replace = msgspec.structs.replace
    training = {"batch": 4, "micro_batch": 2, **training}
    loaded = replace(
        loaded,
        training=replace(loaded.training, **training),
        grpo=replace(loaded.grpo, group=4) if loaded.grpo else loaded.grpo,
    )
    rows = [prompt(100 + n, 300 if n == 5 else 50) for n in range(8)]
    return SimpleNamespace(preset=loaded, rows=rows, order=[0, 7, 1, 2, 5, 3, 4, 6])


def test_the_largest_parts_of_a_run_are_those_of_its_prompts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loads, "ROWS", 20)
    found = load_of(planned(), 1)
    # Prompts 5 and 3 are the largest micro-batch: answers take two fifths of what they may.
    assert found.packed == 4 * (105 + 103 + 0.4 * (300 + 50))
    assert found.padded == 4 * 2 * (105 + 300)
    # 20 of the 32 answers: those that may have 300, then those of the longest prompts.
    assert found.slots == 20 * (107 + 300)
    # Of two processes each answers one micro-batch a step: the first of them 0, 7, 5 and 3.
    assert load_of(planned(), 2).slots == 16 * (107 + 300)
    # All of a card's share of a rollout is answered at once, and not all of its run.
    monkeypatch.setattr(loads, "ROWS", 1000)
    shorter = planned()
    shorter.preset = msgspec.structs.replace(
        shorter.preset, grpo=msgspec.structs.replace(shorter.preset.grpo, rollout_steps=1)
    )
    assert load_of(shorter, 1).slots == 16 * (106 + 300)


def test_a_preset_says_all_there_is_to_know_of_other_methods():
    assert load_of(planned("smollm2"), 1) is None


# Of runs of `smollm2-grpo` on SmolLM2, the card shared with others: tokens of the prompts of the
# largest micro-batch, those that its answers may have, the peaks that torch told.
MEASURED = [
    (24848, 11776, 19.12),
    (24848, 11776, 19.27),
    (24848, 11776, 19.48),
    (24848, 11776, 19.56),
    (23280, 6912, 18.95),
]


@pytest.mark.parametrize(("prompts", "allowed", "measured"), MEASURED)
def test_the_estimate_of_rollouts_is_near_what_was_measured(
    tmp_path: Path, prompts: int, allowed: int, measured: float
):
    headers = smollm2_headers(tmp_path / "smollm2")
    known = Load(packed=round(prompts + loads.ANSWERED * allowed), padded=0, slots=437_760)
    ways = {"is_compiled": True, "is_unpacked": True, "load": known}
    needed = estimate(headers, load_preset("smollm2-grpo"), **ways, free=30e9)
    assert needed.peak / 1e9 == pytest.approx(measured, rel=0.15)
    # All of a card's memory would have let the answers be made at once, and held as much.
    alone = estimate(headers, load_preset("smollm2-grpo"), **ways)
    assert alone.rollout - 2 * 30 * 3_538_944 == pytest.approx(437_760 * SLOT)
    assert alone.peak == alone.weights + alone.adapter + max(alone.activations, alone.rollout)


def test_answers_take_a_share_of_what_is_free_and_training_all_that_it_needs(tmp_path: Path):
    headers = smollm2_headers(tmp_path / "smollm2")
    known = Load(packed=1000, padded=2000, slots=437_760)
    (fast, recomputing, usual, _) = routes(
        headers, load_preset("smollm2-grpo"), (9, 0), 1, known, 10e9
    )
    held = fast.needed.weights + fast.needed.adapter
    unpacked = 2 * 30 * 3_538_944
    assert fast.needed.rollout == pytest.approx(unpacked + 0.4 * (10e9 - held - unpacked - 0.6e9))
    assert fast.needed.peak == held + fast.needed.rollout  # so few prompts are trained on
    assert fast.needed.total == held + fast.needed.activations + 600_000_000
    assert recomputing.needed.activations < fast.needed.activations
    # The usual path pads.
    assert usual.needed.activations / 5.6 == pytest.approx(2 * fast.needed.activations / 2.2)
