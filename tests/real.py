"""Where real data lies beside the project, for the tests that use it."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Path:
    """The real file of that name below `shared/data`; skips the test where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs the real file shared/data/{name} beside the project")
    return path
