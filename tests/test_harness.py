"""lm-evaluation-harness, both ways: our suites as its tasks, its tasks on our runs."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals.compare import compare
from evals.evaluation import evaluate
from evals.harness import (
    SAMPLES,
    directions,
    evaluate_harness,
    plan_harness,
    score_rows,
)
from evals.harness_tasks import load_tasks, refuse_no_sentences
from evals.plan import Silent, plan, suite_questions
from evals.tables import COMPARISON, GENERATIONS, SCORES, Comparison, Evaluation
from evals.task_folder import PROMPTS, write_task_folder
from finetune.decode import TOP
from reports.findings import read_findings
from reports.html import write_report
from reports.markdown import comparison_markdown
from reports.notebook import comparison_html
from reports.terminal import comparison_report
from tests.golden import drawn
from tests.runs import tiny_run
from tests.tiny import tiny_llama, tiny_preset, write_variant

ROOT = Path(__file__).parents[1]
SUITE = """
title = "a handful"
limits = [3, 8]
tokens_per_word = 1
spare_tokens = 6
unlimited_tokens = 12
scorers = ["violation", "overshoot", "limit_share", "words", "words_ifeval", "stopped", "empty"]
"""
CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: ""
generation_kwargs: {until: [], do_sample: false, max_gen_toks: 8}
process_results: !function lengths.lengths
metric_list:
  - {metric: letters, aggregation: mean, higher_is_better: false}
  - {metric: is_upper, aggregation: !function lengths.flat}
  - {metric: pair, aggregation: !function lengths.first}
"""
LENGTHS = """
def lengths(doc, results):
    return {"letters": len(results[0]), "is_upper": [c.isupper() for c in results[0][:3] + "..."],
            "pair": (1.0, 2)}


def flat(values):
    return sum(map(sum, values))


def first(values):
    return values[0][0]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Two tiny runs, and a folder with a suite and two tasks of the harness."""
    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        preset = tiny_preset(folder / "tiny.toml", tiny_llama(folder / "base"))
        runs = []
        for seed, variant in enumerate(("tiny", "other")):
            write_variant(variant)
            runs.append(tiny_run(preset, variant, seed, scale=0.4))
        (folder / "small.toml").write_text(SUITE)
        tasks = folder / "tasks"
        tasks.mkdir()
        docs = [
            {"question": f"What colour has thing {n}?<|im_end|>", "choices": [" red", " blue"]}
            for n in range(6)
        ]
        (tasks / "colours.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        for name, text in (("colours", CHOICE), ("writing", WRITING)):
            (tasks / f"{name}.yaml").write_text(text.replace("FOLDER", str(tasks)))
        (tasks / "lengths.py").write_text(LENGTHS)
        yield folder, runs


def as_tasks(folder: Path, run: Path, out: Path | None = None) -> Path:
    asked = suite_questions(str(folder / "small.toml"), [], run, None)
    return write_task_folder(
        asked.suite, asked.name, asked.digest, asked.questions, asked.template, out
    )


def stored(answers: dict[str, str]):
    """A model that answers what is stored, by the prompt it is asked."""
    from lm_eval.api.model import LM

    class Stored(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [answers[request.arguments[0]] for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise AssertionError

        loglikelihood_rolling = loglikelihood

    return Stored()


def harness_scores(model, folder: Path) -> tuple[dict, dict]:
    """Per-sample scores by prompt, limit and metric, and the harness's own means."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model=model,
        tasks=["treetune_small"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    found = {
        (sample["doc"]["prompt_id"], sample["doc"]["limit"], metric): sample[metric]
        for samples in results["samples"].values()
        for sample in samples
        for metric in sample["metrics"]
    }
    return found, results["results"]


def test_an_exported_suite_scores_as_here_on_stored_answers_and_on_its_own(made):
    folder, runs = made
    directory = evaluate(plan(runs[:1], str(folder / "small.toml"), [], Silent()), Silent())[0]
    out = as_tasks(folder, runs[0])
    assert as_tasks(folder, runs[0]) == out
    rows = [json.loads(line) for line in (out / PROMPTS).read_text().splitlines()]
    texts = {(row["prompt_id"], row["limit"]): row["text"] for row in rows}
    answers = {
        texts[row["prompt_id"], row["limit"]]: row["answer"]
        for row in read_table(directory / "generations.parquet", GENERATIONS).to_pylist()
    }
    ours = {
        (row["prompt_id"], row["limit"], row["metric"]): row["value"]
        for row in read_table(directory / "scores.parquet", SCORES).to_pylist()
        if row["metric"] != "stopped"
    }
    theirs, means = harness_scores(stored(answers), out)
    # What the suite scores, and what no limit leaves to score.
    assert len(ours) == 3 * (2 * 6 + 3)
    assert {place: theirs[place] for place in ours} == ours
    for limit in (3, 8):
        mean = means[f"treetune_small_{limit}"]["violation,none"]
        assert mean == pytest.approx(
            sum(
                ours[name, at, metric]
                for name, at, metric in ours
                if (at, metric) == (limit, "violation")
            )
            / 3
        )
    # Answered by the harness's own model class, greedily: the same words.
    from lm_eval.models.huggingface import HFLM

    from evals.harness import _model
    from evals.plan import planned_runs
    from finetune.model import pick_device

    each = next(iter(planned_runs(runs[:1], Silent())))
    model, tokenizer = _model(each, pick_device(), True)
    regenerated, _ = harness_scores(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4), out)
    assert {place: regenerated[place] for place in ours} == ours


def test_the_folder_is_plain_yaml_that_may_be_moved_and_asks_in_the_template(made, tmp_path: Path):
    folder, runs = made
    out = as_tasks(folder, runs[0])
    moved = out.rename(tmp_path / "elsewhere")
    task = (moved / "treetune_small_8.yaml").read_text()
    assert str(folder) not in task
    read = yaml.safe_load(task.replace("!function ", ""))
    assert read["generation_kwargs"]["max_gen_toks"] == 14
    assert read["generation_kwargs"]["until"] == ["<|im_end|>", "<|endoftext|>"]
    assert [each["metric"] for each in read["metric_list"]] == [
        "violation",
        "overshoot",
        "limit_share",
        "words",
        "words_ifeval",
        "empty",
    ]
    assert [each.get("higher_is_better") for each in read["metric_list"]][:3] == [
        False,
        False,
        None,
    ]
    row = json.loads((moved / PROMPTS).read_text().splitlines()[0])
    assert row["text"].startswith("<|im_start|>user\n")
    assert yaml.safe_load((moved / "treetune_small.yaml").read_text())["task"] == [
        "treetune_small_3",
        "treetune_small_8",
        "treetune_small_none",
    ]
    with pytest.raises(InputError, match="something else stands there"):
        as_tasks(folder, runs[0], folder / "tasks")


def test_a_suite_that_draws_is_drawn_by_the_harness_too_each_sample_a_row(made, tmp_path: Path):
    folder, runs = made
    suite = tmp_path / "drawn.toml"
    more = "samples = 2\ntemperature = 0.7\n"
    suite.write_text((folder / "small.toml").read_text(encoding="utf-8") + more, encoding="utf-8")
    asked = suite_questions(str(suite), [], runs[0], None)
    out = write_task_folder(
        asked.suite, asked.name, asked.digest, asked.questions, asked.template, tmp_path / "out"
    )
    task = (out / "treetune_drawn_8.yaml").read_text().replace("!function ", "")
    made_by = yaml.safe_load(task)["generation_kwargs"]
    assert made_by == {
        "until": ["<|im_end|>", "<|endoftext|>"],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": TOP,
        "max_gen_toks": 14,
    }
    rows = [json.loads(line) for line in (out / PROMPTS).read_text().splitlines()]
    at_8 = Counter(row["prompt_id"] for row in rows if row["limit"] == 8)
    assert set(at_8.values()) == {2}
    greedy = as_tasks(folder, runs[0]) / "treetune_small_8.yaml"
    assert "do_sample: false" in greedy.read_text()
    assert "temperature" not in greedy.read_text()


def test_without_a_run_the_prompts_are_plain_and_the_only_tables_are_meant(made):
    folder, _ = made
    asked = suite_questions(str(folder / "small.toml"), [], None, None)
    assert asked.template is None
    out = write_task_folder(asked.suite, asked.name, asked.digest, asked.questions, None)
    row = json.loads((out / PROMPTS).read_text().splitlines()[0])
    assert row["text"] == asked.questions[0].text
    with pytest.raises(InputError, match="0 tables are called `beef`") as caught:
        suite_questions(str(folder / "small.toml"), [], None, "beef")
    assert "--tables" in str(caught.value.hint)


def test_a_folder_whose_treetune_is_out_of_reach_says_what_to_type(made):
    folder, runs = made
    out = as_tasks(folder, runs[0])
    code = f"import sys; sys.path.insert(0, {str(out)!r}); import utils"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert "run lm_eval with PYTHONPATH=<treetune's folder>" in done.stderr


def test_its_tasks_are_answered_by_runs_and_base_and_compared_by_sample(made):
    folder, runs = made
    names = [str(folder / "tasks" / f"{name}.yaml") for name in ("colours", "writing")]
    tasks = load_tasks(names, None)
    assert [task.is_templated for task in tasks] == [False, True]
    planned = plan_harness(runs, tasks, True, Silent())
    directories = evaluate_harness(planned, Silent(), rows=4)
    assert len(directories) == 6
    by_suite: dict = {}
    for directory in directories:
        evaluation = read_json(directory / "eval.json", Evaluation)
        rows = read_table(directory / "scores.parquet", SCORES).to_pylist()
        # The harness's own mean of each metric is that of the rows.
        results = evaluation.notes["harness"]["results"][evaluation.suite_name]
        metric = evaluation.notes["harness"]["primary"]
        values = [row["value"] for row in rows if row["metric"] == metric]
        assert len(values) == 6
        assert sum(values) / 6 == pytest.approx(results[f"{metric},none"])
        logged = [json.loads(line) for line in (directory / SAMPLES).read_text().splitlines()]
        assert len(logged) == 6
        said = [str(sample["resps"]) for sample in logged]
        by_suite.setdefault(evaluation.suite_name, []).append(said)
    # Three models, three sets of answers: nobody gets another's from a cache.
    for said in by_suite.values():
        assert said[0] != said[1] != said[2] != said[0]
    writing = read_json(directories[1] / "eval.json", Evaluation)
    assert writing.notes["harness"]["directions"] == {"letters": -1, "is_upper": 0}
    assert writing.unscored == {"pair": 6}
    assert read_table(directories[1] / "generations.parquet", GENERATIONS).num_rows == 6
    # Compared by sample, and reported; so few can only describe.
    for name, metric in (("colours", "acc"), ("writing", "letters")):
        comparison = compare([[run] for run in runs], name)
        found = read_json(comparison / "comparison.json", Comparison)
        rows = read_table(comparison / "comparison.parquet", COMPARISON).to_pylist()
        decided = [row for row in rows if row["verdict"]]
        assert [(row["metric"], row["arm"], row["prompts"]) for row in decided] == [
            (metric, "other", 6)
        ]
        assert f"its {metric} differs by" in found.sentence
        write_report(read_findings(comparison), comparison / "report.html")
        # The arms' means and the base's are shown, wherever a comparison is.
        means = [row["arm_mean"] for row in rows if row["metric"] == metric]
        means += [row["baseline_mean"] for row in decided]
        assert len(means) == 3
        findings = read_findings(comparison)
        texts = (
            drawn(comparison_report(findings), 80),
            comparison_markdown(findings),
            (comparison / "report.html").read_text(encoding="utf-8"),
            comparison_html(findings),
        )
        for text in texts:
            assert metric in text
            assert "the mean over the task" in text
            for mean in means:
                assert f"{mean:.3f}" in text
    # What was evaluated is not evaluated again.
    stamp = (directories[0] / "eval.json").stat().st_mtime_ns
    assert evaluate_harness(planned, Silent()) == directories
    assert (directories[0] / "eval.json").stat().st_mtime_ns == stamp
    # And an unmerged evaluation is another one.
    other = plan_harness(runs, tasks, False, Silent())
    assert not {each.directory for each, _ in other} & set(directories)
    evaluate_harness([pair for pair in other if pair[0].run][:1], Silent(), merged=False)
    assert other[0][0].is_done


def test_what_the_harness_logs_becomes_rows_and_what_is_no_number_is_counted():
    sample = {"doc_id": 3, "doc_hash": "abcdef0123", "filter": "strict", "metrics": ["acc", "ok"]}
    samples = {
        "t": [
            sample | {"acc": True, "ok": [True, False]},
            sample | {"filter": "loose", "acc": float("nan"), "ok": (1.0, 2)},
        ]
    }
    rows, left = score_rows(samples)
    assert [(row["metric"], row["sample"], row["value"]) for row in rows] == [
        ("acc,strict", 0, 1.0),
        ("ok,strict", 0, 1.0),
        ("ok,strict", 1, 0.0),
    ]
    assert {row["prompt_id"] for row in rows} == {"t/3-abcdef01"}
    assert left == {"acc,loose": 1, "ok,loose": 1}
    results = {"higher_is_better": {"t": {"acc": True, "ok": None}, "u": {"acc": True}}}
    assert directions(results, ["acc,strict", "ok"]) == {"acc,strict": 1, "ok": 0}
    results = {"higher_is_better": {"t": {"acc": True}, "u": {"acc": False}}}
    assert directions(results, ["acc"]) == {"acc": 0}


def test_a_task_that_cannot_be_had_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, text in {
        "gone": CHOICE.replace("FOLDER", str(tmp_path)),
        "foreign": "just: a table\n",
        "unmade": WRITING.replace("FOLDER", str(tmp_path)),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.yaml").write_text(text)
    for name, message in {
        "gone": "its data is not on this machine",
        "foreign": "its data is not on this machine|names no task",
        "unmade": "Cannot import module `?'?lengths|needs",
        "absent": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            load_tasks([str(tmp_path / name / f"{name}.yaml")], None)


def test_ifeval_without_its_model_of_sentences_is_refused_before_any_answer(
    monkeypatch: pytest.MonkeyPatch,
):
    import nltk

    def find(name: str) -> str:
        raise LookupError(name)

    monkeypatch.setattr(nltk.data, "find", find)
    refuse_no_sentences("hellaswag", ["hellaswag"])
    with pytest.raises(InputError, match="task `mine` counts sentences by nltk's model") as caught:
        refuse_no_sentences("mine", ["leaderboard_ifeval"])
    assert "NLTK_DATA" in str(caught.value.hint)
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    refuse_no_sentences("mine", ["leaderboard_ifeval"])
