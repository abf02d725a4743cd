"""Reward models on tiny bases: against TRL's own, against the textbook, and what they leave."""

from pathlib import Path

import pytest

from dataset_builder.artifacts import file_digest
from finetune import course
from finetune.held_pairs import FILE
from finetune.plan import Plan
from finetune.run import load_run
from tests.tiny import tiny_llama, tiny_phi, tiny_preset, write_pairs
from tests.training import Memory, planned

MODELS = {"chatml": tiny_llama, "instruct": tiny_phi}
REWARD = {"top": 'method = "reward"', "reward": "center_rewards_coefficient = 0.02"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """For two tiny models a preset, in float32, and a variant of pairs."""
    folder = tmp_path_factory.mktemp("reward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_pairs()
        for template, make in MODELS.items():
            tiny_preset(
                folder / f"{template}.toml",
                make(folder / template),
                template=template,
                base='precision = "fp32"',
                lora="dropout = 0.0",
                **REWARD,
            )
        yield folder


def plan_of(folder: Path, template: str = "chatml", seed: int = 0) -> Plan:
    return planned(folder / f"{template}.toml", "pairs", seed)


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, folder: Path) -> tuple[Plan, Memory, Path]:
    """A finished run of six steps, with its plan and what its watcher was told."""
    plan = plan_of(folder, request.param)
    watcher = Memory()
    return plan, watcher, course.train(plan, watcher)


def test_a_finished_run_holds_what_is_promised_and_nothing_else(run):
    plan, _, directory = run
    names = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    record = load_run(directory)

    assert names == {
        *("run.json", "fit.json", "metrics.jsonl", "previews.jsonl", FILE),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"),
        *("adapter/tokenizer.json", "adapter/tokenizer_config.json"),
    }
    assert not plan.unfinished.exists()
    assert record.adapter_sha256 == file_digest(directory / "adapter" / "adapter_model.safetensors")
