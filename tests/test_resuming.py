"""A killed evaluation goes on, with however many processes: the same answers, each once."""

import gc
import os
import random
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.artifacts import read_json
from dataset_builder.command_line import run as run_command
from evals.__main__ import app
from evals.evaluation import evaluate
from evals.plan import Silent, plan
from evals.tables import Evaluation
from finetune import launch
from finetune.decode import TOP
from tests.evaluations import SUITE, not_evaluated, runs_in, tables
from tests.processes import in_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KILLS = 5  # more of them: just campaign evaluations
QUESTIONS = 3 * 3  # prompts, two limits and none


class Killed(Silent):
    """Dies once it has stored a batch of answers."""

    times = 0

    def progress(self, what: str, done: int, total: int) -> None:
        self.times += "answers" in what
        if self.times == 2:
            os.kill(os.getpid(), signal.SIGKILL)


class Stored(Silent):
    """Writes down how many answers were there at first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def progress(self, what: str, done: int, total: int) -> None:
        if "answers" in what and not self.path.is_file():
            self.path.write_text(f"{done} of {total}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return not_evaluated(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def alone(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process makes of them."""
    artifacts = tmp_path_factory.mktemp("alone") / "artifacts"
    shutil.copytree(made[0], artifacts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(artifacts))
        evaluate(plan(runs_in(artifacts), str(made[1]), [], Silent()), Silent())
    # What was loaded meanwhile is no garbage either, which every child would look through.
    gc.collect()
    gc.freeze()
    return tables(artifacts)


def started(run: Path, suite: Path) -> int:
    """`just eval`, forked so that it need not start anew; its process."""
    child = os.fork()
    if not child:
        try:
            run_command(app, ["eval", str(run), f"--suite={suite}", "--batch=2"])
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        finally:
            os._exit(70)
    return child


def test_an_evaluation_killed_at_any_moments_ends_as_one_that_was_not(
    made: tuple[Path, Path], alone: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def artifacts(name: str) -> Path:
        monkeypatch.setenv("ARTIFACTS", str(tmp_path / name))
        return shutil.copytree(made[0], tmp_path / name)

    began = time.perf_counter()
    assert os.waitpid(started(*runs_in(artifacts("timed")), made[1]), 0)[1] == 0
    takes = time.perf_counter() - began
    assert tables(tmp_path / "timed") == alone
    chance = random.Random(0)
    kills, met = 0, set()
    while kills < KILLS:
        here = artifacts(f"killed after {kills}")
        statuses = [-1]
        while statuses[-1]:
            child = started(*runs_in(here), made[1])
            # Later from try to try, so that on any machine one ends.
            time.sleep(takes * chance.uniform(0.05, 0.5) * 1.15 ** len(statuses))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            statuses.append(os.waitpid(child, 0)[1])
            met |= {path.suffix for path in here.glob("*/*/*/evals/.*")}
        assert set(statuses[1:-1]) <= {signal.SIGKILL}
        kills += len(statuses) - 2
        assert tables(here) == alone
        shutil.rmtree(here)
    assert ".jsonl" in met  # some died between two answers


class Joined(Silent):
    """Another command makes the same evaluation once a batch of answers is stored."""

    child = 0

    def __init__(self, run: Path, suite: Path) -> None:
        self.run, self.suite = run, suite

    def progress(self, what: str, done: int, total: int) -> None:
        if "answers" in what and done and not self.child:
            self.child = started(self.run, self.suite)
            ended = os.pidfd_open(self.child)
            select.select([ended], [], [], 3)  # long enough to end, if it does not wait
            os.close(ended)


def test_two_commands_that_make_one_evaluation_make_it_once(
    made: tuple[Path, Path], alone: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifacts = shutil.copytree(made[0], tmp_path / "artifacts")
    monkeypatch.setenv("ARTIFACTS", str(artifacts))
    watcher = Joined(*runs_in(artifacts), made[1])
    evaluate(plan(runs_in(artifacts), str(made[1]), [], Silent()), watcher, rows=2)
    assert os.waitpid(watcher.child, 0)[1] == 0
    assert tables(artifacts) == alone


def test_an_evaluation_goes_on_with_another_number_of_processes(
    made: tuple[Path, Path], alone: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(made[0], tmp_path / "artifacts")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    runs, suite = runs_in(tmp_path / "artifacts"), str(made[1])

    def killed(rank: int) -> None:
        evaluate(plan(runs, suite, [], Silent()), Silent() if rank else Killed(), rows=2)

    stored = 0
    for n in (1, 3):
        assert os.WTERMSIG(in_processes(n, killed)[0]) == signal.SIGKILL
        files = list((runs[0] / "evals").glob(".*.jsonl"))
        assert len(files) == n
        before, stored = stored, sum(path.read_bytes().count(b"\n") - 1 for path in files)
        assert before + 2 <= stored < QUESTIONS

    def resumed(rank: int) -> None:
        watcher = Silent() if rank else Stored(tmp_path / "first")
        evaluate(plan(runs, suite, [], Silent()), watcher, rows=3)

    assert in_processes(2, resumed) == [0, 0]
    assert (tmp_path / "first").read_text() == f"{stored} of {QUESTIONS}"
    assert tables(tmp_path / "artifacts") == alone
    # All that determined what was drawn is in its record.
    [path] = (runs[0] / "evals").glob("small-*/eval.json")
    drawn = {"greedy": False, "temperature": 0.8, "likeliest": TOP, "seed": 0, "samples": 1}
    assert drawn.items() <= read_json(path, Evaluation).settings.items()


def test_the_command_starts_itself_with_all_that_it_was_told(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    artifacts, suite = made[0], tmp_path / "judged.toml"
    suite.write_text(SUITE.replace('"violation"', '"judge"') + 'judge_model = "j"\n')
    monkeypatch.setenv("ARTIFACTS", str(artifacts))
    asked = []

    def started(arguments: list[str], gpus: int, hosts: object = None, program: str = "") -> int:
        asked.append((arguments, gpus, program))
        return 3

    monkeypatch.setattr(launch, "launch", started)
    run = str(*runs_in(artifacts))
    more = ["--rescore", "--batch=7", "--judge=http://127.0.0.1:9/v1"]
    with pytest.raises(SystemExit) as ended:
        run_command(app, ["eval", "tiny", f"--suite={suite}", "--gpus", "2", *more])
    assert ended.value.code == 3
    told = ["eval", run, f"--suite={suite}", "--batch=7", "--rescore", more[2]]
    assert asked == [(told, 2, "evals")]
    for arguments, message in (
        (["--gpus", "0"], "error: --gpus 0 --machines 1 --machine 0: no such place"),
        (["--harness", "ifeval", "--gpus", "2"], "error: --harness runs on one GPU, not on 2"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_command(app, ["eval", "tiny", *arguments])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert len(asked) == 1


def test_what_a_kill_left_beside_a_finished_evaluation_goes_with_the_next_look(
    made: tuple[Path, Path], alone: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(made[0], tmp_path / "artifacts")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    runs, suite = runs_in(tmp_path / "artifacts"), str(made[1])
    (directory, *_) = evaluate(plan(runs, suite, [], Silent()), Silent())
    for left in ("jsonl", "2.jsonl", "jsonl.tmp", "beside.json"):
        directory.with_name(f".{directory.name}.partial.{left}").write_text("{}")
    others = directory.with_name(f".{directory.name}0.partial.jsonl")
    others.write_text("{}")

    evaluate(plan(runs, suite, [], Silent()), Silent())
    others.unlink()  # another suite's: it stayed
    assert tables(tmp_path / "artifacts") == alone
