"""What the start of a run gave each answer: log-probabilities, computed once and kept with every
checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_builder.artifacts import reading
from finetune import launch
from finetune.oom import in_parts
from finetune.previews import undisturbed

# In a checkpoint's folder, among the files that its digests vouch for.
REFERENCE = "reference.safetensors"


def reference_of(
    trainer: Any,
    dataset_of: Callable[[Sequence[int]], Any],
    lengths: Sequence[int],
    places: Sequence[int],
    batch: int,
) -> np.ndarray:
    """The log-probabilities of the chosen and the rejected answer by the trainer's model as it is:
    (len(lengths), 2), float32, NaN but at `places`.

    `dataset_of` gives the pairs at places, `lengths` their tokens, by place. Dealt out to all
    processes.
    """

    def ask(part: Sequence[int]) -> list[list[float]]:
        rows = dataset_of(part)
        inputs = trainer.data_collator([rows[n] for n in range(len(rows))])
        found = trainer.log_probabilities(trainer.model, trainer._prepare_inputs(inputs))
        answers: list[list[float]] = found.tolist()
        return answers

    # Like lengths together, so that little is padded.
    ordered = sorted(places, key=lambda place: (lengths[place], place))
    parts = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    own = parts[launch.rank() :: launch.processes()]
    found: list[tuple[int, list[float]]] = []
    with undisturbed(trainer.model), torch.no_grad(), trainer.accelerator.autocast():
        for part in own:
            answers = in_parts(ask, part, "the reference of one pair")
            found += zip(part, answers, strict=True)
    whole = np.full((len(lengths), 2), np.nan, np.float32)
    for some in launch.of_all(found):
        for place, answer in some:
            whole[place] = answer
    return whole


def store(reference: np.ndarray, path: Path) -> None:
    """Write the reference where `load` finds it."""
    from safetensors.numpy import save_file

    save_file({"log_probabilities": reference}, path)


def load(path: Path) -> np.ndarray:
    """The reference that was stored at `path`."""
    from safetensors.numpy import load_file

    with reading(path):
        reference: np.ndarray = load_file(path)["log_probabilities"]
    return reference
