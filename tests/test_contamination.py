"""Training prompts against prompt files: who is met, how, and what the manifest says of it."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import prompt, reply, tables_of, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real
from rich.console import Console

from dataset_builder.__main__ import app
from dataset_builder.artifacts import read_json
from dataset_builder.command_line import run
from dataset_builder.contamination import GRAM_WORDS, Against, meetings, read_against
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.manifest import Manifest, find_variant
from dataset_builder.prompt_files import PromptLines, read_prompt_lines
from dataset_builder.shingles import words
from dataset_builder.split import letters_and_digits
from dataset_builder.summary import variants_table
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from tests.campaigns import leaks
from tests.test_variant import recipe

ASKED = "How do I keep the bread that I bake at home from getting a hard crust?"


def lines_of(*prompts, name="asked.jsonl", sha256="0"):
    return PromptLines(name, sha256, tuple(enumerate(prompts, start=1)), {}, ())


def file_of(path: Path, *lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def kinds(texts, *prompts):
    return [
        (found.text, found.line, found.kind)
        for found in meetings(pa.chunked_array([texts], pa.string()), [lines_of(*prompts)])
    ]


def test_equal_prompts_are_met_exactly_and_most_of_one_by_overlap():
    assert kinds([ASKED.upper() + "!!", f"Tell me. {ASKED} Thank you.", "Hi"], ASKED, "hi!") == [
        (0, 1, "exact"),
        (1, 1, "overlap"),
        (2, 2, "exact"),
    ]


def test_a_short_prompt_is_met_exactly_or_not_at_all():
    assert kinds(["Why is the sky blue? I wonder."], "Why is the sky blue?") == []


def test_a_gram_counts_once_however_often_the_text_repeats_it():
    eight = " ".join(ASKED.split()[:GRAM_WORDS])
    assert kinds([f"{eight} and " * 9], ASKED) == []


few = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=24).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(few, max_size=5), st.lists(few, min_size=1, max_size=4))
def test_who_is_met_is_what_counting_finds(texts, prompts):
    texts = [*texts, *(f"a {text} b" for text in prompts)]
    plain = []
    for place, text in enumerate(texts):
        for line, asked in enumerate(prompts, start=1):
            theirs, ours = (grams(each) for each in (asked, text))
            if letters_and_digits(text) == letters_and_digits(asked):
                plain.append((place, line, "exact"))
            elif theirs and len(theirs & ours) / len(theirs) >= 0.7:
                plain.append((place, line, "overlap"))
    assert kinds(texts, *prompts) == plain


def grams(text):
    found = words(text)
    return {tuple(found[at : at + 8]) for at in range(len(found) - 7)}


@pytest.fixture
def tables(tmp_path):
    rows = [prompt("root", text="Tell me of bread."), reply("first", "root", words=5)]
    rows += [prompt("more", "first", text=f"And so: {ASKED} Thanks!"), reply("second", "more")]
    rows += [prompt("other", text=ASKED), reply("third", "other"), prompt("next", "third")]
    rows += [reply("fourth", "next"), prompt("clean", text="Name a fish."), reply("fifth", "clean")]
    return tables_of(tmp_path, rows)


def test_a_row_goes_for_any_prompt_that_stands_in_it(tables):
    against = Against((lines_of(ASKED, "Name a bird."),))
    made = plan_variant("test", recipe(), tables, against)
    assert {row["thread_id"]: row["dropped_by"] for row in made.ledger.to_pylist()} == {
        "first": None,
        "second": "contamination",
        "third": "contamination",
        "fourth": "contamination",
        "fifth": None,
    }
    assert made.manifest.funnel["contamination"] == 3
    # The last turn alone does not hold what was asked before it.
    alone = plan_variant("test", recipe(shape={"last_turn_only": True}), tables, against)
    assert "fourth" in alone.train["example_id"].to_pylist()
    assert made.manifest.notes["contamination"] == {
        "dropped": True,
        "files": [
            {
                "name": "asked.jsonl",
                "sha256": "0",
                "prompts": 2,
                "refused": {},
                "met": {"exact": 1, "overlap": 0},
                "usable_rows": {"exact": 2, "overlap": 1},
                "written_rows": {"exact": 0, "overlap": 0},
            }
        ],
    }


def test_contamination_may_be_reported_alone(tables):
    against = Against((lines_of(ASKED),), drop=False)
    made = plan_variant("test", recipe(), tables, against)
    plain = plan_variant("test", recipe(), tables)
    assert made.train.equals(plain.train)
    assert "contamination" not in made.manifest.funnel
    assert not made.manifest.notes["contamination"]["dropped"]
    (file,) = made.manifest.notes["contamination"]["files"]
    assert file["usable_rows"] == file["written_rows"] == {"exact": 2, "overlap": 1}
    assert "contamination" not in plain.manifest.notes


def test_usable_rows_are_counted_before_the_cap_and_written_ones_after_it(tables):
    against = Against((lines_of(ASKED),), drop=False)
    for examples in (1, 2, 3, 4):
        made = plan_variant("test", recipe(cap={"examples": examples}), tables, against)
        (file,) = made.manifest.notes["contamination"]["files"]
        assert file["usable_rows"] == {"exact": 2, "overlap": 1}
        names = made.train["example_id"].to_pylist()
        kinds = {"third": "exact", "fourth": "exact", "second": "overlap"}
        found = [kinds.get(name) for name in names]
        assert file["written_rows"] == {kind: found.count(kind) for kind in ("exact", "overlap")}
        told = printed(variants_table([made.manifest]))
        assert f"kept; {len(found) - found.count(None)} of them are written" in told


def printed(what):
    with (console := Console(width=1000)).capture() as captured:
        console.print(what)
    return " ".join(captured.get().split())


def test_what_a_variant_is_held_against_is_part_of_what_it_is(tables):
    digests = [
        plan_variant("test", recipe(), tables, against).manifest.digest
        for against in (
            None,
            Against((lines_of("Not there."),)),
            Against((lines_of("Not there."),), drop=False),
            Against((lines_of("Not there.", sha256="1"),)),
        )
    ]
    assert len(set(digests)) == 4


def test_prompt_files_hold_prompts_instructions_or_turns(tmp_path):
    path = file_of(
        tmp_path / "mixed.jsonl",
        "Name a fish.",
        {"prompt": "Name a bird."},
        {"instruction": "Name a tree."},
        {"turns": ["Name a town.", "And one more."]},
        {"turns": ["name a FISH"]},
        {"answer": "Perch."},
        ["Name a list."],
    )
    found = read_prompt_lines(path, turns=True)
    assert found.prompts == (
        (1, "Name a fish."),
        (2, "Name a bird."),
        (3, "Name a tree."),
        (4, "Name a town."),
        (4, "And one more."),
    )
    assert found.refused == {"repeated": 1, "no prompt": 2}


TWO = ["Name a fish.", 'Name a bird,\n"please".']
REPORT = {"model_name": "m", "prompts": [{"prompt": each, "results": []} for each in TWO]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", "".join(json.dumps(each) + "\n" for each in TWO)),
        ("p.json", json.dumps(TWO)),
        ("p.jsonl", json.dumps(TWO, indent=2)),
        ("p", json.dumps([{"prompt": each} for each in TWO], indent=1)),
        ("p.json", json.dumps({"prompts": TWO})),
        ("claude.jsonl", json.dumps(REPORT, indent=2)),
        ("report.json", json.dumps(REPORT)),
        ("p.csv", 'id,prompt\n1,Name a fish.\n2,"Name a bird,\n""please""."\n'),
        ("p.csv", 'instruction\r\nName a fish.\r\n"Name a bird,\n""please""."\r\n'),
    ],
)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_prompt_files_of_every_form_hold_the_same_prompts(tmp_path, name, content, bom):
    path = tmp_path / name
    path.write_text(bom + content, encoding="utf-8", newline="")
    found = read_prompt_lines(path, turns=True)
    assert found.prompts == ((1, TWO[0]), (2, TWO[1]))
    assert not found.refused


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_plain_text_is_a_prompt_a_line(tmp_path, bom):
    path = tmp_path / "prompts.txt"
    path.write_bytes(bom + '{Name} a fish.\r\n\n["café"]\n3?\nName a \xff'.encode() + b" \xff\n")
    found = read_prompt_lines(path)
    assert found.prompts == ((1, "{Name} a fish."), (3, '["café"]'), (4, "3?"))
    assert found.refused == {"not UTF-8": 1}


def test_parquet_holds_prompts_in_the_column_of_that_name(tmp_path):
    columns = {"prompt": ["Name a fish.", None, "Name a bird."], "id": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = read_prompt_lines(tmp_path / "p.parquet")
    assert found.prompts == ((1, "Name a fish."), (3, "Name a bird."))
    assert found.refused == {"no prompt": 1}
    pq.write_table(pa.table({"turns": [["One fish?", "Two fish?"]]}), tmp_path / "t.parquet")
    assert read_prompt_lines(tmp_path / "t.parquet", turns=True).prompts == (
        (1, "One fish?"),
        (1, "Two fish?"),
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", b"PAR1 and no more"),
        ("p.csv", b"prompt\n\xff\n"),
        ("p.csv", b"other\nx\n"),
        ("p.json", b"[3, 4]"),
        ("p.json", b'{"prompts": 3}'),
        ("p.json", b'[\n"a",\n'),
        ("p.json", b"[" * 100_000),
        ("p.jsonl", b'"\xed\xa0\x80"'),
        ("p.jsonl", b"\n\n"),
        ("p.txt", b"..."),
    ],
)
def test_a_prompt_file_without_prompts_is_an_input_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_prompt_lines(tmp_path / name)
    assert str(error.value).startswith(f"prompt file `{tmp_path / name}`: ")
    assert "wanted: JSON Lines" in str(error.value.hint)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("prompts/lottery_en_250.jsonl", 250),
        ("prompts/mt_bench_80.jsonl", 160),
        ("prompts/multilingual_60.jsonl", 60),
        ("generations/claude-v1.3.jsonl", 250),
        ("generations/gpt-3.5-turbo.json", 250),
        ("generations/llama2-70b-oasst-sft-v10.json", 250),
        ("generations/oasst-rlhf-2-llama-30b.json", 250),
    ],
)
def test_the_real_prompt_files_are_read_whole(name, n):
    found = read_prompt_lines(real(name), turns=True)
    assert len(found.prompts) + sum(found.refused.values()) == n
    assert not found.unread


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    paths = [file_of(tmp_path / "p.jsonl", "One?"), file_of(tmp_path / "b" / "p.jsonl", "Two?")]
    with pytest.raises(InputError, match=r"two prompt files are called `p\.jsonl`"):
        read_against(paths)


def test_the_command_drops_reports_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    rows = [prompt("a", text=ASKED), reply("x", "a"), prompt("b"), reply("y", "b")]
    source, asked = write(tmp_path / "s.jsonl", rows), file_of(tmp_path / "asked.jsonl", ASKED)
    asked.write_text(asked.read_text() + "no JSON\n")
    command = ["build", "full", "--source", str(source), "--held-out", "0"]
    assert _run([*command, "--decontaminate", str(asked)]) == 0
    captured = capsys.readouterr()
    assert "1 of 1 prompts stand in" in captured.err.replace("\n", " ")
    assert "asked.jsonl: 1 lines hold no prompt that can be read (not JSON 1); line 2" in (
        captured.err.replace("\n", " ")
    )
    directory = Path(captured.out.strip())
    manifest = read_json(directory / "manifest.json", Manifest)
    assert manifest.funnel["contamination"] == manifest.funnel["kept"] == 1
    card = (directory / "README.md").read_text()
    assert "| asked.jsonl |" in card
    assert "--decontaminate asked.jsonl" in card
    assert _run([*command, "--decontaminate", str(asked), "--report-contamination"]) == 0
    assert find_variant("full")[1].funnel["kept"] == 2
    capsys.readouterr()
    assert _run([*command, "--report-contamination"]) == 2
    assert "--decontaminate FILE" in capsys.readouterr().err


def _run(arguments):
    with pytest.raises(SystemExit) as done:
        run(app, arguments)
    return done.value.code


def test_the_overlaps_of_real_files_are_those_that_were_counted(tmp_path):
    lottery = read_prompt_lines(real("prompts/lottery_en_250.jsonl"))
    bench = read_prompt_lines(real("prompts/mt_bench_80.jsonl"), turns=True)
    assert (len(lottery.prompts), len(bench.prompts)) == (250, 160)
    with gzip.open(real("oasst/oasst1_en_train.texts.jsonl.gz"), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    with real("oasst/oasst1_en_validation.messages.jsonl").open(encoding="utf-8") as file:
        messages = [json.loads(line) for line in file]
    roots = lines_of(*(each["text"] for each in messages if each["parent_id"] is None))
    exact: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for found in meetings(pa.chunked_array([texts]), [lottery, bench, roots]):
        if found.kind == "exact":
            exact[found.file].add(found.line)
    assert {file: len(lines) for file, lines in exact.items()} == {0: 20, 1: 0, 2: 2}


def test_a_laion_variant_loses_the_six_validation_roots(tmp_path):
    with real("oasst/oasst1_en_validation.messages.jsonl").open(encoding="utf-8") as file:
        messages = [json.loads(line) for line in file]
    roots = [each["text"] for each in messages if each["parent_id"] is None]
    tables = make_tables([read_export(real("oasst/laion_en_100.trees.jsonl"))], 0.0)
    against = read_against([file_of(tmp_path / "roots.jsonl", *roots)])
    made = plan_variant("test", recipe(), tables, against)
    (file,) = made.manifest.notes["contamination"]["files"]
    assert file["met"]["exact"] == 6
    assert sum(file["usable_rows"].values()) == made.manifest.funnel["contamination"] > 0


def test_leaks_that_were_planted_are_found_and_nothing_else_is_taken_for_one(tmp_path):
    planted, missed, others, alarms = leaks.plant(0, tmp_path)
    assert (planted, missed, alarms) == (100, 0, 0)
    assert others > 200
