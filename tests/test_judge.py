"""A judge at an address of this machine, and a reward model: asked when told to, and once."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals import judge as judging
from evals.evaluation import evaluate
from evals.judge import KEY, Judge, ask, grade_in, grades, stored_path
from evals.plan import Silent, plan
from evals.prompts import Prompt
from evals.reward import find_reward_model, rewards
from evals.sources import check_sources
from evals.suite import Suite
from evals.summary import unscored_lines
from evals.tables import SCORES, Evaluation
from tests.runs import tiny_run
from tests.tiny import example, tiny_llama, tiny_preset, tiny_tokenizer, write_variant

PROMPT = Prompt("p0", "t0", "held_out", "en", "Why is the sky blue?")


class Server:
    """What an OpenAI-compatible server would do, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[tuple[int, bytes]] = []  # before the usual one

        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.asked.append(json.loads(self.rfile.read(length)) | {"path": self.path})
                outer.headers.append(dict(self.headers))
                said = {"choices": [{"message": {"role": "assistant", "content": "grade: 7"}}]}
                status, body = (
                    outer.replies.pop(0) if outer.replies else (200, json.dumps(said).encode())
                )
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{outer.address}/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                outer.asked.append({"path": self.path})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=lambda: self.http.serve_forever(0.02), daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    monkeypatch.setenv(KEY, "a secret of mine")
    monkeypatch.setattr(judging.time, "sleep", lambda seconds: None)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(302, b"", "HTTP 302"), (200, b"\xff", "its reply"), (200, b"[" * 100_000, "its reply")],
)
def test_a_judge_is_neither_followed_elsewhere_nor_believed(
    server: Server, status: int, body: bytes, said: str
):
    """A key goes to the address that was given and to no other."""
    server.replies = [(status, body)]
    with pytest.raises(InputError, match=f"judge `{server.address}`: .*{said}"):
        judging.ask(server.address, {})
    assert [each["path"] for each in server.asked] == ["/v1/chat/completions"]


def test_each_answer_is_asked_about_once_and_its_grade_stays(server: Server, tmp_path: Path):
    judge, pairs = Judge(server.address, "a/judge"), [(PROMPT, "Air."), (PROMPT, "Air.")]
    assert grades(judge, pairs, True) == {("p0", "Air."): 7.0}
    [asked] = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert asked["model"] == "a/judge"
    assert "Why is the sky blue?" in asked["messages"][1]["content"]
    assert server.headers[0]["Authorization"] == "Bearer a secret of mine"
    # From any address: what determines the grade is the model and what it was asked.
    again = Judge("http://127.0.0.1:1/v1", "a/judge")
    assert grades(again, pairs, False) == {("p0", "Air."): 7.0}
    assert len(server.asked) == 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_nothing_is_sent_where_nobody_asked(server: Server):
    assert grades(Judge(server.address, "j"), [(PROMPT, "Air.")], False) == {("p0", "Air."): None}
    assert server.asked == []
    assert not stored_path("j").exists()


def test_a_torn_line_is_asked_again_and_the_rest_is_kept(server: Server):
    judge = Judge(server.address, "j")
    grades(judge, [(PROMPT, "One."), (PROMPT, "Two.")], True)
    path = stored_path("j")
    path.write_bytes(path.read_bytes()[:-7])
    found = grades(judge, [(PROMPT, "One."), (PROMPT, "Two.")], True)
    assert set(found.values()) == {7.0}
    assert len(server.asked) == 3
    assert len(path.read_bytes().splitlines()) == 2
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_busy_judge_is_asked_again(server: Server):
    server.replies = [(429, b""), (503, b"")]
    assert grades(Judge(server.address, "j"), [(PROMPT, "Air.")], True) == {("p0", "Air."): 7.0}
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("replies", "message", "hint"),
    [
        ([(401, b"")], "HTTP 401", f"is {KEY} set"),
        ([(403, b"")], "HTTP 403", f"is {KEY} set"),
        ([(404, b"")], "HTTP 404", "is it the model?"),
        ([(400, b"bad")], "HTTP 400", "is it the model?"),
        ([(500, b"")] * 4, "HTTP 500", "is it the model?"),
        ([(429, b"")] * 4, "HTTP 429", "is it the model?"),
        ([(200, b"<html>")], "its reply is none of", "/chat/completions"),
        ([(200, b"{}")], "its reply is none of", "/chat/completions"),
        ([(200, b'{"choices": []}')], "its reply is none of", "/chat/completions"),
        ([(200, b'{"choices": [{"message": null}]}')], "its reply is none of", "completions"),
    ],
)
def test_a_judge_that_does_not_answer_is_named(
    server: Server, replies: list[tuple[int, bytes]], message: str, hint: str
):
    server.replies = list(replies)
    with pytest.raises(InputError, match=message) as caught:
        grades(Judge(server.address, "j"), [(PROMPT, "Air.")], True)
    assert server.address in str(caught.value)
    assert hint in str(caught.value.hint)
    assert not stored_path("j").exists()


def test_an_address_where_nobody_is_and_one_that_is_none_are_named(server: Server):
    with pytest.raises(InputError, match="cannot be reached"):
        ask("http://127.0.0.1:1/v1", {})
    with pytest.raises(InputError, match="not an address"):
        ask("file:///etc/passwd", {})


