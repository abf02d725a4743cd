"""Previews: what is asked, how answers are scored, and that nothing about the training changes."""

import random
import signal
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from dataset_builder.manifest import find_variant
from dataset_builder.tables import HELDOUT, read_table, table_of, write_table
from dataset_builder.template import find_template, stop_ids
from dataset_builder.words import count_words
from finetune import course, sft
from finetune import decode as decoding
from finetune.decode import Wanted, decode
from finetune.model import load_base
from finetune.plain import plain_copy, plain_size
from finetune.plan import Plan
from finetune.preset import Previews
from finetune.previews import (
    Preview,
    Previewer,
    Question,
    allowed_tokens,
    answer,
    chances,
    read_questions,
    scored,
    undisturbed,
    with_first_steps,
)
from finetune.run import load_run
from finetune.slots import has_fixed_cache
from tests.tiny import TABLES, tiny_llama, tiny_phi, tiny_preset, tiny_tokenizer, write_variant
from tests.training import Memory, planned, trained
from tests.warm import Warm

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
    rows = lines(course.train(plan, watcher))

    # Every third of six steps, and before the first; the last is not previewed twice.
    assert [row.step for row in rows] == [0] * 8 + [3] * 8 + [6] * 8
    asked = {(row.prompt_id, row.limit, row.is_sampled) for row in rows}
    assert len({prompt for prompt, *_ in asked}) == 2
    assert {limit for _, limit, _ in asked} == {5, None}
    assert len(asked) == 8
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


@pytest.fixture(params=["chatml", "instruct"], scope="module")
def adapted(request: pytest.FixtureRequest, folder: Path):
    """A plan, and a packed model in float32 whose adapter says something, for both shapes."""
    make = tiny_llama if request.param == "chatml" else tiny_phi
    name = f"adapted-{request.param}"
    preset = tiny_preset(
        folder / f"{name}.toml",
        make(folder / name),
        template=request.param,
        base='precision = "fp32"',
        previews="tokens = 24",
    )
    plan = planned(preset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.model._fits_unpacked", lambda *_: False)
        model, _ = load_base(plan.files, plan.preset.base, CPU)
    trainer = sft.make_trainer(plan, model, CPU)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    return plan, trainer.model


def test_a_plain_copy_computes_what_packed_and_adapted_layers_do(adapted):
    plan, model = adapted
    ids = torch.tensor([plan.rows[0].prompt_ids])
    with torch.no_grad():
        with model.disable_adapter():
            base = model.eval()(ids).logits
        wanted = model(ids).logits
        model.train()
        plain = plain_copy(model, torch.float32)
        found = plain(ids).logits

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - base).abs().max() > 0.1  # the adapter counts
    kinds = {type(module).__name__ for module in plain.modules()}
    assert not {kind for kind in kinds if "4bit" in kind or "Lora" in kind}
    assert not any(module.training for module in plain.modules())
    assert all(module.training for module in model.modules())  # the original is as it was
    made = sum(
        parameter.numel() * 4
        for parameter in plain.parameters()
        if parameter.data_ptr() not in {each.data_ptr() for each in model.parameters()}
        and parameter.dim() == 2
    )
    assert made == plain_size(model, torch.float32)


def generated(model, plan: Plan, question: Question, tokens: int) -> str:
    """The slow way: transformers' own loop, through the packed layers and the adapter."""
    ids = torch.tensor([question.ids])
    with undisturbed(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=stop_ids(plan.template, plan.tokenizer),
            pad_token_id=0,
        )[0, len(question.ids) :]
    return scored(question, output.tolist(), plan.template, plan.tokenizer, 0).answer


def test_greedy_answers_are_those_of_the_slow_way_through_adapter_and_packed_layers(adapted):
    plan, model = adapted
    plain = plain_copy(model, torch.float32)
    previews = Previews(tokens=24, temperature=0)
    rows = answer(plain, plan.template, plan.tokenizer, plan.questions, previews, 0)

    assert has_fixed_cache(plain, 512)
    assert len({len(question.ids) for question in plan.questions}) > 1  # so there is padding
    for question, row in zip(plan.questions, rows, strict=True):
        assert row.answer == generated(model, plan, question, allowed_tokens(question, previews))
    with torch.no_grad():
        assert rows == answer(
            model.eval(), plan.template, plan.tokenizer, plan.questions, previews, 0
        )


