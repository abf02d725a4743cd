"""Changes of a module are tried on its tests: `just campaign mutants` in small."""

from pathlib import Path

import pytest

from tests.campaigns.mutants import collected
from tests.mutants import mutants
from tests.warm import Warm

FILE = "dataset_builder/printable.py"


def test_a_change_is_noticed_by_the_test_that_fails_and_by_nothing_else(
    tmp_path: Path, data_process: Warm
):
    names = ["no_control_character_is_left", "plain_text_stays_and_escapes_become_visible"]
    tests = {f"tests/test_printable.py::test_{name}": 1.0 for name in names}
    with collected(data_process, tmp_path, ["test_printable"]) as fork:

        def tried(file: str, place: int, tests: dict[str, float]) -> str:
            folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return fork(file, place, tests, folder)

        assert tried("", 0, tests) == ""
        returned = next(each for each in mutants(FILE) if each.change == "None is returned")
        assert tried(FILE, returned.place, tests) == next(iter(tests))
        joiners = next(each for each in mutants(FILE) if "u200c" in each.change)
        assert tried(FILE, joiners.place, tests) == ""  # it changes nothing
        with pytest.raises(AssertionError, match="KeyError"):
            tried(FILE, returned.place, {"tests/test_printable.py::test_of_another_name": 1.0})
        # Each was another process.
        assert tried("", 0, tests) == ""