def test_what_is_no_grade_is_no_score(server: Server):
    said = {"choices": [{"message": {"content": "It is rather good."}}]}
    server.replies = [(200, json.dumps(said).encode())]
    judge = Judge(server.address, "j")
    assert grades(judge, [(PROMPT, "Air.")], True) == {("p0", "Air."): None}
    assert grades(judge, [(PROMPT, "Air.")], True) == {("p0", "Air."): None}
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("said", "grade"),
    [("grade: 10", 10), ("Grade **3**", 3), ("grade: 0", None), ("7", None), ("grade: 9999", None)],
)
def test_a_grade_is_read_and_nothing_else(said: str, grade: int | None):
    assert grade_in(said) == grade


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def reward_model(folder: Path, labels: int = 1) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_does_not_depend_on_the_batch_and_what_does_not_fit_has_none(tmp_path: Path):
    folder = reward_model(tmp_path / "rm")
    answers = ["Air.", "Air scatters blue light.", "Because.", "word " * 200]
    together = rewards(find_reward_model(folder), [(PROMPT, answer) for answer in answers])
    assert together["p0", answers[3]] is None
    for answer in answers[:3]:
        alone = rewards(find_reward_model(folder), [(PROMPT, answer)])
        assert together["p0", answer] == pytest.approx(alone["p0", answer], abs=1e-5)
    assert len({together["p0", answer] for answer in answers[:3]}) == 3


def test_what_is_no_reward_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        find_reward_model(tmp_path)
    with pytest.raises(InputError, match="2 labels"):
        find_reward_model(reward_model(tmp_path / "two", labels=2))
    folder = reward_model(tmp_path / "rm")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no chat template"):
        rewards(find_reward_model(folder), [(PROMPT, "Air.")])
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(InputError, match="no safetensors in"):
        rewards(find_reward_model(folder), [(PROMPT, "Air.")])


class Heard(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("scorer", "address", "message"),
    [
        ("words", "http://127.0.0.1:1/v1", "suite `mine` has no scorer `judge`"),
        ("judge", "127.0.0.1:8000", "not an address"),
        ("judge", "http://", "not an address"),
        ("judge", "http://[::1", "not an address"),
        ("judge", "http://a:b/v1", "not an address"),
        ("judge", "http://a b/v1", "not an address"),
        ("reward", None, r"no config\.json there"),
    ],
)
def test_who_cannot_be_asked_is_said_before_anything_slow(
    scorer: str, address: str | None, message: str, tmp_path: Path
):
    suite = Suite(title="x", scorers=(scorer,), reward_model=str(tmp_path), judge_model="j")
    with pytest.raises(InputError, match=message) as caught:
        check_sources(suite, "mine", address, Silent())
    assert caught.value.hint


def test_stored_answers_are_rewarded_and_judged_where_no_model_is_left(
    server: Server, tmp_path: Path
):
    write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
    base = 'quantization = "none"'
    run = tiny_run(tiny_preset(tmp_path / "tiny.toml", tiny_llama(tmp_path / "model"), base=base))
    suite = tmp_path / "small.toml"
    rewarding = reward_model(tmp_path / "rm")
    keys = 'title = "x"\nlimits = [3]\nspare_tokens = 1\nunlimited_tokens = 3\n'
    suite.write_text(keys + 'scorers = ["violation", "relevance_total"]\nrelevance_others = 1\n')
    before = evaluate(plan([run], str(suite), [], Silent()), Silent())
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(run / "adapter")
    scorers = '["violation", "relevance_total", "reward", "judge"]'
    keys += f'reward_model = "{rewarding}"\njudge_model = "j"\nrelevance_others = 1\n'
    suite.write_text(f"{keys}scorers = {scorers}\n")
    # Answering needs both; what has been answered does not.
    with pytest.raises(InputError, match="no such directory"):
        plan([run], str(suite), [], Silent())
    planned = plan([run], str(suite), [], Silent(), is_again=True)
    assert [each.directory for each in planned] == before
    heard = Heard()
    evaluate(planned, heard, judge=server.address)
    assert heard.lines[0].endswith(
        ": evaluated already; `--rescore` scores it by `reward`, `judge` too and asks the judge"
    )
    assert not server.asked
    server.replies = [(200, b'{"choices": [{"message": {"content": "Who knows."}}]}')]
    assert evaluate(planned, Silent(), is_again=True, judge=server.address) == before
    rows = [read_table(each / "scores.parquet", SCORES).to_pylist() for each in before]
    for found in rows:
        assert {row["metric"] for row in found} == set(json.loads(scorers))
    assert {row["value"] for row in rows[0] if row["metric"] == "judge"} == {7.0}
    assert len({row["value"] for row in rows[0] if row["metric"] == "reward"}) > 1
    gated = [gate.metric for gate in read_json(before[1] / "eval.json", Evaluation).gates]
    assert sorted(gated) == ["judge", "relevance_total", "reward"]
    # The one answer without a grade, as often as it was given.
    [line] = unscored_lines(before[:1])
    assert line.startswith("tiny s0: of 6 answers have no score: ")
    assert line.endswith(" `judge`")
    asked = len(server.asked)
    evaluate(planned, Silent(), is_again=True)
    assert len(server.asked) == asked
    assert [read_table(each / "scores.parquet", SCORES).to_pylist() for each in before] == rows
