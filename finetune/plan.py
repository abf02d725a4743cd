"""What would be trained, as a value: a dry run prints it, a test reads it, a trainer acts on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from dataset_builder.manifest import Manifest, find_variant
from dataset_builder.settings import as_stored, settings_digest
from dataset_builder.template import Template
from finetune import checkpoints
from finetune.base import BaseFiles, context_of, ready_base
from finetune.chat import template_of
from finetune.methods import METHODS
from finetune.parent import find_parent, parent_record, refuse_other_base
from finetune.preset import Preset, load_preset
from finetune.rows import Budget, budget_of, order_of, read_rows, token_digest
from finetune.run import Parent, Run, run_name, runs_root
from finetune.tokens import extend_tokenizer

if TYPE_CHECKING:
    from finetune.held_pairs import HeldPair
    from finetune.previews import Question


@dataclass(frozen=True)
class Plan:
    """What would be trained: everything known before a weight is loaded."""

    name: str
    directory: Path  # of the finished run
    manifest: Manifest
    preset_name: str
    preset: Preset
    preset_digest: str
    seed: int
    files: BaseFiles
    template: Template
    tokenizer: Any  # with the preset's extra tokens
    extra_ids: list[int]
    rows: list[Any]  # FittedRows, FittedPairs or FittedPrompts, as the method trains on
    fit: Fit
    validation_rows: list[Any]
    validation_fit: Fit
    held_pairs: "list[HeldPair]"  # of a reward model, `validation_rows` as people read them
    order: list[int]  # places in `rows`, one per example seen
    budget: Budget
    questions: "list[Question] | list[HeldPair]"  # of a reward model, pairs
    notes: list[str]  # what the reader should know before the first step
    guard: checkpoints.Guard
    parent: Parent | None  # what it starts from; None: the base alone
    parent_adapter: Path | None  # its folder

    @property
    def unfinished(self) -> Path:
        return checkpoints.unfinished_of(self.directory)


@dataclass(frozen=True)
class Target:
    """Where a run will lie, and from what: enough to see whether it is there already."""

    directory: Path
    variant: Path
    manifest: Manifest
    preset_name: str
    preset: Preset
    preset_digest: str
    seed: int
    parent: tuple[Path, Run] | None  # what it starts from, and that run's record

    @property
    def is_finished(self) -> bool:
        return (self.directory / "run.json").exists()


def find_target(variant: str, preset_name: str, seed: int, start: str = "") -> Target:
    """The run that this variant, preset and seed name, from the run `start` if its method starts
    from one.

    Raises InputError where one of them is not there, or the method cannot train on the variant or
    go on with that run.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative", "choose 0 or more")
    preset = load_preset(preset_name)
    directory, manifest = find_variant(variant)
    _check_form(manifest, preset)
    digest = settings_digest(preset)
    short = Path(preset_name).stem if preset_name.endswith(".toml") else preset_name
    parent = find_parent(start, seed, preset, short)
    name = run_name(manifest, short, digest, seed, parent[1] if parent else None)
    return Target(runs_root() / name, directory, manifest, short, preset, digest, seed, parent)


def _check_form(manifest: Manifest, preset: Preset) -> None:
    wanted = METHODS[preset.method].form
    if manifest.form != wanted:
        raise InputError(
            f"variant `{manifest.name}` has rows of the form `{manifest.form}`;"
            f" the method `{preset.method}` trains on `{wanted}`",
            f'build a variant whose [shape] says form = "{wanted}"',
        )


def make_plan(target: Target, report: Callable[[str], None] = lambda line: None) -> Plan:
    """What training `target` would do, step by step; `report` gets a line before slow work.

    Raises InputError where the base is not on disk, no row fits, or the tokenizer lacks what the
    template needs.
    """
    from finetune.held_pairs import read_held_pairs
    from finetune.model import load_tokenizer
    from finetune.pair_previews import shown_pairs
    from finetune.previews import read_questions

    preset, manifest = target.preset, target.manifest
    files = ready_base(preset.base, report)
    parent = None
    if target.parent:
        refuse_other_base(target.parent[1], files, preset)
        parent = parent_record(target.parent[1])
    context = context_of(files)
    if context is not None and preset.length > context:
        raise InputError(
            f"preset `{target.preset_name}`: a length of {preset.length} tokens, and"
            f" `{files.model}` is made for {context}",
            f"set `length` to at most {context}",
        )
    template = template_of(preset, files)
    tokenizer = load_tokenizer(files, template)
    extra_ids = extend_tokenizer(tokenizer, preset.extra_tokens)
    report(f"fitting {target.manifest.splits['train'].rows:,} rows to {preset.length} tokens")
    rows, fit = read_rows(target.variant, "train", template, tokenizer, preset)
    held, held_fit = read_rows(target.variant, "validation", template, tokenizer, preset)
    batch = preset.training.batch
    steps = math.ceil(preset.training.examples / batch)
    order = order_of([row.example_id for row in rows], target.seed, steps * batch)
    held_pairs: list[HeldPair] = []
    questions: list[Question] | list[HeldPair]
    if METHODS[preset.method].answers:
        # An answer needs room too: positions that are a table end in the middle of it.
        room = min(preset.length, (context or 2**31) - preset.previews.tokens)
        questions, note = read_questions(manifest, preset.previews, template, tokenizer, room)
    else:
        held_pairs = read_held_pairs(target.variant, held)
        questions, note = shown_pairs(held_pairs, preset.previews.prompts)
    guard = checkpoints.Guard(
        variant=manifest.name,
        variant_digest=manifest.digest,
        preset_name=target.preset_name,
        preset=as_stored(preset),
        base={"model": files.model, "revision": files.revision, "digest": files.digest},
        seed=target.seed,
        tokens=token_digest(rows, order),
        parent={"run": parent.name, "adapter": parent.adapter_sha256} if parent else None,
    )
    return Plan(
        name=f"{target.directory.parent.name}/{target.directory.name}",
        directory=target.directory,
        manifest=manifest,
        preset_name=target.preset_name,
        preset=preset,
        preset_digest=target.preset_digest,
        seed=target.seed,
        files=files,
        template=template,
        tokenizer=tokenizer,
        extra_ids=extra_ids,
        rows=rows,
        fit=fit,
        validation_rows=held,
        validation_fit=held_fit,
        held_pairs=held_pairs,
        order=order,
        budget=budget_of(rows, order, batch),
        questions=questions,
        notes=[note] if note else [],
        guard=guard,
        parent=parent,
        parent_adapter=target.parent[0] / "adapter" if target.parent else None,
    )
