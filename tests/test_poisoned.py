"""No code comes from data: not from pickles, models, adapters, templates or settings."""

from pathlib import Path

import pytest

from dataset_builder.errors import InputError
from dataset_builder.tokenizer import open_tokenizer
from finetune.base import ready_base
from finetune.preset import Base
from tests.campaigns.names import elsewhere
from tests.poisoned import attack_all


def test_nothing_that_strangers_made_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    assert attack_all(tmp_path) >= 20


def test_a_directory_is_digested_by_its_bytes_and_not_by_the_names_of_its_links(tmp_path: Path):
    """The Hub's cache calls a file by its sha256; anybody may call one so."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    digests = []
    for content in (b"one", b"two"):
        (tmp_path / ("ab" * 32)).write_bytes(content)
        link = tmp_path / "model" / "model.safetensors"
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / ("ab" * 32))
        base = Base(model=str(tmp_path / "model"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
            digests.append(ready_base(base).digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", ["a/b", "a/b@main", "a/b@abc123", "a/b@"])
def test_a_tokenizer_of_the_hub_is_named_with_its_commit(name: str):
    with pytest.raises(InputError) as caught:
        open_tokenizer(name)
    assert str(caught.value) == f"the tokenizer `{name}` is named without its commit"
    assert "a/b@" in str(caught.value.hint)


def test_no_name_leads_out_of_where_such_things_are(tmp_path: Path):
    """The last attempt of the campaign `names`."""
    assert elsewhere(tmp_path).tried > 200
