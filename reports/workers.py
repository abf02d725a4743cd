"""Cells spread over the GPUs at hand: a process for each place, which does one cell after another.

A place is a share of a GPU, or of the CPU where there is none. What fails, or is killed, costs its
own cell and what waits for it, and nothing else.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dataset_builder.json_lines import as_line
from reports.cells import Cell, Grid, blocked, first_ready

# A process that was killed is started again, and its cell goes on, so many times.
KILLS = 1
# What a cell's log says last of a failure begins so.
_ERROR = "error: "


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """A line of times.jsonl: one cell, done or failed."""

    cell: Cell
    started: str  # ISO 8601, UTC
    seconds: float  # from its being asked for to its end, the process's start included
    place: str  # the GPU, or the CPU
    code: int  # of its command; below 0 the signal that killed it


class Failure(msgspec.Struct, frozen=True):
    """A cell that came to nothing."""

    cell: Cell
    reason: str  # the last error of its log
    log: Path


class Outcome(msgspec.Struct, frozen=True):
    """What came of the cells that were to be done."""

    done: list[Cell]
    failures: list[Failure]
    waiting: list[Cell]  # never begun, since what they need failed


def gpus_here() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them; none on a CPU.

    Asked in a process of its own: reports import without torch.
    """
    code = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    known = [name.strip() for name in named.split(",") if name.strip()]
    count = int(asked.stdout.split()[-1])
    return known[:count] if known else [str(n) for n in range(count)]


def do_cells(
    grid: Grid, cells: Sequence[Cell], jobs: int, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Do the cells that are not there yet, `jobs` at once on each GPU; `say` gets a line for each
    that begins or ends.
    """
    places = [gpu for gpu in gpus_here() or [""] for _ in range(jobs)]
    board = _Board(grid, cells, say)
    threads = [threading.Thread(target=_work, args=(board, place, places)) for place in places]
    for thread in threads:
        thread.start()
    try:
        # By moments: a wait without an end was seen to sleep through Ctrl-C.
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(timeout=0.2)
    except KeyboardInterrupt:
        board.stop()
        raise
    if board.is_stopped:
        raise RuntimeError("a place could not go on; what it met stands above")
    return board.outcome()


class _Board:
    """What is left, under way, done and failed, for all places."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
        self.grid, self.say = grid, say
        self.done = {cell for cell in cells if grid.state(cell) == "there"}
        self.left = [cell for cell in cells if cell not in self.done]
        self.made: list[Cell] = []
        self.running: list[Cell] = []
        self.failures: list[Failure] = []
        self.changed = threading.Condition()
        self.is_stopped = False
        self.workers: set[_Worker] = set()
        (grid.located.home / "logs").mkdir(parents=True, exist_ok=True)

    def take(self) -> Cell | None:
        """The next cell, waited for where others have to be done before; None where none is left
        that could be done.
        """
        with self.changed:
            while not self.is_stopped:
                cell = first_ready(self.grid, self.left, self.done, self.running)
                if cell is None and not self.running:
                    return None
                if cell is not None:
                    self.left.remove(cell)
                    if self.grid.state(cell) == "there":  # made with another, as the base's answers
                        self.done.add(cell)
                        continue
                    self.running.append(cell)
                    return cell
                self.changed.wait()
            return None

    def end(self, cell: Cell, took: Time, at: int) -> None:
        """Write down how a cell ended, whose log begins at the byte `at`."""
        log = log_of(self.grid, cell)
        with self.changed:
            self.running.remove(cell)
            with (self.grid.located.home / "times.jsonl").open("ab") as file:
                file.write(as_line(took))
            if took.code == 0:
                self.done.add(cell)
                self.made.append(cell)
                n = f"{len(self.left) + len(self.running)} left"
                self.say(f"{cell.name}: done in {took.seconds:.0f} s, {n}")
            else:
                reason = _last_error(log, at, took.code)
                self.failures.append(Failure(cell, reason, log))
                self.say(f"{cell.name}: failed: {reason}")
            self.changed.notify_all()

    def stop(self) -> None:
        """Let no place begin anything more, and end what is under way: it can be gone on with."""
        with self.changed:
            self.is_stopped = True
            for worker in self.workers:
                worker.process.kill()
            self.changed.notify_all()

    def outcome(self) -> Outcome:
        failed = {failure.cell for failure in self.failures}
        return Outcome(self.made, self.failures, blocked(self.grid, self.left, failed))


class _Worker:
    """A process that does commands for one place."""

    def __init__(self, board: _Board, place: str, places: Sequence[str]) -> None:
        cores = max(1, (os.cpu_count() or 1) // len(places))
        environment = {"OMP_NUM_THREADS": str(cores)} | os.environ
        environment |= {"CUDA_VISIBLE_DEVICES": place} if place else {}
        self.board = board
        self.process = start(environment)
        with board.changed:
            board.workers.add(self)

    def do(self, command: Sequence[str], log: Path) -> int:
        """The command's exit code; below 0 the signal that killed the process."""
        assert self.process.stdin
        assert self.process.stdout
        asked = {"package": command[0], "arguments": [*command[1:]], "log": str(log)}
        try:
            self.process.stdin.write(json.dumps(asked).encode() + b"\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        return int(json.loads(answer)["code"]) if answer else self.process.wait() or 1

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin
        assert self.process.stdout
        with self.board.changed:
            self.board.workers.discard(self)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that does commands, see evals.worker."""
    return subprocess.Popen(
        [sys.executable, "-m", "evals.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the one who started it to hear
    )


def log_of(grid: Grid, cell: Cell) -> Path:
    """Where what a cell's command says is kept."""
    return grid.located.home / "logs" / f"{cell.name.replace(' ', '-')}.log"


def _work(board: _Board, place: str, places: Sequence[str]) -> None:
    """Do cells at one place until none is left for it."""
    worker: _Worker | None = None
    is_whole = False
    try:
        while (cell := board.take()) is not None:
            began, started = time.perf_counter(), datetime.now(UTC)
            board.say(f"{cell.name}: begins" + (f" on GPU {place}" if place else ""))
            log = log_of(board.grid, cell)
            at = log.stat().st_size if log.is_file() else 0
            for _ in range(KILLS + 1):
                worker = worker or _Worker(board, place, places)
                code = worker.do(board.grid.command(cell), log)
                if code:  # it has ended, or is about to
                    worker.close()
                    worker = None
                if code >= 0 or board.is_stopped:
                    break
            if board.is_stopped:  # it did not fail: it goes on another time
                break
            took = Time(
                cell=cell,
                started=started.isoformat(timespec="seconds"),
                seconds=round(time.perf_counter() - began, 1),
                place=f"GPU {place}" if place else "CPU",
                code=code,
            )
            board.end(cell, took, at)
        is_whole = True
    finally:
        if not is_whole:  # our bug, which the thread tells with its traceback
            board.stop()
        if worker is not None:
            worker.close()


def _last_error(log: Path, at: int, code: int) -> str:
    """The last thing that a log says of a failure after the byte `at`, in one line."""
    if code < 0:
        return f"its process was killed by signal {-code}"
    text = log.read_bytes()[at:].decode("utf-8", "replace") if log.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (said or lines or [f"exit code {code}"])[-1]