def test_a_model_without_a_fixed_cache_answers_the_same(adapted, monkeypatch: pytest.MonkeyPatch):
    plan, model = adapted
    plain = plain_copy(model, torch.float32)
    ask = (plan.template, plan.tokenizer, plan.questions, Previews(tokens=24), 5)
    wanted = answer(plain, *ask)
    monkeypatch.setattr(decoding, "has_fixed_cache", lambda *_: False)

    assert answer(plain, *ask) == wanted
    plain.config.sliding_window = 30
    assert not has_fixed_cache(plain, 31)
    plain.config.sliding_window = None


def test_previews_where_there_is_no_room_for_a_copy_are_the_same(
    adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan, model = adapted
    found = []
    for room in (True, False):
        monkeypatch.setattr("finetune.plain.has_room", lambda *_, room=room: room)
        rows: list[Preview] = []
        arguments = (plan.preset.previews, plan.template, plan.tokenizer)
        out = tmp_path / f"{room}.jsonl"
        previewer = Previewer(
            plan.questions, *arguments, out, rows.extend, nullcontext, torch.float32
        )
        previewer._preview(3, model)
        found.append(rows)

    assert len(found[0]) == 2 * len(plan.questions)
    assert found[0] == found[1]


def test_a_drawn_answer_is_the_one_that_its_numbers_draw(adapted):
    plan, model = adapted
    plain = plain_copy(model, torch.float32)
    question = plan.questions[0]
    numbers = chances(question, 7, 20)
    ends = [plan.tokenizer.vocab_size - 1]
    (found,) = decode(plain, [Wanted(question.ids, 20, numbers)], ends, temperature=0.9)

    ids = list(question.ids)
    for number in numbers:
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0, -1]
        likely = sorted(range(len(logits)), key=lambda token: -logits[token])[:50]
        weights = [float(torch.exp((logits[token] - logits.max()) / 0.9)) for token in likely]
        total, below = sum(weights), 0.0
        for token, weight in zip(likely, weights, strict=True):
            below += weight / total
            if below > number:
                ids.append(token)
                break
        if ids[-1] in ends:
            break
    assert found == ids[len(question.ids) :]


def test_chance_is_the_steps_and_the_questions_and_nobody_elses(plan: Plan):
    one, other = plan.questions[:2]

    assert chances(one, 3, 9) == chances(one, 3, 12)[:9]
    assert chances(one, 3, 9) != chances(one, 4, 9)
    assert chances(one, 3, 9) != chances(other, 3, 9)
    numbers = chances(one, 0, 2000)
    assert all(0 <= number < 1 for number in numbers)
    assert 0.45 < sum(numbers) / len(numbers) < 0.55


def test_a_drawn_answer_stands_beside_each_greedy_one_unless_the_temperature_is_none(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU, quantized=False)
    ask = (model.float().eval(), plan.template, plan.tokenizer, plan.questions)
    both = answer(*ask, Previews(tokens=12), 3)
    greedy = answer(*ask, Previews(tokens=12, temperature=0), 3)

    assert [row for row in both if not row.is_sampled] == greedy
    assert [(row.prompt_id, row.limit) for row in both if row.is_sampled] == [
        (row.prompt_id, row.limit) for row in greedy
    ]
    drawn = [row.answer for row in both if row.is_sampled]
    assert drawn != [row.answer for row in greedy]
    assert drawn != [row.answer for row in answer(*ask, Previews(tokens=12), 4) if row.is_sampled]


def test_a_batch_answers_as_each_prompt_alone(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU, quantized=False)
    model = model.float().eval()  # in half precision, padding's rounding could tip an argmax
    ask, previews = (plan.template, plan.tokenizer), Previews(tokens=12)
    together = answer(model, *ask, plan.questions, previews, 0)
    alone = [answer(model, *ask, [question], previews, 0) for question in plan.questions]

    assert len({len(question.ids) for question in plan.questions}) > 1  # so there is padding
    assert together == [row for rows in alone for row in rows]


def test_a_batch_stops_when_all_of_its_answers_have(plan: Plan):
    model, _ = load_base(plan.files, plan.preset.base, CPU, quantized=False)
    model.eval()
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    wanted = [Wanted([5, 6, 7], allowed) for allowed in (9, 200)]
    rows = decode(model, wanted, [399], is_over=lambda ids: len(ids) > 20)

    # It is looked every sixteen tokens, so the second one is found over at the 33rd.
    assert [len(row) for row in rows] == [9, 33]
    assert len(steps) == 33


def test_an_answer_to_a_limit_needs_few_tokens():
    def allowed(limit: int | None) -> int:
        question = Question("h", "?", limit, [1])
        return allowed_tokens(question, Previews(tokens=100))

    assert [allowed(limit) for limit in (5, 20, 50, None)] == [31, 76, 100, 100]


