"""Killed runs: what is left is whole, and going on from it ends where an uninterrupted run ends."""

import json
import os
import random
import resource
import signal
from pathlib import Path

import msgspec
import pytest
import torch

from dataset_builder.artifacts import write_json
from dataset_builder.errors import InputError
from finetune import checkpoints, course
from finetune.checkpoints import Complete, Guard, differences, keep, newest, truncate_lines
from finetune.run import load_run
from tests.kills import file_operations_until_killed
from tests.tiny import example, tiny_llama, tiny_preset, write_variant
from tests.training import (
    Memory,
    Stopped,
    assert_same_run,
    planned,
)
from tests.warm import Warm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A preset with a LoRA dropout of 0.1 that saves every second of its six steps.

    In float32, which a CPU without instructions for bf16 multiplies ten times as fast; reward
    models are resumed in bf16.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        model = tiny_llama(folder / "llama")
        tiny_preset(folder / "tiny.toml", model, base='precision = "fp32"')
        yield folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The uninterrupted run, put aside."""
    directory = course.train(planned(folder / "tiny.toml"), Memory())
    aside = folder / "whole"
    directory.rename(aside)
    return aside


@pytest.fixture
def plan(folder: Path, whole: Path):
    """The same run, planned again; nothing of it is left afterwards."""
    plan = planned(folder / "tiny.toml")
    yield plan
    for left in (plan.directory, plan.unfinished):
        if left.exists():
            left.rename(folder / f"left {len(list(folder.iterdir()))}")


# Step 2 is in the middle of the variant's first pass; after the last step only the ending is left.
@pytest.mark.parametrize(("stop", "saved"), [(4, 2), (6, 4)])
def test_a_resumed_run_ends_in_the_same_bits(plan, whole: Path, stop: int, saved: int):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=stop))
    assert not plan.directory.exists()
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps[0].step == saved + 1
    assert load_run(directory).resumed == [saved]
    assert_same_run(directory, whole)


def test_a_run_killed_while_it_is_finished_is_resumed_without_a_step(
    plan, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(course, "export_adapter", killed)
        with pytest.raises(Stopped):
            course.train(plan, Memory())
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps == []
    assert load_run(directory).resumed == [6]
    assert_same_run(directory, whole)


def test_a_run_resumed_twice_says_so(plan, whole: Path):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=5), resume=True)
    directory = course.train(plan, Memory(), resume=True)

    record = load_run(directory)
    assert record.resumed == [2, 4]
    assert record.seconds > 0
    assert_same_run(directory, whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from finetune import course
from tests.kills import file_operations_until_killed
from tests.training import Memory, planned

class Killed(Memory):
    def stepped(self, step, steps):
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

course.train(planned(Path(sys.argv[1])), Killed())
"""


def test_a_killed_process_leaves_what_another_one_goes_on_from(
    plan, folder: Path, whole: Path, training_process: Warm
):
    run = training_process.start(KILLED, folder / "tiny.toml")

    assert run.wait() == -signal.SIGKILL, run.said()
    assert plan.unfinished.exists()
    assert_same_run(course.train(plan, Memory(), resume=True), whole)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("seed", range(1))
def test_kills_at_any_file_operation_cost_nothing(plan, folder: Path, whole: Path, seed: int):
    draw = random.Random(seed)
    kills = 0
    for attempt in range(8):
        child = os.fork()
        if child == 0:
            try:
                # A run is some 200 operations, most of them on checkpoints.
                if attempt < 7:
                    count = draw.randrange(20, 140)
                    file_operations_until_killed(count, folder / "artifacts" / "runs")
                course.train(planned(folder / "tiny.toml"), Memory(), resume=True)
            finally:
                os._exit(1)
        draw.randrange(20, 140)  # as the child drew
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            kills += 1
        if plan.directory.exists():
            break

    assert kills >= 2
    assert_same_run(plan.directory, whole)


