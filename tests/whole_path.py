"""Every stage once, on a tiny model of random weights.

python -m tests.whole_path FOLDER
"""

import sys
from pathlib import Path

import pytest

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


def walk(folder: Path) -> None:
    """Build, train, stop a training, evaluate, compare, and look at what is there; artefacts go
    where ARTIFACTS says.
    """
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
    reports.list_artifacts()


if __name__ == "__main__":
    walk(Path(sys.argv[1]))
