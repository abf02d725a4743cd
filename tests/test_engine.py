"""Whoever reads the shards of a file, and however it is cut, the tables are the same."""

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from builders import lines, nested, prompt, reply, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real
from test_threads import forests, relaxed

from dataset_builder.__main__ import app
from dataset_builder.artifacts import BUILDING
from dataset_builder.command_line import run
from dataset_builder.engine import LOCAL_WORKERS, Timing, Workers, read_exports, write_part
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.hub import Source
from dataset_builder.threads import make_tables
from tests.warm import DATASET_BUILDER

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "dataset_builder" / "sample" / "forest.trees.jsonl"
HERE = Workers(1, lambda jobs: map(write_part, jobs))


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch):
    folder = tmp_path / "artifacts"
    monkeypatch.setenv("ARTIFACTS", str(folder))
    return folder


def by_workers(paths, workers=HERE, size=1 << 20):
    exports, timing = read_exports([Source(path, None) for path in paths], workers, size=size)
    return make_tables(exports, 0.1), timing


def by_one(paths):
    return make_tables([read_export(path) for path in paths], 0.1)


def assert_same(ours, theirs):
    assert ours.sources == theirs.sources
    assert ours.messages.equals(theirs.messages)
    assert ours.rejects.equals(theirs.rejects)


@settings(relaxed, max_examples=8)
@given(forests(), st.integers(400, 4000), st.booleans())
def test_a_file_cut_anywhere_makes_the_tables_of_the_whole(tmp_path, rows, size, is_flat):
    if not is_flat:  # what hangs on nothing is in no tree
        known = {None}
        for row in rows:
            known |= {row["message_id"]} if row["parent_id"] in known else set()
        rows = [row for row in rows if row["message_id"] in known] or [prompt("a")]
    path = tmp_path / "one.jsonl"
    # A line that cannot be read, blank ones and one without an end: their places are told too.
    path.write_bytes(
        lines(rows if is_flat else nested(rows)) + b"\n{broken\n\r\n" + lines(rows[:1]).rstrip()
    )
    ours, timing = by_workers([path], size=size)
    assert_same(ours, by_one([path]))
    assert timing.shards == -(-path.stat().st_size // size)


def test_files_of_every_form_are_read_by_processes_as_by_one(tmp_path):
    rows = [prompt("a"), reply("b", "a", rank=0), reply("c", "a", rank=1), {"thread_id": "x"}]
    names = ("one.jsonl.gz", "two.jsonl.zst", "three.jsonl")
    paths = [SAMPLE, *(write(tmp_path / name, rows) for name in names)]
    paths.append(write(tmp_path / "four.parquet", rows[:3]))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        workers = Workers(2, lambda jobs: pool.map(write_part, jobs))
        ours, timing = by_workers(paths, workers, size=60_000)
    assert_same(ours, by_one(paths))
    assert timing.shards == 4 + -(-SAMPLE.stat().st_size // 60_000)


def test_on_the_real_files_the_digest_is_that_of_one_process():
    names = ("oasst1_en_validation.messages", "laion_en_100.trees", "oasst2_animals.trees")
    paths = [real(f"oasst/{name}.jsonl") for name in names]
    ours, timing = by_workers(paths, size=1 << 19)
    assert ours.sources.digest == by_one(paths).sources.digest
    assert timing.shards > 10


@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b\x08not gzip"])
def test_a_file_that_cannot_be_read_is_the_error_it_is_without_workers(
    tmp_path, monkeypatch, artifacts, content
):
    monkeypatch.chdir(tmp_path)
    path = Path("mine.jsonl.gz" if content else "mine.jsonl")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as alone:
        read_export(path)
    with pytest.raises(InputError) as error:
        by_workers([SAMPLE, path])
    assert (str(error.value), error.value.hint) == (str(alone.value), alone.value.hint)
    assert not artifacts.exists()


def test_what_workers_write_is_gone_after_it_was_read_and_a_dead_drivers_too(artifacts):
    dead = artifacts / "tables" / f"{BUILDING}2147483647-parts"
    dead.mkdir(parents=True)
    by_workers([SAMPLE])
    assert list((artifacts / "tables").iterdir()) == []


def test_efficiency_is_the_time_of_one_over_the_workers_times_their_time():
    timing = Timing(workers=2, shards=8, seconds=5.0, work=8.0)
    assert timing.efficiency() == 0.8
    assert timing.efficiency(alone=5.0) == 0.65
    assert "efficiency 80%; with 5.0 s of merging" in timing.told(5.0)
    assert Timing(1, 1, 0.0, 0.0).efficiency() == 0


def test_an_engine_that_is_not_there_is_an_input_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for engine, error, hint in (
        ("ray", "`--engine ray` without Ray", "type `uv pip install ray`"),
        ("rya", 'invalid value "rya" for --engine', "did you mean `ray`?"),
        ("spark", 'invalid value "spark" for --engine', 'choose from: "local", "ray"'),
    ):
        with pytest.raises(SystemExit) as ended:
            run(app, ["build", "full", "--source", str(SAMPLE), "--engine", engine])
        assert ended.value.code == 2
        told = capsys.readouterr().err.splitlines()
        assert told == [f"error: {error}", f"hint: {hint}"]


def test_two_workers_of_ray_write_the_bytes_that_one_process_writes(tmp_path, data_process):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: uv pip install ray")
    other = write(tmp_path / "other.jsonl.gz", [prompt("a"), reply("b", "a", words=9)])
    arguments = ["build", "capped", "--source", SAMPLE, "--source", other, "--engine"]
    local = data_process.start(
        DATASET_BUILDER, *arguments, "local", ARTIFACTS=str(tmp_path / "local")
    )
    done = subprocess.run(
        [sys.executable, "-m", "dataset_builder", *arguments, "ray"],
        cwd=ROOT,
        env={**os.environ, "ARTIFACTS": str(tmp_path / "ray"), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert local.wait() == 0, local.said()
    if "timed out during startup" in done.stderr:
        pytest.skip("Ray did not start in its time; this machine is too busy for it")
    assert done.returncode == 0, done.stderr
    written = {}
    for engine in ("local", "ray"):
        folder = tmp_path / engine
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written[engine] = {path.relative_to(folder): path.read_bytes() for path in files}
    assert len(written["local"]) >= 10
    assert written["ray"] == written["local"]
    found = re.search(r"(\d+) workers read 2 shards in .* efficiency (\d+)%; with", done.stderr)
    assert found
    assert int(found[1]) == LOCAL_WORKERS