# Of an adapter's size: too little for its own file, which Rust writes, or for the optimizer's,
# which torch does.
@pytest.mark.parametrize("room", [0.7, 1.3])
def test_a_disk_without_room_for_a_checkpoint_is_named_and_the_run_resumes(
    plan, whole: Path, room: float
):
    size = (whole / "adapter" / "adapter_model.safetensors").stat().st_size
    was, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * room), most))
    try:
        with pytest.raises(InputError) as error:
            course.train(plan, Memory())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (was, most))

    assert str(error.value) == f"{plan.unfinished}: cannot be written: File too large"
    assert_same_run(course.train(plan, Memory(), resume=True), whole)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(plan, whole: Path):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=5))
    weights = plan.unfinished / "checkpoints" / "step-4" / "adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1  # safetensors itself would not notice
    weights.write_bytes(damaged)
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps[0].step == 3
    assert (
        "checkpoint step-4 is passed over: adapter_model.safetensors changed since it was written"
        in watcher.lines
    )
    assert_same_run(directory, whole)


def test_checkpoints_hold_no_pickled_arguments_and_no_old_ones_stay(plan):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=6))
    kept = sorted(path.name for path in (plan.unfinished / "checkpoints").iterdir())
    files = {path.name for path in (plan.unfinished / "checkpoints").rglob("*")}

    assert kept == ["step-2", "step-4"]
    assert "training_args.bin" not in files
    # Refuses a pickle of anything but tensors and plain values.
    torch.load(plan.unfinished / "checkpoints" / "step-4" / "optimizer.pt", weights_only=True)


def test_an_unfinished_run_is_neither_lost_nor_continued_unasked(plan):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    with pytest.raises(InputError, match="begun and not finished") as error:
        course.train(plan, Memory())
    assert "--resume" in str(error.value.hint)
    assert "--restart" in str(error.value.hint)

    watcher = Memory(stop_at=1)
    with pytest.raises(Stopped):
        course.train(plan, watcher, restart=True)
    assert watcher.steps[0].step == 1


def test_a_run_stopped_before_its_first_checkpoint_leaves_nothing(plan):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=1))

    assert not plan.unfinished.exists()
    assert not plan.directory.exists()


def test_a_run_is_not_resumed_on_anything_else(plan):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    path = plan.unfinished / "guard.json"
    guard = json.loads(path.read_text())
    guard["base"]["revision"] = "f" * 40
    guard["preset"]["training"]["learning_rate"] = 0.5
    path.write_text(json.dumps(guard))

    with pytest.raises(InputError) as error:
        course.train(plan, Memory(), resume=True)
    assert "`base.revision` was `ffff" in str(error.value)
    assert "`preset.training.learning_rate` was `0.5`, is now `0.01`" in str(error.value)
    assert newest(plan.unfinished) is not None  # what was there is there still


def test_resuming_after_an_edit_says_what_was_edited(plan, folder: Path):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    original = (folder / "tiny.toml").read_text()
    tiny_preset(folder / "tiny.toml", folder / "llama", training="learning_rate = 0.5")
    edited = planned(folder / "tiny.toml")
    (folder / "tiny.toml").write_text(original)

    assert edited.unfinished != plan.unfinished
    with pytest.raises(InputError, match=r"learning_rate` was `0\.01`, is now `0\.5`"):
        course.train(edited, Memory(), resume=True)
    assert not edited.unfinished.exists()


def changed_data(folder: Path) -> None:
    write_variant(rows=[example(n) for n in range(1, 10)])


def changed_template(folder: Path) -> None:
    tiny_preset(folder / "tiny.toml", folder / "llama", template="smollm2")


def changed_revision(folder: Path) -> None:
    tiny_preset(folder / "tiny.toml", folder / "llama", base=f'revision = "{"e" * 40}"')


