import json
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from builders import prompt, reply, tables_of, write
from huggingface_hub import DatasetCard
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.__main__ import app
from dataset_builder.artifacts import read_json
from dataset_builder.card import metadata
from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from dataset_builder.formats import text_format, write_texts
from dataset_builder.manifest import Manifest, find_tables, find_variant
from dataset_builder.recipe import Cap, Recipe, load_recipe
from dataset_builder.tables import EXAMPLES, LEDGER, read_table
from dataset_builder.template import find_template, text
from dataset_builder.threads import write_tables
from dataset_builder.variant import plan_variant, shares, write_variant
from tests.warm import DATASET_BUILDER


def forest(n=60, lang="en"):
    """So many trees, each with a long and a short reply; the long one is ranked first in most."""
    rows = []
    for at in range(n):
        best = at % 5 == 4
        rows += [
            prompt(f"p{at}", text=f"Question number {at} | about {at * 7}?", lang=lang),
            reply(f"long{at}", f"p{at}", rank=int(best), words=110 + at, lang=lang),
            reply(f"short{at}", f"p{at}", rank=int(not best), words=1 + at, lang=lang),
        ]
    rows.append(reply("gone", "p0", words=5, deleted=True))
    return rows


def recipe(**sections):
    return msgspec.convert({"title": "A test", **sections}, Recipe)


def plan(tables, **sections):
    return plan_variant("test", recipe(**sections), tables)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_of(tmp_path_factory.mktemp("forest"), forest(), held_out=0.3)


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


SECTIONS = [
    {},
    {"keep": {"max_rank": 0}},
    {"keep": {"reply_words": [1, 100], "best_per_prompt": True}},
    {"cap": {"examples": 7}},
    {"cap": {"concise_share": 0.7}, "shape": {"state_word_limit": 0.5}},
    {"cap": {"examples": 10, "concise_share": 0.25}},
]


@pytest.mark.parametrize("sections", SECTIONS)
def test_the_funnel_adds_up_and_is_what_the_ledger_says(tables, sections):
    made = plan(tables, **sections)
    threads, *dropped, kept = made.manifest.funnel.values()
    assert threads == tables.threads.num_rows == sum(dropped) + kept
    ledger = made.ledger.to_pylist()
    assert len(ledger) == threads
    train = [row for row in ledger if row["split"] == "train"]
    reasons = Counter(row["dropped_by"] for row in train)
    assert reasons.pop(None) == kept == made.train.num_rows
    told = dict(made.manifest.funnel)
    assert {name: n for name, n in told.items() if n} == {
        "threads": threads,
        "test": sum(row["split"] == "test" for row in ledger),
        "validation": sum(row["split"] == "validation" for row in ledger),
        **reasons,
        "kept": kept,
    }
    threads, *dropped, kept = made.manifest.validation_funnel.values()
    assert threads == sum(dropped) + kept
    assert kept == made.validation.num_rows
    assert all(row["dropped_by"] == "test" for row in ledger if row["split"] == "test")


@pytest.mark.parametrize("sections", SECTIONS)
def test_rows_are_the_kept_threads_on_their_side_and_no_tree_is_on_both(tables, sections):
    made = plan(tables, **sections)
    kept = {
        row["thread_id"]: row["split"] for row in made.ledger.to_pylist() if not row["dropped_by"]
    }
    for side, rows in (("train", made.train), ("validation", made.validation)):
        assert set(rows["example_id"].to_pylist()) == {name for name in kept if kept[name] == side}
        count = made.manifest.splits[side]
        assert count.rows == rows.num_rows
        assert count.words == sum(rows["reply_words"].to_pylist())
        assert count.concise == sum(n <= 100 for n in rows["reply_words"].to_pylist())
        assert count.limits_stated == sum(n is not None for n in rows["limit"].to_pylist())
    trees = [set(rows["tree_id"].to_pylist()) for rows in (made.train, made.validation)]
    assert trees[0].isdisjoint(trees[1])
    held = set(tables.heldout["tree_id"].to_pylist())
    assert trees[0].isdisjoint(held)
    assert trees[1] <= held


