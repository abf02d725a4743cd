"""Reward models whose training was killed: the same bits at the end, head and scores among them."""

import os
import random
import signal
from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from finetune import course
from finetune.held_pairs import FILE
from finetune.plan import Plan
from finetune.run import load_run
from tests.test_dpo_resume import Killed, in_a_child
from tests.test_reward import REWARD
from tests.tiny import tiny_llama, tiny_preset, write_pairs
from tests.training import Memory, Stopped, assert_same_run, planned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A preset of six steps that saves every second, with dropout to draw."""
    folder = tmp_path_factory.mktemp("reward-resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_pairs()
        options = {**REWARD, "lora": "dropout = 0.1"}
        tiny_preset(folder / "reward.toml", tiny_llama(folder / "llama"), **options)
        yield folder


def again(folder: Path) -> Plan:
    return planned(folder / "reward.toml", "pairs")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The uninterrupted run, put aside."""
    course.train(again(folder), Memory()).rename(folder / "whole")
    return folder / "whole"


@pytest.fixture
def plan(folder: Path, whole: Path):
    """The same run, planned again; nothing of it is left afterwards."""
    plan = again(folder)
    yield plan
    for left in (plan.directory, plan.unfinished):
        if left.exists():
            left.rename(folder / f"left {len(list(folder.iterdir()))}")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_run_killed_at_random_steps_ends_in_the_same_bits(plan: Plan, folder: Path, whole: Path):
    draw = random.Random(0)
    steps = [draw.randrange(3, 5), draw.randrange(5, 7)]
    for step in steps:  # the second time in what was resumed
        status = in_a_child(lambda at=step: course.train(again(folder), Killed(at), resume=True))
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    directory = course.train(plan, Memory(), resume=True)

    assert load_run(directory).resumed == [2, 4]
    assert_same_run(directory, whole)
    assert (directory / FILE).read_bytes() == (whole / FILE).read_bytes()
    figures = load_run(directory).notes["held_out_pairs"]
    assert figures == load_run(whole).notes["held_out_pairs"]


def test_a_run_is_not_resumed_under_another_preset(plan: Plan, folder: Path):
    with pytest.raises(Stopped):
        course.train(plan, Memory(stop_at=3))
    path = folder / "reward.toml"
    was = path.read_text()
    path.write_text(was.replace("coefficient = 0.02", "coefficient = 0.03"))
    try:
        other = again(folder)
    finally:
        path.write_text(was)
    with pytest.raises(
        InputError,
        match=r"`preset\.reward\.center_rewards_coefficient` was `0\.02`, is now `0\.03`",
    ):
        course.train(other, Memory(), resume=True)
