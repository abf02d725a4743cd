"""Will this machine do it, and if not, what to type: one finding a line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.artifacts import artifacts_root
from dataset_builder.errors import InputError
from finetune.base import ready_base
from finetune.preset import load_preset, preset_names

# A base of 2.7 billion weights in half precision, twice while it is fetched, and the runs.
_DISK_WANTED = 12e9


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    is_ok: bool
    line: str
    hint: str | None = None


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which one needs the other; a missing library ends it."""
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {found}", "install Python 3.11 or newer")
    yield _disk()
    try:
        import torch
    except ImportError:
        yield Finding(
            False, "torch is not installed", "type `just test` once: it makes the environment"
        )
        return
    yield _accelerator()
    yield _quantised(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    yield from _bases()


def _disk() -> Finding:
    folder = artifacts_root().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        free >= _DISK_WANTED,
        f"disk: {free / 1e9:.0f} GB free for artefacts in {artifacts_root()}",
        f"{_DISK_WANTED / 1e9:.0f} GB do for every preset; ARTIFACTS=FOLDER moves the artefacts",
    )


def _accelerator() -> Finding:
    import torch

    driver = _driver()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        compute = "bf16" if properties.major >= 8 else "fp16"
        return Finding(
            True,
            f"GPU: {properties.name}, {properties.total_memory / 1e9:.0f} GB, capability"
            f" {properties.major}.{properties.minor} ({compute}), CUDA {torch.version.cuda},"
            f" driver {driver or 'unknown'}",
        )
    if driver is None:
        return Finding(True, f"no GPU: {os.cpu_count()} CPU cores, slower but the same code")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    return Finding(
        False,
        f"a GPU with driver {driver}: torch {torch.__version__}, built for {built}, cannot use it",
        "install a torch built for CUDA in the driver's range: https://pytorch.org/get-started",
    )


def _driver() -> str | None:
    """The version of the NVIDIA driver, or None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.split() if done.returncode == 0 else []
    return lines[0] if lines else None


def _quantised(device: object) -> Finding:
    """Whether a product with 4-bit weights comes out near the plain one."""
    import torch

    hint = "install the bitsandbytes of requirements.lock: `uv pip sync requirements.lock`"
    try:
        import bitsandbytes as bnb

        torch.manual_seed(0)
        plain = torch.nn.Linear(64, 64, bias=False)
        packed = bnb.nn.Linear4bit(
            64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32
        )
        packed.load_state_dict(plain.state_dict())
        packed = packed.to(device)
        x = torch.randn(8, 64)
        wanted = plain(x)
        error = (packed(x.to(device)).cpu() - wanted).norm() / wanted.norm()
    # A library that does not fit the driver fails in its loader, with any of these.
    except (ImportError, OSError, RuntimeError, AttributeError) as failure:
        return Finding(False, f"bitsandbytes does not work here: {failure}", hint)
    is_near = bool(error < 0.2)
    return Finding(is_near, f"bitsandbytes {bnb.__version__}: 4-bit products on {device}", hint)


def _bases() -> Iterator[Finding]:
    """For each base that a shipped preset names: whether it is on disk. Asks no network."""
    for model, names in _presets_by_model().items():
        preset = load_preset(names[0])
        label = f"base {model} ({', '.join(names)})"
        try:
            yield Finding(True, f"{label}: on disk, {_origin(ready_base(preset.base).directory)}")
        except InputError as error:
            yield Finding(False, f"{label}: {error}", error.hint)


def _presets_by_model() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in preset_names():
        found.setdefault(load_preset(name).base.model, []).append(name)
    return found


def _origin(directory: Path) -> str:
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return f"{weights / 1e9:.1f} GB"
