"""Finished runs found by name."""

from pathlib import Path

import pytest

from dataset_builder.artifacts import write_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from finetune.run import (
    BaseModel,
    Run,
    arm_of,
    find_runs,
    load_run,
    run_directories,
    run_name,
    runs_root,
)


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))


def finished(variant: str, preset: str = "smollm2", seed: int = 0, digest: str = "a") -> Path:
    manifest = Manifest(
        name=variant,
        digest=digest * 64,
        title="",
        recipe={},
        sources=[],
        tables="",
        held_out=0.1,
        funnel={},
        validation_funnel={},
        splits={},
        notes={},
        word_counter="",
    )
    name = run_name(manifest, preset, "b" * 64, seed)
    base = BaseModel(
        model="m",
        revision=None,
        digest="",
        parameters=1,
        matched=1,
        missing=[],
        unexpected=[],
        mismatched=[],
    )
    run = Run(
        name=name,
        variant=variant,
        manifest=manifest,
        preset_name=preset,
        preset={},
        preset_digest="b" * 64,
        seed=seed,
        base=base,
        started="",
        finished="",
        seconds=1,
        preview_seconds=1,
        steps=1,
        examples_seen=1,
        epochs=1,
        trained_tokens=1,
        tokens=1,
        train_loss=1,
        validation_loss=None,
        peak_memory=None,
        device={},
        versions={},
        adapter_sha256="",
        resumed=[],
    )
    directory = runs_root() / name
    directory.mkdir(parents=True)
    write_json(run, directory / "run.json")
    return directory


def test_a_variants_name_means_all_its_seeds():
    seeds = [finished("capped", seed=seed) for seed in (0, 1, 10)]

    assert find_runs("capped") == seeds
    assert find_runs(arm_of(seeds[0])) == seeds
    assert find_runs("capped-aaaaaaaaaaaa-s1") == [seeds[1]]  # not also s10
    assert find_runs("smollm2-bbbbbbbb/capped-aaaaaaaaaaaa-s10") == [seeds[2]]
    assert find_runs(str(seeds[0])) == [seeds[0]]


def test_a_whole_name_comes_before_a_longer_one_that_begins_so():
    plain, best = finished("concise"), finished("concise_best")

    assert find_runs("concise") == [plain]
    assert find_runs("concise_b") == [best]


def test_a_name_that_means_several_arms_lists_them():
    finished("capped", preset="smollm2")
    finished("capped", preset="phi2-oasst1-qlora")

    with pytest.raises(InputError, match="2 arms") as error:
        find_runs("capped")
    assert "smollm2-bbbbbbbb/capped-aaaaaaaaaaaa-s0" in str(error.value.hint)
    assert "phi2-oasst1-qlora-bbbbbbbb/capped-aaaaaaaaaaaa-s0" in str(error.value.hint)


def test_a_preset_before_the_variant_says_which_arm_is_meant():
    ours = finished("capped", preset="smollm2")
    finished("capped", preset="smollm2-demo")
    longer = finished("capped_more", preset="smollm2")

    assert find_runs("smollm2/capped") == [ours]
    assert find_runs("smollm2/capped_m") == [longer]
    assert find_runs("smollm2-d/capped")[0].parent.name == "smollm2-demo-bbbbbbbb"
    with pytest.raises(InputError, match="no finished run `phi2/capped`"):
        find_runs("phi2/capped")


def test_directories_that_are_no_runs_are_found_beside_them(tmp_path: Path):
    ours, other = finished("full"), tmp_path / "imported" / "claude-sample-12345678"
    other.mkdir(parents=True)

    assert find_runs("claude", [other]) == [other]
    assert find_runs(str(other), [other]) == [other]
    assert find_runs("full", [other]) == [ours]
    with pytest.raises(InputError, match="no finished run `claude`"):
        find_runs("claude")


def test_a_name_that_means_none_says_what_there_is():
    with pytest.raises(InputError, match="no finished run `full`") as error:
        find_runs("full")
    assert "just train" in str(error.value.hint)

    finished("capped")
    with pytest.raises(InputError) as error:
        find_runs("full")
    assert "smollm2-bbbbbbbb/capped-aaaaaaaaaaaa-s0" in str(error.value.hint)


def test_a_run_that_is_not_finished_does_not_exist():
    directory = finished("capped")
    directory.rename(directory.with_name(directory.name + ".unfinished"))

    assert run_directories() == []
    with pytest.raises(InputError):
        find_runs("capped")


def test_an_unreadable_record_is_the_users_to_mend():
    directory = finished("capped")
    (directory / "run.json").write_text('{"name": 3}')

    with pytest.raises(InputError, match=r"run\.json"):
        load_run(directory)
