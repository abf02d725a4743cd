"""Answers made elsewhere become arms that are compared like any other."""

import json
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.artifacts import artifacts_root, read_json
from dataset_builder.command_line import run as run_command
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table, table_of, write_table
from dataset_builder.wordings import state_limit
from evals.__main__ import app as evals_app
from evals.answer_files import read_answer_file, without_marks
from evals.arms import load_arms
from evals.compare import compare
from evals.imported import asked_of, import_answers, imported_directories, load_imported
from evals.scorers import PLAIN
from evals.tables import COMPARISON, GENERATIONS, SCORES, Evaluation
from finetune.run import arm_of, find_runs
from reports.__main__ import app as reports_app
from reports.listing import listing
from tests.golden import drawn
from tests.real import real
from tests.reports_fixture import PROMPTS, World, write_artifacts


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def generations(directory: Path) -> list[dict]:
    return read_table(next(directory.glob("evals/*/generations.parquet")), GENERATIONS).to_pylist()


def answered(n: int, words: int, limit: int | None = None) -> list[dict]:
    return [
        {"prompt": f"Question {k}?", "answer": "word " * words, "limit": limit} for k in range(n)
    ]


def test_two_of_the_real_models_are_compared_end_to_end(capsys: pytest.CaptureFixture[str]):
    files = [real(f"generations/{name}") for name in ("claude-v1.3.jsonl", "gpt-3.5-turbo.json")]
    evals_app(["import", *map(str, files)], result_action="return_value")
    out = capsys.readouterr().out.split()
    assert len(out) == 2
    reports_app(["compare", "claude", "gpt-3.5", "--name", "x"], result_action="return_value")
    said = " ".join(capsys.readouterr().err.split())
    assert "Answers made elsewhere have no seeds" in said
    assert "One seed" not in said
    [row] = [row for row in comparison_rows(out[0], "x") if row["metric"] == "words"]
    assert (row["prompts"], row["limit"], row["seeds"]) == (250, None, 0)
    assert row["difference"] < -100  # Claude gives four times the words
    assert row["verdict"] is None


def comparison_rows(imported: str, name: str) -> list[dict]:
    root = Path(imported).parents[1]
    return read_table(root / "comparisons" / name / "comparison.parquet", COMPARISON).to_pylist()


def test_a_real_report_is_an_arm_per_sampling_with_several_outputs_a_prompt():
    found, directories = import_answers(real("generations/oasst-rlhf-2-llama-30b.json"))
    assert found.refused == {}
    assert found.marks == {"</s>": 686}
    sources = {load_imported(each).sampling: load_imported(each) for each in directories}
    counts = {name: (source.answers, source.prompts) for name, source in sources.items()}
    assert counts == {"nucleus9": (500, 250), "k50": (500, 250), "greedy": (250, 250)}
    assert sources["greedy"].settings["do_sample"] is False
    for directory in directories:
        rows = generations(directory)
        assert not [row for row in rows if "</s>" in row["answer"]]
        assert {row["sample"] for row in rows} == set(range(len(rows) // 250))
    # What ended by its mark stopped by itself; the rest was cut at the tokens allowed.
    stopped = sum(row["is_stopped"] for each in directories for row in generations(each))
    assert stopped == 686


def test_samples_of_a_prompt_make_one_value_their_mean(tmp_path: Path):
    rows = [*answered(1, 10, 20), *answered(1, 30, 20)]
    _, [directory] = import_answers(write(tmp_path / "a.jsonl", *rows))
    [arm] = load_arms([[directory]], None)
    assert list(arm.seeds[0].values["violation"].values()) == [0.5]
    assert list(arm.seeds[0].values["words"].values()) == [20]


def test_answers_with_limits_get_a_verdict_that_names_no_variant(tmp_path: Path):
    short = write(tmp_path / "short.jsonl", *answered(40, 5, 20))
    rows = [*answered(30, 50, 20), *answered(40, 5, 20)[30:]]
    long = write(tmp_path / "long.jsonl", *rows)
    arms = [[import_answers(path)[1][0]] for path in (long, short)]
    directory = compare(arms, name="limits")
    found = json.loads((directory / "comparison.json").read_text(encoding="utf-8"))
    assert found["notes"]["verdicts"] == {"short": "this run beats"}
    assert found["sentence"].startswith("This set of answers of `short` beats that of `long`")
    assert found["sentence"].endswith("these answers are compared, not variants.")
    assert found["arms"][0]["runs"] == []


def test_answers_beside_a_run_answer_its_suite(tmp_path: Path, artifacts: Path):
    write_artifacts(artifacts, World(PROMPTS, (20, None), seeds=3))
    [run, *_] = find_runs("full")
    asked = asked_of(next(run.glob("evals/*")))
    questions = {row["prompt"] for row in asked.by_limit.values()}
    rows = [
        {"prompt": prompt, "answer": "Yes.", "limit": limit}
        for prompt in questions
        for limit in (20, None)
    ]
    path = write(tmp_path / "mine.jsonl", *rows, {"prompt": "Another?", "answer": "No."})
    _, [directory] = import_answers(path, asked=asked)
    assert load_imported(directory).unasked == 1
    assert len(generations(directory)) == len(rows)
    arms = load_arms([find_runs("full"), [directory]], None)
    assert arms[1].is_imported
    assert arms[0].seeds[0].asked == arms[1].seeds[0].asked
    comparison = compare([find_runs("full"), [directory]], name="beside")
    said = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))
    assert "no seeds" in said["sentence"]
    assert {arm["label"] for arm in said["arms"]} == {"full", "mine", "base"}


