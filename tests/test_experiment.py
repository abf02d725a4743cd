"""A study's cells: what is there, what comes next, what a failure or a kill costs."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from dataset_builder.artifacts import artifacts_root
from dataset_builder.manifest import find_variant
from finetune.parent import parent_record
from finetune.run import load_run
from reports import experiment, forecast, workers
from reports.cells import Cell, Grid, write_built
from reports.forecast import read_times
from reports.study import Located, load_study
from reports.workers import Outcome, do_cells
from tests.golden import drawn
from tests.runs import record, write_evaluation, write_run
from tests.tiny import write_pairs, write_variant

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# More in a campaign: TREETUNE_KILLS=200 just test tests/test_experiment.py
KILLS = max(5, int(os.environ.get("TREETUNE_KILLS", "5")))
STUDY = """
title = "a study"
seeds = [0, 1]
suites = ["demo"]

[builds.sample]

[arms.full]
preset = "smollm2-demo"

[arms.short]
preset = "smollm2-demo"

[arms.flipped]
variant = "pairs"
preset = "smollm2-dpo-demo"
from = "short"
"""
NAMES = ["full", "short", "flipped"]


@pytest.fixture
def located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Located:
    """A study whose variants are built."""
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(workers, "gpus_here", list)
    write_variant("full")
    write_variant("short")
    write_pairs()
    (tmp_path / "study.toml").write_text(STUDY)
    found = load_study(str(tmp_path / "study.toml"))
    write_built(found, {arm.name: find_variant(arm.variant)[0].name for arm in found.arms.values()})
    return found


class Fake:
    """In a worker's place: writes down what a command would have made, and trains nothing."""

    fails: Callable[[Cell], int] = staticmethod(lambda cell: 0)
    seconds = 0.0
    told: ClassVar[list[tuple[str, Cell]]] = []

    def __init__(self, board, place: str, places: list[str]) -> None:
        self.board, self.process = board, self

    def do(self, command: list[str], log: Path) -> int:
        grid = self.board.grid
        (cell,) = [cell for cell in grid.cells() if told(grid, cell) == plain(command)]
        Fake.told.append(("begin", cell))
        time.sleep(Fake.seconds)
        code = Fake.fails(cell)
        if not code:
            (train if cell.suite is None else evaluate)(grid, cell)
        elif code > 0:
            log.write_text("some talk\nerror: it was too much\nhint: less\n")
        Fake.told.append(("end", cell))
        return code

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_Worker", Fake)
    monkeypatch.setattr(Fake, "fails", staticmethod(lambda cell: 0))
    monkeypatch.setattr(Fake, "seconds", 0.0)
    monkeypatch.setattr(Fake, "told", [])


def told(grid: Grid, cell: Cell) -> list[str] | None:
    before = grid.needs(cell)
    is_ready = before is None or grid.state(before) == "there"
    return plain(grid.command(cell)) if is_ready else None


def plain(command: list[str]) -> list[str]:
    return [part for part in command if part != "--resume"]


def train(grid: Grid, cell: Cell) -> None:
    directory = grid.run_directory(cell.arm, cell.seed)
    assert directory is not None
    start = grid.located.arms[cell.arm].start
    parent = grid.run_directory(start, cell.seed) if start else None
    write_run(
        record(
            grid.located.arms[cell.arm].variant,
            cell.seed,
            name=f"{directory.parent.name}/{directory.name}",
            manifest=grid.manifests[cell.arm],
            adapter_sha256=f"{cell.seed}{cell.arm.encode().hex()}".ljust(64, "0")[:64],
            parent=parent_record(load_run(parent)) if parent else None,
        )
    )


def evaluate(grid: Grid, cell: Cell) -> None:
    directory = grid.evaluation(cell)
    assert directory is not None
    digest = directory.name.partition("-")[2].ljust(64, "0")
    scores = {("violation", f"p{n}", 20): float(n % 2) for n in range(30)}
    if not directory.exists():  # as where a kill came before the base model had answered
        write_evaluation(directory.parents[1], scores, suite="demo", suite_digest=digest)
    base = artifacts_root() / "bases" / "b"
    if not list(base.glob("evals/*/eval.json")):
        write_evaluation(base, scores, run=None, suite="demo", suite_digest=digest)


def done(grid: Grid, jobs: int = 1) -> Outcome:
    return do_cells(grid, grid.cells(), jobs)


def test_every_cell_is_done_once_after_what_it_needs(located: Located):
    grid = Grid(located)
    outcome = done(grid, jobs=3)
    assert sorted(outcome.done, key=str) == sorted(grid.cells(), key=str)
    assert len(grid.cells()) == 3 * 2 * 2
    ends = [cell for what, cell in Fake.told if what == "end"]
    for place, (what, cell) in enumerate(Fake.told):
        before = grid.needs(cell)
        if what == "begin" and before is not None:
            assert ("end", before) in Fake.told[:place]
    assert len(ends) == len(set(ends))
    assert {grid.state(cell) for cell in grid.cells()} == {"there"}
    assert done(Grid(located)).done == []  # a second time there is nothing to do


