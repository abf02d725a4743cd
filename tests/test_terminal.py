import re
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced
from rich.console import Console

from dataset_builder.printable import printable
from reports import figures
from reports.figures import METRICS
from reports.findings import Findings, effect, mean, median_words, read_findings
from reports.terminal import comparison_report
from tests.golden import FOLDER, WIDE, WIDTHS, WORLDS, drawn, golden_texts
from tests.hostile import MARKUP, TERMINAL
from tests.reports_fixture import PROMPTS, World, write_artifacts

# All that a terminal could obey: but the end of a line.
CONTROL = r"\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return read_findings(write_artifacts(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return read_findings(write_artifacts(tmp_path_factory.mktemp("wide"), WIDE))


def test_the_golden_texts_are_what_is_shown(tmp_path: Path):
    texts = golden_texts(tmp_path)
    assert sorted(texts) == sorted(path.name for path in FOLDER.glob("*.txt"))
    for name, text in texts.items():
        assert text == (FOLDER / name).read_text(encoding="utf-8"), f"{name}: see tests/golden.py"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("world", WORLDS)
def test_no_number_is_cut_off_at_eighty_columns_or_more(tmp_path: Path, world: str, width: int):
    findings = read_findings(write_artifacts(tmp_path, WORLDS[world]))
    lines = drawn(comparison_report(findings), width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.lstrip().startswith("full (baseline)"))
    shown = len(findings.comparison.limits)  # the stated limits and all of them, or the one stated
    assert len(re.findall(r"\d+ %", row)) == shown


def test_the_verdict_is_said_first(demo: Findings):
    text = " ".join(drawn(comparison_report(demo), 80).split())
    assert text.startswith("Cannot tell `concise_best` from `full`. 8 prompts show")


def test_every_arm_has_its_verdict(wide: Findings):
    text = " ".join(drawn(comparison_report(wide), 80).split())
    for label in ("capped", "concise_best"):
        assert f"Cannot tell `{label}` from `full`. 8 prompts show" in text


def test_without_colour_there_is_no_control_character(demo: Findings, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison_report(demo))
    assert not re.search(f"[{CONTROL}]", capture.get())


def test_the_trivial_answers_are_always_in_the_table(demo: Findings):
    text = drawn(comparison_report(demo), 80)
    for name in figures.TRIVIAL.values():
        assert any(line.strip().startswith(name) for line in text.splitlines()), name


def test_relevance_is_shown_only_where_its_gate_passed(demo: Findings, wide: Findings):
    assert "Relevance per token:" in drawn(comparison_report(demo), 80)
    failed = drawn(comparison_report(wide), 80)
    assert "Relevance per token:" not in failed
    assert "relevance: gate failed" in failed


def test_every_warning_is_shown(demo: Findings):
    text = " ".join(drawn(comparison_report(demo), 80).split())
    assert len(demo.comparison.warnings) == 2
    for warning in demo.comparison.warnings:
        assert f"! {warning}" in text


def test_prompts_that_were_left_out_are_said(demo: Findings):
    comparison = replaced(demo.comparison, not_shared=3)
    findings = Findings(demo.directory, comparison, demo.effects, demo.arms, demo.questions)
    assert "3 prompts were left out" in drawn(comparison_report(findings), 80)


def test_what_differs_shows_each_arms_value(demo: Findings):
    text = drawn(comparison_report(demo), 80)
    line = next(line for line in text.splitlines() if "keep.reply_words" in line)
    assert line.split()[-3:] == [figures.NOTHING, "[1,", "100]"]


