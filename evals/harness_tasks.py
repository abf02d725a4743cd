"""Tasks of lm-evaluation-harness, loaded with their data: what they ask, and the digest of it."""

import difflib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataset_builder.errors import InputError

LOG = logging.getLogger("lm_eval")


@dataclass(frozen=True)
class HarnessTask:
    """A task, or a group of them, with what it will ask."""

    spec: str  # as the harness knows it: a name, or a file
    label: str  # what the evaluation is called
    include: Path | None  # of a local file: where its functions lie
    tasks: dict[str, Any]  # the harness's own, by name
    is_templated: bool
    digest: str  # of what is asked and how it is scored; not of who answers
    limit: int | None  # of samples, where not all are asked


def load_tasks(names: Sequence[str], limit: int | None) -> list[HarnessTask]:
    """The tasks of these names, or in these YAML files, with their data.

    Raises InputError where a task is unknown, or its data or a package it needs is not here.
    """
    found = []
    with quiet():
        for name in names:
            is_file = name.endswith((".yaml", ".yml"))
            if is_file and not Path(name).is_file():
                raise InputError(f"task file `{name}` does not exist")
            manager = task_manager(Path(name).parent if is_file else None)
            if not is_file and name not in manager.task_index:
                near = difflib.get_close_matches(name, manager.all_tasks, n=3)
                hint = f"did you mean {' or '.join(f'`{each}`' for each in near)}?"
                raise InputError(
                    f"lm-evaluation-harness knows no task `{name}`",
                    hint if near else "`lm_eval ls tasks` lists them; a local one is a YAML file",
                )
            found.append(_loaded(manager, name, is_file, limit))
    twice = [label for label, n in Counter(each.label for each in found).items() if n > 1]
    if twice:
        raise InputError(f"task `{twice[0]}` was named twice", "name each once")
    return found


@lru_cache(maxsize=4)
def task_manager(folder: Path | None) -> Any:
    """What knows the harness's own tasks, or those of a folder: listing all takes seconds."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    return TaskManager(include_path=str(folder), include_defaults=False)


def _loaded(manager: Any, name: str, is_file: bool, limit: int | None) -> HarnessTask:
    try:
        tasks = manager.load([name])["tasks"]
        asked = {each: _docs(task, limit) for each, task in tasks.items()}
    except ImportError as error:
        missing = getattr(error, "name", None)
        raise InputError(
            f"task `{name}` needs {f'the package `{missing}`' if missing else 'more'}: "
            f"{_first_line(error)}",
            "install it beside lm-eval; of IFEval: `lm_eval[ifeval]`",
        ) from error
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        hint = (
            "its YAML must name a task and data that are here"
            if is_file
            else "run it once with a network and without HF_HUB_OFFLINE, or give a local task file"
        )
        raise InputError(
            f"task `{name}`: its data is not on this machine and could not be fetched: "
            f"{_first_line(error)}",
            hint,
        ) from error
    if not tasks or not any(asked.values()):
        raise InputError(f"task `{name}` asks nothing", "its test split is empty")
    refuse_no_sentences(name, list(tasks))
    kinds = {task.OUTPUT_TYPE for task in tasks.values()}
    return HarnessTask(
        spec=name,
        label=Path(name).stem if is_file else name,
        include=Path(name).parent if is_file else None,
        tasks=tasks,
        is_templated=kinds == {"generate_until"},
        digest=_digest(tasks, asked, Path(name).parent if is_file else None),
        limit=limit,
    )


def refuse_no_sentences(name: str, tasks: Sequence[str]) -> None:
    """Raise InputError where one of the tasks is IFEval's and nltk's model of sentences is not
    here: else its scoring would stop there, after all answers were made."""
    if not any("ifeval" in each for each in tasks):
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise InputError(
            f"task `{name}` counts sentences by nltk's model `punkt_tab`, which is not here",
            "with a network `python -m nltk.downloader punkt_tab`; else let NLTK_DATA name a"
            " folder that holds it",
        ) from error


def _docs(task: Any, limit: int | None) -> list[Any]:
    docs = task.eval_docs
    return [docs[place] for place in range(min(len(docs), limit or len(docs)))]


def _digest(
    tasks: Mapping[str, Any], asked: Mapping[str, Sequence[Any]], folder: Path | None
) -> str:
    """The sha256 of what is asked and how it is scored: tasks with versions and settings, every
    document, and of a local task the code beside it."""
    digest = hashlib.sha256()
    for name in sorted(tasks):
        config = tasks[name].config
        settings = [
            name,
            str(tasks[name].VERSION),
            config.num_fewshot,
            config.output_type,
            config.doc_to_text if isinstance(config.doc_to_text, str) else None,
            config.generation_kwargs,
            [str(metric.get("metric")) for metric in config.metric_list or []],
        ]
        digest.update(json.dumps([settings, list(asked[name])], default=str).encode())
    for path in sorted(folder.glob("*.py")) if folder else []:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's log of what it is about to do; its warnings stay."""
    level = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(level)
