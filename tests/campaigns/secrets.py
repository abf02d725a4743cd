"""Tokens planted wherever libraries look for them, and looked for in everything that is left."""

import base64
import contextlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.campaign import Attempt, Campaign, Outcome
from tests.whole_path import walk

VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "WANDB_API_KEY", "JUDGE_API_KEY"),
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"),
    *("COMET_API_KEY", "MLFLOW_TRACKING_PASSWORD", "TRACKIO_TOKEN", "PYPI_TOKEN"),
)


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Nothing: the attempt plants tokens of its own."""
    yield attempt


def attempt(seed: int, folder: Path) -> Outcome:
    """The whole path, with a run that was stopped and one that ended; how many files it left."""
    secrets = {name: f"hf_{name.replace('_', '')}{seed}Planted" for name in VARIABLES}
    home = folder / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    secrets["stored"] = f"hf_storedPlanted{seed}"
    (home / ".cache" / "huggingface" / "token").write_text(secrets["stored"])
    secrets["netrc"] = f"netrcPlanted{seed}"
    (home / ".netrc").write_text(f"machine huggingface.co login a password {secrets['netrc']}\n")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.setenv(name, secrets[name])
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HOME", str(home / ".cache" / "huggingface"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            walk(folder)
            # Imported here, when the environment is what it is to be.
            from finetune.__main__ import doctor

            doctor(str(folder / "tiny.toml"))
    files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    assert any("checkpoints" in path.parts for path in files)
    assert any(path.name == "report.html" for path in files)
    for secret in secrets.values():
        assert secret not in said.getvalue(), f"{secret} was printed"
    for path in files:
        for content in _contents(path):
            for secret in secrets.values():
                assert secret.encode() not in content, f"{secret} stands in {path}"
                assert base64.b64encode(secret.encode())[:-4] not in content, path
    return Outcome(tried=len(files), note=f"{len(secrets)} tokens, {len(files)} files")


def _contents(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked as well."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        yield str(pq.read_schema(path).metadata).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())
    for block in re.findall(rb"[A-Za-z0-9+/]{200,}={0,2}", content):
        with contextlib.suppress(ValueError, zlib.error):
            yield zlib.decompress(base64.b64decode(block), wbits=-zlib.MAX_WBITS)


CAMPAIGN = Campaign(
    code="S4",
    promise="a token of the environment or the configuration stands in nothing that is left",
    counted="files looked through",
    aim=100,
    prepare=prepare,
    attempts=3,
)
