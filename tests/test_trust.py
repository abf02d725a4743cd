"""What a person may rely on: the same bytes everywhere, a kill that loses nothing, and the words of
the conversations themselves."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from dataset_builder.export import read_export
from dataset_builder.manifest import find_variant
from dataset_builder.threads import make_tables
from tests.builds import (
    MANY,
    RECIPES,
    assert_whole,
    build,
    files_of,
    foreign_recipe,
    halves,
    locales,
)
from tests.real import real
from tests.warm import DATASET_BUILDER, ROOT, Warm

BUILDS = 20  # more of them: just campaign same


# No file may be longer: what a full disk does, without filling one.
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14)); "
LIMITED += DATASET_BUILDER


def test_every_build_of_the_same_sources_is_the_same_bytes(tmp_path: Path):
    sources = [str(path) for path in halves(tmp_path, trees=26)]
    (tmp_path / "locales").mkdir()
    known = locales(tmp_path / "locales", ["de_DE.ISO-8859-1"])  # others: just campaign same
    recipes = [*RECIPES, foreign_recipe(tmp_path)]
    places = [(number, str(tmp_path / f"artifacts {number}")) for number in range(BUILDS)]
    running = []
    for at, threads in enumerate((1, 2, 4)):
        settings = {"POLARS_MAX_THREADS": threads, "OMP_NUM_THREADS": threads}
        settings |= {"PYTHONHASHSEED": at, "LC_ALL": ["C", *known["LOCALES"].split()[-2:]][at]}
        settings |= {"PYTHONUTF8": 0}
        arguments = [threads, json.dumps(places[at::3]), json.dumps(sources), json.dumps(recipes)]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", MANY, *map(str, arguments)],
                cwd=ROOT,
                env=os.environ | known | {name: str(value) for name, value in settings.items()},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
    for each in running:
        told = each.communicate()[1]
        assert each.returncode == 0, told.decode()[-2000:]
    seen = [files_of(Path(place)) for _, place in places]
    assert len(seen) == BUILDS >= 20
    assert len(seen[0]) > 5 * len(recipes)
    assert all(each == seen[0] for each in seen[1:])


def test_a_build_killed_at_any_moment_leaves_the_one_before_whole(
    tmp_path: Path, monkeypatch, data_process: Warm
):
    artifacts = tmp_path / "artifacts"
    monkeypatch.setenv("ARTIFACTS", str(artifacts))
    one, two = halves(tmp_path)
    assert build(data_process, artifacts, one).wait() == 0
    before = files_of(artifacts)
    pristine = shutil.copytree(artifacts, tmp_path / "pristine")
    began = time.perf_counter()
    assert build(data_process, tmp_path / "timed", two).wait() == 0
    takes = time.perf_counter() - began
    chance = random.Random(0)
    killed = 0
    for _ in range(12):
        running = build(data_process, artifacts, two)
        time.sleep(takes * chance.uniform(0.2, 0.95))
        running.kill()
        is_killed = running.wait() == -signal.SIGKILL
        killed += is_killed
        directory, manifest = find_variant("full")
        assert_whole(directory, manifest)
        after = files_of(artifacts)
        pointer = "variants/full.json"
        assert all(after.get(name) == before[name] for name in before if name != pointer)
        if not is_killed:
            # It was quicker than the one that was timed, and left nothing to do for those after it.
            takes *= 0.7
            shutil.rmtree(artifacts)
            shutil.copytree(pristine, artifacts)
    assert killed
    assert build(data_process, artifacts, two).wait() == 0
    assert not [path for path in (artifacts / "variants").iterdir() if path.name.startswith(".")]
    shutil.rmtree(tmp_path / "timed" / "tables")
    assert find_variant("full")[0].name in {
        path.name for path in (tmp_path / "timed" / "variants").iterdir()
    }


def test_a_full_disk_is_one_clear_error_and_leaves_the_build_before_whole(
    tmp_path: Path, data_process: Warm
):
    artifacts = tmp_path / "artifacts"
    one, two = halves(tmp_path)
    assert build(data_process, artifacts, one).wait() == 0
    before = files_of(artifacts)
    full = build(data_process, artifacts, two, LIMITED)
    assert full.wait() == 2
    assert full.said().startswith(f"error: {artifacts}/tables/")
    assert "cannot be written: File too large\nhint: " in full.said()
    assert files_of(artifacts) == before
    assert not list(artifacts.rglob(".*"))


def test_threads_say_what_the_published_conversations_say():
    export = read_export(real("oasst/oasst1_en_validation.messages.jsonl"))
    threads = {row["thread_id"]: row for row in make_tables([export], 0.0).threads.to_pylist()}
    lines = real("oasst/oasst1_validation_threads.jsonl").read_text(encoding="utf-8").splitlines()
    english = [row for row in map(json.loads, lines) if row["lang"] == "en"]
    assert len(english) == 419
    marks = {"prompter": "### Human:", "assistant": "### Assistant:"}
    for row in english:
        thread = threads[row["message_id"]]
        turns = [*thread["history"], {"role": "prompter", "text": thread["question"]}]
        said = " ".join(f"{marks[turn['role']]} {turn['text']}" for turn in turns)
        assert row["input"] == f"{said} ### Assistant:"
        assert row["output"] == thread["reply"]
        assert row["parent_id"] == thread["prompt_id"]
