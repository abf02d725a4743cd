"""Ten ways each in which an evaluation cannot be made, or only in part: said, counted, nothing
lost."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from dataset_builder.artifacts import write_json
from dataset_builder.errors import InputError
from dataset_builder.template import find_template, prompt_ids, stop_ids
from evals import generate as generating
from evals.evaluation import _asked
from evals.generate import Asked, Partial, generate
from evals.plan import Planned, Silent, plan
from evals.prompts import Prompt, questions, suite_prompts
from evals.scorers import stopped, truncated
from evals.suite import Suite
from finetune.base import ready_base
from finetune.preset import Base
from finetune.run import find_runs, load_run
from tests.runs import record, tiny_run, write_run
from tests.test_suite import DIGEST, write_held_out
from tests.tiny import QUESTIONS, example, tiny_llama, tiny_preset, tiny_tokenizer, write_variant

RECORD = msgspec.json.encode(record("full"))


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.mark.parametrize(
    "left",
    [
        None,  # no record at all
        b"",
        b"\x00" * 64,
        b"null",
        b"[]",
        b"{}",
        b"true",
        RECORD[: len(RECORD) // 2],
        RECORD.replace(b'"seed":0', b'"seed":"0"'),
        RECORD.replace(b'"adapter_sha256"', b'"adapter"'),
        b"\xff\xfe" + RECORD,
    ],
)
def test_a_run_without_a_whole_record_is_no_run(left: bytes | None):
    directory = write_run(record("full"))
    path = directory / "run.json"
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(InputError, match=r"no finished run `full`|not what treetune wrote"):
        load_run(find_runs("full")[0])


@pytest.mark.parametrize("name", ["full", "tiny-", "tiny-11111111/full", "a path"])
def test_a_run_that_has_not_ended_is_told_from_none(name: str):
    directory = write_run(record("full"))
    (directory / "run.json").unlink()
    begun = directory.rename(directory.with_name(f"{directory.name}.unfinished"))
    with pytest.raises(InputError) as caught:
        find_runs(str(begun) if name == "a path" else name)
    assert str(caught.value) == f"run `{record('full').name}` is not finished"
    assert "--resume" in str(caught.value.hint)
    with pytest.raises(InputError, match="no finished run `other`"):
        find_runs("other")


ROOT = {"question": "Why?"}


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        ([], {}),
        ([ROOT | {"split": "validation"}], {}),
        ([ROOT | {"is_root": False, "turns": 2}], {}),
        ([ROOT | {"lang": "de"}], {}),
        ([ROOT], {"languages": ("fi", "de")}),
        ([ROOT], {"held_out": False}),
        ([{"question": " "}], {}),
        ([{"question": "?!"}], {"languages": ()}),
        ([ROOT | {"lang": "EN"}], {}),
        ([ROOT | {"split": "train"}], {"languages": ()}),
    ],
)
def test_a_suite_with_no_prompts_left_says_why(
    artifacts: Path, rows: list[dict], keys: dict[str, Any]
):
    write_held_out(artifacts, *rows)
    suite = msgspec.structs.replace(Suite(title="x", limits=(3,), scorers=("words",)), **keys)
    with pytest.raises(InputError, match=r"suite `mine` has no prompts") as caught:
        suite_prompts(suite, "mine", DIGEST, [])
    assert "--prompts FILE" in str(caught.value.hint)


def break_base(how: str, folder: Path) -> str:
    """Break the base model in `folder`; the name by which it is asked for."""
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("")
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "no configuration":
        (folder / "config.json").unlink()
    return {
        "no package": "package:no-such-model",
        "no name": "package:",
        "no revision": "owner/name",
        "too many parts": "owner/name/more",
    }.get(how, str(folder))


@pytest.mark.parametrize(
    "how",
    [
        *("gone", "empty", "a file", "no weights", "pickled", "no configuration"),
        *("no package", "no name", "no revision", "too many parts"),
    ],
)
def test_an_adapter_whose_base_is_missing_names_it(how: str, tmp_path: Path):
    name = break_base(how, tiny_llama(tmp_path / "model"))
    base = Base(model=name, quantization="none", precision="auto")
    with pytest.raises(InputError) as caught:
        ready_base(base)
    said = str(caught.value)
    assert name in said or "model" in said
    assert caught.value.hint


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    folder = tmp_path_factory.mktemp("window")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant(rows=[example(n, question=f"Row {n}?") for n in range(4)])
        preset = tiny_preset(
            folder / "tiny.toml", tiny_llama(folder / "model"), base='quantization = "none"'
        )
        (folder / "small.toml").write_text(
            'title = "x"\nlimits = [3]\nspare_tokens = 1\nunlimited_tokens = 4\n'
            'scorers = ["words"]\n'
        )
        return plan([tiny_run(preset)], str(folder / "small.toml"), [], Silent())[0]


# The shortest question and its answer have more tokens than 20 and fewer than 40.
NARROWEST = 40


@pytest.mark.parametrize("room", [1, 4, 20, 40, 60, 80, 100, 120, 160, 512])
def test_questions_and_those_too_long_for_the_window_make_the_whole(
    planned: Planned, room: int, monkeypatch: pytest.MonkeyPatch
):
    long = [
        Prompt(f"long{n}", f"long{n}", "x", "en", "word " * n) for n in (1, 5, 10, 20, 40, 60, 90)
    ]
    prompts = (*planned.prompts, *long)
    asking = replace(
        planned, prompts=prompts, questions=tuple(questions(planned.suite, list(prompts)))
    )
    monkeypatch.setattr(generating, "window", lambda config: room)
    if room < NARROWEST:
        with pytest.raises(InputError, match=f"no prompt fits the window .*, {room} tokens"):
            _asked(asking)
        return
    asked, refused, _ = _asked(asking)
    name = f"longer than the window of {room} tokens"
    assert len(asked) + refused.get(name, 0) == len(asking.questions)
    assert all(len(each.ids) + each.allowed <= room for each in asked)
    assert (room == 512) == (name not in refused)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that can say one word and never ends."""
    model = AutoModelForCausalLM.from_pretrained(
        tiny_llama(tmp_path_factory.mktemp("endless") / "m"), dtype=torch.float32
    ).eval()
    tokenizer = tiny_tokenizer()
    [word] = tokenizer(" sky", add_special_tokens=False)["input_ids"][:1]
    head = model.get_output_embeddings()
    bias = torch.full((head.weight.shape[0],), -1e4)
    bias[word] = 1e4
    head.bias = torch.nn.Parameter(bias)
    return model