@pytest.mark.parametrize("payload", MARKUP + TERMINAL)
def test_hostile_text_reaches_no_terminal_as_it_is(demo: Findings, payload: str):
    label = f"x{payload}"
    arms = [
        replace(arm, arm=replaced(arm.arm, label=label)) if arm.arm.is_baseline else arm
        for arm in demo.arms
    ]
    comparison = replaced(
        demo.comparison,
        sentence=payload,
        notes={},
        warnings=[payload],
        arms=[arm.arm for arm in arms],
        gates=[replaced(gate, reason=payload) for gate in demo.comparison.gates],
        differing={payload: {label: payload}},
    )
    findings = Findings(demo.directory, comparison, demo.effects, arms, demo.questions)
    text = drawn(comparison_report(findings), 400)
    assert not re.search(f"[{CONTROL}]", text)
    # Markup that was obeyed would be gone.
    assert printable(payload).splitlines()[0].strip() in text


def test_the_baseline_and_the_arm_have_the_means_of_the_comparison(demo: Findings):
    row = effect(demo, "concise_best", "violation", 20)
    assert row is not None
    assert mean(demo, "full", "violation", 20) == row.baseline_mean
    assert mean(demo, "concise_best", "violation", 20) == row.arm_mean
    assert mean(demo, "nobody", "violation", 20) is None


def test_a_trivial_rows_mean_over_all_limits_weighs_each_limit_by_its_prompts(demo: Findings):
    rows = [
        row
        for row in demo.comparison.trivial
        if row["answerer"] == "base" and row["metric"] == "violation"
    ]
    assert len(rows) == 2
    expected = sum(row["mean"] * row["n"] for row in rows) / sum(row["n"] for row in rows)
    assert mean(demo, "base", "violation", None, is_pooled=True) == pytest.approx(expected)


def test_an_answer_cut_at_the_limit_is_never_longer_than_it(demo: Findings):
    for limit in (20, 50):
        cut, whole = (median_words(demo, name, limit) for name in ("base_cut", "base"))
        assert cut is not None
        assert whole is not None
        assert cut <= min(limit, whole)
    assert median_words(demo, "base_cut", None) is None


def test_a_comparison_is_read_where_its_artefacts_were_moved_to(tmp_path: Path):
    directory = write_artifacts(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    findings = read_findings(tmp_path / "after" / "comparisons" / directory.name)
    assert {name for question in findings.questions for name in question.asked[20].answers} == {
        "full",
        "concise_best",
        "base",
        "human",
    }


def test_several_seeds_give_several_answers_each_with_its_seed(wide: Findings):
    for question in wide.questions:
        for label in ("full", "capped", "concise_best"):
            assert [answer.seed for answer in question.asked[50].answers[label]] == [0, 1, 2]


def test_an_arm_that_is_a_base_model_needs_no_run(tmp_path: Path):
    directory = write_artifacts(tmp_path, World(PROMPTS[:2], (20, None)))
    findings = read_findings(directory)
    arm = replaced(findings.arms[0].arm, arm="base", runs=[])
    arms = [type(findings.arms[0])(arm, [], []), *findings.arms[1:]]
    comparison = replaced(findings.comparison, arms=[each.arm for each in arms])
    bare = Findings(directory, comparison, findings.effects, arms, findings.questions)
    assert "full (baseline)" in drawn(comparison_report(bare), 80)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.percent(0.376), "38 %"),
        (figures.percent(0.0), "0 %"),
        (figures.percent(None), "–"),
        (figures.difference(METRICS["violation"], -0.12), "−12"),
        (figures.difference(METRICS["violation"], 0.12), "+12"),
        (figures.difference(METRICS["violation"], -0.004), "0"),
        (figures.difference(METRICS["overshoot"], 3.04), "+3.0"),
        (figures.interval(METRICS["violation"], -0.31, 0.07), "−31 to +7"),
        (figures.interval(METRICS["violation"], None, None), "–"),
        (figures.count(18432), "18,432"),
        (figures.count(62.5), "62.5"),
        (figures.setting([1, 100]), "[1, 100]"),
        (figures.setting(True), "true"),
        (figures.setting(None), "–"),
        (figures.limit_name(None), "no limit"),
    ],
)
def test_numbers_are_written_for_people(shown: str, expected: str):
    assert shown == expected
