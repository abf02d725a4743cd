"""Comparisons of arms whose scores stand in the test: what is paired, what is said, doubted."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals.compare import compare
from evals.curve import slope
from evals.margins import read_margins
from evals.scorers import FROZEN
from evals.tables import COMPARISON, Comparison, Gate
from evals.verdict import of_arm, of_row, sentence
from finetune.run import load_run
from reports.figures import NOTHING
from reports.findings import read_findings
from reports.rows import fit_rows
from tests.runs import fit_of, manifest_of, preferring, record, write_evaluation, write_run

LIMITS = (20, 50)


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    return tmp_path


def scores(broken: np.ndarray, quality: float | None = None, first: int = 0) -> dict:
    """Violations given as zeros and ones, the same at each limit, with words beside them."""
    found: dict = {}
    for place, value in enumerate(broken, start=first):
        for limit in LIMITS:
            found["violation", f"p{place}", limit] = float(value)
            found["words", f"p{place}", limit] = 60.0 if value else 10.0
            if quality is not None:
                found["relevance_total", f"p{place}", limit] = quality * (1 + place % 3)
        found["words", f"p{place}", None] = 100.0
    return found


def pattern(n: int, every: int, start: int = 0) -> np.ndarray:
    """n zeros with a one at every `every`-th place from `start`."""
    return (np.arange(n) % every == start).astype(int)


def arm(variant: str, *broken: np.ndarray, quality: float | None = None, **options) -> list[Path]:
    """An arm with one seed per given pattern of violations."""
    fit = options.pop("fit", fit_of())
    manifest = options.pop("manifest", manifest_of(variant))
    evaluation = options.pop("evaluation", {})
    directories = []
    for seed, each in enumerate(broken):
        run = record(variant, seed, manifest=manifest, **options)
        directory = write_run(run, fit)
        write_evaluation(directory, scores(each, quality), run=run.name, **evaluation)
        directories.append(directory)
    return directories


def write_base(
    artifacts: Path, n: int, *, passed: bool = True, quality: float | None = None
) -> Path:
    human = scores(np.ones(n, int), quality)
    gate = Gate(metric="relevance_total", passed=passed, wins=[], reason="as the test says")
    return write_evaluation(
        artifacts / "bases" / "base-abcdefabcdef",
        scores(pattern(n, 2), quality),
        run=None,
        answerers={"human": human, "one_word": scores(np.zeros(n, int), quality)},
        gates=[gate] if quality is not None else [],
    )


def read(directory: Path) -> tuple[Comparison, dict]:
    rows = read_table(directory / "comparison.parquet", COMPARISON).to_pylist()
    by_place = {
        (row["arm"], row["metric"], "pooled" if row["is_pooled"] else row["limit"]): row
        for row in rows
    }
    return read_json(directory / "comparison.json", Comparison), by_place


def test_one_seed_each_compares_runs_and_not_variants(artifacts: Path):
    write_base(artifacts, 60)
    often, seldom = arm("full", pattern(60, 2)), arm("concise", pattern(60, 10))
    found, rows = read(compare([often, seldom], "word_limit"))
    row = rows["concise", "violation", "pooled"]
    assert row["difference"] == pytest.approx(0.1 - 0.5)
    assert row["low"] < -0.4 < row["high"] < 0
    assert (row["prompts"], row["trees"], row["seeds"]) == (60, 60, 1)
    assert row["verdict"] == "this run beats"
    assert found.sentence.startswith(
        "This run of `concise` beats this run of `full`: it breaks 40.0"
    )
    assert found.sentence.endswith("One seed says nothing about the variants.")
    assert found.notes["verdicts"] == {"concise": "this run beats"}
    # The other way round it loses.
    other, _ = read(compare([seldom, often], "word_limit"))
    assert other.notes["verdicts"] == {"full": "this run loses"}


def test_three_seeds_give_a_verdict_with_its_interval_and_what_so_many_could_show(artifacts: Path):
    write_base(artifacts, 60)
    often = arm("full", *(pattern(60, 2, seed % 2) for seed in range(3)))
    seldom = arm("concise", *(pattern(60, 10, seed) for seed in range(3)))
    found, rows = read(compare([often, seldom], "word_limit"))
    assert rows["concise", "violation", "pooled"]["verdict"] == "better"
    assert found.sentence.startswith("`concise` is better than `full`: it breaks 40.0 points fewer")
    assert "95 % interval" in found.sentence
    assert "60 prompts show differences of" in found.sentence
    assert "seed" not in found.sentence


def test_two_seeds_are_not_enough_for_a_verdict_on_variants():
    often = arm("full", *(pattern(60, 2, seed) for seed in range(2)))
    seldom = arm("concise", *(pattern(60, 10, seed) for seed in range(2)))
    found, rows = read(compare([often, seldom], "word_limit"))
    assert rows["concise", "violation", "pooled"]["verdict"] == "this run beats"
    assert "2 seeds say nothing about the variants" in found.sentence


def test_an_arm_with_one_seed_takes_no_verdict_from_those_with_three():
    often = arm("full", *(pattern(60, 2, seed % 2) for seed in range(3)))
    seldom = arm("concise", *(pattern(60, 10, seed) for seed in range(3)))
    once = arm("once", pattern(60, 10))
    found, rows = read(compare([often, seldom, once], "word_limit", margins={"violation": 0.03}))
    assert found.notes["verdicts"] == {"concise": "better", "once": "this run beats"}
    pooled = [rows[label, "violation", "pooled"] for label in ("concise", "once")]
    assert [row["equivalence"] for row in pooled] == ["no worse", None]
    said = found.notes["sentences"]
    assert "seed" not in said["concise"]
    assert said["once"].startswith("This run of `once` beats this run of `full`")
    assert said["once"].endswith("One seed says nothing about the variants.")
    # A baseline of one seed is every arm's.
    other, _ = read(compare([once, often, seldom], "word_limit"))
    assert set(other.notes["verdicts"].values()) <= {"this run loses", "cannot tell"}


def test_few_prompts_can_only_say_that_it_cannot_tell(artifacts: Path):
    write_base(artifacts, 12)
    found, rows = read(compare([arm("full", np.ones(12)), arm("concise", pattern(12, 12))], None))
    row = rows["concise", "violation", "pooled"]
    # Even where eleven of twelve prompts agree.
    assert row["p"] < 0.05
    assert row["verdict"] == "cannot tell"
    assert found.sentence.startswith("Cannot tell `concise` from `full`")
    assert "12 prompts are too few for a verdict, which takes 20 trees" in found.sentence
    assert "12 trees are too few for a verdict; it needs 20" in found.warnings


def test_only_the_rows_of_the_verdict_carry_one(artifacts: Path):
    write_base(artifacts, 60)
    _, rows = read(compare([arm("full", pattern(60, 2)), arm("concise", pattern(60, 10))], None))
    decided = {place for place, row in rows.items() if row["verdict"] is not None}
    assert decided == {("concise", "violation", "pooled")}
    assert {place for place, row in rows.items() if row["p_holm"] is not None} == decided
    # Nor does the base, which was not trained: its rows describe.
    assert rows["base", "violation", 20]["difference"] == pytest.approx(0)
    assert ("concise", "words", None) in rows
    assert ("concise", "violation", None) not in rows


def test_fewer_violations_at_the_price_of_quality_are_a_trade(artifacts: Path):
    write_base(artifacts, 80, quality=5.0)
    often = arm("full", *(pattern(80, 4, seed) for seed in range(3)), quality=9.0)
    poor = arm("poor", *(pattern(80, 40, seed) for seed in range(3)), quality=1.0)
    good = arm("good", *(pattern(80, 40, seed) for seed in range(3)), quality=9.0)
    found, rows = read(compare([often, poor, good], "word_limit"))
    assert rows["poor", "violation", "pooled"]["verdict"] == "better"
    assert rows["poor", "relevance_total", "pooled"]["verdict"] == "worse"
    assert rows["good", "relevance_total", "pooled"]["verdict"] == "cannot tell"
    assert found.notes["verdicts"] == {"poor": "trades", "good": "better"}
    assert "Relevance total is lower" in found.notes["sentences"]["poor"]
    # Holm over two arms and two metrics.
    ps = [row["p_holm"] for row in rows.values() if row["p_holm"] is not None]
    assert len(ps) == 4


def test_a_quality_score_whose_gate_failed_enters_no_verdict(artifacts: Path):
    write_base(artifacts, 80, quality=5.0, passed=False)
    often = arm("full", *(pattern(80, 4, seed) for seed in range(3)), quality=9.0)
    poor = arm("poor", *(pattern(80, 40, seed) for seed in range(3)), quality=1.0)
    found, rows = read(compare([often, poor], "word_limit"))
    assert rows["poor", "relevance_total", "pooled"]["verdict"] is None
    assert found.notes["verdicts"] == {"poor": "better"}
    assert "relevance_total enters no verdict, its gate failed: as the test says" in found.warnings


def test_quality_counts_only_where_both_kept_the_limit(artifacts: Path):
    write_base(artifacts, 60, quality=5.0)
    first = arm("full", pattern(60, 3, 0), quality=5.0)
    second = arm("concise", pattern(60, 3, 1), quality=5.0)
    found, rows = read(compare([first, second], None))
    assert rows["concise", "relevance_total", "pooled"]["prompts"] == 20
    trivial = {(row["answerer"], row["limit"], row["metric"]): row for row in found.trivial}
    # The human replies of this test break every limit, and so have no quality under one.
    assert ("human", 20, "relevance_total") not in trivial
    assert trivial["human", 20, "violation"] == {
        "answerer": "human",
        "limit": 20,
        "metric": "violation",
        "mean": 1.0,
        "n": 60,
    }
    assert trivial["base", 20, "violation"]["mean"] == 0.5


def test_a_prompt_that_one_arm_trained_on_is_left_out_for_all():
    first = arm("full", pattern(50, 2))
    second = arm("concise", pattern(50, 5), evaluation={"contaminated": ["p0", "p7"]})
    found, rows = read(compare([first, second], None))
    assert rows["concise", "violation", "pooled"]["prompts"] == 48
    assert found.not_shared == 2
    assert "2 prompts stand in the training rows of `concise`: left out" in found.warnings


def test_pairs_are_made_of_prompts_that_every_arm_answered():
    first = arm("full", pattern(50, 2))
    run = record("concise")
    second = write_run(run)
    write_evaluation(second, scores(pattern(50, 5), first=10), run=run.name)
    found, rows = read(compare([first, [second]], None))
    assert rows["concise", "violation", "pooled"]["prompts"] == 40
    assert found.not_shared == 20


def test_sizes_are_doubted_until_a_random_draw_of_as_many_rows_is_among_the_arms():
    concise = manifest_of("concise", rows=100, cap={"examples": 100})
    arms = [arm("full", pattern(60, 2)), arm("concise", pattern(60, 10), manifest=concise)]

    def doubted(*controls):
        found, _ = read(compare([*arms, *controls], None))
        return [line for line in found.warnings if "differ in size" in line]

    def control(name, rows, match, of):
        inside = {"of": "concise", "match": match, "recipe": of.recipe}
        return arm(name, pattern(60, 3), manifest=manifest_of(name, rows=rows, control=inside))

    assert "`full` 400, `concise` 100 rows" in doubted()[0]
    assert doubted(control("words", 40, "words", concise))
    assert doubted(control("another", 100, "rows", manifest_of("full")))
    assert doubted(control("short_of_rows", 60, "rows", concise))
    assert not doubted(control("rows", 100, "rows", concise))


def test_what_a_control_matches_is_told_by_its_name_and_not_key_by_key():
    inside = {"of": "full", "match": "rows", "recipe": manifest_of("full").recipe}
    control = arm("random", pattern(60, 3), manifest=manifest_of("random", control=inside))
    found, _ = read(compare([arm("full", pattern(60, 2)), control], None))
    assert found.differing == {
        "recipe control.of": {"full": None, "random": "full"},
        "recipe control.match": {"full": None, "random": "rows"},
    }


def test_a_control_that_falls_short_is_doubted():
    inside = {"of": "full", "match": "words", "recipe": manifest_of("full").recipe}
    whole = manifest_of("random", control=inside)
    full = arm("full", pattern(60, 2))
    for lacking, told in ((0.0, False), (0.05, True)):
        notes = {"control": {"train": {"short": lacking}, "validation": {"short": 0.5}}}
        manifest = msgspec.structs.replace(whole, name=f"random{told}", notes=notes)
        control = arm(f"random{told}", pattern(60, 3), manifest=manifest)
        found, _ = read(compare([full, control], None))
        line = "falls short of `full` by 5.0% of its words"
        assert any(line in each for each in found.warnings) is told


def test_prompts_of_one_tree_are_one_cluster():
    trees = {f"p{place}": f"t{place // 5}" for place in range(60)}
    first = arm("full", pattern(60, 2), evaluation={"trees": trees})
    second = arm("concise", pattern(60, 10), evaluation={"trees": trees})
    _, rows = read(compare([first, second], None))
    row = rows["concise", "violation", "pooled"]
    assert (row["prompts"], row["trees"]) == (60, 12)
    assert row["verdict"] == "cannot tell"


def test_what_differs_beside_the_data_is_listed_and_doubted():
    first = arm("full", pattern(60, 2))
    second = arm(
        "concise",
        pattern(60, 10),
        manifest=manifest_of("concise", rows=100, cap={"examples": 100}),
        preset={"title": "other", "length": 256},
        steps=50,
        trained_tokens=40_100,
        fit=fit_of(100, before=0.5, after=0.7),
        evaluation={"settings": {"precision": "bfloat16", "quantization": "nf4"}},
    )
    found, _ = read(compare([first, second], None))
    assert found.differing == {
        "recipe cap.examples": {"full": None, "concise": 100},
        "preset length": {"full": 128, "concise": 256},
    }
    text = "\n".join(found.warnings)
    assert "optimizer steps differ by more than 1 %: `full` 100, `concise` 50" in text
    assert "trained tokens" not in text  # within 1 %
    assert "no control is among them: `full` 400, `concise` 100 rows" in text
    assert "more differs than the data: preset length" in text
    assert "fit moved the share of concise replies of `concise` from 0.50 to 0.70" in text
    assert "answers were made in different precision: bfloat16, float32" in text
    assert "the base model was not evaluated" in text
    assert "fewer than 3 seeds: `full` 1, `concise` 1" in text


def test_a_base_that_answered_in_another_precision_is_not_the_base(artifacts: Path):
    write_base(artifacts, 60)
    settings = {"precision": "bfloat16", "quantization": "nf4"}
    arms = [
        arm(name, pattern(60, every), evaluation={"settings": settings})
        for name, every in (("full", 2), ("concise", 10))
    ]
    found, _ = read(compare(arms, "word_limit"))
    assert "the base model was not evaluated" in "\n".join(found.warnings)


def test_arms_alike_in_everything_are_doubted_in_nothing_but_their_seeds(artifacts: Path):
    write_base(artifacts, 60)
    found, _ = read(compare([arm("full", pattern(60, 2)), arm("rank0", pattern(60, 10))], None))
    assert [line for line in found.warnings if "seeds" not in line] == []
    assert found.differing == {}
    assert [one.label for one in found.arms] == ["full", "rank0", "base"]
    assert [one.is_baseline for one in found.arms] == [True, False, False]
    assert found.arms[0].summary["steps"] == 100


def test_the_same_comparison_has_the_same_name_and_another_answer_another():
    first, second = arm("full", pattern(30, 2)), arm("concise", pattern(30, 10))
    once = compare([first, second], None)
    assert once.name.startswith("full-vs-concise-")
    assert compare([first, second], None) == once
    evaluated = next((second[0] / "evals").iterdir())
    stored = json.loads((evaluated / "eval.json").read_text())
    for path in evaluated.iterdir():
        path.unlink()
    evaluated.rmdir()
    write_evaluation(second[0], scores(pattern(30, 9)), run=stored["run"])
    assert compare([first, second], None) != once
    assert compare([first, second], None, "mine").name == "mine"


def test_the_suite_is_found_by_name_by_path_or_by_its_evaluation():
    first, second = arm("full", pattern(30, 2)), arm("concise", pattern(30, 10))
    for name in ("word_limit", "some/folder/word_limit.toml", "word_limit-55555555", None):
        assert compare([first, second], name).is_dir()


@pytest.mark.parametrize(
    ("arms", "suite", "name", "message", "hint"),
    [
        ([], None, None, "no arm is named", "just list"),
        (["full", "full"], None, None, "was given 2 times", "once"),
        (
            ["full", "bare"],
            None,
            None,
            "run `tiny-11111111/bare-.*` was not evaluated",
            "just eval",
        ),
        (["full", "concise"], "demo", None, "was not evaluated on suite `demo`", "--suite demo"),
        (["full", "other"], None, None, "different suites, or with different prompt", "in one"),
        (["full", "both"], None, "a/b", "comparison name `a/b`: wanted letters", None),
        (["both", "both too"], None, None, "the runs share 2 evaluations", "word_limit-99999999"),
        (["full", "apart"], None, None, "share no prompt that none trained on: 60", "same suite"),
    ],
)
def test_what_cannot_be_compared_says_why(
    arms: list[str], suite: str | None, name: str | None, message: str, hint: str | None
):
    made = {
        "full": arm("full", pattern(30, 2)),
        "concise": arm("concise", pattern(30, 10)),
        "other": arm("other", pattern(30, 10), evaluation={"suite_digest": "9" * 64}),
        "bare": [write_run(record("bare"))],
        "apart": [write_run(record("apart"))],
    }
    write_evaluation(made["apart"][0], scores(pattern(30, 2), first=30))
    for label in ("both", "both too"):
        made[label] = arm(label.replace(" ", "_"), pattern(30, 10))
        write_evaluation(made[label][0], scores(pattern(30, 2)), suite_digest="9" * 64)
    with pytest.raises(InputError, match=message) as caught:
        compare([made[label] for label in arms], suite, name)
    assert hint is None or hint in str(caught.value.hint)


def known(rows: dict[str, dict], seeds: int = 3) -> str:
    return sentence("full", "poor", of_arm(rows), rows, seeds)


def told(difference: float, verdict: str, metric: str = "violation", **more) -> dict:
    """A row of the verdict, with all that a sentence reads."""
    spread = 0.03 if metric == "violation" else 3.0
    ends = {"low": difference - spread, "high": difference + spread}
    ends |= {"low_90": difference - 0.8 * spread, "high_90": difference + 0.8 * spread}
    counts = {"prompts": 250, "trees": 250, "detectable": 1.3 * spread}
    plain = {"metric": metric, "difference": difference, "verdict": verdict}
    return plain | ends | counts | more


def test_a_sentence_that_cannot_tell_says_what_is_known():
    lower = told(-4.0, "worse", "relevance_total")
    said = known({"violation": told(0.004, "cannot tell"), "relevance_total": lower})
    assert said == (
        "`poor` is lower in relevance total than `full`, and cannot be told from it in limits "
        "broken: it breaks 0.4 points more of its limits (95 % interval -2.6 to +3.4 points) over "
        "250 prompts of 250 trees. Relevance total is lower: -4.00 nats (95 % interval -7.0 to "
        "-1.0 nats) where both kept the limit. 250 prompts show differences of 4 points and more."
    )
    one = lower | {"verdict": "this run loses"}
    said = known({"violation": told(0.004, "cannot tell"), "relevance_total": one}, 1)
    assert said.startswith("This run of `poor` is lower in relevance total than this run of `full`")
    nothing = told(0.1, "cannot tell", "relevance_total")
    said = known({"violation": told(0.004, "cannot tell"), "relevance_total": nothing})
    assert said.startswith("Cannot tell `poor` from `full`: it breaks")
    assert "Relevance total shows no difference: +0.10 nats" in said
    # Its interval leaves out zero, and among so many comparisons that is no difference yet.
    almost = told(-4.0, "cannot tell", "relevance_total")
    said = known({"violation": told(0.004, "cannot tell"), "relevance_total": almost})
    assert "shows no difference that outlasts the correction over arms and scores: -4.00" in said


@pytest.mark.parametrize("metric", sorted(FROZEN))
def test_every_measure_of_relevance_is_told_in_nats(metric: str):
    lower = told(-4.0, "worse", metric)
    assert f"{metric.capitalize().replace('_', ' ')} is lower: -4.00 nats" in known(
        {"violation": told(0.004, "cannot tell"), metric: lower}
    )


def test_a_margin_settles_what_would_be_left_open():
    kept = {"margin": 0.04, "equivalence": "equivalent"}
    rows = {
        "violation": told(0.004, "cannot tell", **kept),
        "relevance_total": told(-4.0, "worse", "relevance_total"),
    }
    assert of_arm(rows) == "worse"
    rows["relevance_total"] = told(4.0, "better", "relevance_total")
    assert of_arm(rows) == "better"
    rows["violation"]["equivalence"] = "no worse"
    assert of_arm(rows) == "better"
    rows["relevance_total"] = told(-4.0, "worse", "relevance_total")
    assert of_arm(rows) == "cannot tell"
    assert known(rows).startswith(
        "`poor` is lower in relevance total than `full`, and keeps its limits no worse than it, by "
        "the margin of 4.0 points: it breaks"
    )
    alone = {"violation": told(0.004, "cannot tell", **kept)}
    said = known(alone)
    assert said.startswith("`poor` keeps its limits as well as `full`, by the margin of 4.0 points")
    assert (
        "It is neither worse nor better by 4.0 points or more in limits broken (90 % interval "
        "-2.0 to +2.8 points)." in said
    )
    alone["violation"]["equivalence"] = "not shown"
    assert "It is not shown that it is not worse by 4.0 points or more" in known(alone)
    assert "by 4.0 points or more in limits broken takes 3 seeds of each" in known(alone, 2)


def test_margins_are_written_beside_the_rows_and_only_of_three_seeds(artifacts: Path):
    write_base(artifacts, 120)
    full = arm("full", *(pattern(120, 4, seed) for seed in range(3)))
    same = arm("same", *(pattern(120, 4, seed + 1) for seed in range(3)))
    found, rows = read(compare([full, same], None, None, {"violation": 0.2}))
    row = rows["same", "violation", "pooled"]
    assert (row["margin"], row["equivalence"]) == (0.2, "equivalent")
    assert row["low"] < row["low_90"] < row["high_90"] < row["high"]
    assert rows["same", "violation", 20]["margin"] is None
    assert rows["base", "violation", "pooled"]["margin"] is None
    assert found.margins == {"violation": 0.2}
    two, rows = read(compare([full[:2], same[:2]], None, None, {"violation": 0.2}))
    assert rows["same", "violation", "pooled"]["equivalence"] is None
    assert "takes 3 seeds of each" in two.sentence


def test_a_suites_margin_holds_where_the_command_gives_none(artifacts: Path):
    write_base(artifacts, 60)
    arms = [arm(name, *(pattern(60, 4, seed) for seed in range(3))) for name in ("full", "same")]
    for path in artifacts.glob("runs/*/*/evals/*/eval.json"):
        stored = json.loads(path.read_text()) | {"suite": {"margins": {"violation": 0.05}}}
        path.write_text(json.dumps(stored))
    assert read(compare(arms, None))[0].margins == {"violation": 0.05}
    assert read(compare(arms, None, None, {"violation": 0.1}))[0].margins == {"violation": 0.1}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("three", "wanted a number of points", "--margin 3"),
        ("-3", "wanted a number of points", "--margin 3"),
        ("violation=", "wanted a number of points", "--margin 3"),
        ("0.03", "is 0.03 points of violation", "--margin 3"),
        ("0", "is 0 points", "hundredths"),
        ("words=3", "neither more nor less of it is better", "violation"),
        ("wrods=3", "margin of `wrods`: unknown", "violation"),
        ("100", "must be above 0 and below 1, a share, found 1.0", None),
        ("relevance=2", "which suite `word_limit` does not score", "violation"),
        ("relevance=0", "must be above 0, found 0.0", None),
    ],
)
def test_a_margin_that_makes_no_sense_says_so(text: str, message: str, hint: str | None):
    arms = [arm(name, pattern(30, 4)) for name in ("full", "same")]
    with pytest.raises(InputError, match=message) as caught:
        compare(arms, None, None, read_margins([text]))
    assert hint is None or hint in str(caught.value.hint)


def test_a_margin_is_given_once_and_in_what_the_table_prints():
    assert read_margins(["2.5", "relevance_total=2"]) == {"violation": 0.025, "relevance_total": 2}
    with pytest.raises(InputError, match="gives `violation` twice"):
        read_margins(["3", "violation=2"])


def test_words_given_are_told_by_limit_with_their_share_and_how_they_follow_it(artifacts: Path):
    write_base(artifacts, 30)
    follower, stubborn = arm("follower", pattern(30, 4)), arm("stubborn", pattern(30, 4))
    for (directory,), words in ((follower, (10, 25)), (stubborn, (12, 12))):
        given = {("violation", f"p{n}", limit): 0.0 for n in range(30) for limit in LIMITS}
        for n in range(30):
            for limit, count in zip(LIMITS, words, strict=True):
                given["words", f"p{n}", limit] = float(count + n % 3)
            given["words", f"p{n}", None] = 90.0
        # A longer limit allows more tokens: what was cut at them does not follow it.
        given["words", "p0", LIMITS[-1]] *= 10
        given |= {("stopped", "p0", limit): float(limit != LIMITS[-1]) for limit in LIMITS}
        run = json.loads((directory / "run.json").read_text())["name"]
        shutil.rmtree(directory / "evals")
        write_evaluation(directory, given, run=run)
    found, _ = read(compare([follower, stubborn], None))
    curves = {(row["arm"], row["seed"], row["limit"]): row for row in found.curves}
    assert set(curves) == {
        (a, s, n) for a, s in (("follower", 0), ("stubborn", 0), ("base", None)) for n in LIMITS
    }
    row = curves["follower", 0, 50]
    assert (row["n"], row["words"], row["words_median"]) == (30, 33.5, 26.0)
    assert (row["words_low"], row["words_high"]) == (25, 27)
    assert (row["share"], row["share_median"]) == (33.5 / 50, 26 / 50)
    slopes = {row["arm"]: row for row in found.slopes}
    assert slopes["stubborn"]["slope"] == pytest.approx(0)
    assert slopes["follower"]["slope"] == pytest.approx(
        np.mean([np.log((25 + n % 3) / (10 + n % 3)) / np.log(2.5) for n in range(1, 30)])
    )
    assert (slopes["follower"]["n"], slopes["follower"]["cut"]) == (29, 1)
    assert slopes["follower"]["low"] < slopes["follower"]["slope"] < slopes["follower"]["high"]


def test_a_slope_is_that_of_least_squares():
    for seed in range(30):
        draw = np.random.default_rng(seed)
        limits = np.sort(draw.choice(300, 2 + seed % 4, replace=False) + 1)
        words = draw.integers(0, 300, len(limits))
        wanted = stats.linregress(np.log(limits), np.log(np.maximum(words, 1))).slope
        assert slope(limits.tolist(), words.tolist()) == pytest.approx(wanted, abs=1e-9)


def row_of(
    difference: float, p: float | None = 0.001, trees: int = 50, spread: float = 0.1
) -> dict:
    ends = {"low": difference - spread, "high": difference + spread}
    return {"difference": difference, "p_holm": p, "trees": trees} | ends


@pytest.mark.parametrize(
    ("row", "direction", "seeds", "verdict"),
    [
        (row_of(-0.3), -1, 3, "better"),
        (row_of(0.3), -1, 3, "worse"),
        (row_of(0.3), 1, 5, "better"),
        (row_of(-0.3), -1, 2, "this run beats"),
        (row_of(-0.3), 1, 1, "this run loses"),
        (row_of(-0.3, p=0.06), -1, 3, "cannot tell"),
        (row_of(-0.3, p=None), -1, 3, "cannot tell"),
        (row_of(-0.05), -1, 3, "cannot tell"),
        (row_of(-0.3, trees=19), -1, 3, "cannot tell"),
        (row_of(-0.3) | {"low": None, "high": None}, -1, 3, "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_a_test_trees_and_seeds(
    row: dict, direction: int, seeds: int, verdict: str
):
    assert of_row(row, direction, seeds) == verdict


@pytest.mark.parametrize(
    ("violation", "quality", "verdict"),
    [
        ("better", "cannot tell", "better"),
        ("better", "better", "better"),
        ("better", "worse", "trades"),
        ("worse", "cannot tell", "worse"),
        ("worse", "better", "trades"),
        ("cannot tell", "better", "cannot tell"),
        ("cannot tell", "worse", "cannot tell"),
        ("this run beats", "this run loses", "trades"),
        (None, "better", "better"),
        (None, "cannot tell", "cannot tell"),
        (None, None, "cannot tell"),
    ],
)
def test_an_arm_is_better_only_with_fewer_violations_and_no_less_quality(
    violation: str | None, quality: str | None, verdict: str
):
    rows = {"violation": violation, "relevance_total": quality}
    assert of_arm({name: {"verdict": each} for name, each in rows.items() if each}) == verdict


def test_an_arm_of_preferences_says_what_it_went_on_from_and_how():
    supervised = arm("full", *[pattern(60, 10)] * 3)
    preferring_arm = []
    for seed in range(3):
        run = preferring(load_run(supervised[0]), seed)
        directory = write_run(run)
        write_evaluation(directory, scores(pattern(60, 12)), run=run.name)
        preferring_arm.append(directory)
    made = read_json(compare([supervised, preferring_arm]) / "comparison.json", Comparison)

    start = load_run(supervised[0]).name.removesuffix("-s0")
    assert made.differing["start"] == {"full": None, "pairs": start}
    assert made.differing["preset dpo.beta"] == {"full": None, "pairs": 0.1}
    assert made.differing["preset method"] == {"full": None, "pairs": "dpo"}
    said = "\n".join(made.warnings)
    assert "more differs than the data: " in said
    assert "the 3 seeds of `pairs` went on from one run" in said
    # Pairs and answers are not counted against each other.
    assert "differ in size" not in said


def test_the_tables_say_method_and_start_where_an_arm_has_one():
    supervised = arm("full", pattern(60, 10))
    run = preferring(load_run(supervised[0]))
    directory = write_run(run)
    write_evaluation(directory, scores(pattern(60, 12)), run=run.name)
    found = read_findings(compare([supervised, [directory]]))
    rows = dict(fit_rows(found.arms))

    assert rows["method"] == ["sft", "dpo"]
    assert rows["went on from"] == [NOTHING, "tiny/full"]
    alone = read_findings(compare([supervised, arm("other", pattern(60, 9))]))
    assert "method" not in dict(fit_rows(alone.arms))
