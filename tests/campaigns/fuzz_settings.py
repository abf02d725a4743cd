"""Presets, suites and studies of strangers."""

from evals.suite import SUITES
from finetune.preset import PRESETS
from reports.study import STUDIES
from tests.fuzzing import fuzzing

CAMPAIGN = fuzzing(
    "settings",
    "whatever a preset, a suite or a study holds, it is one, or refused by one line",
    lambda: [
        path.read_bytes()
        for folder in (PRESETS, SUITES, STUDIES)
        for path in sorted(folder.glob("*.toml"))
    ],
)
