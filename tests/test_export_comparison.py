"""A comparison for machines: JSON as documented, CSV that is no formula, Parquet, Markdown."""

import csv
import io
import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.errors import InputError
from dataset_builder.figures import json_text
from reports.__main__ import app
from reports.export import ANSWERS, FORMULA, answers, csv_text, differences, guarded
from reports.findings import Findings, effect, find_comparison, mean, read_findings
from reports.machine import ComparisonReport, comparison_record, schema_text
from reports.markdown import code, comparison_markdown, plain
from tests.golden import SCHEMA, write_metrics
from tests.hostile import MARKUP
from tests.reports_fixture import PROMPTS, World, write_artifacts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_artifacts(folder, World(PROMPTS, (20, 50, None), seeds=3))
    write_metrics(folder)
    return folder


@pytest.fixture(scope="module")
def findings(root: Path) -> Findings:
    return read_findings(root / "comparisons" / "demo")


def call(*arguments: str) -> None:
    app(list(arguments), result_action="return_value")


def test_the_schema_in_the_docs_is_that_of_what_is_printed():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "stale: type `just golden`"


def test_json_is_what_its_schema_says_and_nothing_more(findings: Findings):
    text = json_text(comparison_record(findings))
    read = msgspec.json.decode(text, type=ComparisonReport, strict=True)
    assert msgspec.to_builtins(read) == json.loads(text)
    assert set(json.loads(text)) == set(ComparisonReport.__struct_fields__)


def test_json_has_every_number_that_a_person_is_shown(findings: Findings):
    record = comparison_record(findings)
    assert len(record.differences) == len(findings.effects)
    for row in record.means:
        place = (row.metric, row.limit, row.is_pooled)
        assert row.mean == mean(findings, row.answerer, *place)
    assert {row.answerer for row in record.means} >= {"full", "concise_best", "base", "one_word"}
    assert {(row.answerer, row.limit) for row in record.lengths} == {
        (name, limit)
        for name in ("full", "concise_best", "base", "human")
        for limit in (20, 50, None)
    }
    for arm, shown in zip(record.arms, findings.arms, strict=True):
        assert arm.seeds == [0, 1, 2]
        assert arm.funnel == shown.runs[0].manifest.funnel
        assert len(arm.loss) == 24
        assert isinstance(arm.fit["dropped"], int)
    assert [each.arm for each in record.verdicts] == ["concise_best"]


def test_compare_prints_json_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("ARTIFACTS", str(root))
    call("compare", "full", "concise_best", "--name", "mine", "--json")
    said = capsys.readouterr()
    record = msgspec.json.decode(said.out, type=ComparisonReport)
    assert record.directory == str(root / "comparisons" / "mine")
    assert Path(record.report).is_file()
    assert "Violations" not in said.err


