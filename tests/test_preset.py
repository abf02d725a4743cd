"""The presets that ship, and what a preset may not say."""

import re
from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from dataset_builder.template import find_template
from finetune.preset import AUTO, PRESETS, load_preset, preset_names
from tests.tiny import tiny_preset


def test_the_promised_presets_ship():
    promised = {"phi2-oasst1-qlora", "phi2-gpu", "phi2-gpus", "smollm2", "smollm2-demo"}
    assert promised <= set(preset_names())
    assert len(preset_names()) == len(list(PRESETS.glob("*.toml")))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_adapts_every_projection(name: str):
    preset = load_preset(name)

    find_template(preset.template)
    assert preset.lora.targets == "all-linear"  # what that is of each family: test_families
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
    assert preset.training.gradient_checkpointing == AUTO


def test_the_presets_of_phi2_are_one_training_on_other_machines():
    wanted = load_preset("phi2-oasst1-qlora")
    for name in ("phi2-gpu", "phi2-gpus"):
        preset = load_preset(name)
        assert (preset.base, preset.lora, preset.length) == (wanted.base, wanted.lora, 256)
        assert preset.training.examples == wanted.training.examples
    one = load_preset("phi2-gpu").training
    assert (one.batch, one.learning_rate) == (wanted.training.batch, wanted.training.learning_rate)
    assert load_preset("phi2-gpus").training.batch % 8 == 0


def test_three_lines_make_a_preset_of_another_model(tmp_path: Path):
    path = PRESETS / "phi2-oasst1-qlora.toml"
    changed = {"model": '"some/model"', "revision": f'"{"a" * 40}"', "template": '"auto"'}
    lines = [
        f"{key} = {changed[key]}" if (key := line.partition(" =")[0]) in changed else line
        for line in path.read_text().splitlines()
    ]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    preset = load_preset(str(tmp_path / "mine.toml"))

    assert sum(a != b for a, b in zip(lines, path.read_text().splitlines(), strict=True)) == 3
    assert (preset.base.model, preset.template) == ("some/model", "auto")
    assert preset.lora.targets == "all-linear"


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