def test_a_limit_inside_the_prompt_is_found_by_its_text(tmp_path: Path, artifacts: Path):
    write_artifacts(artifacts, World(PROMPTS, (20, None)))
    asked = asked_of(next(find_runs("full")[0].glob("evals/*")))
    row = next(row for row in asked.by_limit.values() if row["limit"] == 20)
    text = state_limit(row["prompt"], 20, row["wording"])
    path = write(tmp_path / "a.jsonl", {"prompt": text, "answer": "Yes."})
    [found] = generations(import_answers(path, asked=asked)[1][0])
    assert (found["limit"], found["prompt_id"]) == (20, row["prompt_id"])


def test_a_limit_beside_the_prompt_is_the_suites_own_and_no_other_request(
    tmp_path: Path, artifacts: Path
):
    write_artifacts(artifacts, World(PROMPTS, (20, None)))
    evaluation = next(find_runs("full")[0].glob("evals/*"))
    rows = read_table(evaluation / "generations.parquet", GENERATIONS).to_pylist()
    stated = [row for row in rows if row["limit"] is not None]
    # As `word_limit` asks: the other requests come first.
    others = [row | {"wording": name} for name in ("about", "at_most") for row in stated]
    table = table_of([*others, *rows], GENERATIONS)
    write_table(table, GENERATIONS, evaluation / "generations.parquet")
    asked = asked_of(evaluation)
    prompt = stated[0]["prompt"]
    told = state_limit(prompt, 20, "about")
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": prompt, "answer": "Yes.", "limit": 20},
        {"prompt": told, "answer": "No.", "limit": 20},
    )
    found = generations(import_answers(path, asked=asked)[1][0])
    assert [(row["answer"], row["wording"]) for row in found] == [
        ("Yes.", "lift"),
        ("No.", "about"),
    ]


def test_answers_to_nothing_the_suite_asks_are_refused(tmp_path: Path, artifacts: Path):
    write_artifacts(artifacts, World(PROMPTS, (20, None)))
    asked = asked_of(next(find_runs("full")[0].glob("evals/*")))
    with pytest.raises(InputError, match="none of 3 answers a prompt of the suite"):
        import_answers(write(tmp_path / "a.jsonl", *answered(3, 5)), asked=asked)


def test_a_log_of_lm_eval_is_read_once_per_answer(tmp_path: Path):
    def sample(n: int, filter_name: str) -> dict:
        return {
            "doc_id": n,
            "doc": {"prompt": f"Question {n}?", "limit": 20, "tree_id": f"tree {n}"},
            "arguments": {"gen_args_0": {"arg_0": f"User: Question {n}?", "arg_1": {}}},
            "resps": [["First.", "Second."]],
            "filtered_resps": ["First."],
            "filter": filter_name,
            "doc_hash": f"{n}" * 4,
        }

    rows = [sample(n, name) for n in range(3) for name in ("none", "strip")]
    found, [directory] = import_answers(write(tmp_path / "samples_x.jsonl", *rows))
    assert found.form == "harness"
    assert found.refused == {"the same answer under another filter": 3}
    read = generations(directory)
    assert [row["answer"] for row in read] == ["First.", "Second."] * 3
    assert {row["limit"] for row in read} == {20}
    assert {row["tree_id"] for row in read} == {"tree 0", "tree 1", "tree 2"}


