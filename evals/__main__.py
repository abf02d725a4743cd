"""`python -m evals`: answer and score a suite; ask one question; say what came of it."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dataset_builder.command_line import data, run, talk

# Read at import by the libraries that would call home or spread one process over all GPUs.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = App(name="evals", help="A run and a suite make generations and scores.", version_flags=[])


@app.command(name="eval")
def evaluate(
    *runs: str,
    suite: str = "word_limit",
    prompts: Annotated[list[Path] | None, Parameter(consume_multiple=False, negative="")] = None,
    harness: str | None = None,
    samples: int | None = None,
    unmerged: Annotated[bool, Parameter(negative="")] = False,
    batch: int | None = None,
    rescore: Annotated[bool, Parameter(negative="")] = False,
    reward: str | None = None,
    judge: str | None = None,
    gpus: int = 1,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Answer a suite's prompts at each of its limits, then score the answers.

    Prints each evaluation's folder: the runs', then their base model's, which answers too and
    under which relevance is measured. What exists is skipped; an interrupted evaluation goes on
    where it stopped.

    Parameters
    ----------
    runs
        Paths or unique beginnings of runs; without its seed one means all seeds.
    suite
        A suite that ships, or the path of a TOML file.
    prompts
        A file of more prompts: JSON Lines, a string or an object with `prompt` a line.
    harness
        Instead of a suite, tasks of lm-evaluation-harness by name or YAML file, with commas:
        `ifeval,hellaswag`. Their scores stand beside the suites', and are compared by
        `just compare … --suite TASK`.
    samples
        With --harness: the first so many of each task.
    unmerged
        With --harness: answer by the base as it was trained on, in 4 bit where the preset says so,
        the adapter beside it; without it, merged.
    batch
        The most answers made at once; the memory decides where it is left out.
    rescore
        Score stored answers again, for which neither adapter nor base need be here; a scorer that
        the suite names since runs over them.
    reward
        A reward model that scores too: a run of the method `reward`, or a directory that holds a
        model; in place of the suite's own.
    judge
        The address of a judge, OpenAI-compatible, for the scorer `judge`; its key is taken from
        JUDGE_API_KEY. It is asked about each answer once.
    gpus
        GPUs of this machine to share the questions out to. An interrupted evaluation may go on with
        another number.
    dry_run
        Say what would be done, and stop.
    """
    from dataset_builder.errors import InputError
    from evals.evaluation import evaluate as run_evaluation
    from evals.plan import intention, plan
    from evals.progress import Display
    from evals.sources import check_sources
    from evals.summary import (
        contamination_lines,
        gate_lines,
        reward_lines,
        summary_table,
        unscored_lines,
    )
    from finetune import launch
    from finetune.progress import without_known_noise

    if not runs:
        raise InputError("no run is named", "type `just list` to see those that exist")
    if batch is not None and batch < 1:
        raise InputError(f"--batch {batch} makes no answer", "give 1 or more, or leave it out")
    found = list(dict.fromkeys(path for name in runs for path in _runs_called(name)))
    if harness is not None:
        if prompts or rescore or reward is not None or suite != "word_limit":
            raise InputError(
                "--harness goes with no suite, prompts, reward model or rescoring", "leave them out"
            )
        if gpus != 1:
            raise InputError(
                f"--harness runs on one GPU, not on {gpus}", "leave out --gpus, or name a suite"
            )
        _evaluate_harness(found, harness, samples, unmerged, batch, dry_run)
        return
    if samples is not None or unmerged:
        raise InputError("--samples and --unmerged are of --harness", "leave them out")
    if gpus != 1:
        launch.check_gpus(gpus, launch.Hosts())
    if launch.is_launched():
        launch.join()
        talk.quiet = data.quiet = not launch.is_first()
    with without_known_noise(), Display(talk) as display:
        with launch.first_before_others():
            planned = plan(found, suite, prompts or [], display, is_again=rescore, reward=reward)
        check_sources(planned[0].suite, planned[0].suite_name, judge, display)
        if dry_run:
            for each in planned:
                data.print(intention(each, rescore), soft_wrap=True, markup=False)
            return
        is_open = rescore or not all(each.is_done for each in planned)
        if gpus > 1 and is_open and not launch.is_launched():
            sys.exit(
                launch.launch(
                    _again(found, suite, prompts, batch, rescore, reward, judge),
                    gpus,
                    program="evals",
                )
            )
        directories = run_evaluation(planned, display, rows=batch, is_again=rescore, judge=judge)
        launch.wait()
        launch.leave()
    talk.print(summary_table(directories))
    said = [contamination_lines, unscored_lines, reward_lines, gate_lines]
    for line in [line for lines in said for line in lines(directories)]:
        talk.print(line, soft_wrap=True, markup=False)
    for directory in directories:
        data.print(str(directory), soft_wrap=True, markup=False)


def _runs_called(name: str) -> list[Path]:
    """The directories of the runs of that name. Raises InputError where there is none, and says so
    where the name is that of answers made elsewhere, which no model here can add to."""
    from dataset_builder.errors import InputError
    from finetune.run import find_runs

    try:
        return find_runs(name)
    except InputError:
        from evals.imported import imported_directories, is_imported

        for path in find_runs(name, imported_directories()):
            if is_imported(path):
                raise InputError(
                    f"`{path.name}` holds answers made elsewhere, and no model to ask",
                    "they are scored when imported: `just import-generations` their file again",
                ) from None
        raise


