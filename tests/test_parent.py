"""The run that another one starts from: found by name, fitting, or refused in one line."""

import shutil
from pathlib import Path

import msgspec
import pytest

from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from finetune.__main__ import app
from finetune.plan import find_target
from finetune.preset import load_preset
from finetune.run import arm_of, find_runs, load_run
from tests.test_dpo import DPO
from tests.tiny import tiny_llama, tiny_preset, write_pairs, write_variant
from tests.training import planned, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """One supervised run, its seed 0, and its record again as that of seed 1 and 2."""
    folder = tmp_path_factory.mktemp("parent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        write_pairs()
        model = tiny_llama(folder / "llama")
        first = trained(tiny_preset(folder / "sft.toml", model))
        for seed in (1, 2):
            copied(first, seed)
        tiny_preset(folder / "dpo.toml", model, **DPO)
        yield folder


def copied(first: Path, seed: int) -> Path:
    """The run again, as if trained with that seed."""
    other = first.with_name(first.name.replace("-s0", f"-s{seed}"))
    shutil.copytree(first, other)
    record = msgspec.structs.replace(
        load_run(first), seed=seed, name=f"{other.parent.name}/{other.name}"
    )
    (other / "run.json").write_bytes(msgspec.json.encode(record))
    return other


def failed(capsys, *arguments: str) -> tuple[str, str]:
    """The error and the hint of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        run(app, list(arguments))
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "Traceback" not in shown
    error, _, hint = shown.partition("\nhint: ")
    return " ".join(error.removeprefix("error: ").split()), " ".join(hint.split())


def preset_with(folder: Path, name: str, **changes: str) -> str:
    texts = {key: f"{DPO.get(key, '')}\n{changes.get(key, '')}" for key in {*DPO, *changes}}
    return str(tiny_preset(folder / f"{name}.toml", folder / "llama", **texts))


def test_without_a_start_the_method_says_what_is_wanted(folder: Path, capsys):
    error, hint = failed(capsys, "train", "pairs", str(folder / "dpo.toml"))

    assert error == (
        "preset `dpo`: the method `dpo` goes on with the adapter of a run, and none is named"
    )
    assert hint.startswith("add `--from RUN`, such as one of the method `sft`")


def test_supervised_tuning_takes_no_start(folder: Path, capsys):
    error, hint = failed(capsys, "train", "tiny", str(folder / "sft.toml"), "--from", "sft/tiny")

    assert "`--from sft/tiny` names a run" in error
    assert "leave `--from` out" in hint


def test_a_start_that_is_nowhere_lists_the_runs(folder: Path, capsys):
    error, hint = failed(capsys, "train", "pairs", str(folder / "dpo.toml"), "--from", "capped")

    assert error == "no finished run `capped`"
    assert "-s0" in hint


def test_a_variant_of_another_form_is_refused(folder: Path, capsys):
    wanted = "variant `{}` has rows of the form `{}`; the method `{}` trains on `{}`"
    for preset, variant, said in (
        ("dpo", "tiny", wanted.format("tiny", "answers", "dpo", "pairs")),
        ("sft", "pairs", wanted.format("pairs", "pairs", "sft", "answers")),
    ):
        error, hint = failed(
            capsys, "train", variant, str(folder / f"{preset}.toml"), "--from", "sft/tiny"
        )
        assert error == said
        assert "[shape]" in hint


def test_of_an_arm_the_run_with_the_same_seed_is_the_start(folder: Path):
    for seed in (0, 1, 2):
        target = find_target("pairs", str(folder / "dpo.toml"), seed, "sft/tiny")
        assert target.parent is not None
        assert target.parent[1].seed == seed
    with pytest.raises(InputError, match="means 3 seeds, none of them 7") as error:
        find_target("pairs", str(folder / "dpo.toml"), 7, "sft/tiny")
    assert "-s2" in str(error.value.hint)
    # One that is named whole serves every seed.
    named = str(next((folder / "artifacts" / "runs").glob("sft-*/tiny-*-s1")))
    target = find_target("pairs", str(folder / "dpo.toml"), 7, named)
    assert target.parent is not None
    assert target.parent[1].seed == 1
    assert target.directory.name.endswith("-s7")


def test_a_start_of_another_shape_or_base_is_refused_with_what_differs(folder: Path, capsys):
    arguments = ("--from", "sft/tiny", "--dry-run")
    for name, change, said in (
        ("rank", {"lora": "r = 8"}, "`lora.r` is 8 and was 4"),
        ("less", {"lora": 'targets = ["q_proj"]'}, "`lora.targets` is q_proj and was q_proj, k_"),
        ("more", {"top": 'extra_tokens = ["<a>"]'}, "`extra_tokens` is <a> and was none"),
        ("plain", {"base": 'quantization = "none"'}, "`base.quantization` is none and was nf4"),
        (
            "revision",
            {"base": f'revision = "{"e" * 40}"'},
            f"`base.revision` is {'e' * 40} and was None",
        ),
    ):
        error, hint = failed(
            capsys, "train", "pairs", preset_with(folder, name, **change), *arguments
        )
        assert error.startswith(f"preset `{name}` cannot go on with run `sft-"), error
        assert said in error
        assert "--from" in hint


def test_another_template_is_refused(folder: Path, capsys):
    path = preset_with(folder, "spoken", top='template = "smollm2"')
    error, hint = failed(capsys, "train", "pairs", path, "--from", "sft/tiny")

    assert "speaks the template `chatml`, the preset `smollm2`" in error
    assert 'template = "chatml"' in hint


def test_other_weights_of_the_base_are_refused(folder: Path, capsys):
    weights = folder / "llama" / "model.safetensors"
    was = weights.read_bytes()
    weights.write_bytes(was[:-1] + bytes([was[-1] ^ 1]))
    try:
        error, _ = failed(capsys, "train", "pairs", str(folder / "dpo.toml"), "--from", "sft/tiny")
    finally:
        weights.write_bytes(was)
    assert "was trained on base" in error


def test_a_start_whose_adapter_was_changed_is_refused(folder: Path, capsys):
    directory = next((folder / "artifacts" / "runs").glob("sft-*/tiny-*-s2"))
    path = directory / "adapter" / "adapter_model.safetensors"
    was = path.read_bytes()
    path.write_bytes(was[:-1] + bytes([was[-1] ^ 1]))
    try:
        error, _ = failed(
            capsys, "train", "pairs", str(folder / "dpo.toml"), "--from", str(directory)
        )
    finally:
        path.write_bytes(was)
    assert "not the adapter that run.json names" in error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dpo": ""}, "wants a section `[dpo]`"),
        ({"lora": "dropout = 0.1"}, "dropout of 0.1 would be in the difference"),
        ({"top": 'method = "sft"'}, "the method `sft` does not read `[dpo]`"),
    ],
)
def test_a_preset_that_does_not_fit_its_method_is_refused(folder: Path, changes, said: str):
    path = tiny_preset(folder / "unfit.toml", folder / "llama", **{**DPO, **changes})

    with pytest.raises(InputError) as error:
        load_preset(str(path))
    assert said in str(error.value)
    assert error.value.hint


def test_a_dry_run_says_what_would_be_trained_from_what(folder: Path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(app, ["train", "pairs", str(folder / "dpo.toml"), "--from", "sft/tiny", "--dry-run"])
    shown = " ".join(capsys.readouterr().out.split())

    assert stopped.value.code == 0
    assert "would train dpo-" in shown
    assert "from sft-" in shown
    assert not list((folder / "artifacts" / "runs").glob("dpo-*/*"))


def test_seeds_that_each_went_on_from_their_own_are_one_arm(folder: Path):
    """And those from the run of another arm are another."""
    runs = folder / "artifacts" / "runs"
    first = trained(folder / "dpo.toml", "pairs", start="sft/tiny")
    record = load_run(first)
    assert record.parent is not None
    arms = [arm_of(first)]
    for seed, parent in ((1, record.parent.name[:-1] + "1"), (2, "other-12345678/tiny-s2")):
        started = msgspec.structs.replace(record.parent, name=parent, adapter_sha256=f"{seed}" * 64)
        name = first.name.replace(record.parent.adapter_sha256[:8], f"{seed}" * 8)
        directory = first.with_name(name.replace("-s0", f"-s{seed}"))
        directory.mkdir()
        changed = msgspec.structs.replace(
            record, seed=seed, parent=started, name=f"{first.parent.name}/{directory.name}"
        )
        (directory / "run.json").write_bytes(msgspec.json.encode(changed))
        arms.append(arm_of(directory))

    assert arms[0] == arms[1] != arms[2]
    with pytest.raises(InputError, match="3 runs of 2 arms"):
        find_runs("pairs")
    shutil.rmtree(directory)
    assert [load_run(each).seed for each in find_runs("pairs")] == [0, 1]
    assert find_runs(f"{first.parent.name}/{first.name}") == [first]
    shutil.rmtree(runs / first.parent.name)


def test_the_plan_holds_its_parent(folder: Path):
    plan = planned(folder / "dpo.toml", "pairs", start="sft/tiny")
    assert plan.parent is not None
    assert plan.guard.parent == {"run": plan.parent.name, "adapter": plan.parent.adapter_sha256}
    assert plan.parent_adapter is not None
    assert plan.parent_adapter.parent.name.endswith("-s0")
    assert planned(folder / "sft.toml", seed=5).guard.parent is None
