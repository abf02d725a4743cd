"""The course of a run, from a plan to a finished run, whatever its method.

A method makes the trainer, which does the steps; all that is promised of a run around them is here.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import (
    file_digest,
    flush,
    flush_directory,
    write_json,
    write_text,
    writing,
)
from dataset_builder.settings import as_stored
from finetune import checkpoints, dpo, grpo, launch, reward, sft
from finetune.card import model_card
from finetune.export import export_adapter
from finetune.methods import METHODS
from finetune.plan import Plan
from finetune.progress import Watcher, read_steps, without_known_noise
from finetune.route import Route, preflight
from finetune.run import BaseModel, Run, Segment, files_beside
from finetune.trackers import ready_trackers

# What makes the trainer of a method, what it does between its making and the first step, and what
# it adds to the record once the held-out rows were read.
_MAKERS = {
    "sft": sft.make_trainer,
    "dpo": dpo.make_trainer,
    "reward": reward.make_trainer,
    "grpo": grpo.make_trainer,
}
_BEGINNINGS = {"dpo": dpo.begin, "grpo": grpo.begin}
_ENDINGS = {"reward": reward.finish}


def train(
    plan: Plan,
    watcher: Watcher,
    *,
    resume: bool = False,
    restart: bool = False,
    report_to: Sequence[str] = (),
) -> Path:
    """Train what is planned; the finished run's directory. `report_to` names trackers to tell too.

    A killed run is continued with `resume`, from its last whole checkpoint to the same adapter an
    uninterrupted one ends in. Raises InputError where the GPU has too little memory, a weight of
    the base is missing, an unfinished run is in the way, or the disk refuses to be written.
    """
    with writing(plan.unfinished):
        return _train_whole(plan, watcher, resume=resume, restart=restart, report_to=report_to)


def _train_whole(
    plan: Plan, watcher: Watcher, *, resume: bool, restart: bool, report_to: Sequence[str]
) -> Path:
    from finetune.model import load_base, pick_device

    first = launch.is_first()
    trackers = ready_trackers(report_to, plan.unfinished) if first else ()
    if first:
        checkpoints.refuse_unwanted(plan.unfinished, plan.guard, resume=resume, restart=restart)
    for note in plan.notes:
        watcher.say(note)
    watcher.fitted(plan.fit, plan.budget)
    device = pick_device()
    if launch.processes() > 1:
        launch.check_shared(plan.directory.parent)
    before = launch.of_first(lambda: None if restart else _last_segment(plan))
    route = preflight(plan, device, before)
    watcher.say(f"taking {route.describe(plan.preset)}")
    with checkpoints.locked(plan.unfinished) if first else nullcontext(), without_known_noise():
        watcher.say(f"loading {plan.files.model}")
        answers = METHODS[plan.preset.method].answers
        model, base = load_base(plan.files, plan.preset.base, device, answers=answers)
        watcher.say(_proof(base, answers=answers))
        found = launch.of_first(lambda: _begun(plan, watcher, restart))
        _train(plan, model, base, device, found, watcher, trackers, route)
        if first:
            _publish(plan)
    return plan.directory


def _last_segment(plan: Plan) -> Segment | None:
    """How the newest checkpoint of the planned run was computed, if there is one."""
    found = checkpoints.newest(plan.unfinished)
    return found[1].segments[-1] if found and found[1].segments else None


def _begun(plan: Plan, watcher: Watcher, restart: bool) -> tuple[Path, checkpoints.Complete] | None:
    """The run's folder made ready, and the checkpoint to go on from."""
    found = checkpoints.begin(plan.unfinished, plan.guard, restart=restart, say=watcher.say)
    write_json(plan.fit, plan.unfinished / "fit.json")
    for name in ("metrics.jsonl", "previews.jsonl"):
        checkpoints.truncate_lines(plan.unfinished / name, found[1].step if found else -1)
    if found:
        watcher.say(f"going on from step {found[1].step}")
    return found


