import json
import re
from pathlib import Path

import msgspec
import pytest

from dataset_builder.artifacts import BUILDING, read_json, write_json
from dataset_builder.manifest import Manifest
from dataset_builder.printable import printable
from finetune.checkpoints import UNFINISHED
from reports.__main__ import app
from reports.listing import listing, moment, read_listing
from tests.golden import drawn
from tests.hostile import TERMINAL
from tests.reports_fixture import write_artifacts
from tests.runs import preferring, record, write_run


def test_an_empty_folder_says_what_to_type(tmp_path: Path):
    text = drawn(listing(tmp_path / "nothing"), 80)
    for command in ("build-data", "train VARIANT PRESET", "eval RUN", "compare ARM ARM"):
        assert f"`just {command}`" in text


def test_all_that_exists_is_listed_once(tmp_path: Path):
    write_artifacts(tmp_path)
    rows = read_listing(tmp_path).rows
    assert [row[0] for row in rows["Variants"]] == ["concise_best", "full"]
    runs = [row[0].strip() for row in rows["Runs"]]
    assert len(runs) == 3
    assert runs[0].startswith("smollm2-demo-")
    assert [run.partition("-")[0] for run in runs[1:]] == ["concise_best", "full"]
    evaluations = [row[0].strip() for row in rows["Evaluations"]]
    assert [name.partition("-")[0] for name in evaluations if not name.endswith("/")] == [
        "concise_best",
        "full",
        "llm",
    ]
    assert [row[:2] for row in rows["Comparisons"]] == [("demo", "full, concise_best")]


def test_no_name_is_broken_at_eighty_columns(tmp_path: Path):
    write_artifacts(tmp_path)
    text = drawn(listing(tmp_path), 80)
    assert max(map(len, text.splitlines())) <= 80
    for row in read_listing(tmp_path).rows["Runs"]:
        assert row[0].strip() in text


def test_a_run_that_was_begun_is_listed_as_not_finished(tmp_path: Path):
    write_artifacts(tmp_path)
    preset = next((tmp_path / "runs").iterdir())
    for step in (8, 16):
        (preset / f"rank0-aabbccddeeff-s0{UNFINISHED}" / "checkpoints" / f"step-{step}").mkdir(
            parents=True
        )
    (preset / f"{BUILDING}1-rank0").mkdir()
    rows = read_listing(tmp_path).rows["Runs"]
    (found,) = [row for row in rows if "not finished" in row]
    assert found[:2] == ("  rank0-aabbccddeeff-s0", "16")


def test_a_run_says_its_method_and_what_it_went_on_from(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    first = record("capped", 2)
    write_run(first)
    write_run(preferring(first, 1))
    names = [row[0].strip() for row in read_listing(tmp_path).rows["Runs"]]
    own = [each.name.partition("/")[2] for each in (preferring(first, 1), first)]

    assert names[names.index(own[0]) + 1] == "dpo from capped s2"
    assert names[-1] == own[1]  # with nothing below it
    text = drawn(listing(tmp_path), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in own)


def test_an_old_build_of_a_variant_is_told_from_the_current_one(tmp_path: Path):
    write_artifacts(tmp_path)
    build = next((tmp_path / "variants").glob("full-*"))
    old = build.with_name("full-000000000000")
    old.mkdir()
    manifest = read_json(build / "manifest.json", Manifest)
    digest = build.name.removeprefix("full-")
    write_json(msgspec.structs.replace(manifest, digest="0" * 64), old / "manifest.json")
    builds = [row[1] for row in read_listing(tmp_path).rows["Variants"] if row[0] == "full"]
    assert builds == ["000000000000 (old)", digest]


def test_a_damaged_record_is_named_and_the_rest_is_listed(tmp_path: Path):
    directory = write_artifacts(tmp_path)
    (directory / "comparison.json").write_text("{", encoding="utf-8")
    found = read_listing(tmp_path)
    assert found.rows["Comparisons"] == []
    assert len(found.rows["Variants"]) == 2
    assert len(found.unreadable) == 1
    assert "comparison.json" in drawn(listing(tmp_path), 200)


@pytest.mark.parametrize("payload", [text for text in TERMINAL if "\ud800" not in text])
def test_a_hostile_name_is_shown_as_text(tmp_path: Path, payload: str):
    write_artifacts(tmp_path, name="x")
    path = tmp_path / "comparisons" / "x" / "comparison.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"name": payload}), encoding="utf-8")
    text = drawn(listing(tmp_path), 120)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", text)
    assert printable(payload).splitlines()[0] in text


def test_the_command_lists_the_artefacts_folder(tmp_path: Path, monkeypatch, capsys):
    write_artifacts(tmp_path)
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    app(["list"], result_action="return_value")
    assert "concise_best" in capsys.readouterr().out


def test_a_moment_is_in_utc():
    assert moment("2026-01-05T11:05:33+01:00") == "2026-01-05 10:05"
    assert moment("never") == "never"
