"""R8, first half: builds under other threads, locales, time zones and orders of files."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.builds import MANY, RECIPES, assert_same_files, files_of, foreign_recipe, halves, locales
from tests.campaign import Attempt, Campaign, Outcome
from tests.warm import ROOT

BUILDS = 6  # a process


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Several recipes over two sources that share trees."""
    sources = [str(path) for path in halves(shared, trees=26)]
    known_recipes = [*RECIPES, foreign_recipe(shared)]
    (shared / "locales").mkdir()
    known = locales(shared / "locales")

    def builds(folder: Path, first: int, chance: random.Random) -> list[dict[str, str]]:
        """The files of so many builds in one process."""
        places = [(first + at, str(folder / f"{first + at}")) for at in range(BUILDS)]
        threads = chance.randint(1, 8)
        settings = {
            "POLARS_MAX_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "PYTHONHASHSEED": chance.randint(0, 2**32 - 1),
            "LC_ALL": chance.choice(known["LOCALES"].split()),
            # What a file is read as where nobody said: by the locale, or UTF-8 whatever it is.
            "PYTHONUTF8": chance.randint(0, 1),
        }
        files, recipes = (chance.sample(each, len(each)) for each in (sources, known_recipes))
        arguments = (threads, json.dumps(places), json.dumps(files), json.dumps(recipes))
        done = subprocess.run(
            [sys.executable, "-c", MANY, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | known | {name: str(value) for name, value in settings.items()},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return [files_of(Path(place)) for _, place in places]

    wanted = builds(shared, 0, random.Random("wanted"))[0]

    def attempt(seed: int, folder: Path) -> Outcome:
        for found in builds(folder, seed * BUILDS, random.Random(seed)):
            assert_same_files(found, wanted)
        return Outcome(BUILDS, note=f"locales: {known['LOCALES']}")

    yield attempt


CAMPAIGN = Campaign(
    code="R8",
    promise="the same in, the same bytes out, over threads, locale, time zone and order of files",
    counted="builds",
    aim=200,
    prepare=prepare,
)
