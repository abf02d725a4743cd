"""Before torch is imported: one thread, as a tiny model only waits for a second one.

And what makes the suite cheaper without changing what any test sees.
"""

import atexit
import functools
import gc
import os
from collections.abc import Iterator
from importlib import metadata

import pytest
from hypothesis import HealthCheck, settings
from jinja2 import Environment

from tests.browser import Tab, chromium
from tests.warm import DATA, TRAINING, Warm, fork_early, warm

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A busy machine is slow; that is no fault of what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def what_never_changes_is_found_once() -> Iterator[None]:
    """At every checkpoint PEFT compiles the Jinja template of a model card anew, and asks for the
    version of each library.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "compile", functools.lru_cache(64)(Environment.compile))
        for name in ("metadata", "version"):
            patch.setattr(metadata, name, functools.cache(getattr(metadata, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_power_is_cut() -> Iterator[None]:
    """A kill leaves what was written, whether it was flushed or not, and no test does more to the
    machine; 15,000 times 3 ms are waited for otherwise. A descriptor that is none is refused still.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collecting tests imports a million objects, none of which is garbage."""
    gc.disable()
    try:
        fork_early(session.config)
        return (yield)
    finally:
        gc.enable()


def pytest_unconfigure() -> None:
    """What tests left is collected once; what is still there is not looked through again and again
    while pytest and Python end.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or DuckDB's binding takes what is frozen for leaked


@pytest.fixture(scope="session")
def tab() -> Iterator[Tab]:
    """A browser's page, to be opened on a file."""
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="session")
def data_process(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Warm:
    """A process that has imported what building variants imports, to be forked."""
    return warm(tmp_path_factory, request.config, "data", *DATA)


@pytest.fixture(scope="session")
def training_process(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Warm:
    """A process that has imported what training imports, to be forked."""
    return warm(tmp_path_factory, request.config, "training", *TRAINING)


@pytest.fixture(scope="module", autouse=True)
def libraries_are_no_garbage() -> None:
    """Torch and what comes with it are a million objects; every training looks through them all."""
    gc.collect()
    gc.freeze()
