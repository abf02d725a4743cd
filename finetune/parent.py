"""The run that another one starts from: found, and held against what is to go on with it.

Its adapter is trained further, so that the result is whole without it; what it was at the start is
the reference.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_builder.errors import InputError
from dataset_builder.settings import as_stored, parse_settings
from finetune.base import BaseFiles
from finetune.chat import template_of
from finetune.methods import METHODS
from finetune.preset import Preset
from finetune.run import Parent, Run, find_runs, load_run, refuse_changed_adapter


def find_parent(name: str, seed: int, preset: Preset, preset_name: str) -> tuple[Path, Run] | None:
    """The finished run that `name` means, with its record; None where the method begins from the
    base and no name was given.

    Of several seeds the one with this `seed`. Raises InputError where there is none, where the
    method wants one, or none, or where the run cannot be gone on with under the preset.
    """
    if not METHODS[preset.method].starts_from_run:
        if name:
            raise InputError(
                f"preset `{preset_name}`: the method `{preset.method}` starts from the base, and"
                f" `--from {name}` names a run",
                "leave `--from` out, or choose a preset of the method `dpo` or `grpo`",
            )
        return None
    if not name:
        raise InputError(
            f"preset `{preset_name}`: the method `{preset.method}` goes on with the adapter of a"
            " run, and none is named",
            "add `--from RUN`, such as one of the method `sft`; `just list` shows what there is",
        )
    directory = _one_of(find_runs(name), name, seed)
    run = load_run(directory)
    if not METHODS[run.method].answers:
        raise InputError(
            f"run `{run.name}` is a reward model, and gives no answers to go on from",
            "name a run of the method `sft` with `--from`",
        )
    _refuse_unlike(run, preset, preset_name)
    refuse_changed_adapter(directory, run)
    return directory, run


def refuse_other_base(run: Run, files: BaseFiles, preset: Preset) -> None:
    """Raise InputError where `run` was trained on other weights than `files`, or asked in another
    template than `preset` asks in.
    """
    if files.digest != run.base.digest:
        raise InputError(
            f"run `{run.name}` was trained on base {run.base.digest[:12]},"
            f" and `{files.model}` is {files.digest[:12]}",
            "bring back the weights it was trained on, or train it again",
        )
    own = parse_settings(run.preset, Preset, f"{run.name}: preset")
    if template_of(own, files) != template_of(preset, files):
        raise InputError(
            f"run `{run.name}` speaks the template `{own.template}`, the preset"
            f" `{preset.template}`",
            f'set `template = "{own.template}"` in the preset',
        )


def parent_record(run: Run) -> Parent:
    """What run.json keeps of the run that another one started from."""
    return Parent(
        name=run.name,
        adapter_sha256=run.adapter_sha256,
        seed=run.seed,
        manifest=run.manifest,
        preset_name=run.preset_name,
        preset_digest=run.preset_digest,
        preset=run.preset,
        parent=run.parent,
    )


def _one_of(found: list[Path], name: str, seed: int) -> Path:
    """The only run found, or of an arm the one with the seed."""
    if len(found) == 1:
        return found[0]
    same = [path for path in found if load_run(path).seed == seed]
    if len(same) == 1:
        return same[0]
    listed = "\n      ".join(f"{path.parent.name}/{path.name}" for path in found)
    raise InputError(
        f"`--from {name}` means {len(found)} seeds, {len(same) or 'none'} of them {seed}",
        f"choose one:\n      {listed}",
    )


def _refuse_unlike(run: Run, preset: Preset, preset_name: str) -> None:
    """Raise InputError with the keys in which the preset differs from the run's where its adapter
    allows no difference.
    """
    wanted = dict(_fixed(run.preset))
    different = [
        f"`{key}` is {_said(value)} and was {_said(wanted.get(key))}"
        for key, value in _fixed(as_stored(preset))
        if value != wanted.get(key)
    ]
    if different:
        raise InputError(
            f"preset `{preset_name}` cannot go on with run `{run.name}`: {'; '.join(different)}",
            "name another run with `--from`, or set these keys in a copy of the preset as they"
            " were",
        )


def _fixed(preset: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an adapter is bound to: its base, and its own shape."""
    for key in ("model", "revision", "quantization"):
        yield f"base.{key}", preset["base"][key]
    for key in ("r", "alpha", "targets"):
        yield f"lora.{key}", preset["lora"][key]
    yield "extra_tokens", preset["extra_tokens"]


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
