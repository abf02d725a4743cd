import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from dataset_builder.printable import printable
from dataset_builder.words import count_words
from reports.answers import split_at_limit
from reports.chart import Scale, forest, tick_step, words_chart
from reports.figures import METRICS
from reports.findings import Findings, read_findings
from reports.html import TEMPLATES, comparison_page, write_report
from tests.hostile_pages import hostile_answers, hostile_findings
from tests.page import Page
from tests.payloads import PAYLOADS
from tests.reports_fixture import Asked, World, real_world, write_artifacts


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return read_findings(write_artifacts(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def page(demo: Findings) -> Page:
    return Page(comparison_page(demo))


def test_the_page_is_one_file_that_names_no_other(page: Page):
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "image"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "action", "data"}, (tag, name)
            assert name != "href" or (value or "").startswith("#"), (tag, value)
            assert not name.startswith("on"), (tag, name)
    style = next(text for place, text in page.texts if "style" in place)
    assert not re.search(r"url\(|@import", style)


def test_the_policy_allows_the_one_script_and_nothing_else(page: Page):
    scripts = [text for place, text in page.texts if "script" in place]
    assert len(scripts) == 1
    assert scripts[0] == (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policies = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    # Before anything it could govern.
    names = [tag for tag, _ in page.tags]
    assert names.index("meta") < names.index("style")


def test_the_verdict_is_the_heading(page: Page, demo: Findings):
    heading = "".join(text for place, text in page.texts if "h1" in place)
    assert heading.strip() == "Cannot tell concise_best from full."
    rest = demo.comparison.sentence.partition(": ")[2]
    assert rest
    assert rest in page.text


def test_every_prompt_and_every_answer_is_there_to_read(page: Page, demo: Findings):
    assert len(demo.questions) == len(page.rows) == 8
    for question, row in zip(demo.questions, page.rows, strict=True):
        assert row[:2] == [question.prompt, question.prompt_id]
        for asked in question.asked.values():
            assert set(asked.answers) >= {"full", "concise_best", "base"}
            for answers in asked.answers.values():
                for answer in answers:
                    assert answer.within + answer.beyond in row[2]


def test_exactly_the_words_past_the_limit_are_marked(page: Page, demo: Findings):
    index = page.blocks[0]
    marked = 0
    for number, (prompt, _, texts, which, cuts) in enumerate(page.rows):
        for cell, (text, cut) in enumerate(zip(which, cuts, strict=True)):
            limit = index["limits"][cell // len(index["slots"])]
            words = index["words"][number * len(which) + cell]
            assert (words == -1) == (text == -1), prompt
            excess = max(0, words - limit) if limit else 0
            assert bool(cut) == bool(excess)
            if cut:
                beyond = texts[text].encode("utf-16-le")[2 * cut :].decode("utf-16-le")
                assert count_words(beyond) == excess
                marked += 1
    assert marked


def test_every_identifier_is_used_once_and_every_link_has_its_target(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "aria-labelledby"):
            if attributes.get(name):
                assert attributes[name].removeprefix("#") in ids


def test_every_table_heading_says_what_it_heads(page: Page):
    headings = [attributes for tag, attributes in page.tags if tag == "th"]
    assert len(headings) > 20
    assert all(attributes.get("scope") in {"col", "row", "rowgroup"} for attributes in headings)


@pytest.mark.parametrize("made", [hostile_findings, hostile_answers])
def test_no_payload_is_more_than_text(tmp_path: Path, page: Page, made: Any):
    html = comparison_page(made(tmp_path))
    hostile = Page(html)
    known = {tag for tag, _ in page.tags}
    assert {tag for tag, _ in hostile.tags} <= known
    assert sum(tag == "script" for tag, _ in hostile.tags) == 1
    names = {name for _, attributes in hostile.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert names <= {name for _, attributes in page.tags for name in attributes} | {"tabindex"}
    assert len(PAYLOADS) >= 300
    seen = hostile.text
    held = json.dumps(hostile.blocks, ensure_ascii=False)
    for payload in PAYLOADS:
        text = printable(payload.replace("\r\n", "\n"))
        assert text in seen or json.dumps(text, ensure_ascii=False)[1:-1] in held
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", held)


def test_a_lone_surrogate_does_not_stop_the_page(demo: Findings, tmp_path: Path):
    comparison = replaced(demo.comparison, sentence="lone \ud800 surrogate", notes={})
    write_report(dataclasses.replace(demo, comparison=comparison), tmp_path / "report.html")
    assert "lone \\ud800 surrogate" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_quality_score_has_tables_only_where_its_gate_passed(demo: Findings):
    gates = [replaced(gate, passed=False) for gate in demo.comparison.gates]
    failed = dataclasses.replace(demo, comparison=replaced(demo.comparison, gates=gates))

    def tables(page: Page) -> str:
        return "".join(text for place, text in page.texts if "table" in place)

    title = METRICS["relevance"].title
    assert title in tables(Page(comparison_page(demo)))
    page = Page(comparison_page(failed))
    assert title not in tables(page)
    assert "relevance: gate failed" in page.text
    # It is drawn against compliance all the same, and said to be in no verdict.
    assert "Its gate failed: it is in no verdict" in page.text


def test_a_comparison_without_limits_makes_a_page(tmp_path: Path):
    world = World([Asked("Why?", None, ("Because.",))], (None,))
    directory = write_artifacts(tmp_path, world, lambda asked, *_: asked.answers[0])
    findings = read_findings(directory)
    text = comparison_page(dataclasses.replace(findings, effects=[]))
    assert Page(text).rows[0][2] == ["Because."]
    assert "the limit" not in text.partition('id="words"')[2].partition('id="table"')[0]


def test_real_answers_make_a_page_of_a_size_that_can_be_sent(tmp_path: Path):
    world, answer = real_world(prompts=60)
    findings = read_findings(write_artifacts(tmp_path, world, answer))
    write_report(findings, tmp_path / "report.html")
    assert len(findings.questions) == 60
    assert (tmp_path / "report.html").stat().st_size < 500_000


@given(st.text(), st.integers(1, 12))
def test_an_answer_is_split_without_losing_a_character(text: str, limit: int):
    answer = split_at_limit(text, limit)
    assert answer.within + answer.beyond == text
    assert answer.words == count_words(text)
    assert answer.excess == max(0, answer.words - limit)
    assert bool(answer.beyond) == bool(answer.excess)


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=1), st.integers(1, 12))
def test_the_part_past_the_limit_holds_the_excess_words(words: list[str], limit: int):
    answer = split_at_limit(", ".join(words), limit)
    assert count_words(answer.within) == min(limit, len(words))
    assert count_words(answer.beyond) == answer.excess
    assert not answer.beyond.startswith((",", " "))


def test_an_answer_without_a_word_breaks_its_limit(tmp_path: Path):
    world = World([Asked("Why?", None, ("...",))], (20, None))
    directory = write_artifacts(tmp_path, world, lambda asked, *_: asked.answers[0])
    (question,) = read_findings(directory).questions
    assert question.asked[20].violators == ["full", "concise_best", "base"]
    assert question.asked[None].violators == []


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(-1e7, 1e7), min_size=2))
def test_positions_keep_the_order_of_values_and_stay_on_the_drawing(low, span, values):
    scale = Scale(low, low + span)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