def said(text: str, limit: int | None, name: str = "chatml", end: str = "") -> Preview:
    tokenizer, template = tiny_tokenizer(), find_template(name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += [tokenizer.convert_tokens_to_ids(end)] if end else []
    question = Question("h1", "What do bees make?", limit, [5, 6, 7])
    return scored(question, ids, template, tokenizer, step=4)


def test_an_answer_is_scored_by_its_words_and_by_how_it_ended():
    ended = said("Bees make honey.", 3, end="<|im_end|>")
    assert (ended.answer, ended.words, ended.keeps_limit) == ("Bees make honey.", 3, True)
    assert ended.is_stopped

    long = said("Bees make honey and wax.", 3, end="<|endoftext|>")
    assert (long.words, long.keeps_limit, long.is_stopped) == (5, False, True)

    free = said("Bees make honey.", None, end="<|im_end|>")
    assert free.keeps_limit is None

    assert said("", 3, end="<|im_end|>").keeps_limit is False  # an empty answer keeps nothing


def test_an_answer_that_ran_to_its_last_token_was_cut():
    row = said("Bees make", None)

    assert not row.is_stopped
    assert row.tokens == len(tiny_tokenizer()("Bees make")["input_ids"])


def test_a_stop_text_ends_an_answer_of_the_plain_text_template():
    row = said(" Bees make honey.\nInstruct: And wax?", 10, "instruct")

    assert row.answer == "Bees make honey."
    assert row.is_stopped
    # However far the batch ran on behind it.
    assert row == said(" Bees make honey.\nInstruct: And wax? And more.", 10, "instruct")


def a_row(step: int, prompt: str, kept: bool | None, stopped: bool) -> Preview:
    return Preview(
        step=step,
        prompt_id=prompt,
        prompt="?",
        limit=None if kept is None else 5,
        answer="a",
        words=1,
        keeps_limit=kept,
        is_stopped=stopped,
        tokens=1,
    )


def test_each_row_says_at_which_step_its_prompt_first_did():
    steps = [
        [a_row(0, "a", False, False), a_row(0, "b", None, False), a_row(0, "c", True, False)],
        [a_row(5, "a", True, False), a_row(5, "b", None, True), a_row(5, "c", False, False)],
        [a_row(9, "a", False, True), a_row(9, "b", None, False), a_row(9, "c", True, False)],
    ]
    done: list[Preview] = []
    for rows in steps:
        done += with_first_steps(done, rows)

    assert [(row.first_kept, row.first_stopped) for row in done] == [
        *((None, None), (None, None), (0, None)),
        *((5, None), (None, 5), (0, None)),
        *((5, 9), (None, 5), (0, None)),
    ]


def test_a_line_of_an_earlier_version_is_read():
    line = msgspec.json.decode(msgspec.json.encode(a_row(0, "a", True, False)))
    for new in ("is_sampled", "first_kept", "first_stopped"):
        del line[new]

    assert msgspec.convert(line, Preview) == a_row(0, "a", True, False)


def test_what_a_kill_tore_off_a_step_is_made_again(plan: Plan, tmp_path: Path):
    out = tmp_path / "previews.jsonl"
    rows = [a_row(step, prompt, True, True) for step in (0, 3) for prompt in "abcdefgh"]
    out.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows[:-1]))
    previewer = Previewer(
        plan.questions,
        plan.preset.previews,
        plan.template,
        plan.tokenizer,
        out,
        lambda rows: None,
        nullcontext,
        torch.float32,
    )

    assert len(plan.questions) == 4
    assert previewer.done == {0}
    assert lines(tmp_path) == rows[:8]


KILLED = """
import os, signal, sys
from pathlib import Path
from finetune import course
from tests.training import Memory, planned

class Killed(Memory):
    def previewed(self, rows):
        if rows[0].step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

course.train(planned(Path(sys.argv[1]), seed=9), Killed())
"""


def test_a_run_killed_at_a_preview_previews_each_step_once(folder: Path, training_process: Warm):
    wanted = trained(folder / "tiny.toml", seed=9)
    expected = lines(wanted)
    wanted.rename(folder / "uninterrupted")
    run = training_process.start(KILLED, folder / "tiny.toml")
    assert run.wait() == -signal.SIGKILL, run.said()
    unfinished = planned(folder / "tiny.toml", seed=9).unfinished
    assert {row.step for row in lines(unfinished)} == {0, 3}  # and the checkpoint is of step 2

    resumed = trained(folder / "tiny.toml", seed=9, resume=True)
    assert lines(resumed) == expected
