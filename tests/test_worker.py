"""Commands one after another in one process: what they make is what each alone would have made."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from dataset_builder.manifest import find_variant
from evals import worker
from finetune.run import load_run
from reports import workers
from reports.cells import Cell, Grid, write_built
from reports.study import load_study
from tests.runs import tiny_run
from tests.tiny import example, tiny_llama, tiny_preset, write_variant
from tests.training import assert_same_run, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

STUDY = """
title = "tiny"
seeds = [0, 1]
suites = ["small.toml"]

[builds.tiny]

[arms.tiny]
preset = "tiny.toml"
"""
SUITE = """
title = "a handful"
limits = [3]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 9
scorers = ["violation", "words"]
"""


class Forked:
    """What `workers.start` gives, forked from this process so that nothing is imported anew."""

    def __init__(self) -> None:
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.dup2(asked, 0)
                os.dup2(answered, 1)
                for each in (asked, ask, answer, answered):
                    os.close(each)
                # What pytest has in their places is not the process's own.
                sys.stdin, sys.stdout, sys.stderr = (
                    os.fdopen(n, "r" if n == 0 else "w") for n in range(3)
                )
                worker.main()
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answered)
        self.stdin, self.stdout = os.fdopen(ask, "wb", 0), os.fdopen(answer, "rb", 0)

    def wait(self) -> int:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A study of a tiny model, trained and evaluated by forked processes."""
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(workers, "gpus_here", list)
    write_variant(rows=[example(n, question=f"Row {n}?") for n in range(6)])
    base = 'quantization = "none"\nprecision = "fp32"'
    tiny_preset(tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"), base=base)
    (tmp_path / "small.toml").write_text(SUITE)
    (tmp_path / "study.toml").write_text(STUDY)
    located = load_study(str(tmp_path / "study.toml"))
    write_built(located, {"tiny": find_variant("tiny")[0].name})
    return Grid(located)


def test_a_run_whose_process_was_killed_goes_on_to_what_it_would_have_been_alone(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[Forked] = []

    def start(environment: Mapping[str, str]) -> Forked:
        started.append(Forked())
        return started[-1]

    def kill() -> None:
        """Once the second run of the same process has its first checkpoint."""
        while not grid.steps_done(Cell("tiny", 1)):
            time.sleep(0.002)
        started[0].kill()

    monkeypatch.setattr(workers, "start", start)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = workers.do_cells(grid, grid.cells(), 1)
    killer.join()

    assert not outcome.failures
    assert len(started) == 2
    assert {grid.state(cell) for cell in grid.cells()} == {"there"}
    runs = [grid.run_directory("tiny", seed) for seed in (0, 1)]
    assert [bool(load_run(run).resumed) for run in runs if run] == [False, True]
    bases = list((tmp_path / "artifacts").glob("bases/*/evals/*/eval.json"))
    assert len(bases) == 1  # it answered once for both
    # Alone, in this process, which trained nothing before.
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "alone"))
    write_variant(rows=[example(n, question=f"Row {n}?") for n in range(6)])
    for seed, run in enumerate(runs):
        assert run is not None
        assert_same_run(run, trained(tmp_path / "tiny.toml", seed=seed))


def test_a_command_that_is_refused_ends_its_process_and_says_why_in_its_log(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers, "start", lambda environment: Forked())
    # An adapter that was not carried here.
    run = tiny_run(tmp_path / "tiny.toml")
    meant = grid.run_directory("tiny", 0)
    assert meant is not None
    run.rename(meant)
    (meant / "adapter" / "adapter_model.safetensors").unlink()
    cell = Cell("tiny", 0, "small")
    outcome = workers.do_cells(grid, [Cell("tiny", 0), cell], 1)
    assert [each.cell for each in outcome.failures] == [cell]
    assert "has no adapter at" in outcome.failures[0].reason
    assert "hint: train it again" in outcome.failures[0].log.read_text()