@given(st.floats(-1e4, 0), st.floats(1e-3, 1e4), st.integers(2, 8))
def test_ticks_are_one_two_or_five_times_a_power_of_ten_and_few(low, high, n):
    step = tick_step(low, high, n)
    assert f"{step:.0e}"[0] in "125"
    assert float(f"{step:.0e}") == pytest.approx(step)
    assert (high - low) / step <= n + 1


def test_intervals_in_the_forest_hold_their_points_and_zero_has_its_line(demo: Findings):
    drawn = forest(METRICS["violation"], demo.effects)
    assert [(row.effect.limit, row.effect.arm) for row in drawn.rows] == [
        (None, "concise_best"),
        (None, "base"),
        (20, "concise_best"),
        (20, "base"),
        (50, "concise_best"),
        (50, "base"),
    ]
    for row in drawn.rows:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.point <= row.high
    assert [tick.at for tick in drawn.ticks if tick.label == "0"] == [drawn.zero]


def test_the_words_chart_has_a_dot_for_every_answer(demo: Findings):
    chart = words_chart(demo, demo.answerers)
    assert [panel.limit for panel in chart.panels] == [20, 50, None]
    for panel in chart.panels:
        for strip in panel.strips:
            answers = [
                answer
                for question in demo.questions
                for answer in question.asked[panel.limit].answers.get(strip.answerer, [])
            ]
            assert answers
            assert strip.n == len(answers)
            # Equal dots of short strips fall together; none is made up.
            assert 0 < strip.dots.count("M") <= len(answers)
            assert strip.over == sum(bool(answer.excess) for answer in answers)
