"""Previews: what is asked, how answers are scored, and that nothing about the training changes."""

import random
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from dataset_builder.manifest import find_variant
from dataset_builder.tables import HELDOUT, read_table, table_of, write_table
from dataset_builder.template import find_template
from dataset_builder.words import count_words
from finetune import sft
from finetune.model import load_base
from finetune.plan import Plan
from finetune.preset import Previews
from finetune.previews import (
    Preview,
    Question,
    answer,
    read_questions,
    undisturbed,
    unpacked,
)
from finetune.progress import preview_line
from finetune.run import load_run
from tests.tiny import TABLES, tiny_llama, tiny_phi, tiny_preset, tiny_tokenizer, write_variant
from tests.training import Memory, planned, trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("previews")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_variant()
        tiny_llama(folder / "llama")
        tiny_preset(folder / "tiny.toml", folder / "llama")
        yield folder


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return planned(folder / "tiny.toml")


def lines(run: Path) -> list[Preview]:
    text = (run / "previews.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Preview) for line in text]


def test_each_prompt_is_asked_with_and_without_a_limit_at_the_promised_steps(plan: Plan):
    watcher = Memory()
    rows = lines(sft.train(plan, watcher))

    # Every third of six steps, and before the first; the last is not previewed twice.
    assert [row.step for row in rows] == [0] * 4 + [3] * 4 + [6] * 4
    asked = {(row.prompt_id, row.limit) for row in rows}
    assert len({prompt for prompt, _ in asked}) == 2
    assert {limit for _, limit in asked} == {5, None}
    assert len(asked) == 4
    for row in rows:
        assert row.words == count_words(row.answer)
        kept = None if row.limit is None else 0 < row.words <= row.limit
        assert row.keeps_limit == kept
        assert 1 <= row.tokens <= 8
    assert [row for batch in watcher.previews for row in batch] == rows


def test_previews_change_nothing_about_the_training(folder: Path):
    without = tiny_preset(folder / "none.toml", folder / "llama", previews="prompts = 0")
    often = tiny_preset(
        folder / "often.toml",
        folder / "llama",
        training="gradient_checkpointing = true",
        previews="steps = 1",
    )
    digests = {load_run(trained(preset)).adapter_sha256 for preset in (without, often)}

    assert len(digests) == 1  # with a LoRA dropout of 0.1, so one drawn number would show


def test_prompts_are_held_out_validation_roots_in_the_variants_languages(folder: Path, plan: Plan):
    path = folder / "artifacts" / "tables" / TABLES[:12] / "heldout.parquet"
    original = read_table(path, HELDOUT)
    rows = original.to_pylist()
    rows[1]["lang"] = "de"
    rows[3]["is_root"] = False
    write_table(table_of(rows, HELDOUT), HELDOUT, path)
    try:
        _, manifest = find_variant("tiny")
        wanted = Previews(prompts=2, limits=(20,))
        questions, note = read_questions(manifest, wanted, plan.template, plan.tokenizer, 128)
    finally:
        write_table(original, HELDOUT, path)

    assert {question.prompt_id for question in questions} == {"h5"}
    assert note is not None
    assert "1 of 2 prompts" in note


def test_a_prompt_without_room_for_an_answer_is_left_out(plan: Plan):
    _, manifest = find_variant("tiny")
    previews = Previews(prompts=2)

    assert read_questions(manifest, previews, plan.template, plan.tokenizer, 10)[0] == []


def test_everything_random_and_every_mode_is_as_before(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    model.train()
    model.model.layers[0].eval()
    model.gradient_checkpointing_enable()
    before = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    wanted = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)

    with undisturbed(model):
        assert not model.training
        assert not model.is_gradient_checkpointing
        torch.rand(5), np.random.rand(5), random.random()

    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == wanted
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("make", [tiny_llama, tiny_phi])
def test_unpacked_layers_compute_what_packed_ones_do(make, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr("finetune.model._fits_unpacked", lambda *_: False)
    write_variant()
    template = "chatml" if make is tiny_llama else "instruct"
    preset = tiny_preset(tmp_path / "tiny.toml", make(tmp_path / "model"), template=template)
    plan = planned(preset)
    model, _ = load_base(plan.files, plan.preset.base, CPU)
    ids = torch.tensor([plan.rows[0].prompt_ids])
    with torch.no_grad():
        packed = model(ids).logits
        with unpacked(model):
            layer = model.model.layers[0].self_attn.q_proj
            assert "forward" in vars(layer)  # it is not the packed one that computes
            found = model(ids).logits
        again = model(ids).logits

    assert torch.equal(found, packed)
    assert torch.equal(again, packed)
    assert "forward" not in vars(layer)


def test_a_batch_answers_as_each_prompt_alone(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU, quantized=False)
    model = model.float().eval()  # in half precision, padding's rounding could tip an argmax
    ask = (plan.template, plan.tokenizer)
    together = answer(model, *ask, plan.questions, 12, step=0)
    alone = [answer(model, *ask, [question], 12, step=0)[0] for question in plan.questions]

    assert len({len(question.ids) for question in plan.questions}) > 1  # so there is padding
    assert together == alone


class Scripted:
    """A model that says what it is told to."""

    def __init__(self, said: list[list[int]]) -> None:
        self.said = said
        self.parameters = lambda: iter([torch.zeros(1)])

    def generate(self, input_ids: torch.Tensor, **options) -> torch.Tensor:
        self.options = SimpleNamespace(**options)
        width = max(map(len, self.said))
        padded = [ids + [options["pad_token_id"]] * (width - len(ids)) for ids in self.said]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


def said(text: str, limit: int | None, name: str = "chatml", end: str = "") -> Preview:
    tokenizer, template = tiny_tokenizer(), find_template(name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += [tokenizer.convert_tokens_to_ids(end)] if end else []
    question = Question("h1", "What do bees make?", limit, [5, 6, 7])
    model = Scripted([ids, [*ids, *ids]])
    return answer(model, template, tokenizer, [question, question], 99, step=4)[0]


def test_an_answer_is_scored_by_its_words_and_by_how_it_ended():
    ended = said("Bees make honey.", 3, end="<|im_end|>")
    assert (ended.answer, ended.words, ended.keeps_limit) == ("Bees make honey.", 3, True)
    assert ended.is_stopped

    long = said("Bees make honey and wax.", 3, end="<|endoftext|>")
    assert (long.words, long.keeps_limit, long.is_stopped) == (5, False, True)

    free = said("Bees make honey.", None, end="<|im_end|>")
    assert free.keeps_limit is None


def test_an_answer_that_ran_to_its_last_token_was_cut():
    tokenizer, template = tiny_tokenizer(), find_template("chatml")
    ids = tokenizer("Bees make", add_special_tokens=False)["input_ids"]
    question = Question("h1", "What do bees make?", None, [5])
    (row,) = answer(Scripted([ids]), template, tokenizer, [question], len(ids), step=0)

    assert not row.is_stopped
    assert row.tokens == len(ids)


def test_a_stop_text_ends_an_answer_of_the_plain_text_template():
    row = said(" Bees make honey.\nInstruct: And wax?", 10, "instruct")

    assert row.answer == "Bees make honey."
    assert row.is_stopped


def test_the_line_for_a_log_counts_limits_kept_and_stops():
    rows = [
        Preview(
            step=3,
            prompt_id="h1",
            prompt="?",
            limit=limit,
            answer="a b c",
            words=3,
            keeps_limit=None if limit is None else limit >= 3,
            is_stopped=limit == 2,
            tokens=9,
        )
        for limit in (2, 5, None)
    ]

    assert preview_line(rows) == (
        "previews at step 3: limit kept 1 of 2, stopped 1 of 3, words without a limit 3"
    )
