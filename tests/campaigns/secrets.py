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

VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "WANDB_API_KEY", "JUDGE_API_KEY"),
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"),
    *("COMET_API_KEY", "MLFLOW_TRACKING_PASSWORD", "TRACKIO_TOKEN", "PYPI_TOKEN"),
)
SUITE = """
title = "a handful"
max_prompts = 3
limits = [5]
tokens_per_word = 2
spare_tokens = 4
unlimited_tokens = 8
scorers = ["violation", "words", "relevance"]
relevance_others = 1
"""


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
            _whole_path(folder)
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


def _whole_path(folder: Path) -> None:
    # Libraries that read the environment when they are imported read this one.
    import dataset_builder.__main__ as dataset_builder
    import evals.__main__ as evals
    import finetune.__main__ as finetune
    import reports.__main__ as reports
    from finetune import course
    from tests.builds import SAMPLE
    from tests.tiny import tiny_llama, tiny_preset
    from tests.training import Memory, Stopped, planned

    training = "examples = 16"
    base = 'precision = "fp32"'
    model = tiny_llama(folder / "model")
    options = {"top": "length = 512", "base": base, "training": training}
    preset = tiny_preset(folder / "tiny.toml", model, **options)
    (folder / "small.toml").write_text(SUITE)
    suite = str(folder / "small.toml")
    dataset_builder.build("full", "concise_best", source=[SAMPLE], held_out=0.3, messages=True)
    for variant in ("full", "concise_best"):
        finetune.train(variant, str(preset))
    with pytest.raises(Stopped):
        course.train(planned(preset, "full", seed=1), Memory(stop_at=3))
    evals.evaluate("full", "concise_best", suite=suite)
    reports.compare("full", "concise_best", suite=suite, name="mine")
    reports.card("full")
    finetune.doctor(str(preset))
    reports.list_artifacts()


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