def changed_weights(folder: Path) -> None:
    weights = folder / "llama" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_data, "`variant_digest` was `"),
        (changed_template, "`preset.template` was `chatml`, is now `smollm2`"),
        (changed_revision, f"`preset.base.revision` was `None`, is now `{'e' * 40}`"),
        (changed_weights, "`base.digest` was `"),
    ],
)
def test_a_run_is_not_resumed_after_a_change_of(plan, folder: Path, change, said: str):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    kept = {
        path: path.read_bytes()
        for path in (folder / "tiny.toml", folder / "llama" / "model.safetensors")
    }
    try:
        change(folder)
        changed = planned(folder / "tiny.toml")
    finally:
        for path, was in kept.items():
            path.write_bytes(was)
        write_variant()
    with pytest.raises(InputError) as error:
        course.train(changed, Memory(), resume=True)

    assert said in str(error.value)
    assert newest(plan.unfinished) is not None  # what was there is there still


def test_resuming_where_nothing_was_begun_begins(plan, whole: Path):
    watcher = Memory()
    directory = course.train(plan, watcher, resume=True)

    assert watcher.steps[0].step == 1
    assert load_run(directory).resumed == []
    assert_same_run(directory, whole)


def guard(**changes) -> Guard:
    values = {
        "variant": "full",
        "variant_digest": "a" * 64,
        "preset_name": "smollm2",
        "preset": {"length": 256, "base": {"model": "x/y"}},
        "base": {"model": "x/y", "revision": None, "digest": "b" * 64},
        "seed": 0,
        "tokens": "c" * 64,
    }
    return Guard(**{**values, **changes})


def test_only_what_differs_is_named():
    assert differences(guard(), guard()) == []
    assert differences(guard(), guard(seed=1)) == ["`seed` was `0`, is now `1`"]
    assert differences(guard(), guard(tokens="d" * 64)) == [
        "the token rows (template or tokenizer) was `cccccccccccc`, is now `dddddddddddd`"
    ]
    # Other rows follow from another variant: the reason is enough.
    assert differences(guard(), guard(variant_digest="e" * 64, tokens="d" * 64)) == [
        "`variant_digest` was `aaaaaaaaaaaa`, is now `eeeeeeeeeeee`"
    ]


def complete(step: int) -> Complete:
    return Complete(
        step=step, seconds=1.0, preview_seconds=0.5, peak_memory=None, resumed=[], files={}
    )


def test_what_a_kill_left_in_a_finished_run_goes(tmp_path: Path):
    for name in ("checkpoints", "trainer", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "guard.json").write_text("{}")
    checkpoints.drop_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def written(folder: Path, step: int) -> Path:
    directory = folder / "trainer" / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (directory / "training_args.bin").write_bytes(b"a token")
    return directory


def test_the_newest_checkpoint_is_the_highest_step_that_is_whole(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    assert newest(tmp_path) is None
    for step in (90, 100, 110):
        keep(written(tmp_path, step), tmp_path, complete(step))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())

    assert names == ["step-100", "step-110"]
    assert not list(tmp_path.rglob("training_args.bin"))
    directory, found = newest(tmp_path)
    assert (directory.name, found.step) == ("step-110", 110)
    (directory / "complete.json").unlink()
    assert newest(tmp_path)[1].step == 100
    (tmp_path / "checkpoints" / "step-100" / "extra").write_text("not of it")
    assert newest(tmp_path) is None


def test_lines_after_the_step_and_a_torn_one_go(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":2,"b":1}\n{"step":3}\n{"st')

    truncate_lines(path, 2)
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n{"step":2,"b":1}\n'
    truncate_lines(path, -1)
    assert path.read_bytes() == b""
    truncate_lines(tmp_path / "absent.jsonl", 5)


def test_two_processes_do_not_train_one_run(tmp_path: Path):
    folder = tmp_path / "run.unfinished"
    with checkpoints.locked(folder):
        write_json(guard(), folder / "guard.json")
        with pytest.raises(InputError, match="another process"), checkpoints.locked(folder):
            pass
        assert (folder / "guard.json").exists()


def test_the_guard_reads_back_as_it_was_written(plan):
    again = msgspec.json.decode(msgspec.json.encode(plan.guard), type=Guard)
    assert differences(plan.guard, again) == []
