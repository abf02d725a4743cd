from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from builders import message, prompt, reply, tables_of, write

from dataset_builder import expect, hub
from dataset_builder.__main__ import app
from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from dataset_builder.expect import PUBLISHED, Published, check_import
from dataset_builder.export import read_export
from dataset_builder.threads import make_tables

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [prompt("a"), reply("b", "a"), prompt("c", lang="de"), reply("d", "c", lang="de")]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder that the Hub's functions serve, and what they were asked for."""
    asked = []

    def snapshot(repository, **settings):
        asked.append((repository, settings["revision"]))
        return str(tmp_path / "hub")

    def download(repository, file, **settings):
        asked.append((repository, settings["revision"]))
        return str(tmp_path / "hub" / file)

    (tmp_path / "hub" / "data").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return tmp_path / "hub", asked


@pytest.mark.parametrize("repository", ["OpenAssistant/oasst1", "OpenAssistant/oasst2"])
def test_open_assistants_exports_are_read_at_their_pinned_revision(stand_in, repository):
    folder, asked = stand_in
    pin = hub.PINS[repository]
    assert hub.find_sources([Path(repository)]) == [
        (folder / pin.file, f"{repository}@{pin.revision}/{pin.file}")
    ]
    assert asked == [(repository, pin.revision)]


def test_any_other_dataset_is_every_parquet_under_data_at_a_named_commit(stand_in):
    folder, asked = stand_in
    for name in ("validation-0.parquet", "train-0.parquet"):
        write(folder / "data" / name, ROWS)
    sources = hub.find_sources([Path(f"some-one/trees@{COMMIT}")])
    assert [source.name for source in sources] == [
        f"some-one/trees@{COMMIT}/data/train-0.parquet",
        f"some-one/trees@{COMMIT}/data/validation-0.parquet",
    ]
    assert all(source.path.is_file() for source in sources)
    assert asked == [("some-one/trees", COMMIT)]
    assert hub.from_hub(str(sources[0].name)) == f"some-one/trees@{COMMIT}"
    assert hub.from_hub("a file.jsonl") is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("some/trees", "no file `some/trees`, and as a Hub dataset it names no revision"),
        (
            "some/trees@main",
            "no file `some/trees@main`, and as a Hub dataset not at a commit; "
            "wanted 40 hexadecimal digits",
        ),
        (f"some/trees@{COMMIT}", f"some/trees@{COMMIT}: no parquet under data/"),
    ],
)
def test_a_dataset_without_commit_or_parquet_is_an_input_error(stand_in, name, told):
    with pytest.raises(InputError) as error:
        hub.find_sources([Path(name)])
    assert str(error.value) == told
    assert error.value.hint


def test_a_path_without_an_ending_that_is_not_there_gets_the_near_file_as_its_hint(
    tmp_path, monkeypatch, stand_in
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "forest.jsonl").write_text("{}")
    for name, hint in {
        "exports/forest": "did you mean `exports/forest.jsonl`?",
        "exports/forest.jsonl@1": "did you mean `exports/forest.jsonl`?",
        "exports/zebra": (
            "name a file that is there, or `--source exports/zebra@COMMIT` for the Hub's"
        ),
        "export/forest": "did you mean `exports/forest.jsonl`?",
        "export/forst": "did you mean `exports/forest.jsonl`?",
        "OpenAsistant/oasst2": "did you mean `OpenAssistant/oasst2`?",
        "elsewhere/forest": (
            "name a file that is there, or `--source elsewhere/forest@COMMIT` for the Hub's"
        ),
    }.items():
        with pytest.raises(InputError) as error:
            hub.find_sources([Path(name)])
        assert str(error.value).startswith(f"no file `{name}`, and as a Hub dataset ")
        assert error.value.hint == hint
    for name in ("exports/forst.jsonl", "export/forest.jsonl.gz", "forest.jsonl"):
        if name == "forest.jsonl":
            (tmp_path / "forests.jsonl").write_text("{}")
        with pytest.raises(InputError) as error:
            hub.find_sources([Path(name)])
        assert str(error.value) == f"{name}: cannot be read: No such file or directory"
        assert str(error.value.hint).startswith("did you mean `")
    assert stand_in[1] == []


def test_an_option_without_a_file_is_no_wish_for_the_hub(stand_in):
    with pytest.raises(InputError, match="`--source` without a file"):
        hub.find_sources([])
    assert stand_in[1] == []


def test_a_file_that_is_there_is_never_looked_for_on_the_hub(tmp_path, monkeypatch, stand_in):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "trees").write_text("{}")
    for name in ("some/trees", "some/gone.jsonl", "/gone/trees", "gone"):
        assert hub.find_sources([Path(name)]) == [(Path(name), None)]
    assert stand_in[1] == []


