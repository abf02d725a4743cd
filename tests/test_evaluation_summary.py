"""What `just eval` shows at its end."""

from pathlib import Path

from dataset_builder.tables import table_of, write_table
from evals.suite import load_suite
from evals.summary import summary_table
from evals.tables import SCORES
from tests.golden import drawn
from tests.runs import write_evaluation

SHOWN = {
    "violation": 0.25,
    "words": 123.0,
    "stopped": 0.75,
    "relevance": -0.11,
    "relevance_total": -123.45,
    "relevance_controlled": -67.89,
}


def test_the_table_of_the_word_limit_suite_is_whole_at_eighty_columns(tmp_path: Path):
    suite = load_suite("word_limit")
    assert set(SHOWN) <= set(suite.scorers)
    run = "smollm2-1a2b3c4d/concise_best-9618daf7c02b-s0"
    directory = write_evaluation(tmp_path, {}, run=run)
    rows = [
        {
            "answerer": "run",
            "prompt_id": f"p{n}",
            "tree_id": f"p{n}",
            "limit": 200,
            "wording": wording,
            "sample": 0,
            "metric": metric,
            "value": value,
        }
        for wording in suite.wordings
        for n in range(320)
        for metric, value in SHOWN.items()
    ]
    write_table(table_of(rows, SCORES), SCORES, directory / "scores.parquet")
    lines = drawn(summary_table([directory]), 80).splitlines()
    for kind, n in (("evaluation", 1280), ("training", 1280), ("at_least", 320), ("about", 320)):
        [line] = [line for line in lines if kind in line]
        wanted = [kind, "200", str(n), "0.25", "123", "0.75", "-0.11", "-123.45", "-67.89"]
        assert line.split()[-9:] == wanted