def test_a_run_that_goes_on_with_another_is_trained_from_the_same_seed(located: Located):
    grid = Grid(located)
    cell = Cell("flipped", 1)
    assert grid.needs(cell) == Cell("short", 1)
    assert grid.run_directory("flipped", 1) is None
    train(grid, Cell("short", 1))
    assert grid.command(cell)[-1] == f"--from={grid.run_directory('short', 1)}"


def test_one_evaluation_alone_has_the_base_model_answer_and_the_others_wait_for_it(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    grid = Grid(located)
    monkeypatch.setattr(Fake, "seconds", 0.02)
    for arm in ("full", "short"):
        for seed in (0, 1):
            train(grid, Cell(arm, seed))
    done(grid, jobs=4)
    answering = [(what, cell) for what, cell in Fake.told if cell.suite]
    first = answering[0][1]
    assert answering[1] == ("end", first)  # nobody else began until it was through
    begun = [what for what, _ in answering[2:6]]
    assert begun.count("begin") > 1  # and then several at once


def test_a_failed_cell_costs_what_waits_for_it_and_nothing_else(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    grid, said = Grid(located), []
    monkeypatch.setattr(Fake, "fails", staticmethod(lambda cell: 2 * (cell == Cell("short", 0))))
    outcome = do_cells(grid, grid.cells(), 2, said.append)
    lost = {Cell("short", 0, "demo"), Cell("flipped", 0), Cell("flipped", 0, "demo")}
    assert [(each.cell, each.reason) for each in outcome.failures] == [
        (Cell("short", 0), "it was too much")
    ]
    assert set(outcome.waiting) == lost
    assert set(outcome.done) == set(grid.cells()) - lost - {Cell("short", 0)}
    assert "train short s0: failed: it was too much" in said


def test_what_failed_is_said_at_the_end_and_the_command_tells_that_it_is_not_whole(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(Fake, "fails", staticmethod(lambda cell: 2 * (cell == Cell("short", 0))))
    assert not experiment.train(located, 1, said.append)
    log = located.home / "logs" / "train-short-s0.log"
    assert said[-2:] == [
        f"failed: train short s0: it was too much (see {log})",
        "3 cells wait for what failed: demo short s0, train flipped s0, demo flipped s0",
    ]
    monkeypatch.setattr(Fake, "fails", staticmethod(lambda cell: 0))
    said.clear()
    assert experiment.train(located, 1, said.append)
    assert said[0] == "8 of 12 cells are there already"


def test_a_killed_process_is_started_again_once(located: Located, monkeypatch: pytest.MonkeyPatch):
    kills = {Cell("full", 0): 1, Cell("short", 1): 2}

    def killed(cell: Cell) -> int:
        kills[cell] = kills.get(cell, 0) - 1
        return -9 if kills[cell] >= 0 else 0

    monkeypatch.setattr(Fake, "fails", staticmethod(killed))
    outcome = done(Grid(located))
    assert [(each.cell, each.reason) for each in outcome.failures] == [
        (Cell("short", 1), "its process was killed by signal 9")
    ]
    assert Cell("full", 0) in outcome.done


def test_a_study_killed_at_any_moment_goes_on_and_does_nothing_twice(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Fake, "seconds", 0.01)
    chance = random.Random(0)
    kills = 0
    for _ in range(10 * KILLS):
        child = os.fork()
        if not child:
            try:
                done(Grid(located), jobs=2)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        # A real command leaves nothing half made under its last name, as this one does.
        for pattern, last in (("runs/*/*", "run.json"), ("*/**/evals/*", "eval.json")):
            for path in artifacts_root().glob(pattern):
                if not (path / last).is_file():
                    shutil.rmtree(path)
        if kills == KILLS:
            break
    outcome = done(Grid(located), jobs=2)
    grid = Grid(located)
    assert not outcome.failures
    assert {grid.state(cell) for cell in grid.cells()} == {"there"}
    assert all(took.code == 0 for took in read_times(grid))
    assert kills


def test_states_are_read_off_the_disk(located: Located):
    grid = Grid(located)
    cell = Cell("full", 0)
    assert grid.state(cell) == "missing"
    directory = grid.run_directory("full", 0)
    assert directory is not None
    step = directory.with_name(f"{directory.name}.unfinished") / "checkpoints" / "step-2"
    step.mkdir(parents=True)
    assert grid.state(cell) == "missing"
    (step / "complete.json").touch()
    assert (grid.state(cell), grid.steps_done(cell)) == ("unfinished", 2)
    assert grid.command(cell)[-1] == "--resume"
    train(grid, cell)
    assert grid.state(cell) == "there"
    answered = Cell("full", 0, "demo")
    assert grid.state(answered) == "missing"
    evaluation = grid.evaluation(answered)
    assert evaluation is not None
    evaluation.parent.mkdir()
    partial = evaluation.with_name(f".{evaluation.name}.partial.jsonl")
    partial.touch()
    assert grid.state(answered) == "unfinished"
    partial.unlink()
    evaluate(grid, answered)
    assert grid.state(answered) == "there"


def test_an_evaluation_whose_base_model_did_not_answer_is_not_done(located: Located):
    grid = Grid(located)
    train(grid, Cell("full", 0))
    evaluate(grid, Cell("full", 0, "demo"))
    for path in artifacts_root().glob("bases/*/evals/*/eval.json"):
        path.unlink()
    assert Grid(located).state(Cell("full", 0, "demo")) == "unfinished"


def test_where_the_base_model_alone_did_not_answer_one_cell_makes_good_for_all(located: Located):
    grid = Grid(located)
    for seed in (0, 1):
        train(grid, Cell("full", seed))
        evaluate(grid, Cell("full", seed, "demo"))
    for path in artifacts_root().glob("bases/*/evals/*"):
        shutil.rmtree(path)
    cells = [Cell("full", seed, "demo") for seed in (0, 1)]
    do_cells(Grid(located), [*cells, *(Cell("full", seed) for seed in (0, 1))], 1)
    assert [cell for what, cell in Fake.told if what == "begin"] == cells[:1]


def test_a_study_that_was_changed_since_its_variants_were_built_is_not_trained(
    located: Located, tmp_path: Path
):
    (tmp_path / "study.toml").write_text(
        STUDY.replace("[builds.sample]", "[builds.sample]\nheld_out = 0.2")
    )
    changed = load_study(str(tmp_path / "study.toml"))
    with pytest.raises(experiment.InputError, match="3 variants of the study are not built"):
        experiment.train(changed, 1, lambda line: None)


def test_what_was_aimed_at_is_written_down_before_the_first_run_and_stays(
    located: Located, tmp_path: Path
):
    experiment.stated_first(located)
    (tmp_path / "study.toml").write_text(f"margins = {{violation = 0.2}}\n{STUDY}")
    later = load_study(str(tmp_path / "study.toml"))
    assert experiment.stated_first(later).margins == {}


def test_controls_stand_right_after_what_they_control(located: Located):
    _, manifest = find_variant("full")
    _, other = find_variant("short")
    other = msgspec.structs.replace(other, recipe={"title": "short"})
    control = msgspec.structs.replace(
        manifest, recipe={"control": {"of": "full", "match": "rows", "recipe": manifest.recipe}}
    )
    manifests = {"full": manifest, "short": other, "flipped": None, "random": control}
    order = experiment.beside_targets(["full", "short", "flipped", "random"], manifests)
    assert order == ["full", "random", "short", "flipped"]


def test_a_place_that_goes_wrong_ends_the_others_and_is_told(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    told_of = []
    monkeypatch.setattr(threading, "excepthook", lambda what: told_of.append(what.exc_value))
    monkeypatch.setattr(Fake, "kill", lambda self: None, raising=False)
    monkeypatch.setattr(Fake, "fails", staticmethod(lambda cell: 1 / 0))
    with pytest.raises(RuntimeError, match="a place could not go on"):
        done(Grid(located), jobs=2)
    assert any(isinstance(error, ZeroDivisionError) for error in told_of)


def test_an_arm_that_is_added_leaves_built_what_was(located: Located, tmp_path: Path):
    more = '\n[arms.again]\nvariant = "full"\npreset = "smollm2"\n'
    (tmp_path / "study.toml").write_text(STUDY + more)
    grid = Grid(load_study(str(tmp_path / "study.toml")))
    assert [arm for arm, manifest in grid.manifests.items() if manifest is None] == ["again"]
    other = STUDY.replace("[arms.full]", '[arms.full]\nvariant = "capped"')
    (tmp_path / "study.toml").write_text(other)
    grid = Grid(load_study(str(tmp_path / "study.toml")))
    assert [arm for arm, manifest in grid.manifests.items() if manifest is None] == ["full"]


def test_a_dry_run_shows_every_cell_with_its_state_and_what_it_will_take(
    located: Located, monkeypatch: pytest.MonkeyPatch
):
    grid = Grid(located)
    experiment.stated_first(located)
    took = workers.Time(
        cell=Cell("full", 1), started="2026-01-01", seconds=75.0, place="CPU", code=0
    )
    failed = msgspec.structs.replace(took, seconds=9000.0, code=1)
    lines = b"".join(msgspec.json.encode(each) + b"\n" for each in (took, failed))
    (located.home / "times.jsonl").write_bytes(lines + b'{"cell": to')  # torn by a kill
    train(grid, Cell("short", 0))
    monkeypatch.setattr(forecast, "_needed", lambda grid, arm: (620.0, 3e9))
    shown = drawn(forecast.cells_table(grid, 2), 80).splitlines()
    rows = [line.split() for line in shown]
    assert ["full", "0", "train", "missing", "1", "min", "15", "s", "3.0", "GB"] in rows
    assert ["short", "0", "train", "there"] in rows
    assert ["flipped", "0", "train", "missing", "T4:", "10", "min", "20", "s", "3.0", "GB"] in rows
    assert rows.count(["demo", "missing", "–", "–"]) == 6
    assert "11 cells are to be done" in shown
    assert "2 at once on a card want up to 6.0 GB of it" in shown
