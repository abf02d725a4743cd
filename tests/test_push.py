from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
from builders import prompt, reply, write
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from dataset_builder.__main__ import app
from dataset_builder.command_line import run


class Refused:
    """What an HfHubHTTPError reads of the Hub's answer."""

    headers: ClassVar[dict[str, str]] = {}
    request = None


class Hub:
    """Stands in for HfApi: what was asked of it, or the error it answers with."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.files: dict[str, bytes] = {}
        self.error: Exception | None = None

    def create_repo(self, repository, **options):
        self.asked.append(("create_repo", repository, options))
        if self.error:
            raise self.error
        return f"https://huggingface.co/datasets/{repository}"

    def create_commit(self, repository, operations, **options):
        self.asked.append(("create_commit", repository, options))
        for each in operations:
            with each.as_file() as file:
                self.files[each.path_in_repo] = file.read()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    return found


@pytest.fixture
def source(tmp_path) -> Path:
    rows = []
    for at in range(12):
        rows += [prompt(f"p{at}"), reply(f"r{at}", f"p{at}", rank=0, words=5 + at)]
        rows.append(reply(f"s{at}", f"p{at}", rank=1, words=9))
    return write(tmp_path / "rows.jsonl", rows)


def build(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        run(app, ["build", *map(str, arguments)])
    return stopped.value.code


def test_one_variant_stands_at_the_root_of_its_repository(hub, source, tmp_path, capsys):
    assert build("rank0", "--source", source, "--held-out", 0, "--push", "me/rows") == 0
    told = capsys.readouterr()
    directory = Path(told.out.strip())
    assert "Uploaded to https://huggingface.co/datasets/me/rows" in told.err.replace("\n", " ")
    assert hub.files == {path.name: path.read_bytes() for path in directory.iterdir()}
    assert hub.asked[0][2] == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert hub.asked[1][2]["repo_type"] == "dataset"
    assert directory.name.rpartition("-")[2] in hub.asked[1][2]["commit_message"]


def test_several_stand_in_folders_under_a_card_that_names_each(hub, source, tmp_path):
    assert build("rank0", "full", "--source", source, "--messages", "--push", "me/rows") == 0
    assert {name.partition("/")[0] for name in hub.files} == {"rank0", "full", "README.md"}
    assert "rank0/messages/train.jsonl" in hub.files
    data = DatasetCard(hub.files["README.md"].decode()).data.to_dict()
    assert [each["config_name"] for each in data["configs"]] == ["rank0", "full"]
    assert [each["default"] for each in data["configs"]] == [True, False]
    paths = [file["path"] for each in data["configs"] for file in each["data_files"]]
    assert "full/train.parquet" in paths
    assert all(path in hub.files for path in paths)
    assert data["language"] == ["en"]


def test_a_dry_run_uploads_nothing(hub, source):
    assert build("rank0", "--source", source, "--push", "me/rows", "--dry-run") == 0
    assert hub.asked == []


@pytest.mark.parametrize("repository", ["rows", "a/b/c", "me/ro ws", ""])
def test_what_cannot_be_a_repository_is_refused_before_any_file_is_read(
    hub, repository, tmp_path, capsys
):
    assert build("rank0", "--source", tmp_path / "none", f"--push={repository}") == 2
    err = capsys.readouterr().err
    assert f"no repository `{repository}`" in err
    assert "OWNER/NAME" in err


def test_without_a_token_nothing_is_read(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert build("rank0", "--source", tmp_path / "none", "--push", "me/rows") == 2
    err = capsys.readouterr().err
    assert "`--push me/rows` needs a token of the Hub" in err
    assert "hf auth login" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HTTPError("no route"), "the Hub cannot be reached: no route"),
        (OfflineModeIsEnabled("offline"), "told to stay offline"),
        (HfHubHTTPError("403 Forbidden", response=Refused()), "the Hub refused: 403 Forbidden"),
    ],
)
def test_a_hub_that_does_not_take_it_is_an_input_error_and_the_build_stays(
    hub, source, tmp_path, capsys, error, said
):
    hub.error = error
    assert build("rank0", "--source", source, "--push", "me/rows") == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "artifacts" / "variants" / "rank0.json").is_file()
    assert hub.files == {}
