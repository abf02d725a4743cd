"""Processes that begin where another interpreter is once it has imported the large libraries.

A test that kills what it started needs a process of its own, and importing what training imports
takes ten seconds of CPU. Here one process has done so for all tests, those of other workers too; it
does nothing else, and is forked for each. Where all tests run, it is itself forked off a worker
that has imported no more yet.
"""

import fcntl
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 300  # that the libraries, or what a test started, may take on a busy machine

# It is asked a line at a time: what to start, or how that ended.
SERVER = """
import gc, importlib, json, os, signal, socket, sys, traceback

place, owner, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
for name in names:
    importlib.import_module(name)
gc.collect()
gc.freeze()  # a million objects, none of them garbage, which every child would look through


def look(*_):
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        os._exit(0)


def begin(asked):
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    for stream in (1, 2):
        out = os.open(f"{asked['out']}-{stream}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(out, stream)
    sys.argv = ["-c", *asked["arguments"]]
    try:
        exec(compile(asked["code"], "<test>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


listener = socket.socket(socket.AF_UNIX)
os.chdir(place)  # whose path may be longer than an address
listener.bind("socket")
listener.listen()
signal.signal(signal.SIGALRM, look)
signal.setitimer(signal.ITIMER_REAL, 1, 1)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, connection.makefile("rw") as line:
        asked = json.loads(line.readline())
        if "code" in asked:
            answer = os.fork()
            if not answer:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                listener.close()
                os.setpgid(0, 0)
                begin(asked)
            os.setpgid(answer, answer)  # here too, as it may be killed before it did so
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["child"], 0)[1])
        print(json.dumps(answer), file=line, flush=True)
"""


# `python -m dataset_builder`, where its modules are there but `__main__`.
DATASET_BUILDER = "import runpy; runpy.run_module('dataset_builder', run_name='__main__')"

FINETUNE = DATASET_BUILDER.replace("dataset_builder", "finetune")
EVALS = DATASET_BUILDER.replace("dataset_builder", "evals")
REPORTS = DATASET_BUILDER.replace("dataset_builder", "reports")

# What building variants imports, and what training does.
DATA = [f"dataset_builder.{file.stem}" for file in (ROOT / "dataset_builder").glob("[!_]*.py")]
TRAINING = [
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.sft_trainer",
    "peft",
    "bitsandbytes",
    "datasets",
    "pyarrow.parquet",
]
# And what commands import beside that.
_COURSE = ["course", "previews", "recorder", "oom", "peak", "trainer", "reference"]
_COURSE += ["group_trainer", "pair_trainer", "reward_trainer"]
_EVALUATION = ["evaluation", "generate", "scoring", "relevance", "compare"]
_REPORTS = ["html", "findings", "terminal", "export", "card", "listing"]
COURSE = [*TRAINING, *(f"finetune.{name}" for name in _COURSE)]
ALL = [
    *DATA,
    *COURSE,
    *(f"evals.{name}" for name in _EVALUATION),
    *(f"reports.{name}" for name in _REPORTS),
]


class Warm:
    """The process that is forked."""

    def __init__(
        self,
        place: Path,
        owner: int,
        names: Sequence[str],
        *,
        forked: bool = False,
        **environment: str,
    ) -> None:
        self.place, self.environment = place, environment
        place.mkdir(exist_ok=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "socket").exists():
                (self._fork if forked else self._begin)(owner, names)

    def _fork(self, owner: int, names: Sequence[str]) -> None:
        for name in names:
            importlib.import_module(name)
        ours, theirs = os.pipe()
        if os.fork() == 0:
            try:
                os.dup2(theirs, 1)
                os.dup2(os.open(self.place / "errors", os.O_WRONLY | os.O_CREAT), 2)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # by which the worker talks to pytest
                sys.stdout, sys.stderr = (os.fdopen(stream, "w") for stream in (1, 2))
                sys.argv = ["-c", str(self.place), str(owner), *names]
                exec(compile(SERVER, "<server>", "exec"), {"__name__": "__main__"})
            finally:
                os._exit(1)
        os.close(theirs)
        with os.fdopen(ours) as said:
            assert said.readline() == "ready\n", (self.place / "errors").read_text()[-2000:]

    def _begin(self, owner: int, names: Sequence[str]) -> None:
        command = [sys.executable, "-c", SERVER, str(self.place), str(owner), *names]
        with (self.place / "errors").open("w") as errors:
            server = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert server.stdout is not None
        with server.stdout:
            said = server.stdout.readline()
        assert said == "ready\n", (self.place / "errors").read_text()[-2000:]
        server.returncode = 0  # it outlives this process, and nobody waits for it

    def start(
        self, code: str, *arguments: object, folder: Path = ROOT, **environment: str
    ) -> "Started":
        """Run Python code in a process of its own: in this environment, and with `environment`."""
        out = self.place / f"{os.getpid()}-{time.monotonic_ns()}"
        asked = {
            "code": code,
            "arguments": [str(each) for each in arguments],
            "environment": os.environ | environment,
            "folder": str(folder),
            "out": str(out),
        }
        return Started(self, self.ask(asked), out)

    def ask(self, asked: dict) -> int:
        """The answer to one line."""
        with socket.socket(socket.AF_UNIX) as connection:
            at = os.open(self.place, os.O_RDONLY)
            try:
                connection.connect(f"/proc/self/fd/{at}/socket")
            finally:
                os.close(at)
            with connection.makefile("rw") as line:
                print(json.dumps(asked), file=line, flush=True)
                return json.loads(line.readline())


class Started:
    """A process that was forked off."""

    def __init__(self, warm: Warm, process: int, out: Path) -> None:
        self.warm, self.process, self.out = warm, process, out

    def is_running(self, seconds: float = 0) -> bool:
        """Whether it still runs, after so many seconds at most."""
        ended = os.pidfd_open(self.process)
        try:
            return not select.select([ended], [], [], seconds)[0]
        finally:
            os.close(ended)

    def kill(self) -> None:
        """End it, wherever it is."""
        os.kill(self.process, signal.SIGKILL)

    def kill_all(self) -> None:
        """End it and what it started."""
        os.killpg(self.process, signal.SIGKILL)

    def wait(self) -> int:
        """How it ended: its exit code, or less than 0 for the signal that ended it."""
        if self.is_running(SECONDS):
            self.kill()
            raise AssertionError(f"it goes on after {SECONDS} s; it said: {self.said()}")
        return self.warm.ask({"child": self.process})

    def printed(self) -> str:
        """What it wrote on stdout."""
        return Path(f"{self.out}-1").read_text(encoding="utf-8")

    def said(self) -> str:
        """What it wrote on stderr."""
        return Path(f"{self.out}-2").read_text(encoding="utf-8")


def fork_early(config: pytest.Config) -> None:
    """The process for training, off the first of several workers that run all tests, which imports
    the same anyway.
    """
    worker = getattr(config, "workerinput", {"workerid": ""})["workerid"]
    if worker == "gw0" and all(Path(place).is_dir() for place in config.args):
        place = Path(config.option.basetemp).parent / "warm-training"
        Warm(place, os.getppid(), TRAINING, forked=True)


def warm(session: pytest.TempPathFactory, config: pytest.Config, name: str, *names: str) -> Warm:
    """A process that has imported `names`, the same one for all workers."""
    place, owner = session.getbasetemp(), os.getpid()
    if hasattr(config, "workerinput"):
        place, owner = place.parent, os.getppid()
    return Warm(place / f"warm-{name}", owner, names)