def test_a_smaller_cap_lies_inside_a_larger_one_row_for_row(tables):
    shape = {"state_word_limit": 0.5}
    rows = [plan(tables, cap={"examples": n}, shape=shape).train.to_pylist() for n in (5, 20, 40)]
    assert [len(each) for each in rows] == [5, 20, 40]
    for smaller, larger in pairwise(rows):
        assert larger[: len(smaller)] == smaller


def test_a_smaller_cap_at_a_share_lies_inside_a_larger_one(tables):
    capped = [plan(tables, cap={"examples": n, "concise_share": 0.7}) for n in (10, 20, 40)]
    names = [set(each.train["example_id"].to_pylist()) for each in capped]
    assert names[0] < names[1] < names[2]
    assert [each.manifest.splits["train"].concise for each in capped] == [7, 14, 28]
    assert all(
        each.manifest.notes["concise_share"]["n"] == len(names[n]) for n, each in enumerate(capped)
    )


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 3000), st.integers(0, 100))
def test_the_share_is_exact_and_the_largest_that_the_rows_allow(concise, others, cap, percent):
    share = percent / 100
    n, first, rest = shares(Cap(examples=cap, concise_share=share), concise, others)
    assert (first + rest, first <= concise, rest <= others, n <= cap) == (n, True, True, True)
    exact = Fraction(percent, 100)
    assert abs(first - exact * n) <= Fraction(1, 2)
    # One more row would break the cap or want more of one sort than there is.
    assert n + 1 > cap or (n + 1) * exact > concise or (n + 1) * (1 - exact) > others


def test_the_formula_of_the_default_variant():
    cap = load_recipe("capped").cap
    assert shares(cap, 30000, 30000) == (32000, 22400, 9600)
    assert shares(cap, 700, 5000) == (1000, 700, 300)
    assert shares(cap, 7000, 3) == (10, 7, 3)
    assert shares(cap, 0, 50) == (0, 0, 0)


def test_building_twice_and_naming_files_in_another_order_gives_the_same_bytes(
    tmp_path, monkeypatch
):
    rows = forest()
    sources = [write(tmp_path / f"{n}.jsonl", rows[n::2]) for n in range(2)]
    mine = tmp_path / "mine.toml"
    mine.write_text('title = "Mine"\n[shape]\nstate_word_limit = 0.5\n')
    contents = []
    for n, order in enumerate((sources, sources[::-1])):
        out = tmp_path / f"artifacts{n}"
        monkeypatch.setenv("ARTIFACTS", str(out))
        assert build(mine, "--source", *order) == 0
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in files(out)})
    assert contents[0] == contents[1]
    # Tables, variant and the pointer to it.
    assert len(contents[0]) == 5 + 5 + 1


def test_another_recipe_or_another_share_is_another_digest(tmp_path, tables):
    digests = {plan(tables, **sections).manifest.digest for sections in SECTIONS}
    digests.add(plan(tables_of(tmp_path, forest(), held_out=0.2)).manifest.digest)
    # A key that drops nothing is told apart too: the manifest holds the recipe.
    digests.add(plan(tables, keep={"reply_words": [0, 9999]}).manifest.digest)
    assert len(digests) == len(SECTIONS) + 2