def _again(
    runs: list[Path],
    suite: str,
    prompts: list[Path] | None,
    batch: int | None,
    rescore: bool,
    reward: str | None,
    judge: str | None,
) -> list[str]:
    """The arguments for each of several processes."""
    return [
        "eval",
        *map(str, runs),
        f"--suite={suite}",
        *(f"--prompts={path}" for path in prompts or []),
        *([f"--batch={batch}"] if batch is not None else []),
        *(["--rescore"] if rescore else []),
        *([f"--reward={reward}"] if reward is not None else []),
        *([f"--judge={judge}"] if judge is not None else []),
    ]


def _evaluate_harness(
    runs: list[Path],
    names: str,
    samples: int | None,
    unmerged: bool,
    batch: int | None,
    dry_run: bool,
) -> None:
    from dataset_builder.errors import InputError
    from evals.harness import evaluate_harness, plan_harness
    from evals.harness_tasks import load_tasks
    from evals.progress import Display
    from evals.summary import harness_table
    from finetune.progress import without_known_noise

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise InputError("--harness names no task", "such as `--harness ifeval,hellaswag`")
    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples} asks nothing", "give 1 or more, or leave it out")
    with without_known_noise(), Display(talk) as display:
        planned = plan_harness(runs, load_tasks(wanted, samples), not unmerged, display)
        if dry_run:
            for each, task in planned:
                done = "is there already" if each.is_done else "would be evaluated"
                said = f"{each.directory}: {each.label}, `{task.label}` {done}"
                data.print(said, soft_wrap=True, markup=False)
            return
        directories = evaluate_harness(planned, display, merged=not unmerged, rows=batch)
    talk.print(harness_table(directories))
    for directory in directories:
        data.print(str(directory), soft_wrap=True, markup=False)


@app.command
def export_task(
    suite: str,
    *,
    run: str | None = None,
    tables: str | None = None,
    prompts: Annotated[list[Path] | None, Parameter(consume_multiple=False, negative="")] = None,
    template: str | None = None,
    out: Path | None = None,
) -> None:
    """Write a suite as a task folder for lm-evaluation-harness, scored by treetune's own functions.

    Prints the folder. It is run, with treetune importable, by
    `lm_eval run --include_path FOLDER --tasks treetune_SUITE`.

    Parameters
    ----------
    suite
        A suite that ships, or the path of a TOML file.
    run
        The run whose held-out prompts are asked, in its template.
    tables
        The beginning of the digest of the tables whose held-out prompts are asked, where no run
        says it.
    prompts
        A file of more prompts, as for `just eval`.
    template
        How prompts are written: `chatml`, `instruct` and so on. Without it and without a run they
        are plain, for lm-evaluation-harness's `--apply_chat_template`.
    out
        The folder to write; it must not exist.
    """
    from dataset_builder.template import find_template
    from evals.plan import suite_questions
    from evals.task_folder import write_task_folder
    from finetune.run import find_runs

    named = find_template(template) if template else None
    asked = suite_questions(
        suite, prompts or [], find_runs(run)[0] if run else None, tables, template is None
    )
    folder = write_task_folder(
        asked.suite, asked.name, asked.digest, asked.questions, named or asked.template, out
    )
    data.print(str(folder), soft_wrap=True, markup=False)


@app.command
def ask(*runs_and_prompt: str, limit: int | None = None) -> None:
    """One answer of each run to a prompt, the base model's beside them, words counted.

    Parameters
    ----------
    runs_and_prompt
        Paths or unique beginnings of runs, then the prompt.
    limit
        A number of words to state.
    """
    from dataset_builder.errors import InputError
    from evals.ask import answers, answers_table
    from evals.progress import Display
    from finetune.progress import without_known_noise

    *names, prompt = runs_and_prompt or ("",)
    if not names or not prompt.strip():
        raise InputError("wanted: one run or more, then a prompt", 'type `just ask RUN "prompt"`')
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} leaves no word to say", "give 1 or more")
    found = list(dict.fromkeys(path for name in names for path in _runs_called(name)))
    with without_known_noise(), Display(talk) as display:
        rows = answers(found, prompt, limit, display)
    data.print(answers_table(rows, limit))


@app.command(name="import")
def import_generations(
    *files: Path, name: str | None = None, like: str | None = None, suite: str | None = None
) -> None:
    """Answers made elsewhere become runs: an arm for each way in which a file was sampled.

    Reads Open Assistant's sampling reports, lm-eval's sample logs, and JSON Lines with `prompt` and
    `answer` a line (and, where known, `limit` in words, `id`, `tree`, `is_stopped`). Prints each
    arm's folder; `just compare` takes their names. What is there already stays.

    Parameters
    ----------
    files
        The files of answers.
    name
        The model's name, where the file does not say it or says it badly.
    like
        An evaluated run: the answers are to the prompts of its suite, and are compared with it.
    suite
        Which of that run's evaluations, where it has several.
    """
    from dataset_builder.errors import InputError
    from evals.imported import asked_of, import_answers, said_of
    from finetune.run import find_runs

    if not files:
        raise InputError("no file of answers is named", "give one or more")
    if suite is not None and like is None:
        raise InputError("--suite says which evaluation of a run", "give the run with `--like RUN`")
    asked = None
    if like is not None:
        from evals.arms import find_evaluation

        asked = asked_of(find_evaluation(find_runs(like)[0], suite))
    for path in files:
        found, directories = import_answers(path, name, asked)
        for line in said_of(found, directories):
            talk.print(line, soft_wrap=True, markup=False)
        for directory in directories:
            data.print(str(directory), soft_wrap=True, markup=False)


if __name__ == "__main__":
    run(app)
