"""Will this machine do it, and if not, what to type: one finding a line."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builder import compiled
from dataset_builder.artifacts import artifacts_root
from dataset_builder.errors import InputError
from finetune.base import ready_base
from finetune.duration import T4, outlook
from finetune.memory import BF16, Estimate
from finetune.methods import sequences_of
from finetune.preset import AUTO, Preset, load_preset, preset_names
from finetune.route import Route, choose, routes

# A base of 2.7 billion weights in half precision, twice while it is fetched, and the runs.
_DISK_WANTED = 12e9
_HUB_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    is_ok: bool
    line: str
    hint: str | None = None


def examine(preset: str | None = None) -> Iterator[Finding]:
    """Every finding, in the order in which one needs the other; a missing library ends it.

    For the presets that ship, or the one that `preset` names. Raises InputError where there is no
    such preset.
    """
    presets = {name: load_preset(name) for name in ([preset] if preset else preset_names())}
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {found}", "install Python 3.11 or newer")
    yield _disk()
    yield _reader()
    try:
        import torch
    except ImportError:
        yield Finding(
            False, "torch is not installed", "type `just test` once: it makes the environment"
        )
        return
    yield _accelerator()
    yield _quantised(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    yield _cache()
    on_disk: dict[str, Path] = {}
    bases = list(_bases(presets, on_disk))
    yield _hub(all(finding.is_ok for finding in bases))
    yield from bases
    for name, settings in presets.items():
        if settings.base.model in on_disk:
            yield _memory(name, settings, on_disk[settings.base.model])
            yield from _elsewhere(name, settings, on_disk[settings.base.model])


def _disk() -> Finding:
    folder = artifacts_root().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        free >= _DISK_WANTED,
        f"disk: {free / 1e9:.0f} GB free for artefacts in {artifacts_root()}; machines that train"
        " together (`--machines`) must all mount that folder",
        f"{_DISK_WANTED / 1e9:.0f} GB do for every preset; ARTIFACTS=FOLDER moves the artefacts",
    )


def _reader() -> Finding:
    # None is needed, so that its absence is no fault.
    if compiled.library() is not None:
        return Finding(True, "C compiler: sources are read five times as fast as without one")
    return Finding(
        True,
        "no C compiler that works: sources are read into the same tables, but five times as slowly;"
        " install `cc`, `gcc` or `clang`, or name one in CC",
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


def _cache() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    models = len(list(folder.glob("models--*")))
    free = shutil.disk_usage(nearest).free
    return Finding(
        os.access(nearest, os.W_OK) and free >= _DISK_WANTED / 2,
        f"Hub cache: {folder}, {models} models, {free / 1e9:.0f} GB free",
        "HF_HOME=FOLDER moves it to where there is room and it can be written",
    )


def _hub(has_bases: bool) -> Finding:
    """Whether the Hub answers; without it all is well where every base is on disk."""
    from huggingface_hub.constants import ENDPOINT

    missing = "" if has_bases else ", and a base is not on disk"
    hint = "once, with a network: the `hf download` below; HF_ENDPOINT=URL names a mirror"
    request = urllib.request.Request(ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS) as answer:
            return Finding(True, f"Hub: {ENDPOINT} answers ({answer.status})")
    except urllib.error.HTTPError as error:  # it answers, whatever it says to a HEAD
        is_well = error.code < 500
        line = f"Hub: {ENDPOINT} answers {error.code}{'' if is_well else missing}"
        return Finding(is_well or has_bases, line, hint)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        line = f"Hub: {ENDPOINT} does not answer ({reason}){missing or '; nothing here needs it'}"
        return Finding(has_bases, line, hint)


def _memory(name: str, preset: Preset, directory: Path) -> Finding:
    """What a preset needs on this GPU, or would need on one."""
    import torch

    is_card = torch.cuda.is_available()
    capability = torch.cuda.get_device_capability() if is_card else None
    ways = routes(directory, preset, capability)
    free = torch.cuda.mem_get_info()[0] if is_card else 0
    taken = choose(ways, free) if is_card else ways[0]
    needed = _needed(taken)
    line = f"preset {name}: {_gigabytes(needed)}"
    if not is_card:
        if preset.training.gradient_checkpointing == AUTO:
            line += f" (with gradient checkpointing {_needed(ways[-1]).total / 1e9:.1f} GB)"
        newer = routes(directory, preset, BF16)[0]
        if newer.is_fast:
            total = _needed(newer).total / 1e9
            line += f", {total:.1f} GB by the fast path of a card that computes bf16"
        return Finding(True, f"{line}; here on the CPU")
    return Finding(
        free >= needed.total,
        f"{line}, on {taken.describe(preset)}; {free / 1e9:.1f} GB are free",
        "choose a preset for a smaller GPU, halve `micro_batch` in a copy of it, or free the GPU",
    )


def _needed(route: Route) -> Estimate:
    assert route.needed is not None
    return route.needed


def _gigabytes(needed: Estimate) -> str:
    return (
        f"about {needed.total / 1e9:.1f} GB of GPU memory to train,"
        f" {needed.peak / 1e9:.1f} GB allocated at most with previews"
    )


def _elsewhere(name: str, preset: Preset, directory: Path) -> Iterator[Finding]:
    """What a preset would take on the smallest card it is for, where that is not the one here."""
    examples = preset.training.examples
    tokens = float(examples * sequences_of(preset) * preset.length)
    line = outlook(directory, preset, T4, tokens=tokens, examples=examples)
    if line:
        yield Finding(True, f"preset {name}: {line}")


def _bases(presets: dict[str, Preset], on_disk: dict[str, Path]) -> Iterator[Finding]:
    """For each base that a preset names: whether it is on disk, noted in `on_disk`."""
    for model, names in _presets_by_model(presets).items():
        label = f"base {model} ({', '.join(names)})"
        try:
            files = ready_base(presets[names[0]].base)
        except InputError as error:
            yield Finding(False, f"{label}: {error}", error.hint)
            continue
        on_disk[model] = files.directory
        yield Finding(True, f"{label}: on disk, {_origin(files.directory)}")


def _presets_by_model(presets: dict[str, Preset]) -> dict[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for name, preset in presets.items():
        found.setdefault(preset.base.model, []).append(name)
    return dict(found)


def _origin(directory: Path) -> str:
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return f"{weights / 1e9:.1f} GB"