def test_a_log_of_a_task_that_writes_nothing_is_refused(tmp_path: Path):
    row = {"doc_id": 0, "doc": {"prompt": "A?"}, "resps": [["-1.5", "False"], ["-2.5", "True"]]}
    with pytest.raises(InputError, match="no generated text"):
        read_answer_file(write(tmp_path / "samples.jsonl", row))


@pytest.mark.parametrize(
    ("text", "answer", "marks"),
    [
        (" Yes.</s>", "Yes.", ["</s>"]),
        ("Yes.</s></s></s>", "Yes.", ["</s>"]),
        ("Yes.<|im_end|>\n<|im_start|>user\nMore", "Yes.", ["<|im_end|>", "text after the end"]),
        ("<s>Yes.</s>", "Yes.", ["<s>", "</s>"]),
        ("<|assistant|>Yes.<|endoftext|>", "Yes.", ["<|assistant|>", "<|endoftext|>"]),
        ("It is <s>red</s> blue.", "It is <s>red</s> blue.", []),
        ("It is <s>red</s> blue.</s>", "It is <s>red</s> blue.", ["</s>"]),
        ("<s>Red</s> is blue.", "<s>Red</s> is blue.", []),
        ("</s>", "", ["</s>"]),
        ("", "", []),
        ("<html></html>", "<html></html>", []),
    ],
)
def test_marks_of_a_tokenizer_come_off_and_markup_stays(text: str, answer: str, marks: list[str]):
    assert without_marks(text) == (answer, marks)


def test_unreadable_rows_are_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = answered(6, 5)
    bad = [
        {"prompt": 1, "answer": "a"},
        {"prompt": "Why?"},
        {"prompt": "Why?", "answer": "a", "limit": 0},
        {"prompt": "Why?", "answer": "a", "limit": True},
        ["a"],
    ]
    path = write(tmp_path / "a.jsonl", *good, *bad)
    evals_app(["import", str(path)], result_action="return_value")
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "refused: 1 no prompt, 1 no answer, 2 limit is no number of words, 1 no object "
        "(row 7: no prompt; row 8: no answer" in said
    )
    [directory] = imported_directories()
    source = load_imported(directory)
    assert source.answers + sum(source.refused.values()) == len(good) + len(bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no answer in it"),
        ("\n \n", "no answer in it"),
        ("not json\n", r"1 of 1 answers refused \(row 1: not JSON\)"),
        ('{"prompt": "A?", "answer": "b"', "row 1: not JSON"),
        ('{"prompts": []}', "no answer in it"),
        ('{"prompts": [{"prompt": "A?", "results": []}]}', "prompt 1: no results"),
        (
            '{"prompts": [{"prompt": "A?", "results": [{"sampling_config": "k"}]}]}',
            "prompt 1: no outputs",
        ),
        ('{"prompts": [{"results": [{"outputs": ["b"]}]}]}', "prompt 1: no prompt"),
        (
            '{"prompts": [{"prompt": "A?", "results": [{"outputs": [1, null]}]}]}',
            "2 of 2 answers refused",
        ),
        ('{"prompt": "?!", "answer": "b"}', "row 1: empty prompt"),
        ('{"prompt": "A?", "answer": "\\ud800"}', "row 1: not JSON"),
        ("[" * 5000, "row 1: not JSON"),
        ('"A?"\n', "row 1: no object"),
        ('{"prompt": "A?", "answer": "b", "is_stopped": "yes"}', "neither true nor false"),
        ('{"prompt": "A?", "answer": "b", "id": ["x"]}', "id or tree is no name"),
    ],
)
def test_a_malformed_file_is_refused_and_nothing_is_written(
    content: str, message: str, tmp_path: Path, artifacts: Path
):
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        import_answers(path)
    assert "sampling report" in str(caught.value.hint)
    assert not artifacts.exists()


