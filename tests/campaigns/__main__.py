"""`python -m tests.campaigns`: attack one promise for so long, or say how all of them stand."""

import difflib
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from dataset_builder.artifacts import artifacts_root
from dataset_builder.command_line import data, run, talk
from dataset_builder.errors import InputError
from tests.campaign import Campaign, attack, attempted, read_journal, tally

# Before torch is imported: a tiny model only waits for a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

app = App(name="tests.campaigns", version_flags=[])
app["--help"].show = False  # there are no other commands beside which to name it


@app.default
def campaign(
    name: str = "",
    /,
    *,
    hours: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 0.1,
    seed: int | None = None,
) -> None:
    """Attack a promise again and again, and say how often it broke; without a name, list them.

    What came of each attempt stands in a journal below `artifacts/campaigns`, and a killed
    campaign goes on with it; delete the campaign's folder there to begin anew. Exits with 1 where
    the promise broke.

    Parameters
    ----------
    name
        The campaign.
    hours
        That its attempts may take altogether, those in the journal included.
    seed
        Make this attempt alone, beside the journal, and say what came of it.
    """
    if not name:
        _list()
        return
    chosen = load(name)
    if seed is not None:
        _try(chosen, seed)
        return
    root = artifacts_root() / "campaigns" / name
    root.mkdir(parents=True, exist_ok=True)
    for entry in attack(chosen, root.absolute(), hours * 3600):
        if entry.failed:
            talk.print(f"attempt {entry.seed} failed: {entry.note}", markup=False)
        elif entry.note:
            talk.print(f"attempt {entry.seed}: {entry.note}", markup=False)
    sys.exit(int(_show(name, chosen)))


def names() -> list[str]:
    """The campaigns' names: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> Campaign:
    """The campaign `name`. Raises InputError where there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names())}"
        raise InputError(f"unknown campaign `{name}`", hint)
    module = importlib.import_module(f"tests.campaigns.{name}")
    assert isinstance(module.CAMPAIGN, Campaign)
    return module.CAMPAIGN


def _list() -> None:
    known = {name: load(name) for name in names()}
    for name in sorted(known, key=lambda name: (known[name].code[0], int(known[name].code[1:]))):
        _show(name, known[name])


def _show(name: str, campaign: Campaign) -> bool:
    """Prints how the campaign stands; whether the promise broke."""
    journal = artifacts_root() / "campaigns" / name / "journal.jsonl"
    found = tally(read_journal(journal))
    data.print(f"{campaign.code} {name}: {campaign.promise}", markup=False, soft_wrap=True)
    took = f"in {found.seconds / 3600:.2f} h; " if found.tried else ""
    wanted = f"aim: {campaign.aim:,} {campaign.counted}"
    data.print(f"    {found}; {took}{wanted}", markup=False, soft_wrap=True)
    return found.failed > 0


def _try(campaign: Campaign, seed: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    (folder / "shared").mkdir()
    with campaign.prepare(folder / "shared") as attempt:
        entry = attempted(attempt, seed, folder / f"{seed}")
    data.print(entry.note or "kept", markup=False)
    if entry.failed:
        talk.print(f"what it left: {folder}", markup=False)
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    run(app)
