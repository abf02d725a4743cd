"""Artefacts of strangers that hold code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.campaign import Attempt, Campaign, Outcome
from tests.poisoned import attack_all


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Artefacts beside the attempts, and no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(shared / "artifacts"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield lambda seed, folder: Outcome(tried=attack_all(folder))


CAMPAIGN = Campaign(
    code="S3",
    promise="no code is run from data, and no file can allow it",
    counted="poisoned artefacts",
    aim=20,
    prepare=prepare,
    attempts=1,
)