def test_a_missing_file_and_an_id_of_two_prompts_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        import_answers(tmp_path / "none.jsonl")
    rows = [{"prompt": f"{k}?", "answer": "b", "id": 7} for k in range(2)]
    with pytest.raises(InputError, match="id `7` stands for two prompts"):
        import_answers(write(tmp_path / "a.jsonl", *rows))


def test_what_is_there_stays_and_changed_answers_are_another_arm(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", *answered(2, 5))
    [first] = import_answers(path)[1]
    before = (first / "source.json").read_bytes()
    assert import_answers(path)[1] == [first]
    assert (first / "source.json").read_bytes() == before
    assert import_answers(write(path, *answered(2, 6)))[1] != [first]
    assert len(imported_directories()) == 2


def test_importing_again_scores_with_what_has_come_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from evals import imported

    path = write(tmp_path / "a.jsonl", *answered(3, 5, 20))
    old = {name: PLAIN[name] for name in ("violation", "words")}
    monkeypatch.setattr(imported, "PLAIN", old)
    [directory] = import_answers(path)[1]
    monkeypatch.undo()
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    before = generations(directory)
    assert import_answers(path)[1] == [directory]
    [scores] = directory.glob("evals/*/scores.parquet")
    metrics = {row["metric"] for row in read_table(scores, SCORES).to_pylist()}
    assert {"violation", "words", "repetition", "limit_share"} <= metrics
    assert generations(directory) == before


@pytest.mark.parametrize("command", [["eval", "mine", "--rescore"], ["ask", "mine", "Why?"]])
def test_answers_made_elsewhere_cannot_be_asked_for_more(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
):
    import_answers(write(tmp_path / "mine.jsonl", *answered(3, 5)))
    with pytest.raises(SystemExit) as ended:
        run_command(evals_app, command)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "holds answers made elsewhere, and no model to ask" in said
    assert "`just import-generations` their file again" in said


def test_names_of_imported_arms_are_whole_arms():
    assert arm_of(Path("imported/claude-v1.3-sample-65cc3167")).endswith("sample-65cc3167")
    assert arm_of(Path("runs/tiny-11111111/full-abcdefabcdef-s12")).endswith("full-abcdefabcdef")


def test_how_an_answer_ended_is_not_scored_where_it_is_not_known(tmp_path: Path):
    _, [directory] = import_answers(write(tmp_path / "a.jsonl", *answered(2, 5)))
    scores = read_table(next(directory.glob("evals/*/scores.parquet")), SCORES).to_pylist()
    assert "stopped" not in {row["metric"] for row in scores}
    known = [dict(row, is_stopped=k == 0) for k, row in enumerate(answered(2, 6))]
    _, [directory] = import_answers(write(tmp_path / "b.jsonl", *known))
    scores = read_table(next(directory.glob("evals/*/scores.parquet")), SCORES).to_pylist()
    assert [row["value"] for row in scores if row["metric"] == "stopped"] == [1, 0]


def test_imported_answers_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import_answers(write(tmp_path / "mine.jsonl", *answered(2, 5), "bad"))
    reports_app(["list"], result_action="return_value")
    said = capsys.readouterr().out
    assert "Imported answers" in said
    assert said.count("mine-") == 1
    assert "none yet: type `just eval RUN`" in said


def test_the_names_of_imported_answers_are_whole_at_eighty_columns(tmp_path: Path):
    name = "oasst-rlhf-2-llama-30b-7k-steps-nucleus9"
    _, [directory] = import_answers(write(tmp_path / "a.jsonl", *answered(2, 5)), name)
    assert len(directory.name) > 48
    assert f"  {directory.name} " in drawn(listing(artifacts_root()), 80)


def test_the_record_of_an_imported_evaluation_says_what_is_not_known(tmp_path: Path):
    _, [directory] = import_answers(write(tmp_path / "a.jsonl", *answered(2, 5)))
    path = next(directory.glob("evals/*/eval.json"))
    record = read_json(path, Evaluation)
    assert record.run == directory.name
    assert record.notes["contamination"].startswith("unknown")
