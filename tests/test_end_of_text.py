"""The end of an answer is learnt: by id in every row, and by a model that stops by itself."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dataset_builder.fit import FittedRow, fit_rows
from dataset_builder.template import Template, answer_text, end_id, stop_ids
from finetune import course
from finetune.decode import Wanted, decode
from finetune.model import load_merged
from finetune.rows import IGNORED, dataset_of
from tests.families import MAKERS, family
from tests.tiny import example, tiny_llama, tiny_phi, tiny_preset, write_variant
from tests.training import Memory, planned

CPU = torch.device("cpu")
KNOWN = 0.01  # nats a token: each is then said with a probability of 0.99 in the mean
ROWS = [example(n) for n in (1, 3, 5, 6)]  # answers of one word and of several


def assert_stops(model, rows: list[FittedRow], template: Template, tokenizer) -> None:
    """The model says each row's answer, then the end, within twice the room that this takes."""
    room = 2 * max(len(row.completion_ids) for row in rows)
    wanted = [Wanted(row.prompt_ids, room) for row in rows]
    answers = decode(model, wanted, stop_ids(template, tokenizer))
    for row, ids in zip(rows, answers, strict=True):
        assert ids[-1] == end_id(template, tokenizer)
        assert answer_text(template, tokenizer, ids) == answer_text(
            template, tokenizer, row.completion_ids
        )


@pytest.mark.parametrize("name", MAKERS)
def test_every_label_ends_in_the_end_of_text(name: str):
    tokenizer, template, _ = family(name)
    rows, fit = fit_rows(ROWS, template, tokenizer, 256, "drop")
    end = tokenizer.get_vocab()[template.end]

    assert fit.kept == len(ROWS)
    for row in dataset_of(rows, range(len(rows))):
        trained = [label for label in row["labels"] if label != IGNORED]
        assert trained[-1] == row["input_ids"][-1] == end
        assert trained.count(end) == 1


@pytest.mark.parametrize("name", ["qwen", "llama3", "mistral", "gemma", "phi3", "t5"])
def test_a_model_that_knows_its_rows_stops_by_itself(name: str):
    tokenizer, template, _ = family(name)
    rows, _ = fit_rows(ROWS, template, tokenizer, 256, "drop")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = dataset_of(rows, range(len(rows)))[:]
    width = max(map(len, data["input_ids"]))
    end = end_id(template, tokenizer)  # pads too, as where a model has no padding token
    padded = [ids + [end] * (width - len(ids)) for ids in data["input_ids"]]
    labels = [ids + [IGNORED] * (width - len(ids)) for ids in data["labels"]]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in data["input_ids"]]
    # Until it knows them: how many steps that takes differs between processors.
    for _ in range(400):
        loss = model(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
        ).loss
        if loss.item() < KNOWN:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < KNOWN

    assert_stops(model.eval(), rows, template, tokenizer)


@pytest.mark.parametrize("template", ["chatml", "instruct"])
def test_a_trained_adapter_stops_by_itself(template: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant("few", ROWS, validation=[])
    make = tiny_llama if template == "chatml" else tiny_phi
    preset = tiny_preset(
        tmp_path / "few.toml",
        make(tmp_path / "model"),
        template=template,
        base='precision = "fp32"',
        lora="r = 32\nalpha = 64\ndropout = 0.0",
        training="examples = 240\nmicro_batch = 4\ncheckpoint_steps = 1000",
        previews="prompts = 0",
    )
    plan = planned(preset, "few")
    directory = course.train(plan, Memory())
    model = load_merged(plan.files, plan.preset.base, directory / "adapter", CPU)

    assert_stops(model, plan.rows, plan.template, plan.tokenizer)
