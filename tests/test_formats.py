"""A variant's rows as other programs take them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from builders import prompt, reply, tables_of

from dataset_builder.card import card
from dataset_builder.errors import InputError
from dataset_builder.formats import text_format, write_messages, write_texts
from dataset_builder.recipe import Recipe, load_recipe
from dataset_builder.tables import EXAMPLES
from dataset_builder.variant import Plan, plan_variant, write_variant

pytest.importorskip("datasets")

ROWS = [prompt("p"), reply("r", "p", rank=0, words=5)]


def plan(folder: Path, said: str, n: int = 24) -> Plan:
    """A variant `test` of so many trees, whose replies hold the word `said`."""
    rows = []
    for at in range(n):
        rows.append(prompt(f"p{at}", text=f"What is {at}?"))
        rows.append(reply(f"r{at}", f"p{at}", rank=0, text=f"It is {said}."))
        rows.append(prompt(f"q{at}", f"r{at}", text=f"Why is {at}?"))
        rows.append(reply(f"s{at}", f"q{at}", rank=0, text=f"Since {said} is."))
    folder.mkdir()
    return plan_variant(
        "test", msgspec.convert({"title": "A test"}, Recipe), tables_of(folder, rows, held_out=0.3)
    )


# Each build is loaded where it lies, or from a place to which it is copied over the one before, as
# by a user who keeps one folder.
LOAD = """
import json, shutil, sys
from datasets import load_dataset
found = []
for path, place in json.loads(sys.argv[1]):
    if place:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(path, place)
    loaded = load_dataset(place or path)
    found.append({side: rows.to_list() for side, rows in loaded.items()})
