"""Lines and places of the report's charts, held against the answers they are drawn from."""

import dataclasses
import re
from bisect import bisect_right
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced

from reports.curves import length_plots, training_plots
from reports.findings import Findings, given_words, mean, read_findings
from reports.tradeoff import Point, tradeoffs
from reports.tradeoff import _with_labels as with_labels
from reports.training import read_training
from tests.golden import WIDE
from tests.reports_fixture import write_artifacts


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return read_findings(write_artifacts(tmp_path_factory.mktemp("wide"), WIDE))


def points(path: str) -> list[tuple[int, int]]:
    """The corners of a path of absolute M, L, H and V."""
    x = y = 0
    found = []
    for letter, numbers in re.findall(r"([MLHV])([^MLHV]*)", path):
        values = [int(value) for value in numbers.split()]
        x = values[0] if letter in "MLH" else x
        y = values[-1] if letter in "MLV" else y
        found.append((x, y))
    return found


def test_a_length_line_rises_to_one_and_crosses_the_limit_at_the_share_that_keeps_it(
    wide: Findings,
):
    for limit, plot in zip(wide.comparison.limits, length_plots(wide, wide.answerers), strict=True):
        assert len(plot.lines) == len(wide.answerers)
        for line in plot.lines:
            corners = points(line.path)
            assert corners == sorted(corners, key=lambda each: (each[0], -each[1]))
            assert corners[-1] == (1000, 0)
            if limit is None or plot.limit_at is None:
                continue
            words = sorted(given_words(wide, line.name, limit))
            before = [y for x, y in corners if x <= 10 * plot.limit_at + 0.5]
            assert before[-1] == pytest.approx(
                1000 * (1 - bisect_right(words, limit) / len(words)), abs=1
            )


def test_the_trade_off_places_answerers_by_both_means_and_shades_what_the_trivial_reach(
    wide: Findings,
):
    (drawn,) = tradeoffs(wide)
    assert not drawn.is_trusted
    by_name = {point.name: point for point in drawn.points}
    assert {"full", "capped", "concise_best", "base", "one_word", "base_cut"} <= set(by_name)
    order = sorted(by_name, key=lambda name: mean(wide, name, "violation", None, True) or 0)
    assert [by_name[name].x for name in order] == sorted(
        (point.x for point in drawn.points), reverse=True
    )
    corners = points(drawn.shade.replace("z", ""))
    for name in ("base", "one_word", "base_cut", "human"):
        x, y = by_name[name].x, by_name[name].y
        assert any(10 * x <= cx + 1 and 10 * y >= cy - 1 for cx, cy in corners), name
    # Labels of neighbours at the same edge stand on lines of their own.
    labels = sorted(point.label_y for point in drawn.points if point.x > 95)
    assert len(labels) == 2
    assert all(b - a >= 5 for a, b in pairwise(labels))


def test_in_a_crowd_some_marks_have_no_label_and_no_label_hides_another():
    crowd = [
        Point(f"an_arm_of_many_{n}", 50.0 + n / 10, 50.0, *[None] * 4, 0.0, False, True, "", False)
        for n in range(20)
    ]
    alone = dataclasses.replace(crowd[0], name="alone", x=99.0, y=5.0)
    placed = with_labels([*crowd, alone])
    named = [point for point in placed if point.is_named]
    assert 3 <= len(named) < len(placed)
    assert named[-1].name == "alone"
    assert named[-1].label_left  # to the right there is no room

    def across(point: Point) -> tuple[float, float]:
        width = 1.4 * len(point.name)
        left = point.x - width if point.label_left else point.x
        return left, left + width

    for one, other in combinations(named, 2):
        (a, b), (c, d) = across(one), across(other)
        shared = max(0.0, min(b, d) - max(a, c)) * max(0.0, 5 - abs(one.label_y - other.label_y))
        assert shared < 0.5 * 5 * (b - a)


def test_no_trade_off_is_drawn_where_nothing_judges_quality(wide: Findings):
    comparison = replaced(wide.comparison, gates=[])
    assert tradeoffs(dataclasses.replace(wide, comparison=comparison)) == []


def test_a_training_is_read_back_up_to_a_torn_line(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            f'{{"step":{n},"loss":{4 - n / 100},"examples_seen":{8 * n},"other":1}}\n'
            for n in range(1, 301)
        )
        + '{"step":301,"lo'
    )
    said = '{{"step":{},"words":{},"limit":{},"keeps_limit":{},"is_sampled":{}}}\n'
    (tmp_path / "previews.jsonl").write_text(
        said.format(0, 30, 20, "false", "false")
        + said.format(0, 10, 20, "true", "true")  # drawn: left aside
        + said.format(0, 60, "null", "null", "false")
        + said.format(300, 12, 20, "true", "false")
        + said.format(300, 40, "null", "null", "false")
    )
    training = read_training(tmp_path)
    assert len(training.steps) == 300
    assert [(point.step, point.kept, point.words) for point in training.previews] == [
        (0, 0.0, 60.0),
        (300, 1.0, 40.0),
    ]
    loss, kept, words = training_plots([("full", training)])
    assert len(points(loss.lines[0].path)) <= 80
    assert points(loss.lines[0].path)[0][1] < points(loss.lines[0].path)[-1][1]  # it falls
    assert points(kept.lines[0].path) == [(0, 1000), (1000, 0)]
    assert words.title == "Previews: words"


def test_a_run_that_wrote_nothing_down_has_no_training(tmp_path: Path):
    assert training_plots([("full", read_training(tmp_path))]) == []
