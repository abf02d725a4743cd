"""A reward model of ours as a scorer: what it scores, what is noted, and whom it may not judge."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from dataset_builder.artifacts import read_json
from dataset_builder.command_line import run as run_command
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals.__main__ import app
from evals.compare import compare
from evals.plan import Silent, plan
from evals.reward import find_reward_model, has_trained
from evals.tables import SCORES, Comparison, Evaluation, Gate
from finetune.run import load_run
from tests.runs import fit_of, record, tiny_run, write_evaluation, write_run
from tests.test_reward import REWARD
from tests.tiny import example, tiny_llama, tiny_preset, write_pairs, write_variant
from tests.training import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A run that answers, a reward model on the same base, and a suite of one limit."""
    folder = tmp_path_factory.mktemp("reward-scorer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
        write_pairs()
        model = tiny_llama(folder / "model")
        small = {"training": "examples = 4", "previews": "prompts = 0"}
        (folder / "policy").symlink_to(tiny_run(tiny_preset(folder / "tiny.toml", model)))
        reward = tiny_preset(folder / "judging.toml", model, **small, **REWARD)
        (folder / "reward").symlink_to(trained(reward, "pairs"))
        (folder / "small.toml").write_text(
            'title = "x"\nlimits = [3]\nspare_tokens = 1\nunlimited_tokens = 3\n'
            'scorers = ["violation", "words"]\n'
        )
        yield folder


def evaluated(folder: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[list[Path], str]:
    """What the command made of the policy, and what it said."""
    suite = f"--suite={folder / 'small.toml'}"
    reward = f"--reward={(folder / 'reward').resolve()}"
    with pytest.raises(SystemExit) as stopped:
        run_command(app, ["eval", str((folder / "policy").resolve()), suite, reward, *options])
    shown = capsys.readouterr()
    assert not stopped.value.code, shown.err
    return [Path(line) for line in shown.out.splitlines()], shown.err


def test_a_run_and_its_base_are_scored_and_the_scorer_is_noted(
    folder: Path, capsys: pytest.CaptureFixture
):
    directories, said = evaluated(folder, capsys)
    reward = find_reward_model(str((folder / "reward").resolve()))

    for directory in directories:
        rows = read_table(directory / "scores.parquet", SCORES).to_pylist()
        assert {row["metric"] for row in rows} == {"violation", "words", "reward"}
        notes = read_json(directory / "eval.json", Evaluation).notes["reward"]
        assert notes == {
            "model": load_run((folder / "reward").resolve()).name,
            "digest": reward.digest,
            "trained_the_run": False,
        }
    [gate] = read_json(directories[1] / "eval.json", Evaluation).gates
    assert {win["over"] for win in gate.wins} >= {"human_cut", "other_human", "one_word"}
    assert f"reward: gate {'passed' if gate.passed else 'failed'}: " in said
    assert "own pupil" not in said


def test_a_run_that_names_the_scorer_in_its_record_is_its_pupil_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture
):
    evaluated(folder, capsys)
    policy = (folder / "policy").resolve()
    kept, before = (policy / "run.json").read_bytes(), load_run(policy)
    digest = load_run((folder / "reward").resolve()).adapter_sha256
    taught = msgspec.structs.replace(before, notes={"reward_model": {"adapter": digest}})
    (policy / "run.json").write_bytes(msgspec.json.encode(taught))
    try:
        directories, said = evaluated(folder, capsys, "--rescore")
    finally:
        (policy / "run.json").write_bytes(kept)

    notes = [read_json(each / "eval.json", Evaluation).notes["reward"] for each in directories]
    assert [note["trained_the_run"] for note in notes] == [True, False]  # the run's and its base's
    told = " ".join(said.split())
    assert "trained this run and scores its own pupil: `reward` takes no part in a verdict" in told
    assert "reward?" in told


def test_a_record_names_a_reward_model_by_digest_or_by_the_runs_name(folder: Path):
    reward = find_reward_model(str((folder / "reward").resolve()))

    assert not has_trained(reward, record())
    assert has_trained(reward, record(notes={"deep": [{"er": reward.digest}]}))
    assert has_trained(reward, record(preset={"grpo": {"reward_run": reward.name}}))
    assert not has_trained(reward, record(preset={"grpo": {"reward_run": f"{reward.name}1"}}))


def test_what_is_no_reward_model_is_refused_as_a_scorer_and_a_reward_model_as_a_run(folder: Path):
    policy, reward = (str((folder / name).resolve()) for name in ("policy", "reward"))
    with pytest.raises(InputError, match="is a run of the method `sft`, which answers"):
        find_reward_model(policy)
    with pytest.raises(InputError, match="no finished run `nobody`"):
        find_reward_model("nobody")
    with pytest.raises(InputError, match="is a reward model: it gives answers a number") as error:
        plan([Path(reward)], str(folder / "small.toml"), [], Silent())
    assert error.value.hint == "score answers by it: `just eval RUN --reward judging/pairs`"


def scored(variant: str, note: dict, quality: float) -> list[Path]:
    """An arm of three seeds, no limit broken, with so high a reward."""
    directories = []
    for seed in range(3):
        run = record(variant, seed)
        directory = write_run(run, fit_of())
        write_evaluation(
            directory, scores(quality + seed / 100), run=run.name, notes={"reward": note}
        )
        directories.append(directory)
    return directories


def scores(quality: float) -> dict:
    noise = np.random.default_rng(0).normal(size=40)
    return {
        (metric, f"p{place}", 20): value
        for place in range(40)
        for metric, value in (("violation", 0.0), ("reward", quality + noise[place]))
    }


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ({}, None),
        ({"trained_the_run": True}, "the reward model that scores trained `taught`"),
        ({"digest": "another"}, "the arms were not all scored by one reward model"),
    ],
)
def test_a_reward_decides_nothing_about_its_pupil_or_where_several_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: dict, reason: str | None
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    usual = {"model": "r", "digest": "one", "trained_the_run": False}
    gate = Gate(metric="reward", passed=True, wins=[], reason="as the test says")
    write_evaluation(
        tmp_path / "bases" / "base-abcdefabcdef",
        scores(0.0),
        run=None,
        gates=[gate],
        notes={"reward": usual},
    )
    arms = [scored("plain", usual, 1.0), scored("taught", usual | notes, 5.0)]
    found = read_json(compare(arms, "word_limit") / "comparison.json", Comparison)

    assert ("reward" in found.notes["headline"]) == (reason is None)
    assert [gate.passed for gate in found.gates] == [reason is None]
    doubted = [line for line in found.warnings if line.startswith("reward enters no verdict")]
    assert doubted == ([f"reward enters no verdict, its gate failed: {reason}"] if reason else [])
