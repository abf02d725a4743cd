"""Preference runs that were killed: the same bits at the end, on the same start or not at all."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dataset_builder.errors import InputError
from finetune import course
from finetune.checkpoints import newest
from finetune.plan import Plan
from finetune.run import load_run
from tests.kills import file_operations_until_killed
from tests.test_dpo import DPO
from tests.tiny import pair, tiny_llama, tiny_preset, write_pairs, write_variant
from tests.training import (
    Killed,
    Memory,
    Stopped,
    assert_same_run,
    planned,
    trained,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Supervised runs of two seeds, and a preset of six steps that saves every second.

    In float32, which a CPU without instructions for bf16 multiplies ten times as fast; reward
    models are resumed in bf16.
    """
    folder = tmp_path_factory.mktemp("dpo-resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        write_pairs()
        model = tiny_llama(folder / "llama")
        base = 'precision = "fp32"'
        begun = {"base": base, "training": "examples = 8", "previews": "prompts = 0"}
        for seed in (0, 1):
            trained(tiny_preset(folder / "sft.toml", model, **begun), seed=seed)
        tiny_preset(folder / "dpo.toml", model, base=base, **DPO)
        yield folder


def again(folder: Path) -> Plan:
    return planned(folder / "dpo.toml", "pairs", start="sft/tiny")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The uninterrupted run, put aside."""
    directory = course.train(again(folder), Memory())
    directory.rename(folder / "whole")
    return folder / "whole"


@pytest.fixture
def plan(folder: Path, whole: Path):
    """The same run, planned again; nothing of it is left afterwards."""
    plan = again(folder)
    yield plan
    for left in (plan.directory, plan.unfinished):
        if left.exists():
            left.rename(folder / f"left {len(list(folder.iterdir()))}")


def in_a_child(act: Callable[[], object]) -> int:
    """The status of a process that did `act`."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_runs_killed_at_random_steps_end_in_the_same_bits(
    plan: Plan, folder: Path, whole: Path, seed: int
):
    draw = random.Random(seed)
    steps = [draw.randrange(3, 6), draw.randrange(5, 7)]
    for step in steps:  # the second time in what was resumed
        status = in_a_child(lambda at=step: course.train(again(folder), Killed(at), resume=True))
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps[0].step == 5
    assert load_run(directory).resumed == [2 if steps[0] < 5 else 4, 4]
    assert_same_run(directory, whole)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kills_at_any_file_operation_cost_nothing(plan: Plan, folder: Path, whole: Path):
    draw = random.Random(3)
    kills = 0
    for attempt in range(8):
        count = draw.randrange(20, 150)

        def attempted(count: int = count, is_last: bool = attempt == 7) -> None:
            if not is_last:
                file_operations_until_killed(count, folder / "artifacts" / "runs")
            course.train(again(folder), Memory(), resume=True)

        status = in_a_child(attempted)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            kills += 1
        if plan.directory.exists():
            break

    assert kills >= 2
    assert_same_run(plan.directory, whole)


def test_the_reference_is_read_from_the_checkpoint_and_not_made_again(
    plan: Plan, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))

    def made_again(*_):
        raise AssertionError

    monkeypatch.setattr("finetune.reference.reference_of", made_again)
    assert_same_run(course.train(plan, Memory(), resume=True), whole)


def test_a_checkpoint_whose_reference_is_damaged_is_passed_over(plan: Plan, whole: Path):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=5))
    path = plan.unfinished / "checkpoints" / "step-4" / "reference.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps[0].step == 3
    assert any("reference.safetensors changed" in line for line in watcher.lines)
    assert_same_run(directory, whole)


def other_parent(folder: Path) -> Plan:
    other = next((folder / "artifacts" / "runs").glob("sft-*/tiny-*-s1"))
    return planned(folder / "dpo.toml", "pairs", start=str(other))


def parent_trained_anew(folder: Path) -> Plan:
    """The parent's name is the same, its adapter another."""
    run = next((folder / "artifacts" / "runs").glob("sft-*/tiny-*-s0"))
    other = next((folder / "artifacts" / "runs").glob("sft-*/tiny-*-s1"))
    record, adapter = run / "run.json", run / "adapter" / "adapter_model.safetensors"
    kept = {path: path.read_bytes() for path in (record, adapter)}
    adapter.write_bytes((other / "adapter" / adapter.name).read_bytes())
    changed = msgspec.structs.replace(load_run(run), adapter_sha256=load_run(other).adapter_sha256)
    record.write_bytes(msgspec.json.encode(changed))
    try:
        return again(folder)
    finally:
        for path, was in kept.items():
            path.write_bytes(was)


def other_data(folder: Path) -> Plan:
    write_pairs(rows=[pair(n) for n in range(1, 10)])
    try:
        return again(folder)
    finally:
        write_pairs()


def other_preset(folder: Path) -> Plan:
    path = folder / "dpo.toml"
    was = path.read_text()
    path.write_text(was.replace("beta = 0.3", "beta = 0.2"))
    try:
        return again(folder)
    finally:
        path.write_text(was)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_parent, "`parent.run` was `sft-"),
        (parent_trained_anew, "`parent.adapter` was `"),
        (other_data, "`variant_digest` was `"),
        (other_preset, "`preset.dpo.beta` was `0.3`, is now `0.2`"),
    ],
)
def test_a_run_is_not_resumed_on_another(plan: Plan, folder: Path, change, said: str):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    with pytest.raises(InputError) as error:
        course.train(change(folder), Memory(), resume=True)

    assert said in str(error.value)
    assert newest(plan.unfinished) is not None  # what was there is there still


def test_a_run_is_not_resumed_on_another_revision_of_the_base(plan: Plan):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    path = plan.unfinished / "guard.json"
    guard = json.loads(path.read_text())
    guard["base"]["revision"] = "f" * 40
    path.write_text(json.dumps(guard))

    with pytest.raises(InputError, match=r"`base\.revision` was `ffff"):
        course.train(plan, Memory(), resume=True)
