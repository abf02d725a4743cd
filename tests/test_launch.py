"""Several processes train one run: the same steps, the same numbers, files written once."""

import json
import os
import signal
from pathlib import Path

import msgspec
import pytest
import torch

from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from finetune import course, launch
from finetune.__main__ import app
from finetune.checkpoints import newest
from finetune.held_pairs import FILE, SCORED_PAIRS
from finetune.launch import Hosts, check_gpus, dealt
from finetune.plan import Plan
from finetune.preset import load_preset
from finetune.progress import read_steps
from finetune.run import load_run
from tests.processes import in_processes
from tests.test_dpo import DPO
from tests.test_grpo import GRPO
from tests.test_reward import REWARD
from tests.tiny import (
    adapter_tensors,
    tiny_llama,
    tiny_preset,
    write_pairs,
    write_prompts,
    write_variant,
)
from tests.training import Memory, planned, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A preset in float32 without dropout: six steps of four rows, one at a time."""
    folder = tmp_path_factory.mktemp("launch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        tiny_preset(
            folder / "tiny.toml",
            tiny_llama(folder / "llama"),
            base='precision = "fp32"',
            lora="dropout = 0.0",
            training="micro_batch = 1",
        )
        yield folder


class Killed(Memory):
    """Dies at its fifth step."""

    def stepped(self, step, steps):
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def together(plan: Plan, rows: Path, *, resume: bool = False, is_killed: bool = False) -> list[int]:
    """Train in two processes as `launch` starts them; each writes the rows it saw below `rows`.

    The statuses they ended with.
    """

    def train(rank: int) -> None:
        write_down_rows(rows / f"{rank}.jsonl")
        course.train(plan, Killed() if is_killed and rank == 0 else Memory(), resume=resume)

    return in_processes(2, train)


def write_down_rows(path: Path) -> None:
    from trl import SFTTrainer

    whole = SFTTrainer.training_step

    def watched(self, model, inputs, items=None):
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        with path.open("a") as file:
            file.write(json.dumps([self.state.global_step + 1, ids]) + "\n")
        return whole(self, model, inputs, items)

    SFTTrainer.training_step = watched


@pytest.fixture(scope="module")
def runs(folder: Path) -> tuple[Plan, Path, Path]:
    """A plan, and its run by one process and by two, which were killed once."""
    plan = planned(folder / "tiny.toml")
    course.train(plan, Memory()).rename(folder / "one")
    (folder / "killed").mkdir()
    (folder / "resumed").mkdir()
    statuses = together(plan, folder / "killed", is_killed=True)
    assert os.WTERMSIG(statuses[0]) == signal.SIGKILL
    assert statuses[1] != 0
    assert newest(plan.unfinished)[1].step == 4
    assert together(plan, folder / "resumed", resume=True) == [0, 0]
    return plan, folder / "one", plan.directory


def test_two_processes_end_where_one_does(runs):
    _, one, two = runs
    for ours, theirs in zip(read_steps(two), read_steps(one), strict=True):
        # Whatever share of a step's trained tokens a process had.
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-6)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, abs=1e-6)
        assert ours.trained_tokens == theirs.trained_tokens
    wanted = adapter_tensors(one)
    for name, tensor in adapter_tensors(two).items():
        assert torch.allclose(tensor, wanted[name], atol=2e-6), name
    assert load_run(two).validation_loss == pytest.approx(load_run(one).validation_loss, abs=1e-5)


def test_two_processes_prefer_as_one_does(folder: Path, runs):
    """The reference is dealt out too, and comes back whole from a checkpoint."""
    write_pairs()
    preset = tiny_preset(
        folder / "dpo.toml",
        folder / "llama",
        base='precision = "fp32"',
        training="micro_batch = 1",
        **DPO,
    )
    plan = planned(preset, "pairs", start=str(runs[2]))
    one = course.train(plan, Memory()).rename(folder / "one of pairs")
    statuses = together(plan, folder / "killed", is_killed=True)
    assert os.WTERMSIG(statuses[0]) == signal.SIGKILL
    assert together(plan, folder / "resumed", resume=True) == [0, 0]
    two = plan.directory

    for ours, theirs in zip(read_steps(two), read_steps(one), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        if ours.step > 2:  # before the first change every margin is a rounding error
            assert ours.terms == pytest.approx(theirs.terms, abs=1e-3)
    before, after = load_run(one), load_run(two)
    assert after.notes["processes"] == 2
    assert after.resumed == [4]
    assert after.validation_loss == pytest.approx(before.validation_loss, abs=1e-4)
    assert after.notes["validation"] == pytest.approx(before.notes["validation"], abs=1e-3)


def test_two_processes_reward_as_one_does(folder: Path):
    """Each answers its own micro-batches, with the numbers that one process would draw by."""
    write_prompts()
    preset = tiny_preset(
        folder / "grpo.toml",
        folder / "llama",
        base='precision = "fp32"',
        **GRPO | {"training": "micro_batch = 1\nexamples = 16\nlearning_rate = 5e-3"},
    )
    start = trained(folder / "tiny.toml", seed=1)
    plan = planned(preset, "prompts", start=str(start))
    one = course.train(plan, Memory()).rename(folder / "one of rewards")
    assert together(plan, folder / "rewarded") == [0, 0]

    for ours, theirs in zip(read_steps(plan.directory), read_steps(one), strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.trained_tokens == theirs.trained_tokens
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        assert ours.terms == pytest.approx(theirs.terms, abs=1e-3)
    before, after = load_run(one), load_run(plan.directory)
    assert after.notes["processes"] == 2
    assert after.notes["validation"] == pytest.approx(before.notes["validation"], abs=1e-3)


def test_two_processes_score_held_out_pairs_as_one_does(folder: Path):
    """Each reads its share of them, and every one is stored in its place."""
    write_pairs()
    preset = tiny_preset(
        folder / "reward.toml",
        tiny_llama(folder / "judging"),
        base='precision = "fp32"',
        training="micro_batch = 1\nexamples = 8",
        **REWARD,
    )
    plan = planned(preset, "pairs")
    one = course.train(plan, Memory()).rename(folder / "one of scores")
    assert together(plan, folder / "scored") == [0, 0]
    found, wanted = (
        read_table(directory / FILE, SCORED_PAIRS).to_pylist()
        for directory in (plan.directory, one)
    )

    assert [row["example_id"] for row in found] == [row["example_id"] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["chosen_reward"] == pytest.approx(theirs["chosen_reward"], abs=1e-4)
        assert ours["rejected_reward"] == pytest.approx(theirs["rejected_reward"], abs=1e-4)
    assert load_run(plan.directory).notes["processes"] == 2


def test_files_are_written_once_and_say_how_many_trained(runs):
    _, one, two = runs
    names = [
        sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
        for directory in (one, two)
    ]
    assert names[0] == names[1]
    assert (two / "previews.jsonl").read_bytes() == (one / "previews.jsonl").read_bytes()
    assert [load_run(directory).notes["processes"] for directory in (one, two)] == [1, 2]
    assert load_run(two).resumed == [4]


def test_every_step_sees_the_same_examples_dealt_out_in_turn(runs, folder: Path):
    plan, _, _ = runs
    seen = {
        (rank, step): [ids for at, rows in lines if at == step for ids in rows]
        for rank in range(2)
        for lines in [
            [
                json.loads(line)
                for part in ("killed", "resumed")
                for line in (folder / part / f"{rank}.jsonl").read_text().splitlines()
                # Steps after the last checkpoint were made twice.
                if part == "resumed" or json.loads(line)[0] <= 4
            ]
        ]
        for step in range(1, 7)
    }
    shares: list[int] = []
    for step in range(1, 7):
        rows = [plan.rows[place] for place in plan.order[4 * (step - 1) : 4 * step]]
        wanted = [row.prompt_ids + row.completion_ids for row in rows]
        assert [seen[0, step], seen[1, step]] == [wanted[0::2], wanted[1::2]]
        shares.append(sum(len(row.completion_ids) for row in rows[0::2]) * 2)
    assert shares != plan.budget.trained_tokens_by_step  # the shares were uneven


def test_a_batch_is_dealt_out_whole_or_refused():
    training = load_preset("phi2-oasst1-qlora").training
    training = msgspec.structs.replace(training, batch=16, micro_batch=4)
    assert [dealt(training, n) for n in (1, 2, 4, 8, 16)] == [4, 4, 4, 2, 1]
    odd = msgspec.structs.replace(training, batch=24, micro_batch=4)
    assert dealt(odd, 4) == 3
    with pytest.raises(InputError, match="a batch of 16 cannot be dealt out to 3") as error:
        dealt(training, 3)
    assert "1, 2, 4, 8, 16" in str(error.value.hint)


def test_gpus_that_are_not_there_and_hosts_without_an_address_are_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    check_gpus(3, Hosts())  # no GPU at all: the CPU is shared
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2, Hosts())
    check_gpus(2, Hosts(2, 1, "first:29500"))
    for gpus, hosts, message in (
        (4, Hosts(), "4 GPUs were asked for, 2 are visible"),
        (0, Hosts(), "no such place"),
        (2, Hosts(2, 2, "first:29500"), "no such place"),
        (2, Hosts(2, 0), "2 machines cannot find one another"),
    ):
        with pytest.raises(InputError, match=message):
            check_gpus(gpus, hosts)


def test_the_command_starts_itself_and_hands_on_the_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def started(*arguments):
        asked.append(arguments)
        return 2

    monkeypatch.setattr(launch, "launch", started)
    with pytest.raises(SystemExit) as stopped:
        run(app, ["train", "tiny", str(folder / "tiny.toml"), "--gpus=2", "--seed=9", "--resume"])

    assert stopped.value.code == 2
    again = ["train", "tiny", str(folder / "tiny.toml"), "--seed=9", "--resume"]
    assert asked == [(again, 2, Hosts())]


def test_a_process_that_fails_ends_all_with_its_exit_code(capfd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch.launch(["train", "tiny", "smollm2", "--resum"], 2, Hosts()) == 2
    shown = capfd.readouterr().err
    assert "--resum" in shown
    assert "Traceback" not in shown