print(json.dumps(found))
"""


def loaded(cache: Path, builds: list[tuple[Path, Path | None]]) -> list[dict[str, list]]:
    """The rows that one process is given for each of (directory, place it is copied to)."""
    # `datasets` reads the place of its caches once, when it is imported.
    caches = {"HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache / "datasets")}
    asked = [[str(path), str(place) if place else None] for path, place in builds]
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)],
        env={**os.environ, **caches, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_load_dataset_gives_the_rows_of_this_build_and_of_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    plans = [plan(tmp_path / said, said) for said in ("red", "blue")]
    # The same name, recipe and number of rows: the trap needs no more.
    built = [write_variant(each) for each in plans]
    bare = [shutil.copytree(each, tmp_path / "bare" / each.name) for each in built]
    for directory in bare:
        card = directory / "README.md"
        lines = card.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.strip().startswith("description: build")]
        assert len(kept) == len(lines) - 1
        card.write_text("\n".join(kept), encoding="utf-8")
    place, trap = tmp_path / "place" / "data", tmp_path / "trap" / "other"
    asked = [(each, None) for each in built]
    asked += [(each, place) for each in built] + [(each, trap) for each in bare]
    found = loaded(tmp_path / "cache", asked)
    wanted = [
        {"train": each.train.to_pylist(), "validation": each.validation.to_pylist()}
        for each in plans
    ]
    assert wanted[0]["train"] != wanted[1]["train"]
    assert found[:2] == wanted
    assert found[2:4] == wanted
    # The library's fault, without the digest in the card: when this fails, it has been mended.
    assert found[4] == found[5] == wanted[0]


def test_messages_are_whole_conversations_a_line(tmp_path):
    made = plan(tmp_path / "rows", "red")
    write_messages(made, tmp_path / "out")
    for file, rows in (("train.jsonl", made.train), ("val.jsonl", made.validation)):
        lines = (tmp_path / "out" / file).read_text(encoding="utf-8").splitlines()
        told = [json.loads(line)["messages"] for line in lines]
        assert told == [[*row["prompt"], *row["completion"]] for row in rows.to_pylist()]
        for messages in told:
            roles = [each["role"] for each in messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)


CHAT = (
    "{% for m in messages %}{% if loop.first and m['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def test_text_stands_under_the_template_of_any_tokenizer(tmp_path):
    from tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(str(tmp_path / "model"))
    made = plan(tmp_path / "rows", "red")
    form = text_format(str(tmp_path / "model"))
    assert form.name.startswith("chat-")
    write_texts(made, form, tmp_path / "out")
    for file, rows in (("train.jsonl", made.train), ("val.jsonl", made.validation)):
        lines = (tmp_path / "out" / file).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {
                "text": "".join(
                    f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n"
                    for each in [*row["prompt"], *row["completion"]]
                )
            }
            for row in rows.to_pylist()
        ]
    with pytest.raises(InputError, match="refuses a conversation: no system"):
        form.text_of([{"role": "system", "content": "x"}])


def test_a_template_that_asks_for_the_day_gets_the_same_one_every_day(tmp_path):
    from tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + CHAT
    tokenizer.save_pretrained(str(tmp_path / "model"))
    form = text_format(str(tmp_path / "model"))
    assert form.text_of([{"role": "user", "content": "x"}]).startswith("26 Jul 2024\n<|im_start|>")
    assert form.note.endswith("asks for the day; it was told 2024-07-26, in every text")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("chatlm", "unknown template `chatlm`", "did you mean `chatml`?"),
        ("zebra", "unknown template `zebra`", "known: chatml, "),
        ("{bare}", "the tokenizer `{bare}` has no chat template", "name a template that ships"),
    ],
)
def test_a_template_that_is_none_is_an_input_error(tmp_path, name, message, hint):
    from tiny import tiny_tokenizer

    bare = tmp_path / "bare"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(bare))
    with pytest.raises(InputError) as error:
        text_format(name.replace("{bare}", str(bare)))
    assert str(error.value).startswith(message.replace("{bare}", str(bare)))
    assert str(error.value.hint).startswith(hint)


def test_an_export_is_written_again_only_where_it_is_another(tmp_path):
    made, other = plan(tmp_path / "rows", "red"), plan(tmp_path / "others", "blue")
    out = tmp_path / "out"
    write_messages(made, out)
    first = (out / "train.jsonl").stat()
    write_messages(made, out)
    assert (out / "train.jsonl").stat().st_ino == first.st_ino
    (out / "val.jsonl").write_text("torn")
    write_messages(made, out)
    assert (out / "val.jsonl").read_text() != "torn"
    write_messages(other, out)
    assert "blue" in (out / "train.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "out", "rows"]


def test_rows_of_answers_train_as_they_are(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import load_dataset
    from tiny import tiny_llama, tiny_tokenizer
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    directory = write_variant(plan(tmp_path / "rows", "red"))
    rows = load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / "model"))
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            eos_token="<|im_end|>",
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == rows.num_rows
    batch = next(iter(trainer.get_train_dataloader()))
    assert 0 < (batch["labels"] != -100).sum() < batch["labels"].numel()
    assert trainer.train().training_loss > 0


def test_the_card_explains_every_column_and_how_to_build_what_does_not_ship(tmp_path):
    made = plan(tmp_path / "rows", "red")
    told = card(made.manifest)
    for column in EXAMPLES.schema.names:
        assert f"`{column}`" in told, column
    assert "Write this as `test.toml`:" in told
    for section in ("What was kept", "Split", "Limits", "Load it", "Build it again"):
        assert f"\n## {section}\n" in told
    shipped = plan_variant("full", load_recipe("full"), tables_of(tmp_path, ROWS))
    assert "is not one that comes with treetune" not in card(shipped.manifest)
    other = plan_variant("full", load_recipe("rank0"), tables_of(tmp_path, ROWS))
    assert "is not one that comes with treetune" in card(other.manifest)


def test_a_template_that_computes_how_it_writes_the_day_is_refused(tmp_path):
    from tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}" + CHAT
    tokenizer.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(InputError, match="writes the day") as error:
        text_format(str(tmp_path / "model"))
    assert error.value.hint == "choose a template that ships"
