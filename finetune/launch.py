"""One run, or one evaluation, on several GPUs: a process each.

Of a run they make the same steps over the same examples, dealt out.

A step's micro-batches go round: process 0 takes the first, process 1 the second, and so on. Each
loss is divided by the trained tokens of the whole step, so gradients are those of one process. The
first process alone writes.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dataset_builder.errors import InputError
from finetune.preset import Training

Value = TypeVar("Value")

# The others wait while the first answers previews, measures the validation loss, writes.
_PATIENCE = timedelta(hours=4)
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


class Hosts(NamedTuple):
    """The machines that train together."""

    machines: int = 1
    machine: int = 0  # this one's place
    address: str = ""  # HOST:PORT of machine 0, free there


_ALONE = Hosts()


def is_launched() -> bool:
    """Whether this process is one of several that `launch` started."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """This process's place among all."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0


def processes() -> int:
    """How many train this run together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_launched() else 1


def is_first() -> bool:
    """Whether this process writes."""
    return rank() == 0


def dealt(training: Training, among: int) -> int:
    """Examples per forward pass where `among` processes share a batch.

    The preset's `micro_batch`, or less where a process's share is no multiple of it. Raises
    InputError where a batch cannot be shared out.
    """
    if training.batch % among:
        fitting = [n for n in range(1, training.batch + 1) if training.batch % n == 0]
        raise InputError(
            f"a batch of {training.batch} cannot be dealt out to {among} processes",
            f"choose one of {', '.join(map(str, fitting))}, or another `batch` in the preset",
        )
    share = training.batch // among
    return max(n for n in range(1, training.micro_batch + 1) if share % n == 0)


def check_places(gpus: int, hosts: Hosts) -> None:
    """Raise InputError where `gpus` a machine on such machines are no processes at all."""
    if gpus < 1 or hosts.machines < 1 or not 0 <= hosts.machine < hosts.machines:
        raise InputError(
            f"--gpus {gpus} --machines {hosts.machines} --machine {hosts.machine}: no such place",
            "--gpus and --machines begin at 1; --machine at 0, on the first machine",
        )


def check_gpus(gpus: int, hosts: Hosts) -> None:
    """Raise InputError where so many GPUs are not there, or the other machines are not named.

    Without any GPU the processes share the CPU.
    """
    import torch

    check_places(gpus, hosts)
    visible = torch.cuda.device_count()
    if 0 < visible < gpus:
        raise InputError(
            f"{gpus} GPUs were asked for, {visible} are visible",
            f"`--gpus {visible}`, or another CUDA_VISIBLE_DEVICES",
        )
    if hosts.machines > 1 and not hosts.address:
        raise InputError(
            f"{hosts.machines} machines cannot find one another",
            "add `--address HOST:PORT` of machine 0, the same on each",
        )


def launch(
    arguments: Sequence[str], gpus: int, hosts: Hosts = _ALONE, program: str = "finetune"
) -> int:
    """Run `python -m PROGRAM ARGUMENTS` in `gpus` processes; the exit code of the first that
    failed, or 0.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What a process says of its own failure is enough.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    several = hosts.machines > 1
    config = LaunchConfig(
        min_nodes=hosts.machines,
        max_nodes=hosts.machines,
        nproc_per_node=gpus,
        run_id="treetune" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=hosts.address if several else "localhost:0",
        rdzv_configs={"rank": hosts.machine, "timeout": 900} if several else {},
        local_addr=None if several else "localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", program, *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def join() -> None:
    """Make this process one of its group; it ends when what launched it is killed."""
    import torch
    from accelerate import PartialState

    die_with_parent()
    PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


@contextmanager
def first_before_others() -> Iterator[None]:
    """The block runs in the first process, and in the others when it is through."""
    if processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def of_first(make: Callable[[], Value]) -> Value:
    """What `make` gives in the first process, which alone calls it, for all of them."""
    if processes() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    shared: list[Any] = [make() if is_first() else None]
    broadcast_object_list(shared)
    made: Value = shared[0]
    return made


def of_all(value: Value) -> list[Value]:
    """What each process brings, by rank: every process gets them all."""
    if processes() == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[Value] = gather_object([value])
    return found


def own_share(values: Sequence[Value]) -> Sequence[Value]:
    """Those that are this process's, dealt out in turn: the shares of all make the whole."""
    return values[rank() :: processes()]


def check_shared(folder: Path) -> None:
    """Raise InputError, in every process, where one of them does not see `folder` as the first one
    does: checkpoints are written by the first and read by all.
    """
    mark = of_first(lambda: _marked(folder))
    wait()
    blind = [rank for rank, sees in enumerate(of_all(mark.name in _names(folder))) if not sees]
    if is_first():
        mark.unlink()
    if blind:
        raise InputError(
            f"{folder.absolute()}: {len(blind)} of {processes()} processes do not see what the"
            f" first one writes there, among them process {blind[0]}",
            "machines that train together share the artefacts: let ARTIFACTS name a folder that"
            " all of them mount",
        )


def _marked(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    return mark


def _names(folder: Path) -> set[str]:
    """What lies in the folder; listing it makes a network's disk look anew."""
    return set(os.listdir(folder)) if folder.is_dir() else set()


def die_with_parent(parent: int | None = None) -> None:
    """Let this process be killed when the one that made it ends; at once where that has ended
    already, which is known where its pid, `parent`, is.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if parent not in (None, os.getppid()):
        os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    """Wait for all the others."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def leave() -> None:
    """Leave the group."""
    if processes() > 1:
        from accelerate import PartialState

        with contextlib.suppress(ValueError):  # there was no group yet
            PartialState().destroy_process_group()
