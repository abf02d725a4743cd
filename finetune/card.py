"""The adapter's README.md: a model card filled in from what the run knows."""

import json

from huggingface_hub import ModelCardData

from dataset_builder.fit import Fit
from finetune.run import Run


def model_card(run: Run, fit: Fit) -> str:
    """The card of the adapter that `run` trained on rows that fitted as `fit` says: YAML head and Markdown."""
    head = ModelCardData(
        base_model=run.base.model if "/" in run.base.model else None,
        library_name="peft",
        pipeline_tag="text-generation",
        language=run.manifest.recipe.get("keep", {}).get("languages"),
        tags=["lora", "qlora", "sft", "treetune"],
    )
    validation = (
        "no validation rows" if run.validation_loss is None else f"{run.validation_loss:.4f}"
    )
    sources = "\n".join(
        f"* `{source.name}`, {source.messages:,} messages, sha256 `{source.sha256}`"
        for source in run.manifest.sources
    )
    training = run.preset["training"]
    return f"""---
{head.to_yaml()}
---

# {run.name}

A LoRA adapter for `{run.base.model}`{f" at revision `{run.base.revision}`" if run.base.revision else ""}, trained on
the variant `{run.variant}` ({run.manifest.title}) under the preset `{run.preset_name}` with seed {run.seed}.

It was trained on the base in {run.preset["base"]["quantization"]}. Merge it into those weights, unpacked, to get exactly
what was trained.

## Data

Variant `{run.variant}`, digest `{run.manifest.digest}`, from:

{sources or "* no source named"}

| | |
|---|---|
| rows | {fit.rows:,} |
| kept at {fit.length} tokens (`{fit.overflow}`) | {fit.kept:,} |
| dropped, cut, end of text lost | {len(fit.dropped):,}, {fit.cut:,}, {fit.end_lost:,} |
| replies of at most 100 words, before and after | {fit.concise_share_before:.3f}, {fit.concise_share_after:.3f} |
| held out, share of trees | {run.manifest.held_out} |

The recipe:

```json
{json.dumps(run.manifest.recipe, indent=2, ensure_ascii=False)}
```

## Training

| | |
|---|---|
| template | `{run.preset["template"]}` |
| steps, examples seen, epochs | {run.steps:,}, {run.examples_seen:,}, {run.epochs:.2f} |
| trained tokens | {run.trained_tokens:,} |
| batch, learning rate, schedule | {training["batch"]}, {training["learning_rate"]}, {training["schedule"]} |
| LoRA | r {run.preset["lora"]["r"]}, alpha {run.preset["lora"]["alpha"]}, dropout {run.preset["lora"]["dropout"]} on {", ".join(run.preset["lora"]["targets"])} |
| training loss at the end | {run.train_loss:.4f} |
| validation loss | {validation} |
| device | {run.device.get("name", run.device["type"])} |
| adapter sha256 | `{run.adapter_sha256}` |

Versions: {", ".join(f"{name} {version}" for name, version in run.versions.items())}.

## Limits

One run with one seed says nothing about its variant against another; compare arms of several seeds.
"""