def test_a_hub_dataset_is_built_and_its_card_says_how_to_build_it_again(
    stand_in, tmp_path, monkeypatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write(stand_in[0] / "data" / "train-0.parquet", ROWS)
    write(stand_in[0] / "data" / "validation-0.parquet", [prompt("x"), reply("y", "x")])
    source = f"some/trees@{COMMIT}"
    with pytest.raises(SystemExit) as end:
        run(app, ["build", "full", "--held-out", "0", "--source", source])
    assert not end.value.code
    (card,) = (tmp_path / "artifacts" / "variants").glob("*/README.md")
    assert f"just build-data full --source {source} --held-out 0" in card.read_text()


def test_the_published_counts_of_oasst2_add_up():
    published = PUBLISHED["oasst2"]
    assert sum(published.languages.values()) == published.messages
    for each in PUBLISHED.values():
        assert sum(each.splits.values()) == each.messages


def small(tmp_path, monkeypatch, **changed):
    published = Published(2, 4, {"train": 4, "validation": 0}, {"en": 2, "de": 2})
    monkeypatch.setitem(expect.PUBLISHED, "oasst1", replace(published, **changed))
    return tables_of(tmp_path, ROWS)


def test_a_full_import_is_as_published(tmp_path, monkeypatch):
    check_import("oasst1", small(tmp_path, monkeypatch))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"trees": 3}, "trees: 2 found, 3 published (-1)"),
        (
            {"messages": 2000},
            "messages: 4 found, 2,000 published (-1,996)",
        ),
        (
            {"languages": {"en": 1, "de": 2, "fr": 1}},
            "messages in en: 2 found, 1 published (+1); messages in fr: 0 found, 1 published (-1)",
        ),
        ({"languages": {"en": 4}}, "messages in de: 2 found, 0 published (+2); messages in en"),
    ],
)
def test_an_import_that_is_not_whole_says_what_differs_and_by_how_much(
    tmp_path, monkeypatch, changed, told
):
    tables = small(tmp_path, monkeypatch, **changed)
    with pytest.raises(InputError) as error:
        check_import("oasst1", tables)
    assert str(error.value).startswith(f"the sources are not the full import `oasst1`: {told}")


def test_splits_are_compared_where_files_say_theirs(tmp_path, monkeypatch):
    tables = small(tmp_path, monkeypatch)
    file = msgspec.structs.replace(tables.sources.files[0], name="o/n@c/data/validation-0.parquet")
    named = replace(tables, sources=msgspec.structs.replace(tables.sources, files=[file]))
    told = "messages of train: 0 found, 4 published.*messages of validation: 4 found, 0 published"
    with pytest.raises(InputError, match=told):
        check_import("oasst1", named)


def test_what_is_published_of_reviews_and_of_the_train_split_is_compared(tmp_path, monkeypatch):
    train = [prompt("a"), reply("b", "a", rank=0, deleted=True), reply("e", "a")]
    train[2]["review_result"] = None
    rows = [prompt("c", lang="de", review_result=False), reply("d", "c", lang="de")]
    for name, n, ours in (("en_train.jsonl", 3, train), ("rows.validation.jsonl", 2, rows)):
        assert len(ours) == n
        write(tmp_path / name, ours)
    exports = [read_export(tmp_path / name) for name in ("en_train.jsonl", "rows.validation.jsonl")]
    tables = make_tables(exports, 0.0)
    right = Published(
        2,
        5,
        {"train": 3, "validation": 2},
        {"en": 3, "de": 2},
        facts={"accepted": 3, "deleted": 1},
        train={"roots": 1, "with a rank": 1, "reviewed": 2, "with labels": 0, "with emojis": 0},
    )
    monkeypatch.setitem(expect.PUBLISHED, "oasst1", right)
    check_import("oasst1", tables)
    for key in ("facts", "train", "splits"):
        for fact, n in getattr(right, key).items():
            wrong = replace(right, **{key: getattr(right, key) | {fact: n + 1}})
            monkeypatch.setitem(expect.PUBLISHED, "oasst1", wrong)
            with pytest.raises(InputError, match=rf"{n} found, {n + 1} published \(-1\)"):
                check_import("oasst1", tables)
    assert set(expect.FACTS) == {*right.facts, *right.train}


def test_a_build_that_expects_more_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    source = str(write(tmp_path / "rows.jsonl", [*ROWS, message("e")]))
    for name, told in (
        ("oasst2", "trees: 3 found, 13,854 published"),
        ("oasst3", "unknown import"),
    ):
        with pytest.raises(SystemExit) as end:
            run(app, ["build", "full", "--source", source, "--expect", name])
        assert end.value.code == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()
