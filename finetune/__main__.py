"""`python -m finetune`: train on a variant under a preset; say whether this machine can."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dataset_builder.command_line import data, run, talk

# Read at import by the libraries that would call home or spread one process over all GPUs.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_IS_PINNED = not {"LOCAL_RANK", "CUDA_VISIBLE_DEVICES"} & os.environ.keys()
if _IS_PINNED:
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"

app = App(name="finetune", help="A variant and a preset make a run.", version_flags=[])


@app.command
def train(
    variant: str,
    preset: str,
    *,
    seed: int = 0,
    start: Annotated[str | None, Parameter(name="--from")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    restart: Annotated[bool, Parameter(negative="")] = False,
    report_to: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    gpus: int = 1,
    machines: int = 1,
    machine: int = 0,
    address: str = "",
) -> None:
    """Fine-tune on one variant under one preset.

    Prints the run's folder. A run that is finished already is left as it is.

    Parameters
    ----------
    variant
        A variant that was built: its name, or the path of a build.
    preset
        A preset that ships, or the path of a TOML file.
    seed
        Draws the order of the examples and the adapter's first weights.
    start
        The run whose adapter a preset of the method `dpo` goes on with: of an arm the one with the
        same seed, or its only one.
    resume
        Go on from the last checkpoint of a run that was killed.
    restart
        Drop what an unfinished run left, and begin again.
    report_to
        Trackers to tell of each step besides metrics.jsonl: tensorboard, trackio, wandb ...
    dry_run
        Say what would be trained, and stop.
    gpus
        GPUs of this machine to share each batch out to.
    machines
        Machines that train together, each with so many GPUs and the same artefacts.
    machine
        This machine's place among them, from 0.
    address
        HOST:PORT of machine 0, where the others find it.
    """
    from dataset_builder.errors import InputError
    from finetune import launch
    from finetune.base import ready_base
    from finetune.checkpoints import drop_leftovers
    from finetune.plan import find_target, make_plan
    from finetune.progress import Display, fit_table
    from finetune.route import foreseen

    if resume and restart:
        raise InputError(
            "`--resume` goes on and `--restart` begins again: not both", "leave one of them out"
        )
    target = find_target(variant, preset, seed, start or "")
    if target.is_finished:
        drop_leftovers(target.directory)  # a kill in its last moment may have kept them
        talk.print("This run is finished already.")
        data.print(str(target.directory), soft_wrap=True, markup=False)
        return
    hosts = launch.Hosts(machines, machine, address)
    launch.check_places(gpus, hosts)
    launch.dealt(target.preset.training, gpus * machines)
    if gpus * machines > 1 and not dry_run and not launch.is_launched():
        if _IS_PINNED:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        launch.check_gpus(gpus, hosts)
        ready_base(target.preset.base, talk.print)
        flags = [*(["--resume"] if resume else []), *(["--restart"] if restart else [])]
        flags += [f"--from={start}"] if start else []
        flags += [f"--report-to={each}" for each in report_to or ()]
        again = ["train", variant, preset, f"--seed={seed}", *flags]
        sys.exit(launch.launch(again, gpus, hosts))
    if launch.is_launched():
        launch.join()
    if not launch.is_first():
        talk.quiet = True
    with launch.first_before_others():
        plan = make_plan(target, talk.print)
    if dry_run:
        data.print(f"would train {plan.name}", soft_wrap=True, markup=False)
        if plan.parent:
            data.print(f"from {plan.parent.name}", soft_wrap=True, markup=False)
        data.print(fit_table(plan.fit, plan.budget))
        for line in foreseen(plan, gpus * machines):
            data.print(line, soft_wrap=True, markup=False)
        return
    from finetune import course

    with Display(talk, plan.preset.training.log_steps) as display:
        directory = course.train(plan, display, resume=resume, restart=restart, report_to=report_to)
    launch.leave()
    if launch.is_first():
        data.print(str(directory), soft_wrap=True, markup=False)


@app.command
def merge(run: str, *, out: Path | None = None) -> None:
    """Write a run as one model: its adapter merged into the base it was trained on.

    Prints the folder: safetensors, configuration, tokenizer, card.

    Parameters
    ----------
    run
        A finished run: its path, or a unique beginning of its name.
    out
        Where to; `merged` in the run's folder without it.
    """
    from finetune.merge import merge as write_merged
    from finetune.progress import Display

    with Display(talk, 1) as display:
        data.print(str(write_merged(run, display, out)), soft_wrap=True, markup=False)


@app.command
def doctor(preset: str | None = None) -> None:
    """Say whether this machine will do it, and if not, what to type.

    Parameters
    ----------
    preset
        The preset to look at, by name or path; every one that ships without it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # it looks for what is here, and fetches nothing
    from finetune.doctor import examine

    for finding in examine(preset):
        data.print(
            f"{'OK  ' if finding.is_ok else 'no  '} {finding.line}", soft_wrap=True, markup=False
        )
        if finding.hint and not finding.is_ok:
            data.print(f"     hint: {finding.hint}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run(app)
