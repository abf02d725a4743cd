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
from reports.plots import BASE_MARK, MARKS, WIDEST, binned, limit_curve, loss_plot, round_ticks
from reports.rows import DOWN, UP, arrow
from reports.terminal import comparison_report
from reports.text_tables import differing_table, rows_table
from reports.training import Step
from tests.golden import FOLDER, WIDE, WIDTHS, WORLDS, drawn, golden_texts, write_metrics
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
    assert sorted(texts) == sorted(path.name for path in FOLDER.iterdir())
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
        assert f"Cannot tell `{label}` from `full`." in text
    # The reason of both, once.
    assert "Cannot tell `concise_best` from `full`. 8 prompts show" in text
    assert text.count("8 prompts show") == 1


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


def test_an_arrow_says_which_way_an_interval_leaves_out_zero(demo: Findings):
    row = effect(demo, "concise_best", "violation", 50)
    assert row is not None
    assert row.high is not None
    assert row.high < 0
    assert arrow(row) == DOWN
    assert arrow(replace(row, low=0.1, high=0.3, difference=0.2)) == UP
    assert arrow(replace(row, low=-0.1, high=0.3)) == ""
    assert arrow(replace(row, low=0.0, high=0.3)) == ""
    assert arrow(replace(row, low=None, high=None)) == ""
    line = next(
        line
        for line in drawn(comparison_report(demo), 80).splitlines()
        if line.startswith("concise_best")
    )
    assert line.split() == ["concise_best", "75", "%", DOWN, "0", "%", "38", "%", "cannot", "tell"]


def test_the_limit_curve_has_a_mark_for_everybody_and_the_losses_one_for_each_arm(
    tmp_path: Path,
):
    directory = write_artifacts(tmp_path, WIDE)
    assert loss_plot(read_findings(directory), 80) is None
    write_metrics(tmp_path)
    findings = read_findings(directory)
    curve, losses = limit_curve(findings, 80), loss_plot(findings, 80)
    assert curve is not None
    assert losses is not None
    for mark, plot in (
        *((mark, curve) for mark in (*MARKS[:3], BASE_MARK)),
        *((mark, losses) for mark in MARKS[:3]),
    ):
        *drawing, legend = plot.plain.splitlines()
        assert mark in legend
        assert any(mark in line for line in drawing)
    assert [name for name in ("full", "capped", "concise_best", "base") if name in curve.plain] == [
        "full",
        "capped",
        "concise_best",
        "base",
    ]
    assert MARKS[3] not in losses.plain


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_plot_keeps_to_its_width(tmp_path: Path, width: int):
    findings = read_findings(write_artifacts(tmp_path))
    write_metrics(tmp_path)
    for plot in (limit_curve(findings, width), loss_plot(findings, width)):
        assert plot is not None
        assert max(map(len, plot.plain.splitlines()[:-1])) <= min(width, WIDEST)


def test_a_point_of_the_losses_is_the_mean_of_its_stretch_over_all_seeds():
    steps = [Step(step=n, loss=float(n), examples_seen=n) for n in range(1, 11)]
    more = [Step(step=n, loss=n + 1.0, examples_seen=n) for n in range(1, 11)]
    assert binned([*steps, *more], 5, 10) == [
        (1.5, 2.0),
        (3.5, 4.0),
        (5.5, 6.0),
        (7.5, 8.0),
        (9.5, 10.0),
    ]
    assert binned(steps[:3], 5, 10) == [(1.5, 1.5), (3.0, 3.0)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.3, 2.4, [1.4, 1.6, 1.8, 2.0, 2.2]),
        (1, 400, [100, 200, 300, 400]),
        (0.511, 0.514, None),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float] | None):
    found = round_ticks(low, high, 5)
    assert 1 <= len(found) <= 5
    assert all(low <= tick <= high for tick in found)
    assert expected is None or found == expected


def test_how_far_a_limit_is_followed_is_said_where_a_comparison_says_it(demo: Findings):
    assert "Following the limit" not in drawn(comparison_report(demo), 80)
    curves = [
        {"arm": "full", "seed": 0, "limit": limit, "share_median": share}
        for limit, share in ((20, 1.5), (50, 1.2))
    ]
    slopes = [{"arm": "full", "seed": 0, "slope": 0.25, "low": 0.1, "high": 0.4}]
    comparison = replaced(demo.comparison, curves=curves, slopes=slopes)
    text = drawn(comparison_report(replace(demo, comparison=comparison)), 80)
    line = text[text.index("Following the limit") :].splitlines()[3]
    assert line.split() == ["full", "150", "%", "120", "%", "0.25", "0.10…0.40"]


def test_wordings_that_decide_nothing_have_a_table_of_their_own(demo: Findings):
    assert "Asked otherwise" not in drawn(comparison_report(demo), 80)
    row = effect(demo, "concise_best", "violation", None, is_pooled=True)
    assert row is not None
    numbers = {"arm_mean": 0.1, "baseline_mean": 0.4, "difference": -0.3, "low": -0.4, "high": -0.2}
    other = replace(row, metric="violation_at_least", **numbers)
    text = drawn(comparison_report(replace(demo, effects=[*demo.effects, other])), 80)
    lines = [line.split() for line in text[text.index("Asked otherwise") :].splitlines()[1:5]]
    assert lines[0] == ["wording", "at", "least"]
    assert lines[2:] == [["full", "40", "%"], ["concise_best", DOWN, "10", "%"]]


def test_a_margin_given_beforehand_is_told_beside_the_verdict(demo: Findings):
    effects = [
        replace(row, margin=0.05, equivalence="no worse") if row.verdict else row
        for row in demo.effects
    ]
    text = " ".join(drawn(comparison_report(replace(demo, effects=effects)), 80).split())
    assert "−12 no worse" in text
    assert "no worse within the margin given before, 5 points" in text


def test_recipes_of_many_arms_are_listed_by_value(demo: Findings):
    arms = [
        replace(demo.arms[0], arm=replaced(demo.arms[0].arm, label=f"an_arm_of_a_long_name_{n}"))
        for n in range(5)
    ]
    differing = {"recipe cap": {arm.label: n // 3 for n, arm in enumerate(arms)}}
    comparison = replaced(demo.comparison, differing=differing)
    text = drawn(differing_table(replace(demo, arms=arms, comparison=comparison), 80), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ")][:1] == ["0"]
    assert "an_arm_of_a_long_name_4" in next(line for line in lines if line.startswith("  1"))


def test_more_arms_than_fit_beside_each_other_stand_in_several_tables(demo: Findings):
    arms = [
        replace(demo.arms[0], arm=replaced(demo.arms[0].arm, label=f"an_arm_of_a_long_name_{n}"))
        for n in range(5)
    ]
    lines = drawn(rows_table(arms, 80), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.count("an_arm_of_a_long_name") for line in lines if "an_arm" in line] == [2, 2, 1]
    assert sum(line.startswith("kept") for line in lines) == 3


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
