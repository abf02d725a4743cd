"""Where a run is shown besides the screen: trackers that transformers knows, on request only."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dataset_builder.errors import InputError

# Those that have one package of the same name.
TRACKERS = (
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)


def ready_trackers(names: Sequence[str], folder: Path) -> list[str]:
    """The trackers by name, told to write into the run's `folder` where they keep files there.

    Raises InputError for one that is unknown or not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(
                f"`--report-to {name}`: no such tracker", f"known trackers: {', '.join(TRACKERS)}"
            )
        if find_spec(name) is None:
            raise InputError(
                f"`--report-to {name}`: the package `{name}` is not installed",
                f"type `uv pip install --python .venv {name}`",
            )
    # The trainer's own folder, where these would go, is removed with the checkpoints.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    os.environ.setdefault("WANDB_PROJECT", "treetune")
    return list(names)
