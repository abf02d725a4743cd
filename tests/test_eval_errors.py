"""What a user of `eval` and `ask` gets wrong, and the line and hint that come back."""

import shutil
from pathlib import Path

import pytest

from dataset_builder.artifacts import read_json, write_json
from dataset_builder.command_line import run as run_command
from evals.__main__ import app
from finetune.run import Run
from tests.runs import record, tiny_run, write_run
from tests.tiny import example, tiny_llama, tiny_preset
from tests.tiny import write_variant as write_tiny_variant

SUITE = """
title = "a handful"
limits = [3]
tokens_per_word = 1
spare_tokens = 2
unlimited_tokens = 4
scorers = ["violation", "words"]
"""


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    (tmp_path / "small.toml").write_text(SUITE)
    return tmp_path / "artifacts"


@pytest.fixture
def run(tmp_path: Path, artifacts: Path) -> Path:
    write_tiny_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
    base = 'quantization = "none"'
    preset = tiny_preset(tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"), base=base)
    return tiny_run(preset)


class Said:
    """What a command printed, and how it ended."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            run_command(app, arguments)
        self.code = ended.value.code
        shown = capsys.readouterr()
        self.out, self.err = shown.out, shown.err

    @property
    def error(self) -> str:
        assert self.code == 2, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        return "\n".join(line for line in lines if line.startswith(("error: ", "hint: ")))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["eval"], "error: no run is named\nhint: type `just list` to see those that exist"),
        (
            ["eval", "nothing"],
            "error: no finished run `nothing`\nhint: type `just train VARIANT PRESET`",
        ),
        (
            ["eval", "a", "--batch", "0"],
            "error: --batch 0 makes no answer\nhint: give 1 or more, or leave it out",
        ),
        (
            ["ask"],
            'error: wanted: one run or more, then a prompt\nhint: type `just ask RUN "prompt"`',
        ),
        (
            ["ask", "only a prompt"],
            'error: wanted: one run or more, then a prompt\nhint: type `just ask RUN "prompt"`',
        ),
        (
            ["ask", "run", "prompt", "--limit", "0"],
            "error: --limit 0 leaves no word to say\nhint: give 1 or more",
        ),
        (
            ["ask", "run $(ls) [b]", "prompt"],
            "error: no finished run `run $(ls) [b]`\nhint: type `just train VARIANT PRESET`",
        ),
    ],
)
def test_a_command_that_cannot_begin_says_what_to_type(
    arguments: list[str], lines: str, capsys: pytest.CaptureFixture[str]
):
    assert Said(arguments, capsys).error == lines


def test_an_unknown_suite_gives_the_near_miss(run: Path, capsys: pytest.CaptureFixture[str]):
    said = Said(["eval", "tiny", "--suite", "word_limt"], capsys)
    assert said.error == ("error: unknown suite `word_limt`\nhint: did you mean `word_limit`?")


def test_a_missing_prompt_file_is_named_as_it_was_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said = Said(["eval", "tiny", "--prompts", f"{tmp_path}/no such*.jsonl"], capsys)
    assert said.error.startswith(
        f"error: prompt file `{tmp_path}/no such*.jsonl`: cannot be read: "
        "No such file or directory\n"
        "hint: wanted: JSON Lines, a string or an object with `prompt` a line"
    )


def test_bad_lines_of_a_prompt_file_are_counted_said_and_stored(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "mine.jsonl"
    path.write_text('"How tall is a giraffe?"\nnope\n{"prompt": "Name a fish."}\n')
    suite = str(tmp_path / "small.toml")
    said = Said(["eval", "tiny", "--suite", suite, "--prompts", str(path)], capsys)
    assert said.code == 0
    assert "mine.jsonl: 2 prompts; lines refused: 1 not JSON (line 2: not JSON)" in said.err
    ours, base = (Path(line) for line in said.out.splitlines())
    assert ours.parent == run / "evals"
    from evals.tables import Evaluation

    for directory in (ours, base):
        stored = read_json(directory / "eval.json", Evaluation)
        assert stored.refused == {"not JSON": 1}
        assert stored.prompts_by_origin == {"held_out": 3, "mine.jsonl": 2}
        assert stored.generations == 10
    # The same suite without the file is another evaluation.
    dry = Said(["eval", "tiny", "--suite", suite, "--dry-run"], capsys)
    assert dry.code == 0
    assert ours.name not in dry.out
    assert "would be made: 6 answers to 3 prompts" in dry.out
    assert len(list((run / "evals").iterdir())) == 1


def test_a_suite_with_no_prompts_left_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    suite = tmp_path / "finnish.toml"
    suite.write_text(SUITE + 'languages = ["fi"]\n')
    assert Said(["eval", "tiny", "--suite", str(suite)], capsys).error == (
        "error: suite `finnish` has no prompts: these tables hold no held-out test root in fi, "
        "and no prompt file is named\n"
        "hint: build the data with a larger `--held-out`, or give `--prompts FILE`"
    )


def test_prompts_longer_than_the_window_are_left_out_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "long.jsonl"
    path.write_text(f'"{"very " * 600}long?"\n')
    suite = str(tmp_path / "small.toml")
    said = Said(["eval", "tiny", "--suite", suite, "--prompts", str(path)], capsys)
    assert said.code == 0
    from evals.tables import Evaluation

    stored = read_json(Path(said.out.splitlines()[0]) / "eval.json", Evaluation)
    assert stored.refused == {"longer than the window of 512 tokens": 2}
    told = "2 questions were not asked, longer than the window of 512 tokens"
    for name in ("tiny s0", "base"):
        assert f"{name}: {told}" in said.err.splitlines()
    assert stored.generations == 6
    over = tmp_path / "over.toml"
    over.write_text(SUITE.replace("= 4", "= 9999").replace("_word = 1", "_word = 999"))
    assert "no prompt fits the window" in Said(["eval", "tiny", "--suite", str(over)], capsys).error


def test_an_unfinished_run_does_not_exist(run: Path, capsys: pytest.CaptureFixture[str]):
    (run / "run.json").rename(run / "run.json.tmp")
    assert "error: no finished run `tiny`" in Said(["eval", "tiny"], capsys).error


def test_an_adapter_that_changed_is_not_taken_for_the_one_that_was_trained(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    path = run / "adapter" / "adapter_model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    assert Said(["eval", "tiny"], capsys).error == (
        f"error: {path}: not the adapter that run.json names\n"
        "hint: bring back the file, or train the run again"
    )
    path.unlink()
    assert "has no adapter" in Said(["eval", "tiny"], capsys).error


def test_an_adapter_whose_base_is_missing_or_another_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny_llama(tmp_path / "bigger", vocabulary=450)
    shutil.rmtree(tmp_path / "model")
    for command in (["eval", "tiny"], ["ask", "tiny", "Why?"]):
        assert f"error: base model `{tmp_path / 'model'}`: no such directory" in (
            Said(command, capsys).error
        )
    (tmp_path / "bigger").rename(tmp_path / "model")
    said = Said(["eval", "tiny"], capsys).error
    assert said.startswith("error: run `tiny-")
    assert "was trained on base" in said
    assert said.endswith("hint: bring back the model it was trained on, or train it again")


def test_a_record_that_is_not_one_is_named(run: Path, capsys: pytest.CaptureFixture[str]):
    stored = read_json(run / "run.json", Run)
    write_json({"name": stored.name}, run / "run.json")
    said = Said(["eval", str(run)], capsys).error
    assert said.startswith(f"error: {run / 'run.json'}: not what treetune wrote")


def test_an_ambiguous_run_lists_the_choices(capsys: pytest.CaptureFixture[str]):
    for variant in ("concise", "concise_best"):
        write_run(record(variant))
    said = Said(["eval", "conc"], capsys)
    assert "error: `conc` is the beginning of 2 runs of 2 arms" in said.error
    assert "concise_best-" in said.err


def test_tables_that_are_gone_are_named(
    run: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(artifacts / "tables")
    said = Said(["eval", "tiny"], capsys).error
    assert "these tables are gone" in said
    assert "just build-data" in said


def test_asking_shows_each_answer_with_its_words_and_escapes_what_it_holds(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    said = Said(["ask", "tiny", "What's [/b] * $(ls) in here?", "--limit", "3"], capsys)
    assert said.code == 0
    assert "base" in said.out
    assert "tiny s0" in said.out
    assert "\x1b" not in said.out
