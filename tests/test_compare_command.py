"""The command that compares, from runs on disk to a report that can be opened."""

from functools import partial
from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from reports.__main__ import app
from reports.blocks import pack
from tests.page import Page
from tests.reports_fixture import PROMPTS, World, write_artifacts


def call(*arguments: str) -> None:
    app(list(arguments), result_action="return_value")


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_artifacts(tmp_path, World(PROMPTS, (20, 50, None), seeds=2))
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    return tmp_path


def test_two_arms_become_a_table_and_a_page(artifacts: Path, capsys: pytest.CaptureFixture[str]):
    call("compare", "full", "concise_best", "--name", "mine")
    said = capsys.readouterr()
    report = artifacts / "comparisons" / "mine" / "report.html"
    assert said.out == f"{report}\n"
    assert "Cannot tell" in said.err
    assert "base, cut at limit" in said.err
    page = Page(report.read_text(encoding="utf-8"))
    assert sorted(row[0] for row in page.rows) == sorted(asked.prompt for asked in PROMPTS)


def test_texts_that_a_page_leaves_out_are_told(
    artifacts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reports.html.pack", partial(pack, room=0))
    call("compare", "full", "concise_best", "--name", "mine")
    said = " ".join(capsys.readouterr().err.split())
    assert "the texts of 138 of 138 answers are left out" in said


def test_a_comparison_whose_page_fails_leaves_the_one_before(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
):
    call("compare", "full", "concise_best", "--name", "mine")
    folder = artifacts / "comparisons" / "mine"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("reports.html.write_report", fails)
    with pytest.raises(OSError, match="disk full"):
        call("compare", "concise_best", "full", "--name", "mine")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("arms", [[], ["full"]])
def test_fewer_than_two_arms_are_refused(artifacts: Path, arms: list[str]):
    with pytest.raises(InputError, match="wanted: two arms or more"):
        call("compare", *arms)


def test_an_arm_that_is_not_there_is_refused_with_those_that_are(artifacts: Path):
    with pytest.raises(InputError, match="no finished run `rank9`") as caught:
        call("compare", "full", "rank9")
    assert "concise_best-" in str(caught.value.hint)


def test_a_name_that_would_leave_the_folder_is_refused(artifacts: Path):
    for name in ("../out", "a/b", ".hidden", ""):
        with pytest.raises(InputError, match="is no name for a folder"):
            call("compare", "full", "concise_best", "--name", name)
    assert not list(artifacts.glob("**/report.html"))