def test_a_variant_is_written_once_found_by_name_and_read_back(artifacts, tables):
    write_tables(tables)
    made = plan(tables, cap={"concise_share": 0.5})
    out = write_variant(made)
    assert out == artifacts / "variants" / f"test-{made.manifest.digest[:12]}"
    names = ["README.md", "ledger.parquet", "manifest.json", "train.parquet", "validation.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert read_json(out / "manifest.json", Manifest) == made.manifest
    assert read_table(out / "train.parquet", EXAMPLES).equals(made.train)
    assert read_table(out / "validation.parquet", EXAMPLES).equals(made.validation)
    assert read_table(out / "ledger.parquet", LEDGER).equals(made.ledger)
    before = (out / "train.parquet").stat().st_mtime_ns
    assert write_variant(made) == out
    assert (out / "train.parquet").stat().st_mtime_ns == before
    # The last build of a name is the current one; the one before it stays.
    other = write_variant(plan(tables))
    assert find_variant("test")[0] == other
    assert find_variant(out.name)[0] == find_variant(str(out))[0] == out
    assert find_tables(find_variant("test")[1].tables).is_dir()
    assert not [path for path in files(artifacts) if ".building-" in str(path)]


def test_the_card_is_one_that_the_hub_understands_and_tells_the_whole_funnel(artifacts, tables):
    made = plan(tables, keep={"languages": ["en"]}, cap={"concise_share": 0.5})
    content = (write_variant(made) / "README.md").read_text(encoding="utf-8")
    data = DatasetCard(content).data.to_dict()
    assert data["language"] == ["en"]
    paths = [each["path"] for each in data["configs"][0]["data_files"]]
    assert paths == ["train.parquet", "validation.parquet"]
    for name, n in made.manifest.funnel.items():
        line = next(each for each in content.splitlines() if each.startswith(f"| {name} |"))
        assert line.split("|")[2].strip() == f"{n:,}"
    assert made.manifest.digest in content
    assert "just build-data test.toml --source 0.jsonl --held-out 0.3" in content


@pytest.mark.parametrize(
    ("keep", "languages"),
    [
        ({}, None),
        ({"root_languages": ["en", "de"]}, ["de", "en"]),
        ({"languages": ["en"], "root_languages": ["en", "de"]}, ["en"]),
    ],
)
def test_the_card_names_the_languages_that_the_recipe_asks_for(tables, keep, languages):
    assert metadata(plan(tables, keep=keep).manifest).language == languages


def test_the_texts_are_the_rows_under_the_template(tmp_path, tables):
    made = plan(tables)
    template = find_template("instruct")
    write_texts(made, text_format("instruct"), tmp_path / "texts")
    for name, rows in (("train", made.train), ("val", made.validation)):
        lines = (tmp_path / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == rows.num_rows
        for line, row in zip(lines, rows.to_pylist(), strict=True):
            assert json.loads(line) == {"text": text(template, row["prompt"] + row["completion"])}


@pytest.mark.parametrize(
    ("rows", "sections", "message", "hint"),
    [
        (
            forest(4),
            {"keep": {"max_rank": 0, "reply_words": [1, 100]}},
            "recipe `test` keeps none of 9 threads: "
            "deleted dropped 1, rank dropped 4, reply_words dropped 4",
            "`reply_words` may be too narrow; the median reply has 5 words",
        ),
        (
            forest(4, "fr"),
            {"keep": {"languages": ["en"]}},
            "recipe `test` keeps none of 9 threads: deleted dropped 1, languages dropped 8",
            "`languages` may be too narrow; the sources hold fr",
        ),
        (
            [prompt("a", tree_state="growing"), reply("b", "a", tree_state="growing")],
            {},
            "recipe `test` keeps none of 1 threads: tree_states dropped 1",
            "`tree_states` may be too narrow; the sources hold growing",
        ),
        (
            [prompt("a"), reply("b", "a", words=9)],
            {"cap": {"concise_share": 0.7}},
            "recipe `test` keeps none of 1 threads: share dropped 1",
            "the share needs both concise and longer replies; leave `concise_share` out",
        ),
        (
            [prompt("a"), reply("b", "a", deleted=True)],
            {},
            "recipe `test` keeps none of 1 threads: deleted dropped 1",
            "loosen what the rule `deleted` asks",
        ),
        (
            [prompt("a")],
            {},
            "recipe `test` keeps nothing: the sources hold no reply",
            "add a `--source` with replies",
        ),
    ],
)
def test_a_variant_that_keeps_nothing_is_an_input_error(tmp_path, rows, sections, message, hint):
    with pytest.raises(InputError) as error:
        plan(tables_of(tmp_path, rows), **sections)
    assert str(error.value) == message
    assert error.value.hint == hint


# ------------------------------------------------------------------------------- the command


def build(*arguments):
    """What the command prints, and its exit code."""
    with pytest.raises(SystemExit) as ended:
        run(app, ["build", *map(str, arguments)])
    return ended.value.code


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_command_prints_directories_on_stdout_and_talk_on_stderr(tmp_path, data_process):
    source = write(tmp_path / "a $(touch oops) [b] *.jsonl", forest())
    other = write(tmp_path / "other.jsonl", forest(3))
    arguments = ["full", "rank0", "--source", str(source), "--source", str(other)]
    arguments += ["--text", "instruct"]
    environment = {"ARTIFACTS": "my artifacts", "COLUMNS": "80"}
    ran = data_process.start(DATASET_BUILDER, "build", *arguments, folder=tmp_path, **environment)
    assert ran.wait() == 0, ran.said()
    directories = ran.printed().splitlines()
    assert [Path(name).name.rpartition("-")[0] for name in directories] == ["full", "rank0"]
    for name in directories:
        assert (tmp_path / name / "manifest.json").is_file()
        assert (tmp_path / name / "text-instruct" / "train.jsonl").is_file()
    manifest = read_json(tmp_path / directories[0] / "manifest.json", Manifest)
    assert {file.name for file in manifest.sources} == {source.name, other.name}
    assert "a $(touch oops) [b] *.jsonl" in ran.said()
    assert not (tmp_path / "oops").exists()
    assert max(len(line) for line in ran.said().splitlines()) <= 80


def test_without_a_name_every_recipe_is_built_and_a_dry_run_writes_nothing(
    tmp_path, artifacts, capsys
):
    source = write(tmp_path / "rows.trees.jsonl.gz", forest())
    assert build("--source", source, "--dry-run") == 0
    dry = capsys.readouterr()
    assert len(dry.out.splitlines()) == 7
    assert "Nothing was written" in dry.err
    assert not artifacts.exists()
    assert build("--source", source) == 0
    assert capsys.readouterr().out == dry.out
    assert all(Path(name, "manifest.json").is_file() for name in dry.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (
            ["full", "--source", "absent.parquet"],
            "absent.parquet: cannot be read: No such file or directory",
            "wanted: Open Assistant trees, messages or threads (.jsonl, .jsonl.gz, .jsonl.zst) "
            "or Hub parquet",
        ),
        (
            ["fulll", "--source", "rows.jsonl"],
            "unknown recipe `fulll`",
            "did you mean `full`?",
        ),
        (
            ["full", "--source", "rows.jsonl", "--held-out", "2"],
            "held-out share 2; wanted at least 0 and below 1",
            "0.1 holds out a tenth of the root texts",
        ),
        (
            ["--source", "rows.jsonl", "full"],
            "no file `full`",
            "name variants before `--source`",
        ),
        (
            ["full", "--source", "rows.jsonl", "--text", "chatm"],
            "unknown template `chatm`",
            None,
        ),
        (
            ["french.toml", "--source", "rows.jsonl", "--held-out", "0"],
            "recipe `french` keeps none of 5 threads: deleted dropped 1, languages dropped 4",
            "`languages` may be too narrow; the sources hold en",
        ),
    ],
)
def test_what_the_user_can_mend_is_two_lines_and_leaves_nothing(
    tmp_path, artifacts, monkeypatch, capsys, arguments, error, hint
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", forest(2))
    (tmp_path / "french.toml").write_text('title = "French"\n[keep]\nlanguages = ["fr"]\n')
    assert build(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first == f"error: {error}"
    assert second.startswith("hint: ")
    assert hint is None or second == f"hint: {hint}"
    assert not artifacts.exists()


def test_without_a_source_and_without_the_hub_the_hint_names_what_to_type(monkeypatch, capsys):
    def refuse(*arguments, **settings):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert build("full") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: OpenAssistant/oasst1 is not on this disk and the Hub cannot be reached",
        "hint: name a file you have: `--source FILE`; "
        "dataset_builder/sample/forest.trees.jsonl comes with treetune",
    ]


def test_without_a_source_the_export_comes_from_the_hub_at_its_pinned_revision(
    tmp_path, artifacts, monkeypatch
):
    asked = []

    def download(*arguments, **settings):
        asked.append((arguments, settings))
        return str(write(tmp_path / "blob.trees.jsonl.gz", forest()))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert build("full") == 0
    assert asked == [
        (
            ("OpenAssistant/oasst1", "2023-04-12_oasst_ready.trees.jsonl.gz"),
            {"revision": "fdf72ae0827c1cda404aff25b6603abec9e3399b", "repo_type": "dataset"},
        )
    ]
    directory, manifest = find_variant("full")
    assert manifest.sources[0].name == (
        "OpenAssistant/oasst1@fdf72ae0827c1cda404aff25b6603abec9e3399b/"
        "2023-04-12_oasst_ready.trees.jsonl.gz"
    )
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "just build-data full --held-out 0.1" in card
