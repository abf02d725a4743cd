"""Finished runs without training: a tiny model with a random adapter, and runs that are records
only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import file_digest, write_json
from dataset_builder.fit import Fit
from dataset_builder.manifest import Manifest, SplitCount
from dataset_builder.settings import settings_digest
from dataset_builder.tables import table_of, write_table
from dataset_builder.words import WORD_COUNTER
from evals.tables import GENERATIONS, SCORES, Evaluation, Gate
from finetune.parent import parent_record
from finetune.run import BaseModel, Run, runs_root

DIGEST = "ab" * 32


def record(
    variant: str = "full",
    seed: int = 0,
    *,
    preset: Mapping[str, Any] | None = None,
    manifest: Manifest | None = None,
    base_digest: str = DIGEST,
    adapter_sha256: str = DIGEST,
    **fields: Any,
) -> Run:
    """A run's record; `fields` replace what stands here."""
    manifest = manifest or manifest_of(variant)
    plain = {
        "name": f"tiny-{'1' * 8}/{variant}-{manifest.digest[:12]}-s{seed}",
        "variant": variant,
        "manifest": manifest,
        "preset_name": "tiny",
        "preset": dict(preset or {"title": "tiny", "length": 128}),
        "preset_digest": "1" * 64,
        "seed": seed,
        "base": BaseModel(
            model="a/base",
            revision=None,
            digest=base_digest,
            parameters=1,
            matched=1,
            missing=[],
            unexpected=[],
            mismatched=[],
        ),
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
        "seconds": 60.0,
        "preview_seconds": 0.0,
        "steps": 100,
        "examples_seen": 800,
        "epochs": 2.0,
        "trained_tokens": 40_000,
        "tokens": 80_000,
        "train_loss": 1.5,
        "validation_loss": None,
        "peak_memory": None,
        "device": {},
        "versions": {},
        "adapter_sha256": adapter_sha256,
        "resumed": [],
    }
    return Run(**(plain | fields))


def preferring(run: Run, seed: int = 0, **fields: Any) -> Run:
    """The record of a DPO run that went on from `run`."""
    manifest = msgspec.structs.replace(manifest_of("pairs"), form="pairs")
    start = "ab" * 4
    return record(
        "pairs",
        seed,
        **{
            "manifest": manifest,
            "name": f"dpo-{'2' * 8}/pairs-{manifest.digest[:12]}-from-{start}-s{seed}",
            "preset_name": "dpo",
            "preset": {"title": "dpo", "method": "dpo", "length": 128, "dpo": {"beta": 0.1}},
            "parent": parent_record(run),
        }
        | fields,
    )


def manifest_of(variant: str, *, rows: int = 400, **recipe: Any) -> Manifest:
    """A variant's manifest."""
    count = SplitCount(rows=rows, words=rows * 50, concise=rows, limits_stated=0)
    return Manifest(
        name=variant,
        digest=variant.encode().hex().ljust(64, "0")[:64],
        title=variant,
        recipe={"title": variant, "keep": {"languages": ["en"]}} | recipe,
        sources=[],
        tables=DIGEST,
        held_out=0.1,
        funnel={"threads": rows, "kept": rows},
        validation_funnel={"threads": 0, "kept": 0},
        splits={"train": count, "validation": count},
        notes={},
        word_counter=WORD_COUNTER,
    )


def fit_of(rows: int = 400, before: float = 0.5, after: float = 0.5) -> Fit:
    """What fit did."""
    return Fit(
        rows=rows,
        kept=rows,
        cut=0,
        shortened=0,
        end_lost=0,
        too_long=0,
        prompt_too_long=0,
        dropped=[],
        tokens=1,
        trained_tokens=1,
        concise_share_before=before,
        concise_share_after=after,
        token_quantiles={},
        length=128,
        overflow="drop",
        template="chatml",
    )


def write_run(run: Run, fit: Fit | None = None) -> Path:
    """The run's directory with its record."""
    directory = runs_root() / run.name
    directory.mkdir(parents=True)
    write_json(fit or fit_of(), directory / "fit.json")
    write_json(run, directory / "run.json")
    return directory


def write_evaluation(
    home: Path,
    scores: Mapping[tuple[str, str, int | None], float],
    *,
    run: str | None = "a run",
    answerers: Mapping[str, Mapping[tuple[str, str, int | None], float]] | None = None,
    trees: Mapping[str, str] | None = None,
    suite: str = "word_limit",
    gates: list[Gate] | None = None,
    **fields: Any,
) -> Path:
    """An evaluation below `home` whose scores are given by metric, prompt and limit."""
    digest = str(fields.get("suite_digest", "5" * 64))
    directory = home / "evals" / f"{suite}-{digest[:8]}"
    directory.mkdir(parents=True)
    rows = [
        {
            "answerer": answerer,
            "prompt_id": prompt,
            "tree_id": (trees or {}).get(prompt, prompt),
            "limit": limit,
            "wording": None if limit is None else "lift",
            "sample": 0,
            "metric": metric,
            "value": value,
        }
        for answerer, each in {"run": scores, **(answerers or {})}.items()
        for (metric, prompt, limit), value in each.items()
    ]
    write_table(table_of(rows, SCORES), SCORES, directory / "scores.parquet")
    write_table(table_of([], GENERATIONS), GENERATIONS, directory / "generations.parquet")
    plain = {
        "name": directory.name,
        "suite_name": suite,
        "suite": {},
        "run": run,
        "base": "a/base",
        "base_digest": DIGEST,
        "tables": DIGEST,
        "adapter_sha256": None,
        "template": "chatml",
        "settings": {"precision": "float32", "quantization": "nf4"},
        "prompts": 1,
        "prompts_by_origin": {},
        "generations": len(rows),
        "unscored": {},
        "gates": gates or [],
        "contamination": {},
        "seconds": 1.0,
        "tokens_per_second": 1.0,
        "versions": {},
        "device": {},
        "suite_digest": digest,
    }
    write_json(Evaluation(**(plain | fields)), directory / "eval.json")
    return directory


def tiny_run(
    preset_file: Path, variant: str = "tiny", seed: int = 0, *, scale: float = 0.2
) -> Path:
    """A run on a tiny model, its adapter drawn at random: nothing learnt, and not the base
    either."""
    import torch
    from peft import LoraConfig, get_peft_model

    from dataset_builder.manifest import find_variant
    from finetune.base import ready_base
    from finetune.model import load_base
    from finetune.preset import load_preset

    preset = load_preset(str(preset_file))
    files = ready_base(preset.base)
    model, base = load_base(files, preset.base, torch.device("cpu"), quantized=False)
    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=list(preset.lora.targets))
    tuned = get_peft_model(model, lora)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, scale)
    _, manifest = find_variant(variant)
    digest = settings_digest(preset)
    name = f"tiny-{digest[:8]}/{variant}-{manifest.digest[:12]}-s{seed}"
    adapter = runs_root() / name / "adapter"
    tuned.save_pretrained(str(adapter))
    run = record(
        variant,
        seed,
        preset=msgspec.to_builtins(preset),
        manifest=manifest,
        adapter_sha256=file_digest(adapter / "adapter_model.safetensors"),
        name=name,
        preset_digest=digest,
        base=base,
    )
    write_json(fit_of(), adapter.parent / "fit.json")
    write_json(run, adapter.parent / "run.json")
    return adapter.parent
