"""A study's file: what it may say, and what is told of what it may not."""

from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from reports.study import load_study, study_names
from tests.test_docs import ROOT

STUDY = """
title = "a study"
suites = ["demo"]

[margins]
violation = 0.03

[[aims]]
metric = "violation"
at_most = 0.05

[builds.sample]
sources = ["forest.trees.jsonl"]

[arms.full]
preset = "smollm2-demo"

[arms.short]
variant = "concise_best"
preset = "smollm2-demo"

[arms.flipped]
variant = "pairs_flipped"
preset = "smollm2-dpo-demo"
from = "short"
"""


def write(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of a study file, with parts of it written otherwise."""
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return str(path)


def refused(folder: Path, *changes: tuple[str, str]) -> tuple[str, str | None]:
    """What is said of it, and the hint."""
    with pytest.raises(InputError) as caught:
        load_study(write(folder, *changes))
    return str(caught.value), caught.value.hint


def test_an_arm_is_called_as_its_variant_unless_it_names_another(tmp_path: Path):
    located = load_study(write(tmp_path))
    assert [(arm.name, arm.variant) for arm in located.arms.values()] == [
        ("full", "full"),
        ("short", "concise_best"),
        ("flipped", "pairs_flipped"),
    ]
    assert located.name == "study"
    assert located.study.seeds == (0, 1, 2)
    assert {arm.build for arm in located.arms.values()} == {"sample"}


def test_files_are_looked_for_beside_the_study_and_its_data_where_they_are_said_to_be(
    tmp_path: Path,
):
    (tmp_path / "mine.toml").write_text('title = "mine"')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "forest.trees.jsonl").touch()
    path = write(tmp_path, ('variant = "concise_best"', 'variant = "mine.toml"'))
    located = load_study(path, tmp_path / "data")
    assert located.arms["short"].recipe == str(tmp_path / "mine.toml")
    assert located.arms["short"].variant == "mine"
    names = located.files(["forest.trees.jsonl", "OpenAssistant/oasst1"])
    assert names == [str(tmp_path / "data" / "forest.trees.jsonl"), "OpenAssistant/oasst1"]


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            ("suites", "suits"),
            "study.toml: unknown key `suits`",
            "did you mean `suites`?",
        ),
        (
            ('[arms.full]\npreset = "smollm2-demo"', '[arms.full]\npreste = "smollm2-demo"'),
            "study.toml: `[arms.full]`: unknown key `preste`",
            "did you mean `preset`?",
        ),
        (
            ('sources = ["forest', 'source = ["forest'),
            "study.toml: `[builds.sample]`: unknown key `source`",
            "did you mean `sources`?",
        ),
        (
            ('preset = "smollm2-dpo-demo"', 'preset = "smollm2-dpo-dmo"'),
            "unknown preset `smollm2-dpo-dmo`",
            "did you mean `smollm2-dpo-demo`?",
        ),
        (
            ('suites = ["demo"]', 'suites = ["dmeo"]'),
            "unknown suite `dmeo`",
            "did you mean `demo`?",
        ),
        (
            ('from = "short"', 'from = "shrot"'),
            "study.toml: `[arms.flipped]`: no arm `shrot` stands before it",
            "arms before it: full, short",
        ),
        (
            ('from = "short"', ""),
            "study.toml: `[arms.flipped]`: the method `dpo` goes on with another arm, and none is"
            " named",
            'add `from = "full"`',
        ),
        (
            ('variant = "concise_best"', 'variant = "concise_best"\nfrom = "full"'),
            "study.toml: `[arms.short]`: the method `sft` starts anew",
            "leave `from` out",
        ),
        (
            ('preset = "smollm2-demo"', 'preset = "smollm2-reward-demo"'),
            "study.toml: `[arms.full]`: the method `reward` makes a reward model, which gives no"
            " answers to compare",
            "train it by itself; `just eval RUN --reward RUN` scores answers by it",
        ),
        (
            ("at_most = 0.05", "at_most = 0.05\nat_least = 0.01"),
            "study.toml: the aim of `violation` wants one bound",
            "give `at_most` or `at_least`",
        ),
        (
            ('metric = "violation"', 'metric = "violations"'),
            "study.toml: an aim is of `violations`, which no suite of it scores",
            None,
        ),
        (
            ("violation = 0.03", "overshoot_share = 0.03"),
            "study.toml: a margin is of `overshoot_share`, which no suite of it scores",
            None,
        ),
        (
            ("[arms.full]", "[arms.base]"),
            "study.toml: an arm is called `base`",
            "choose another name: letters, digits, `-`, `_` and `.`",
        ),
        (
            ("[builds.sample]", "[builds.other]\n[builds.sample]"),
            None,
            None,
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_write(
    tmp_path: Path, change: tuple[str, str], message: str | None, hint: str | None
):
    if message is None:
        assert load_study(write(tmp_path, change)).arms["full"].build == "other"
        return
    said, hinted = refused(tmp_path, change)
    assert said == message
    if hint is not None:
        assert hinted == hint


def test_a_build_that_is_not_there_is_refused(tmp_path: Path):
    change = ('variant = "concise_best"', 'variant = "concise_best"\nbuild = "simple"')
    assert refused(tmp_path, change) == (
        "study.toml: `[arms.short]`: no build `simple`",
        "builds: sample",
    )


def test_every_study_that_ships_loads_with_all_its_files():
    names = study_names()
    assert names
    data = ROOT.parent / "shared" / "data"
    for name in names:
        located = load_study(name, data)
        for arm in located.arms.values():
            if arm.recipe.endswith(".toml"):
                assert Path(arm.recipe).is_file()
