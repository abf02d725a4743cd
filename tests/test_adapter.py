"""The exported adapter: what others read of it, and what must not be in it."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dataset_builder.errors import InputError
from finetune import course
from finetune.base import BaseFiles
from finetune.card import merged_card, model_card
from finetune.run import load_run, refuse_changed_adapter
from tests.tiny import tiny_llama, tiny_preset, write_variant
from tests.training import Memory, Stopped, planned

TOKEN = "hf_" + "aSecretOfTheUser" * 2


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory):
    """A plan, what its run left when it was stopped (by path), and the run's folder when ended."""
    folder = tmp_path_factory.mktemp("adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("HF_TOKEN", TOKEN)
        write_variant()
        plan = planned(tiny_preset(folder / "tiny.toml", tiny_llama(folder / "llama")))
        with pytest.raises(Stopped):
            course.train(plan, Memory(stop_at=5))
        unfinished = {p: p.read_bytes() for p in plan.unfinished.rglob("*") if p.is_file()}
        yield plan, unfinished, course.train(plan, Memory(), resume=True)


def test_nothing_that_a_run_leaves_holds_the_users_token(left):
    _, unfinished, directory = left
    ended = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}

    assert {"optimizer.pt", "adapter_model.safetensors"} <= {p.name for p in unfinished}
    for path, content in (unfinished | ended).items():
        assert TOKEN.encode() not in content, path
    assert not [p for p in ended if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert not [p for p in unfinished if p.name == "training_args.bin"]


def test_an_adapter_whose_scale_was_changed_is_refused(left):
    _, _, directory = left
    path = directory / "adapter" / "adapter_config.json"
    was = path.read_text(encoding="utf-8")
    refuse_changed_adapter(directory, load_run(directory))
    path.write_text(was.replace('"lora_alpha": 8', '"lora_alpha": 9'), encoding="utf-8")
    try:
        with pytest.raises(InputError, match=r"adapter_config\.json: not what the run wrote"):
            refuse_changed_adapter(directory, load_run(directory))
    finally:
        path.write_text(was, encoding="utf-8")


def test_the_adapter_of_a_hub_model_names_it_by_id_and_revision(left, tmp_path: Path):
    plan, _, directory = left
    revision = "a" * 40
    files = BaseFiles(
        model="some/model",
        revision=revision,
        digest=plan.files.digest,
        directory=plan.files.directory,
        home=plan.files.home,
    )
    from peft import PeftModel

    from finetune.model import load_base, pick_device

    model, _ = load_base(plan.files, plan.preset.base, pick_device())
    tuned = PeftModel.from_pretrained(model, str(directory / "adapter"))
    course.export_adapter(replace(plan, files=files), tuned, tmp_path / "adapter")
    config = msgspec.json.decode((tmp_path / "adapter" / "adapter_config.json").read_bytes())

    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", revision)
    for path in (tmp_path / "adapter").rglob("*.json"):
        assert str(plan.files.directory) not in path.read_text(encoding="utf-8"), path

    run = load_run(directory)
    run = msgspec.structs.replace(
        run, base=msgspec.structs.replace(run.base, model="some/model", revision=revision)
    )
    card = model_card(run, plan.fit)
    assert "base_model: some/model" in card
    assert f"at revision `{revision}`" in card
    for value in (run.manifest.digest, run.manifest.title, f"seed {run.seed}", "chatml"):
        assert value in card
    assert "base_model_relation: merge" in merged_card(run)