# Beginnings that spreadsheets have taken for formulas.
FORMULAS = [
    '=HYPERLINK("http://127.0.0.1:9/","x")',
    "=cmd|'/C calc'!A0",
    "+1+cmd|'/C calc'!A0",
    "-2+3+cmd|'/C calc'!A0",
    "@SUM(1+1)*cmd|'/C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    '"=1+1',
    "\ufeff=1+1",
    "＝1+1",
    "＋1",
    "－1",
    "＠A1",
    "\v=1",
    "\f=1",
    "\0=1",
    "'=1",
    "\xa0=1",
    "-1",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_cell_of_csv_never_begins_as_a_formula(formula: str):
    text = csv_text(["answer", formula], [{"answer": formula, formula: -1.5}])
    _, (cell, number) = csv.reader(io.StringIO(text))
    assert cell == f"'{formula}"
    assert number == "-1.5"


def test_a_cell_that_is_no_formula_stays_as_it_is_and_truth_is_in_small_letters():
    for text in ("X=1", "a=1", "n=1", "x\t=1", "1-1", ""):
        assert guarded(text) == text
    row = {"yes": True, "no": False, "none": None, "list": ["=1", 2], "text": 'a "b"'}
    assert csv_text([*row], [row]) == (
        '"yes","no","none","list","text"\n"true","false","","[""=1"",2]","a ""b"""\n'
    )


@given(st.text())
def test_whatever_the_text_its_cell_is_no_formula_and_holds_all_of_it(text: str):
    cell = guarded(text)
    assert cell in (text, f"'{text}")
    assert not cell.lstrip(" \n\0").startswith(FORMULA)


def test_answers_are_exported_whole(findings: Findings, tmp_path: Path, root: Path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(root))
    for name in ("answers.csv", "answers.parquet"):
        call("export", "demo", str(tmp_path / name), "--table", "answers")
    stored = pq.read_table(tmp_path / "answers.parquet")
    assert stored.schema.equals(ANSWERS)
    # Two arms of three seeds, the base model, and a human reply to seven of eight prompts.
    humans = sum(asked.human is not None and asked.origin == "held_out" for asked in PROMPTS)
    assert stored.num_rows == 3 * (8 * (2 * 3 + 1) + humans)
    assert not [name for name in ANSWERS.names if stored[name].null_count == len(stored)]
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [
        guarded(each) for each in stored["answer"].to_pylist()
    ]
    assert stored.equals(answers(findings))


def test_differences_are_the_comparisons_rows(findings: Findings, tmp_path: Path, root: Path):
    call("export", str(root / "comparisons" / "demo"), str(tmp_path / "out.parquet"))
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == differences(findings).to_pylist()
    assert differences(findings).num_rows == len(findings.effects)


def test_markdown_has_the_verdict_and_each_difference_with_its_interval(findings: Findings):
    text = comparison_markdown(findings)
    assert text.startswith("**Cannot tell `concise_best` from `full`.** ")
    row = effect(findings, "concise_best", "violation", 50)
    assert row is not None
    line = next(line for line in text.splitlines() if line.startswith("| difference"))
    assert f"{100 * row.difference:+.0f} [".replace("-", "\N{MINUS SIGN}") in line
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {5, 6}
    assert f"({findings.comparison.suite_digest[:8]})" in text


def test_a_comparison_is_exported_as_markdown(findings: Findings, tmp_path: Path, root: Path):
    call("export", str(root / "comparisons" / "demo"), str(tmp_path / "out.md"))
    assert (tmp_path / "out.md").read_text(encoding="utf-8") == comparison_markdown(findings)


def test_a_name_in_markdown_is_one_span_of_code():
    assert code("a|b`c\n d") == "`a\\|b'c d`"
    assert code("") == code(" ") == "` `"


def test_a_backtick_too_many_opens_no_code():
    said = {"a`b": "a'b", "`a` b": "`a` b", "`a` b`c": "`a` b'c", "`a``b`": "`a``b`"}
    assert {text: plain(text) for text in said} == said


@pytest.mark.parametrize("payload", MARKUP)
def test_markdown_obeys_no_hostile_text(payload: str):
    for text in (plain(payload), plain(f"`{payload}`"), code(payload)):
        assert "\n" not in text
        # Whatever stands outside of code has lost its edge.
        outside = "".join(text.split("`")[::2])
        for place, character in enumerate(outside):
            assert character not in "<>[]|&" or outside[place - 1] == "\\"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("demo", "out.xlsx"),
            "out.xlsx: wanted a file that ends in one of .csv, .parquet, .md",
            "`out.csv`, for example",
        ),
        (
            ("demo", "."),
            ".: wanted a file that ends in one of .csv, .parquet, .md",
            "`comparison.csv`, for example",
        ),
        (
            ("demo", "out.md", "--table", "answers"),
            "answers are written as .csv or .parquet",
            "`out.csv`",
        ),
        (
            ("demo", "no/such/folder/out.csv"),
            "no/such/folder/out.csv: cannot be written: No such file or directory",
            "name a file in a folder that exists",
        ),
        (("other", "out.csv"), "no comparison `other`", None),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_hint_or_a_reason(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
    hint: str | None,
):
    monkeypatch.setenv("ARTIFACTS", str(root))
    with pytest.raises(InputError) as error:
        call("export", *arguments)
    assert str(error.value).startswith(message)
    if hint is not None:
        assert (str(error.value), error.value.hint) == (message, hint)


def test_a_comparison_is_found_by_a_unique_beginning(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    for name in ("one-1", "one-2", "one", "two"):
        folder = tmp_path / "comparisons" / name
        folder.mkdir(parents=True)
        (folder / "comparison.json").write_text("{}")
    assert find_comparison("two").name == "two"
    assert find_comparison("tw").name == "two"
    assert find_comparison("one").name == "one"
    with pytest.raises(InputError, match="beginning of 2 comparisons"):
        find_comparison("one-")
