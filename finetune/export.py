"""A finished adapter as others load it."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import write_json
from finetune.plan import Plan


def export_adapter(plan: Plan, model: Any, out: Path) -> None:
    """Write the adapter as others load it: safetensors, tokenizer, its base by name, no pickle."""
    shutil.rmtree(out, ignore_errors=True)
    # New rows are stored by their indices; the embedding itself is the base's.
    model.save_pretrained(out, safe_serialization=True, save_embedding_layers=False)
    plan.tokenizer.save_pretrained(out)
    config = msgspec.json.decode((out / "adapter_config.json").read_bytes())
    config["base_model_name_or_path"] = plan.files.model
    config["revision"] = plan.files.revision
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set as it comes
    write_json(config, out / "adapter_config.json")
    (out / "adapter_model.safetensors").chmod(0o644)  # written for its owner's eyes only
