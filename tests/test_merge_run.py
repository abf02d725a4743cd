"""A run written as one model: it answers as base and adapter did, and others can load it."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from finetune import course
from finetune.__main__ import app
from finetune.merge import merge
from finetune.model import load_base
from tests.tiny import tiny_llama, tiny_phi, tiny_preset, write_variant
from tests.training import Memory, planned

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A finished run on a tiny Phi in either precision, and its plan."""
    folder = tmp_path_factory.mktemp("merge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        preset = tiny_preset(
            folder / "tiny.toml",
            tiny_phi(folder / "phi"),
            template="instruct",
            base=f'precision = "{request.param}"',
            previews="prompts = 0",
        )
        plan = planned(preset)
        yield plan, course.train(plan, Memory())


def test_the_written_model_is_base_and_adapter(trained, tmp_path: Path):
    plan, directory = trained
    base, _ = load_base(plan.files, plan.preset.base, CPU)
    wanted_model = PeftModel.from_pretrained(base.float(), str(directory / "adapter")).eval()
    folder = merge(str(directory), Memory(), tmp_path / "whole")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    stored = next(merged.parameters()).dtype
    ids = torch.tensor([plan.rows[0].prompt_ids + plan.rows[0].completion_ids])
    with torch.no_grad():
        plain = load_base(plan.files, plan.preset.base, CPU)[0].float().eval()(ids).logits
        wanted, found = (model(ids).logits for model in (wanted_model, merged.float()))

    # Both computed in float32: what is left is the one rounding of the merged weights.
    exact = plan.preset.base.precision == "fp32"
    assert stored == (torch.float32 if exact else torch.bfloat16)
    assert (wanted - found).norm() < (1e-5 if exact else 2**-8) * wanted.norm()
    assert (wanted - plain).norm() > 0.05 * wanted.norm()


def test_the_folder_is_whole_and_names_what_it_is_made_of(trained):
    plan, directory = trained
    folder = merge(str(directory), Memory())
    names = {path.name for path in folder.iterdir()}

    assert folder == directory / "merged"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    record = json.loads((folder / "merged.json").read_text())
    assert record["base_digest"] == plan.files.digest
    card = (folder / "README.md").read_text()
    assert record["adapter_sha256"] in card
    assert "None" not in card
    for path in folder.glob("*.json"):
        assert str(plan.files.directory) not in path.read_text().replace(record["base"], "")
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(plan.template.end) in ends
    assert tokenizer.eos_token == plan.template.end

    said = Memory()
    assert merge(str(directory), said) == folder
    assert said.lines == ["This run is merged already."]


def test_a_folder_that_holds_something_is_left_alone(trained, tmp_path: Path):
    _, directory = trained
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="something is there already"):
        merge(str(directory), Memory(), tmp_path)
    assert (tmp_path / "mine").read_text() == "x"


def test_a_folder_that_holds_another_run_is_not_taken_for_this_one(trained, tmp_path: Path):
    _, directory = trained
    folder = merge(str(directory), Memory(), tmp_path / "out")
    record = json.loads((folder / "merged.json").read_text())
    for other in ({"run": "tiny/another-s0"}, {"adapter_sha256": "0" * 64}):
        (folder / "merged.json").write_text(json.dumps(record | other))
        with pytest.raises(InputError, match="something is there already"):
            merge(str(directory), Memory(), folder)
    assert (folder / "model.safetensors").is_file()


def test_a_failed_merge_leaves_nothing(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, directory = trained

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("finetune.merge.merged_card", full)
    with pytest.raises(OSError, match="no space"):
        merge(str(directory), Memory(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_changed_adapter_or_base_is_refused(trained, tmp_path: Path):
    plan, directory = trained
    for path, message in (
        (directory / "adapter" / "adapter_model.safetensors", "not the adapter that run.json"),
        (plan.files.directory / "model.safetensors", "other weights than the run was trained on"),
    ):
        was = path.read_bytes()
        path.write_bytes(was[:-1] + bytes([was[-1] ^ 1]))
        with pytest.raises(InputError, match=message):
            merge(str(directory), Memory(), tmp_path / "out")
        path.write_bytes(was)


def test_the_command_prints_the_folder_and_refuses_an_arm_of_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()
    model = tiny_llama(tmp_path / "llama")
    preset = tiny_preset(
        tmp_path / "tiny.toml", model, training="examples = 4", previews="prompts = 0"
    )
    one = course.train(planned(preset), Memory())
    with pytest.raises(SystemExit) as stopped:
        run(app, ["merge", one.name])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == str(one / "merged")

    course.train(planned(preset, seed=1), Memory())
    with pytest.raises(SystemExit) as stopped:
        run(app, ["merge", "tiny"])
    assert stopped.value.code == 2
    assert "means 2 seeds, and one is merged" in capsys.readouterr().err
