"""What others' scanners say of our code, and of the packages that the lock names."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.errors import InputError
from tests.campaign import Attempt, Campaign, Outcome
from tests.warm import ROOT

PACKAGES = ("dataset_builder", "finetune", "evals", "reports")

# What bandit may say, and why that is none.
EXCEPTIONS = {
    "B101": "asserts say what cannot happen; nothing that a user gives is checked by one",
    "B105": "names of special tokens, and a hint to set a variable",
    "B310": "an address that a person gave, held to http and https; and the Hub's own",
    "B404": "see B603",
    "B603": "commands are lists and no shell reads them: a compiler, accelerate, this interpreter",
    "B615": "directories, or a commit; tests/test_supply.py looks at every call",
    "B701": "a dataset card is Markdown",
    "B704": "style sheets and the script that ship",
}


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """Both scanners are there."""
    for name in ("bandit", "pip-audit"):
        if shutil.which(name) is None:
            raise InputError(f"needs {name}", f"`uv tool install {name}`")
    yield lambda seed, folder: (_bandit, _pip_audit)[seed]()


def _bandit() -> Outcome:
    ran = _run("bandit", "-q", "-r", *PACKAGES, "-f", "json")
    report = json.loads(ran.stdout)
    assert not report["errors"], report["errors"]
    found = Counter(each["test_id"] for each in report["results"])
    assert found.keys() <= EXCEPTIONS.keys(), found
    return Outcome(note=", ".join(f"{name} {n}" for name, n in sorted(found.items())))


def _pip_audit() -> Outcome:
    ran = _run(
        *("pip-audit", "-r", "requirements.lock", "--no-deps", "--disable-pip"),
        *("-f", "json", "--progress-spinner", "off"),
    )
    try:
        known = json.loads(ran.stdout)["dependencies"]
    except ValueError:
        return Outcome(tried=0, note=f"not audited: {ran.stderr.strip().splitlines()[-1][:200]}")
    bad = [each["name"] for each in known if each.get("vulns")]
    assert not bad, bad
    skipped = sum("skip_reason" in each for each in known)
    return Outcome(
        tried=int(skipped < len(known)),
        note=f"{len(known) - skipped} packages audited, {skipped} unknown to the service",
    )


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


CAMPAIGN = Campaign(
    code="S6",
    promise="scanners find nothing in our code and no known fault in what it needs",
    counted="scans",
    aim=2,
    prepare=prepare,
    attempts=2,
)
