"""What a study's files are, for bench/gpu_study.sh.

python -m bench.study_files pack STUDY DATA DIR     what a GPU host needs of them, into DIR
python -m bench.study_files ready STUDY DATA        there: the base models made ready, once for all
python -m bench.study_files adapters STUDY DATA ARM there: `ARM-sN FOLDER` for each run of an arm
"""

import shutil
import sys
from pathlib import Path

from dataset_builder.artifacts import artifacts_root
from finetune.base import ready_base
from reports.cells import Grid
from reports.experiment import refuse_unbuilt, stated_first
from reports.study import Located, load_study


def pack(located: Located, out: Path) -> None:
    """The variants without their ledgers, the held-out prompts of their tables, what the study says
    of itself, and its prompt files.
    """
    grid = Grid(located)
    refuse_unbuilt(grid)
    stated_first(located)
    assert grid.built
    root, there = artifacts_root(), out / "artifacts"
    for build in sorted(set(grid.built.variants.values())):
        for name in ("manifest.json", "train.parquet", "validation.parquet"):
            _copy(root, there, f"variants/{build}/{name}")
        pointer = f"variants/{build.rpartition('-')[0]}.json"  # by which it is found by its name
        if (root / pointer).is_file():
            _copy(root, there, pointer)
    for digest in sorted(
        {manifest.tables[:12] for manifest in grid.manifests.values() if manifest}
    ):
        for name in ("heldout.parquet", "source.json"):
            _copy(root, there, f"tables/{digest}/{name}")
    for name in ("built.json", "stated.json"):
        _copy(root, there, f"experiments/{located.name}/{name}")
    for name in located.study.prompts:
        _copy(located.data, out / "data", name)


def ready(located: Located) -> None:
    """Make the bases ready, so that processes that begin together need not each do it."""
    for arm in located.arms.values():
        ready_base(arm.preset.base, print)


def adapters(located: Located, arm: str) -> None:
    """Print where the adapters of an arm's finished runs lie, from the artefacts' folder."""
    grid = Grid(located)
    for seed in located.study.seeds:
        run = grid.run_directory(arm, seed)
        if run is not None and (run / "run.json").is_file():
            print(f"{arm}-s{seed}", (run / "adapter").relative_to(artifacts_root()))


def _copy(root: Path, out: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / name, out / name)


def main(action: str, study: str, data: str, *more: str) -> None:
    located = load_study(study, Path(data))
    if action == "pack":
        pack(located, Path(*more))
    elif action == "ready":
        ready(located)
    else:
        adapters(located, *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
