"""What stands beside an arm: its control, the rows in which its variant differs, its aims."""

from pathlib import Path

import pytest

from dataset_builder.artifacts import read_json
from dataset_builder.manifest import find_variant
from evals.aims import MISSED, OPEN, REACHED, Aim
from evals.compare import compare
from evals.tables import Comparison
from reports.beside import beside
from reports.findings import read_findings, tally
from reports.html import comparison_page
from tests.runs import manifest_of, record, write_evaluation, write_run
from tests.tiny import ANSWERS, example, write_pairs, write_variant

PROMPTS = [f"p{n}" for n in range(40)]


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))


def arm(manifest, shares: dict[int, float], seeds: int = 3) -> list[Path]:
    """Runs of a variant, each of which breaks about such a share of each limit, seeds a little
    apart.
    """
    runs = []
    for seed in range(seeds):
        run = write_run(record(manifest.name, seed, manifest=manifest))
        scores = {
            ("violation", prompt, limit): float(n < share * len(PROMPTS) + seed % 2 * (share > 0))
            for limit, share in shares.items()
            for n, prompt in enumerate(PROMPTS)
        }
        write_evaluation(run, scores)
        runs.append(run)
    return runs


def compared(*arms: list[Path], **options) -> Comparison:
    return read_json(compare(list(arms), **options) / "comparison.json", Comparison)


def test_a_control_is_compared_with_what_it_controls_whatever_the_baseline_is():
    target = manifest_of("concise", keep={"reply_words": [1, 100]})
    said = {"of": "concise", "match": "rows", "recipe": target.recipe}
    control = manifest_of("random", control=said)
    found = compared(
        arm(manifest_of("full"), {20: 0.9}), arm(target, {20: 0.1}), arm(control, {20: 0.6})
    )
    pooled = [row for row in found.controls if row["is_pooled"]]
    assert [(row["arm"], row["control"], row["match"], row["metric"]) for row in pooled] == [
        ("concise", "random", "rows", "violation")
    ]
    assert pooled[0]["difference"] == pytest.approx(-0.5)
    assert pooled[0]["high"] < 0


def test_without_a_control_among_the_arms_nothing_stands_beside():
    found = compared(arm(manifest_of("full"), {20: 0.9}), arm(manifest_of("other"), {20: 0.1}))
    assert found.controls == found.aims == []


def test_every_comparison_says_in_how_many_rows_two_variants_differ():
    write_variant("full", rows=[example(n) for n in range(8)])
    write_variant(
        "other",
        rows=[
            *[example(n) for n in range(3)],  # the same
            example(3, limit=20),  # written otherwise
            *[example(n, answer=ANSWERS[0]) | {"prompt_id": f"x{n}"} for n in range(20, 22)],
        ],
    )
    write_pairs()
    manifests = [find_variant(name)[1] for name in ("full", "other", "pairs")]
    found = compared(*(arm(manifest, {20: 0.5}) for manifest in manifests))
    assert found.overlaps == [
        {
            "arm": "other",
            "baseline": "full",
            "rows": 6,
            "baseline_rows": 8,
            "same": 3,
            "rewritten": 1,
            "only_arm": 2,
            "only_baseline": 4,
        },
        {
            "arm": "pairs",
            "baseline": "full",
            "rows": 10,
            "baseline_rows": 8,
            "reason": "pairs, not answers",
        },
    ]


def test_rows_of_a_variant_that_is_not_here_are_told_as_unknown():
    found = compared(arm(manifest_of("full"), {20: 0.5}), arm(manifest_of("other"), {20: 0.5}))
    assert found.overlaps[0]["reason"] == "a variant is not on this machine"


def test_an_aim_is_reached_missed_or_open_at_each_limit_by_itself():
    aims = [Aim(metric="violation", at_most=0.1)]
    found = compared(
        arm(manifest_of("full"), {20: 0.9, 50: 0.9, 100: 0.0}),
        arm(manifest_of("other"), {20: 0.9, 50: 0.1, 100: 0.0}),
        aims=aims,
    )
    rows = {(row["arm"], row["limit"]): row for row in found.aims}
    assert {place: row["found"] for place, row in rows.items()} == {
        ("full", 20): MISSED,
        ("full", 50): MISSED,
        ("full", 100): REACHED,
        ("other", 20): MISSED,
        ("other", 50): OPEN,
        ("other", 100): REACHED,
    }
    for row in found.aims:
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
    # No answer of 40 trees broke it, which leaves 7 % possible: three in forty, about.
    assert rows["other", 100]["high"] == pytest.approx(1 - 0.05 ** (1 / 40))
    assert found.aims[0]["bound"] == "at_most"


def test_an_aim_may_be_of_some_limits_alone_and_of_at_least():
    found = compared(
        arm(manifest_of("full"), {20: 0.9, 50: 0.9}),
        arm(manifest_of("other"), {20: 0.9, 50: 0.1}),
        aims=[Aim(metric="violation", at_least=0.5, limits=(50,))],
    )
    assert [(row["arm"], row["limit"], row["found"]) for row in found.aims] == [
        ("full", 50, REACHED),
        ("other", 50, MISSED),
    ]


def test_labels_are_what_arms_are_called_and_doubts_are_told():
    same = manifest_of("full")
    first = arm(same, {20: 0.5})
    second = []
    for seed in range(3):
        run = write_run(
            record(
                "full", seed, manifest=same, name=f"cut-{'3' * 8}/full-{same.digest[:12]}-s{seed}"
            )
        )
        write_evaluation(run, {("violation", prompt, 20): 0.0 for prompt in PROMPTS})
        second.append(run)
    found = compared(first, second, labels=["long", "short"], doubts=["told otherwise before"])
    assert [each.label for each in found.arms] == ["long", "short"]
    assert "told otherwise before" in found.warnings


def test_the_page_and_the_terminal_show_the_same_tables_and_many_arms_are_counted():
    target = manifest_of("concise", keep={"reply_words": [1, 100]})
    said = {"of": "concise", "match": "words", "recipe": target.recipe}
    arms = [
        arm(manifest_of("full"), {20: 0.9}),
        arm(target, {20: 0.1}),
        arm(manifest_of("random", control=said), {20: 0.6}),
        *(arm(manifest_of(f"other{n}"), {20: 0.9}) for n in range(5)),
    ]
    found = read_findings(compare(arms, aims=[Aim(metric="violation", at_most=0.05)]))
    tables = {table.title: table for table in beside(found)}
    assert list(tables) == ["Aims", "Arms beside their controls", "Rows that differ"]
    control = tables["Arms beside their controls"].rows[0]
    assert control.of == "concise less random"
    assert control.cells[:4] == ("words", "Violations", "11 %", "61 %")
    aims = tables["Aims"].rows
    assert aims[0].of == "full"
    assert aims[0].cells[0].startswith("91 % missed\n")
    assert tally(found) == "7 arms against `full`: 5 cannot tell, 2 better."
    page = comparison_page(found)
    assert "7 arms against <code>full</code>" in page
    for table in tables.values():
        assert table.title in page
        assert table.rows[0].cells[-1].split("\n")[0] in page
