"""Reading over several processes or hosts: each shard of an export becomes a Parquet file.

The one function that is mapped is pure: a path and a byte range in, a file and its counts out.
What needs every message (merging, refusing, threads) stays in one process, so that the tables are
those of a build without workers, byte for byte. Ray does the scheduling; hosts share a folder.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from dataset_builder.artifacts import BUILDING, artifacts_root, sweep
from dataset_builder.errors import InputError
from dataset_builder.export import Export, export_of
from dataset_builder.hub import Source
from dataset_builder.rows import Form, Refusal
from dataset_builder.shards import Part, Shard, joined, read_shard, reading, shards_of

# Where no cluster is named; more would read no faster on the machines this is tested on.
LOCAL_WORKERS = 2

# Bytes a worker reads at a time: enough that a task's own cost does not show, few enough that all
# workers end together.
SHARD = 8 << 20


class Job(NamedTuple):
    """What a worker is asked for: to read a shard into a new file."""

    shard: Shard
    out: str


class Written(NamedTuple):
    """What a worker gives back: a `Part` whose messages lie in a file, and what it took."""

    out: str
    refusals: list[Refusal]
    rows: int
    lines: int
    form: Form
    seconds: float  # of CPU


class Failed(NamedTuple):
    """An InputError as values, since an exception comes back from a worker as another one."""

    message: str
    hint: str | None


class Workers(NamedTuple):
    """How many there are, and how jobs are done by them: results in the order of the jobs."""

    n: int
    each: Callable[[Sequence[Job]], Iterator[Written | Failed]]


class Timing(NamedTuple):
    """What reading over workers took."""

    workers: int
    shards: int
    seconds: float  # from the first job to the last result
    work: float  # CPU seconds of all jobs: what one process would need

    def efficiency(self, alone: float = 0.0) -> float:
        """The time of one process over `workers` times the time that was taken; with `alone`
        seconds of work that no worker shares, where they follow the reading.
        """
        return (self.work + alone) / (self.workers * (self.seconds + alone) or 1)

    def told(self, alone: float) -> str:
        """The efficiency of the reading, and of it with the `alone` seconds of merging after it."""
        return (
            f"{self.workers} workers read {self.shards:,} shards in {self.seconds:.1f} s, "
            f"{self.work:.1f} s of work for one process: efficiency {self.efficiency():.0%}; "
            f"with {alone:.1f} s of merging and threads, which one process does, "
            f"{self.efficiency(alone):.0%}"
        )


def write_part(job: Job) -> Written | Failed:
    """Reads a shard into the Parquet file `job.out`, which appears whole or not at all."""
    began = time.process_time()
    try:
        part = read_shard(job.shard)
    except InputError as error:
        return Failed(str(error), error.hint)
    temporary = f"{job.out}.{os.getpid()}.tmp"
    pq.write_table(part.met, temporary, compression="lz4")
    os.replace(temporary, job.out)
    seconds = time.process_time() - began
    return Written(job.out, part.refusals, part.rows, part.lines, part.form, seconds)


def read_exports(
    sources: Sequence[Source],
    workers: Workers,
    report: Callable[[str], object] = lambda told: None,
    size: int = SHARD,
) -> tuple[Iterator[Export], Timing]:
    """The exports that `read_export` makes of `sources`, their shards read by `workers`; once, so
    that who takes them may let them go.

    Raises InputError where a file cannot be read or holds no rows.
    """
    with _scratch() as folder:
        jobs: list[Job] = []
        owners: list[int] = []
        for place, source in enumerate(sources):
            for shard in shards_of(source.path, size):
                # Absolute: a worker has a working directory of its own.
                asked = shard._replace(path=str(source.path.absolute()))
                jobs.append(Job(asked, str(folder / f"{place}-{len(jobs)}.parquet")))
                owners.append(place)
        began = time.perf_counter()
        parts: list[list[Part]] = [[] for _ in sources]
        work = 0.0
        for n, (owner, done) in enumerate(zip(owners, workers.each(jobs), strict=True), start=1):
            if isinstance(done, Failed):
                path = sources[owner].path
                raise InputError(done.message.replace(str(path.absolute()), str(path)), done.hint)
            work += done.seconds
            met = pq.read_table(done.out)
            parts[owner].append(Part(met, done.refusals, done.rows, done.lines, done.form))
            report(f"{n:,} of {len(jobs):,} shards read")
        timing = Timing(workers.n, len(jobs), time.perf_counter() - began, work)
    exports = []
    for source, its_parts in zip(sources, parts, strict=True):
        with reading(source.path):
            part = joined(its_parts)
        exports.append(export_of(source.path, source.name, part))
    return iter(exports), timing


@contextmanager
def ray_workers() -> Iterator[Workers]:
    """The workers of the cluster that RAY_ADDRESS names; without it, two on this machine.

    Raises InputError where Ray is not installed or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing calls home
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # on a crowded machine
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("`--engine ray` without Ray", "type `uv pip install ray`") from error
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=LOCAL_WORKERS, include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster at `{address}`, which RAY_ADDRESS names",
            "start one with `ray start --head`, or unset RAY_ADDRESS",
        ) from error
    try:
        task = ray.remote(write_part)

        def each(jobs: Sequence[Job]) -> Iterator[Written | Failed]:
            for result in [task.remote(job) for job in jobs]:
                yield ray.get(result)

        yield Workers(int(ray.cluster_resources().get("CPU", 1)), each)
    finally:
        ray.shutdown()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder below the artefacts, where other hosts see it; gone when the block ends.

    What a killed driver left is swept by the next one, as with everything that is being built.
    """
    parent = artifacts_root().absolute() / "tables"
    new = [folder for folder in (parent, parent.parent) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = parent / f"{BUILDING}{os.getpid()}-parts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in new:  # a dry run leaves nothing
            if not any(each.iterdir()):
                each.rmdir()
