"""Several processes make one evaluation: the same answers, each once, whatever number began it."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dataset_builder.command_line import run as run_command
from evals.__main__ import app
from evals.evaluation import evaluate
from evals.plan import Silent, plan
from finetune import launch
from tests.processes import in_processes
from tests.runs import tiny_run
from tests.tiny import example, tiny_llama, tiny_preset, write_variant

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SUITE = """
title = "a handful"
limits = [3, 8]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 9
temperature = 0.8
scorers = ["violation", "words", "relevance_controlled", "prefers_better", "human_likelihood"]
relevance_others = 1
"""
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
    """Artefacts with a run that is not evaluated yet, and a suite."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
        base = 'quantization = "none"'
        tiny_run(tiny_preset(folder / "tiny.toml", tiny_llama(folder / "model"), base=base))
    (folder / "small.toml").write_text(SUITE)
    return folder / "artifacts", folder / "small.toml"


@pytest.fixture(scope="module")
def alone(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process makes of them."""
    artifacts = tmp_path_factory.mktemp("alone") / "artifacts"
    shutil.copytree(made[0], artifacts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(artifacts))
        return tables(evaluate(plan(runs_in(artifacts), str(made[1]), [], Silent()), Silent()))


def runs_in(artifacts: Path) -> list[Path]:
    return [path.parent for path in artifacts.glob("runs/*/*/run.json")]


def tables(directories: list[Path]) -> list[Any]:
    """All rows but for the seconds, scores to four places: batches of other sizes add up in another
    order."""
    found = []
    for directory in directories:
        for name in ("generations", "scores", "likelihoods"):
            table = pq.read_table(directory / f"{name}.parquet").to_pylist()
            for row in table:
                row.pop("seconds", None)
                for key in ("value", "log_likelihood"):
                    if key in row:
                        row[key] = pytest.approx(row[key], abs=1e-4)
            found.append(table)
    return found


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
        files = list((runs[0] / "evals").iterdir())
        assert len(files) == n
        before, stored = stored, sum(path.read_bytes().count(b"\n") - 1 for path in files)
        assert before + 2 <= stored < QUESTIONS

    def resumed(rank: int) -> None:
        watcher = Silent() if rank else Stored(tmp_path / "first")
        directories = evaluate(plan(runs, suite, [], Silent()), watcher, rows=3)
        if not rank:
            assert tables(directories) == alone

    assert in_processes(2, resumed) == [0, 0]
    assert (tmp_path / "first").read_text() == f"{stored} of {QUESTIONS}"
    for home in (runs[0], *(tmp_path / "artifacts" / "bases").iterdir()):
        assert [path.name[:6] for path in (home / "evals").iterdir()] == ["small-"]


def test_the_command_starts_itself_with_all_that_it_was_told(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    artifacts, suite = made
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
