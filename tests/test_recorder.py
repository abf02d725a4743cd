"""What is told of the steps: rates over a window, what is left, and what previews cost."""

import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from dataset_builder.errors import InputError
from finetune import checkpoints, course, peak, recorder
from finetune.oom import Pieces
from finetune.peak import matmul_peak
from finetune.progress import read_steps
from finetune.recorder import Recorder
from finetune.rows import Budget
from finetune.run import load_run
from finetune.trackers import ready_trackers
from tests.tiny import tiny_llama, tiny_preset, write_variant
from tests.training import Memory, Stopped, planned, segment

TOKENS = [100, 300, 200, 400, 100, 500]
SECONDS = [4.0, 1.0, 2.0, 1.0, 1.0, 3.0]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("recorder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        tiny_preset(folder / "tiny.toml", tiny_llama(folder / "llama"))
        yield folder


class Clock:
    """A clock that stands still until a step is made."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Costly:
    """A previewer whose previews took a minute and will take one more."""

    seconds = 60.0

    def seconds_left(self, step: int, steps: int) -> float:
        return 60.0 if step < steps else 0.0


def recorded(
    out: Path, monkeypatch: pytest.MonkeyPatch, previewer=None, log_steps: int = 2
) -> Memory:
    """A recorder that is told of six steps of known length."""
    clock, watcher = Clock(), Memory()
    monkeypatch.setattr(recorder, "time", clock)
    budget = Budget(6, 24, 1.0, sum(TOKENS), 6, TOKENS, [1] * 6)
    made = Recorder(
        budget,
        4,
        out,
        CPU,
        watcher,
        None,
        previewer or SimpleNamespace(seconds=0.0, seconds_left=lambda *_: 0.0),
        Pieces(4, lambda line: None),
        started="now",
        segment=segment(),
        log_steps=log_steps,
        peak_tokens=1000.0,
    )
    logs = {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0}
    for n, seconds in enumerate(SECONDS, 1):
        state = SimpleNamespace(global_step=n)
        made.on_step_begin(None, state, None)
        clock.now += seconds
        made.on_step_end(None, state, None)
        clock.now += 7  # a preview
        made.on_log(None, state, None, logs=logs)
    return watcher


def test_rates_are_of_the_steps_since_the_line_before(tmp_path: Path, monkeypatch):
    watcher = recorded(tmp_path, monkeypatch)
    lines = [step for step in watcher.steps if step.step % 2 == 0]

    assert [step.tokens_per_second for step in lines] == [80.0, 200.0, 150.0]
    assert [step.peak_share for step in lines] == [0.08, 0.2, 0.15]
    assert watcher.steps[0].tokens_per_second == 25.0
    assert [step.seconds for step in watcher.steps] == [4, 5, 7, 8, 9, 12]
    assert read_steps(tmp_path) == watcher.steps


def test_what_is_left_goes_by_the_same_window_and_counts_previews(tmp_path: Path, monkeypatch):
    left = [step.seconds_left for step in recorded(tmp_path, monkeypatch, Costly()).steps]

    assert left == [5 * 4 + 60, 4 * 2.5 + 60, 3 * 1.5 + 60, 2 * 1.5 + 60, 1 + 60, 0]


def test_costly_previews_are_told_once_and_cheap_ones_never(tmp_path: Path, monkeypatch):
    told = [line for line in recorded(tmp_path, monkeypatch, Costly()).lines if "preview" in line]

    # 120 s of previews; 5 s of training done and four steps of 2.5 s to go.
    assert len(told) == 1
    assert "about 89% of this run's time" in told[0]
    assert recorded(tmp_path, monkeypatch).lines == []


def test_a_resumed_run_began_when_it_was_begun(folder: Path):
    plan = planned(folder / "tiny.toml")
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    found = checkpoints.newest(plan.unfinished)
    assert found is not None
    directory, complete = found
    long_ago = msgspec.structs.replace(complete, started="2020-02-02T02:02:02+00:00")
    (directory / "complete.json").write_bytes(msgspec.json.encode(long_ago))
    record = load_run(course.train(plan, Memory(), resume=True))

    assert complete.started is not None
    assert complete.started <= record.finished
    assert record.started == long_ago.started
    # A checkpoint of an earlier version does not say.
    old = msgspec.json.decode(msgspec.json.encode(complete))
    del old["started"]
    assert msgspec.convert(old, checkpoints.Complete).started is None


def test_measuring_the_peak_draws_no_number_of_the_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peak, "_CPU_SIDE", 64)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    found = matmul_peak.__wrapped__(CPU, torch.float32)  # as the first time

    assert found > 1e6
    assert torch.equal(torch.rand(3), wanted)


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("finetune.trackers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="no such tracker") as error:
        ready_trackers(["tensorbored"], tmp_path)
    assert "tensorboard" in str(error.value.hint)
    with pytest.raises(InputError, match="the package `trackio` is not installed") as error:
        ready_trackers(["trackio"], tmp_path)
    assert "pip install" in str(error.value.hint)
    assert ready_trackers([], tmp_path) == []


def test_a_tracker_is_told_every_step_and_its_files_stay_with_the_run(folder: Path, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    losses: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            if "loss" in logs:
                losses.append(logs["loss"])
            out = Path(os.environ["TENSORBOARD_LOGGING_DIR"])
            out.mkdir(exist_ok=True)
            (out / "events").write_text(f"{args.run_name} {args.project}")

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "x")  # undone afterwards
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setattr("finetune.trackers.find_spec", lambda name: name)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    plan = planned(folder / "tiny.toml", seed=1)
    directory = course.train(plan, Memory(), report_to=["tensorboard"])

    assert losses == pytest.approx([step.loss for step in read_steps(directory)], abs=1e-4)
    assert (directory / "tensorboard" / "events").read_text() == f"{plan.name} treetune"
    assert os.environ["WANDB_PROJECT"] == "mine"
