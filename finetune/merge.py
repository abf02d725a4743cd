"""A run as one model: its adapter merged into the base that it was trained on.

That base is the 4-bit weights unpacked, in the precision the run computed in. Merging into the
weights as they were published would change the base under the adapter, and merging into 4-bit ones
would round them once more.
"""

from pathlib import Path

import msgspec

from dataset_builder.artifacts import building, read_json, write_json, write_text
from dataset_builder.errors import InputError
from dataset_builder.settings import parse_settings
from dataset_builder.template import stop_ids
from finetune.base import BaseFiles, ready_base
from finetune.card import merged_card
from finetune.chat import template_of
from finetune.methods import METHODS
from finetune.preset import Preset
from finetune.progress import Watcher
from finetune.run import Run, find_runs, load_run, refuse_changed_adapter

MERGED = "merged"
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """merged.json: what this folder is made of."""

    run: str
    adapter_sha256: str
    base: str
    revision: str | None
    base_digest: str
    precision: str  # of the stored weights
    quantization: str  # of the base that the adapter was trained on


def merge(name: str, watcher: Watcher, out: Path | None = None) -> Path:
    """Write the run that `name` means as one model: safetensors, configuration, tokenizer, card.

    In `merged/` of the run's folder unless `out` says otherwise; whole or not at all. Raises
    InputError where `name` means several seeds, the adapter is not the run's, or `out` holds
    something.
    """
    directory = _one_run(name)
    run = load_run(directory)
    if not METHODS[run.method].answers:
        raise InputError(
            f"run `{run.name}` is a reward model, and merged it would answer nothing",
            f"score answers by it: `just eval RUN --reward {run.preset_name}/{run.variant}`",
        )
    folder = out or directory / MERGED
    if _holds(folder, run):
        watcher.say("This run is merged already.")
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: something is there already", "choose another `--out`")
    refuse_changed_adapter(directory, run)
    preset = parse_settings(run.preset, Preset, f"{directory / 'run.json'}: preset")
    files = ready_base(preset.base, watcher.say)
    if files.digest != run.base.digest:
        raise InputError(
            f"base model `{files.model}` has other weights than the run was trained on:"
            f" {files.digest[:12]}, not {run.base.digest[:12]}",
            "bring back the base's files",
        )
    watcher.say(f"merging {run.name}")
    with building(folder) as made:
        _write(run, preset, files, directory / "adapter", made)
    return folder


def _holds(folder: Path, run: Run) -> bool:
    """Whether `folder` is this very run, merged; another one's is left to the caller."""
    path = folder / "merged.json"
    if not path.is_file():
        return False
    found = read_json(path, Merged)
    return (found.run, found.adapter_sha256) == (run.name, run.adapter_sha256)


def _write(run: Run, preset: Preset, files: BaseFiles, adapter: Path, out: Path) -> None:
    from finetune.model import load_merged, load_tokenizer, pick_device, quiet_loading

    precision = run.notes["precision"]
    base = msgspec.structs.replace(preset.base, precision=_PRECISIONS[precision])
    model = load_merged(files, base, adapter, pick_device()).to("cpu")
    tokenizer = load_tokenizer(files, template_of(preset, files), adapter)
    ends = stop_ids(template_of(preset, files), tokenizer)
    # What it was taught to end with, or a server would let it run on.
    model.config.eos_token_id = ends[0]
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with quiet_loading():
        model.save_pretrained(out, max_shard_size="5GB")
    tokenizer.save_pretrained(out)
    config = msgspec.json.decode((out / "config.json").read_bytes())
    config.pop("_name_or_path", None)
    write_json(config, out / "config.json")
    write_text(merged_card(run), out / "README.md")
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)
    write_json(
        Merged(
            run=run.name,
            adapter_sha256=run.adapter_sha256,
            base=run.base.model,
            revision=run.base.revision,
            base_digest=run.base.digest,
            precision=precision,
            quantization=preset.base.quantization,
        ),
        out / "merged.json",
    )


def _one_run(name: str) -> Path:
    found = find_runs(name)
    if len(found) > 1:
        listed = "\n      ".join(f"{path.parent.name}/{path.name}" for path in found)
        raise InputError(
            f"`{name}` means {len(found)} seeds, and one is merged", f"choose:\n      {listed}"
        )
    return found[0]
