"""The whole path, through the commands' own functions: exports to a verdict, on tiny models of
random weights.
"""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import dataset_builder.__main__ as dataset_builder
import evals.__main__ as evals
import finetune.__main__ as finetune
import reports.__main__ as reports
from dataset_builder.artifacts import read_json
from evals.tables import Comparison, Evaluation
from finetune.run import Run, find_runs, load_run
from tests.tiny import tiny_llama, tiny_phi, tiny_preset

FOREST = Path(dataset_builder.__file__).parent / "sample" / "forest.trees.jsonl"
SUITE = """
title = "a handful"
max_prompts = 4
limits = [5, 20]
tokens_per_word = 2
spare_tokens = 4
unlimited_tokens = 16
scorers = ["violation", "overshoot", "words", "stopped", "empty", "relevance"]
relevance_others = 1
"""


@pytest.mark.parametrize(("make", "template"), [(tiny_llama, "chatml"), (tiny_phi, "instruct")])
def test_from_exports_to_a_verdict(
    make, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    artifacts = tmp_path / "artifacts"
    monkeypatch.setenv("ARTIFACTS", str(artifacts))
    preset = tiny_preset(
        tmp_path / "tiny.toml",
        make(tmp_path / "model"),
        template=template,
        top="length = 512",
        base='precision = "fp32"',
        training="examples = 16",
    )
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE)

    dataset_builder.build("full", "concise_best", source=[FOREST], held_out=0.3)
    for variant in ("full", "concise_best"):
        finetune.train(variant, str(preset))
    runs = [load_run(*find_runs(variant)) for variant in ("full", "concise_best")]
    evals.evaluate("full", "concise_best", suite=str(suite))
    reports.compare("full", "concise_best", suite=str(suite), name="mine")

    check_runs(runs)
    check_answers(artifacts)
    comparison = read_json(artifacts / "comparisons" / "mine" / "comparison.json", Comparison)
    # So few prompts and one seed can say nothing, whatever came out.
    rows = pq.read_table(artifacts / "comparisons" / "mine" / "comparison.parquet").to_pylist()
    assert rows
    assert {row["verdict"] for row in rows} <= {"cannot tell", None}
    assert "cannot tell" in comparison.sentence.lower()
    assert {row["answerer"] for row in comparison.trivial} >= {
        "base",
        "one_word",
        "base_cut",
        "human",
    }

    shown = capsys.readouterr()
    report = Path(shown.out.strip().splitlines()[-1])
    page = report.read_text(encoding="utf-8")
    verdict = comparison.sentence.partition(":")[0].replace("`", "")
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert verdict in text
    assert "http://" not in page.replace("http://www.w3.org/", "")
    reports.list_artifacts()
    listed = capsys.readouterr().out
    assert "concise_best" in listed
    assert "mine" in listed


def check_runs(runs: list[Run]) -> None:
    full, concise = runs
    assert full.base.missing == full.base.unexpected == full.base.mismatched == []
    # Same conditions but for the data.
    assert full.examples_seen == concise.examples_seen == 16
    assert full.steps == concise.steps
    assert full.base == concise.base
    assert full.manifest.digest != concise.manifest.digest


def check_answers(artifacts: Path) -> None:
    found = sorted(artifacts.glob("runs/*/*/evals/*/eval.json"))
    assert len(found) == 2
    for path in found:
        record = read_json(path, Evaluation)
        answers = pq.read_table(path.parent / "generations.parquet").to_pylist()
        assert len(answers) == record.generations == 4 * 3  # prompts, and two limits and none
        assert {row["limit"] for row in answers} == {5, 20, None}
        assert all(row["tokens"] <= {5: 14, 20: 44, None: 16}[row["limit"]] for row in answers)
        trained = set(pq.read_table(_variant_of(path), columns=["tree_id"])["tree_id"].to_pylist())
        assert trained.isdisjoint(row["tree_id"] for row in answers), (
            "a held-out tree was trained on"
        )
    (base,) = artifacts.glob("bases/*/evals/*/eval.json")
    assert read_json(base, Evaluation).run is None


def _variant_of(evaluation: Path) -> Path:
    run = json.loads((evaluation.parents[2] / "run.json").read_text())
    name = f"{run['variant']}-{run['manifest']['digest'][:12]}"
    return evaluation.parents[5] / "variants" / name / "train.parquet"