def _train(
    plan: Plan,
    model: Any,
    base: BaseModel,
    device: Any,
    found: tuple[Path, checkpoints.Complete] | None,
    watcher: Watcher,
    trackers: Sequence[str],
    route: Route,
) -> None:
    """Everything between a loaded base and a finished run, in the order it happens."""
    from finetune.model import describe_device, library_versions, pick_precision
    from finetune.oom import Halving, Pieces, one_line
    from finetune.pair_previews import PairPreviewer
    from finetune.peak import flops_per_token, matmul_peak
    from finetune.previews import Previewer
    from finetune.recorder import Recorder, Together
    from finetune.trainer import validate

    folder = plan.unfinished
    checkpoint, before = found if found else (None, None)
    started = (before and before.started) or datetime.now(UTC).isoformat(timespec="seconds")
    precision = pick_precision(plan.preset.base, device)
    peak = matmul_peak(device, precision)
    flops = flops_per_token(model, base.parameters)

    trainer = _MAKERS[plan.preset.method](plan, model, device, trackers, watcher.say, route)
    segment = Segment(
        after=before.step if before else 0,
        until=None,
        device=describe_device(device),
        versions=library_versions(),
        precision=str(precision).removeprefix("torch."),
        is_fast=trainer.is_fast,
        is_checkpointed=route.is_checkpointed,
        processes=launch.processes(),
    )
    if before and before.segments:
        _tell_differences(before.segments[-1], segment, watcher)
    previews = Previewer if METHODS[plan.preset.method].answers else PairPreviewer
    previewer = previews(
        plan.questions,
        plan.preset.previews,
        plan.template,
        plan.tokenizer,
        folder / "previews.jsonl",
        watcher.previewed,
        trainer.accelerator.autocast,
        precision,
        seconds=before.preview_seconds if before else 0.0,
    )
    training = plan.preset.training
    micro_batch = launch.dealt(training, launch.processes())
    pieces = Pieces(
        micro_batch,
        watcher.say,
        [msgspec.convert(each, Halving) for each in before.halvings] if before else [],
    )
    pieces.attach(trainer)
    recorder = Recorder(
        plan.budget,
        training.batch,
        folder,
        device,
        watcher,
        before,
        previewer,
        pieces,
        started=started,
        segment=segment,
        log_steps=training.log_steps,
        # Where answers are made too, time says little of how well the card multiplies.
        peak_tokens=None if trainer.counted else peak * trainer.args.world_size / flops,
        terms=trainer.terms,
    )
    trainer.pauses, recorder.settle = recorder.pauses, trainer.settle
    recorder.counted = trainer.counted or recorder.counted
    if launch.processes() > 1:
        trainer.add_callback(Together(plan.seed))
    if launch.is_first():
        trainer.add_callback(recorder)
        trainer.add_callback(previewer)

    if plan.preset.method in _BEGINNINGS:
        _BEGINNINGS[plan.preset.method](trainer, plan, checkpoint, micro_batch, watcher.say)
    with one_line("ran out while training"):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    validation = validate(trainer, micro_batch)
    notes: dict[str, Any] = {}
    if plan.preset.method in _ENDINGS:
        notes = _ENDINGS[plan.preset.method](trainer, plan, folder, watcher.say)
    if not launch.is_first():
        return
    export_adapter(plan, trainer.model, folder / "adapter")
    steps = read_steps(folder)
    last = [step.loss for step in steps[-max(1, len(steps) // 10) :]]
    run = Run(
        name=plan.name,
        variant=plan.manifest.name,
        manifest=plan.manifest,
        preset_name=plan.preset_name,
        preset=as_stored(plan.preset),
        preset_digest=plan.preset_digest,
        seed=plan.seed,
        parent=plan.parent,
        base=base,
        started=started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(recorder.seconds, 3),
        preview_seconds=round(previewer.seconds, 3),
        steps=plan.budget.steps,
        examples_seen=plan.budget.examples_seen,
        epochs=plan.budget.epochs,
        trained_tokens=sum(step.trained_tokens for step in steps),
        tokens=sum(step.tokens for step in steps),
        train_loss=sum(last) / len(last),
        validation_loss=validation.pop("loss", None),
        peak_memory=recorder.peak_memory(),
        device=segment.device,
        versions=segment.versions,
        adapter_sha256=file_digest(folder / "adapter" / "adapter_model.safetensors"),
        resumed=recorder.resumed,
        segments=recorder.until(plan.budget.steps),
        notes={
            "adapter_files": files_beside(folder / "adapter"),
            "validation_fit": msgspec.to_builtins(plan.validation_fit),
            **({"validation": validation} if validation else {}),
            **notes,
            **trainer.notes,
            "extra_token_ids": plan.extra_ids,
            "halvings": msgspec.to_builtins(pieces.halvings),
            "processes": launch.processes(),
            "trainable_parameters": sum(
                p.numel() for p in trainer.model.parameters() if p.requires_grad
            ),
            "fast": segment.is_fast,
            "gradient_checkpointing": segment.is_checkpointed,
            "estimated_memory": route.needed and route.needed.peak,  # bytes
            "precision": segment.precision,
            "matmul_peak": round(peak),  # FLOP/s of one device in that precision
            "flops_per_token": flops,
        },
    )
    write_text(model_card(run, plan.fit), folder / "adapter" / "README.md")
    flush(folder / "adapter")
    write_json(run, folder / "run.json")


def _tell_differences(before: Segment, now: Segment, watcher: Watcher) -> None:
    """A run may go on elsewhere; what was learnt until then stays, and run.json keeps both."""
    different = before.differences(now)
    if different:
        watcher.say(
            f"going on otherwise than it was begun: {'; '.join(different)}. The same examples in"
            " the same order; rounding and dropout differ, and run.json names both segments"
        )


def _proof(base: BaseModel, *, answers: bool) -> str:
    aside = ", those of its head over words aside" if base.unused else ""
    head = "" if answers else "; the head that gives a number is new"
    return (
        f"{base.model}: {base.parameters:,} weights, all {base.matched} tensors of the files"
        f" loaded{aside}; none missing, unexpected or mismatched{head}"
    )


def _publish(plan: Plan) -> None:
    """Give the finished run its name; what only served to resume it goes."""
    flush(plan.unfinished)
    os.rename(plan.unfinished, plan.directory)
    flush_directory(plan.directory.parent)
    # Only now: a kill before the name was given must find its checkpoints.
    checkpoints.drop_leftovers(plan.directory)