@pytest.mark.parametrize("allowed", [1, 2, 3, 5, 8, 13, 15, 16, 17, 33])
def test_a_model_that_never_stops_is_cut_where_it_must_be(
    endless: Any, allowed: int, tmp_path: Path
):
    template, tokenizer = find_template("chatml"), tiny_tokenizer()
    assert stop_ids(template, tokenizer)
    ids = tuple(prompt_ids(template, tokenizer, [{"role": "user", "content": QUESTIONS[0]}]))
    asked = [Asked("a", ids, allowed), Asked("b", ids, 40), Asked("c", ids, 1)]
    found = generate(endless, template, tokenizer, asked, Partial(tmp_path / "p.jsonl", {}))
    assert {key: answer.tokens for key, answer in found.items()} == {"a": allowed, "b": 40, "c": 1}
    for answer in found.values():
        assert not answer.is_stopped
        assert stopped(answer.answer, None, answer.is_stopped) == 0
        assert truncated(answer.answer, None, answer.is_stopped) == 1


def test_records_of_another_kind_are_no_run(artifacts: Path):
    folder = artifacts / "runs" / "tiny-11111111" / "full-000000000000-s0"
    folder.mkdir(parents=True)
    write_json({"name": "a comparison"}, folder / "comparison.json")
    with pytest.raises(InputError, match="no finished run `full`"):
        find_runs("full")
