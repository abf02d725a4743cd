"""The adapter's README.md: a model card filled in from what the run knows."""

import json

import msgspec
from huggingface_hub import ModelCardData

from dataset_builder.card_figures import funnel_table, splits_table
from dataset_builder.fit import Fit
from finetune.held_pairs import PairFigures, told_apart
from finetune.methods import METHODS
from finetune.run import Run


def model_card(run: Run, fit: Fit) -> str:
    """The card, YAML and Markdown, of the adapter that `run` trained on rows that fitted so."""
    answers = METHODS[run.method].answers
    head = ModelCardData(
        # Only a Hub model has an id that others can follow.
        base_model=run.base.model if run.base.revision else None,
        library_name="peft",
        pipeline_tag="text-generation" if answers else "text-classification",
        language=run.manifest.recipe.get("keep", {}).get("languages"),
        tags=["lora", "qlora", run.method, "treetune"],
    )
    revision = f" at revision `{run.base.revision}`" if run.base.revision else ""
    sources = "\n".join(
        f"* `{source.name}`, {source.messages:,} messages, sha256 `{source.sha256}`"
        for source in run.manifest.sources
    )
    return f"""---
{head.to_yaml()}
---

# {run.name}

A LoRA adapter for `{run.base.model}`{revision}{"" if answers else ", and a head: a reward model"}.
Trained on the variant `{run.variant}` ({run.manifest.title}) under the preset `{run.preset_name}`
with seed {run.seed}, on the base in {run.preset["base"]["quantization"]}: merged into those
weights, unpacked, it is exactly what was trained.
{_start(run)}{_reward(run)}
## Data

Variant `{run.variant}`, digest `{run.manifest.digest}`, from:

{sources or "* no source named"}

{splits_table(run.manifest)}

{funnel_table(run.manifest)}

What the template, the tokenizer and the length did to the rows of `train`:

{_table(_data_rows(run, fit))}

The recipe:

```json
{json.dumps(run.manifest.recipe, indent=2, ensure_ascii=False)}
```

## Training

{_table(_training_rows(run))}

Versions: {", ".join(f"{name} {version}" for name, version in run.versions.items())}.

## Limits

One run with one seed says nothing about its variant against another: compare arms of several seeds.
"""


def _start(run: Run) -> str:
    """What it started from, where that was another run."""
    if run.parent is None:
        return ""
    parent = run.parent
    before = " ".join(
        f"That one had gone on from `{each.name}` of the method `{each.preset['method']}`."
        for each in reversed(parent.lineage[:-1])
    )
    return f"""
By {_BY[run.method]} it went on from the adapter of `{parent.name}`, sha256
`{parent.adapter_sha256}`, which is in it whole and was its reference: a run of the method
`{parent.preset["method"]}` on the variant `{parent.manifest.name}` ({parent.manifest.title}),
digest `{parent.manifest.digest}`. {before}
{_rewards(run)}"""


# How a run went on from another.
_BY = {
    "dpo": "direct preference optimisation",
    "grpo": "group relative policy optimisation",
}


def _rewards(run: Run) -> str:
    """What a policy's answers were rewarded for, and what is known of that."""
    gate = run.notes.get("quality_gate")
    if gate is None:
        return ""
    passed = "passed" if gate["passed"] else "did not pass"
    return f"""
Its answers were rewarded for keeping their limit in words and, under the model that it went on
from, for being likelier after their own question than after others: a relative of the scores
`relevance`, `relevance_total` and `relevance_controlled`, which are measured under the base. What
looks better by these may be what was rewarded. That quality {passed} its gate: {gate["reason"]}.
"""


def _reward(run: Run) -> str:
    """How a reward model is read, and what its held-out pairs show of it."""
    if METHODS[run.method].answers:
        return ""
    figures = msgspec.convert(run.notes["held_out_pairs"], PairFigures)
    return f"""
## Reward

It gives a prompt with an answer one number: what the head `score` makes, in float32, of the last
token, the end of the answer, in the template `{run.preset["template"]}`. Only differences between
answers to one prompt mean something. Where end-of-text pads too, transformers' own models for
sequence classification read the token before it, which is another number.

On pairs of held-out trees that no variant trains on, by what people ranked, with 95 % intervals
that take the pairs of one tree together ({figures.trees:,} trees; a tie counts half):

{_table(told_apart(figures))}

People prefer longer replies, so the rule is what length alone explains. Scores and words of each
pair are in `pairs.parquet` beside this folder.
"""


def merged_card(run: Run) -> str:
    """The card of the model that `run`'s adapter was merged into."""
    head = ModelCardData(
        base_model=run.base.model if run.base.revision else None,
        base_model_relation="merge" if run.base.revision else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        language=run.manifest.recipe.get("keep", {}).get("languages"),
        tags=["treetune"],
    )
    revision = f" at revision `{run.base.revision}`" if run.base.revision else ""
    return f"""---
{head.to_yaml()}
---

# {run.name}, merged

`{run.base.model}`{revision}, its weights in {run.preset["base"]["quantization"]} unpacked to
{run.notes["precision"]}, with the adapter of sha256 `{run.adapter_sha256}` added in float32 and
rounded once: what was trained, and not an adapter over weights it never saw.

{_table(_training_rows(run))}

Variant `{run.variant}` ({run.manifest.title}), digest `{run.manifest.digest}`.
"""


def _data_rows(run: Run, fit: Fit) -> dict[str, str]:
    before, after = fit.concise_share_before, fit.concise_share_after
    return {
        "rows": f"{fit.rows:,}",
        f"kept at {fit.length} tokens (`{fit.overflow}`)": f"{fit.kept:,}",
        "dropped, cut, end of text lost": f"{len(fit.dropped):,}, {fit.cut:,}, {fit.end_lost:,}",
        "share of replies of at most 100 words, before and after": f"{before:.3f}, {after:.3f}",
        "held out, share of trees": str(run.manifest.held_out),
    }


def _training_rows(run: Run) -> dict[str, str]:
    training, lora = run.preset["training"], run.preset["lora"]
    named = lora["targets"]
    targets = named if isinstance(named, str) else ", ".join(named)
    loss = "no rows" if run.validation_loss is None else f"{run.validation_loss:.4f}"
    of_method: dict[str, str] = {}
    if "dpo" in run.preset:
        held = run.notes.get("validation", {})
        right = held.get("reward_accuracy")
        of_method = {
            "beta": str(run.preset["dpo"]["beta"]),
            "held-out pairs told apart": "no rows" if right is None else f"{right:.3f}",
        }
    return {
        "method": run.method,
        "template": f"`{run.preset['template']}`",
        "steps, examples seen, epochs": f"{run.steps:,}, {run.examples_seen:,}, {run.epochs:.2f}",
        "trained tokens": f"{run.trained_tokens:,}",
        "batch": str(training["batch"]),
        "learning rate, schedule": f"{training['learning_rate']}, {training['schedule']}",
        "LoRA": f"r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']} on {targets}",
        **of_method,
        "training loss at the end": f"{run.train_loss:.4f}",
        "validation loss": loss,
        "device": str(run.device.get("name", run.device["type"])),
        "adapter sha256": f"`{run.adapter_sha256}`",
    }


def _table(rows: dict[str, str]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    )
