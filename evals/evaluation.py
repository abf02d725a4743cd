"""What an evaluation would do, as values that a dry run prints, and the doing of it: answer, then
score.

Each run answers with its adapter merged into its base. Then the base itself is loaded once: it
answers too, where it has not yet, and is the frozen model under which relevance is measured for
all. What exists is skipped.
"""

import gc
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dataset_builder.artifacts import building, file_digest, read_json, write_json
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest
from dataset_builder.settings import parse_settings
from dataset_builder.tables import read_table, table_of, write_table
from dataset_builder.template import Template, encode_prompts, find_template, stop_ids
from dataset_builder.words import WORD_COUNTER
from evals.prompts import (
    Prompt,
    PromptFile,
    Question,
    contaminated,
    questions,
    read_prompt_files,
    suite_digest,
    suite_prompts,
)
from evals.scoring import Judge, Scored, score
from evals.suite import Suite, load_suite, suite_label
from evals.tables import GENERATIONS, SCORES, Evaluation
from finetune.base import BaseFiles, ready_base
from finetune.preset import Base, Preset
from finetune.run import Run, load_run

if TYPE_CHECKING:
    from evals.generate import Asked, Partial


class Watcher(Protocol):
    """Who is told how it goes; nothing that it does changes the evaluation."""

    def say(self, line: str) -> None:
        """A line worth keeping."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of one stage is done."""


class Silent:
    """A watcher that looks away."""

    def say(self, line: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Planned:
    """One evaluation: of a run, or of a base model."""

    directory: Path
    run: Run | None  # None for a base model
    run_directory: Path | None
    base: Base
    files: BaseFiles
    template: Template
    tables: str
    manifest: Manifest | None  # of the run's variant
    suite: Suite
    suite_name: str
    suite_digest: str
    prompt_files: tuple[PromptFile, ...]
    prompts: tuple[Prompt, ...]
    questions: tuple[Question, ...]

    @property
    def is_done(self) -> bool:
        return (self.directory / "eval.json").is_file()

    @property
    def label(self) -> str:
        return self.run.name if self.run else f"base {self.base.model}"

    @property
    def partial_path(self) -> Path:
        return self.directory.with_name(f".{self.directory.name}.partial.jsonl")


def plan(
    run_directories: Sequence[Path], suite_name: str, prompt_files: Sequence[Path], watcher: Watcher
) -> list[Planned]:
    """An evaluation per run, and one per base model, template and tables among them.

    Raises InputError where a run is unfinished, its adapter or base is not what it was trained as,
    a prompt file cannot be read, or no prompt is left.
    """
    suite = load_suite(suite_name)
    name = suite_label(suite_name)
    files = read_prompt_files(suite, list(prompt_files))
    digest = suite_digest(suite, files)
    for file in files:
        if file.refused:
            counts = ", ".join(f"{n} {reason}" for reason, n in file.refused.items())
            watcher.say(
                f"{file.name}: {len(file.prompts)} prompts; lines refused: {counts} "
                f"({'; '.join(file.examples)})"
            )
    planned: list[Planned] = []
    for directory in run_directories:
        run = load_run(directory)
        preset = parse_settings(run.preset, Preset, f"{directory / 'run.json'}: preset")
        base_files = ready_base(preset.base, watcher.say)
        if base_files.digest != run.base.digest:
            raise InputError(
                f"run `{run.name}` was trained on base {run.base.digest[:12]}, "
                f"and `{preset.base.model}` is now {base_files.digest[:12]}",
                "bring back the model it was trained on, or train it again",
            )
        _refuse_changed_adapter(directory, run)
        prompts = tuple(suite_prompts(suite, name, run.manifest.tables, files))
        of_run = Planned(
            directory=directory / "evals" / f"{name}-{digest[:8]}",
            run=run,
            run_directory=directory,
            base=preset.base,
            files=base_files,
            template=find_template(preset.template),
            tables=run.manifest.tables,
            manifest=run.manifest,
            suite=suite,
            suite_name=name,
            suite_digest=digest,
            prompt_files=tuple(files),
            prompts=prompts,
            questions=tuple(questions(suite, list(prompts))),
        )
        of_base = base_evaluation(
            base_files, preset.base, preset.template, run.manifest.tables, name, digest
        )
        planned += [
            of_run,
            replace(of_run, directory=of_base, run=None, run_directory=None, manifest=None),
        ]
    unique = {each.directory: each for each in planned}
    return sorted(unique.values(), key=lambda each: each.run is None)


def base_evaluation(
    files: BaseFiles, base: Base, template: str, tables: str, suite_name: str, digest: str
) -> Path:
    """Where a base model's answers lie: its name says too how it was quantised, asked, and by which
    held-out prompts."""
    parts = [digest, base.quantization, base.precision, template, tables]
    return (
        files.home
        / "evals"
        / f"{suite_name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"
    )


def intention(each: Planned, rescore: bool) -> str:
    """What evaluating it would do, in one line."""
    if each.is_done:
        todo = "would be scored again" if rescore else "is there already"
    else:
        todo = f"would be made: {len(each.questions)} answers to {len(each.prompts)} prompts"
    return f"{each.directory}: {each.label}, {todo}"


def evaluate(
    planned: Sequence[Planned], watcher: Watcher, *, rows: int | None = None, rescore: bool = False
) -> list[Path]:
    """Answer and score what is not there yet; every planned evaluation's directory.

    `rows` is the most answers made at once. With `rescore`, stored answers are scored again,
    without the tuned models.
    """
    for _, group in groupby(sorted(planned, key=_base_key), key=_base_key):
        _evaluate_group(list(group), watcher, rows, rescore)
    return [each.directory for each in planned]


def _base_key(each: Planned) -> str:
    return f"{each.files.digest} {each.base.quantization} {each.base.precision}"


def _evaluate_group(
    group: list[Planned], watcher: Watcher, rows: int | None, rescore: bool
) -> None:
    """All evaluations on one base model: the runs' answers first, then with the base loaded
    everything else."""
    open_ = [each for each in group if rescore or not each.is_done]
    for each in group:
        if each not in open_:
            watcher.say(f"{each.label}: evaluated already")
    if not open_:
        return
    from finetune.model import load_merged, pick_device

    device = pick_device()
    for each in open_:
        if each.run is not None and not each.is_done:
            _answer(each, None, device, watcher, rows)
    watcher.say(f"loading {group[0].files.model}, the frozen model that scores")
    model = _ready(load_merged(group[0].files, group[0].base, None, device), group[0].base, device)
    for each in open_:
        if each.run is None and not each.is_done:
            _answer(each, model, device, watcher, rows)
    for each in open_:
        _score(each, model, device, watcher)
    del model
    _free()


def _answer(each: Planned, model: Any, device: Any, watcher: Watcher, rows: int | None) -> None:
    """Make the answers that are not stored yet; the model is loaded only where there are any."""
    from evals.generate import generate
    from finetune.model import load_merged

    asked, _, tokenizer = _asked(each)
    partial = _partial(each, asked, tokenizer, device)
    if len(partial.read()) == len(asked):
        watcher.say(f"{each.label}: all {len(asked)} answers were stored already")
        return
    if model is None:
        watcher.say(f"loading {each.label}")
        adapter = each.run_directory / "adapter" if each.run_directory else None
        model = _ready(load_merged(each.files, each.base, adapter, device), each.base, device)
    generate(
        model,
        each.template,
        tokenizer,
        asked,
        partial,
        rows=rows,
        report=lambda done, total: watcher.progress(f"{_short(each)} answers", done, total),
    )
    del model
    _free()


def _score(each: Planned, model: Any, device: Any, watcher: Watcher) -> None:
    """Score the answers, and store them all: generations, scores, and last the record of it."""
    from evals.generate import answering_precision
    from evals.relevance import other_prompts, relevances
    from finetune.model import describe_device, library_versions, load_tokenizer

    others = other_prompts(each.prompts, each.suite.relevance_others)
    plain = load_tokenizer(each.files, each.template)

    def judge(pairs: Sequence[tuple[Prompt, str]]) -> dict:
        return relevances(
            model,
            each.template,
            plain,
            pairs,
            others,
            lambda done, total: watcher.progress(f"{_short(each)} relevance", done, total),
        )

    if each.is_done:
        _rescore(each, judge)
        return
    asked, refused, tokenizer = _asked(each)
    partial = _partial(each, asked, tokenizer, device)
    answers = partial.read()
    generations = []
    for question in each.questions:
        answer = answers.get(_key(question))
        if answer is not None:
            generations.append(
                {
                    "prompt_id": question.prompt.prompt_id,
                    "tree_id": question.prompt.tree_id,
                    "origin": question.prompt.origin,
                    "lang": question.prompt.lang,
                    "prompt": question.prompt.text,
                    "limit": question.limit,
                    "wording": question.wording,
                    "sample": question.sample,
                    "answer": answer.answer,
                    "tokens": answer.tokens,
                    "is_stopped": answer.is_stopped,
                }
            )
    scored = score(each.suite, each.prompts, generations, judge, is_base=each.run is None)
    seconds = sum(answer.seconds for answer in answers.values())
    tokens = sum(answer.tokens for answer in answers.values())
    found = contaminated(list(each.prompts), each.manifest) if each.manifest else []
    origins = {prompt.prompt_id: prompt.origin for prompt in each.prompts}
    evaluation = Evaluation(
        name=each.directory.name,
        suite_name=each.suite_name,
        suite=msgspec.to_builtins(each.suite),
        run=each.run.name if each.run else None,
        base=each.base.model,
        base_digest=each.files.digest,
        tables=each.tables,
        adapter_sha256=each.run.adapter_sha256 if each.run else None,
        template=each.template.name,
        settings={
            "precision": str(answering_precision(each.base, device)).removeprefix("torch."),
            "quantization": each.base.quantization,
            "merged": True,
            "greedy": True,
            "relevance_model": f"{each.base.model} {each.files.digest[:12]}",
        },
        prompts=len(each.prompts),
        prompts_by_origin=dict(Counter(prompt.origin for prompt in each.prompts)),
        generations=len(generations),
        unscored=scored.unscored,
        gates=scored.gates,
        contamination=dict(Counter(origins[name] for name in found or [])),
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / seconds, 1) if seconds else 0.0,
        versions=library_versions() | {"words": WORD_COUNTER},
        device=describe_device(device),
        suite_digest=each.suite_digest,
        prompt_files={file.name: file.sha256 for file in each.prompt_files},
        refused=refused,
        contaminated=found or [],
        notes={} if found is not None else {"contamination": "unknown: no training rows here"},
    )
    if found is None:
        watcher.say(
            f"{each.label}: its variant is not on this machine, so contamination is unknown"
        )
    if found:
        watcher.say(
            f"{each.label}: {len(found)} of {len(each.prompts)} prompts stand in its training "
            "rows; a comparison leaves them out"
        )
    with building(each.directory) as out:
        write_table(table_of(generations, GENERATIONS), GENERATIONS, out / "generations.parquet")
        write_table(scored.table, SCORES, out / "scores.parquet")
        write_json(evaluation, out / "eval.json")
    partial.remove()


def _rescore(each: Planned, judge: Judge) -> None:
    """Score stored answers again: scores.parquet and eval.json are replaced, generations stay."""
    stored = read_json(each.directory / "eval.json", Evaluation)
    generations = read_table(each.directory / "generations.parquet", GENERATIONS).to_pylist()
    scored: Scored = score(each.suite, each.prompts, generations, judge, is_base=each.run is None)
    temporary = each.directory / "scores.parquet.tmp"
    write_table(scored.table, SCORES, temporary)
    temporary.replace(each.directory / "scores.parquet")
    versions = stored.versions | {"words": WORD_COUNTER}
    record = msgspec.structs.replace(
        stored, unscored=scored.unscored, gates=scored.gates, versions=versions
    )
    write_json(record, each.directory / "eval.json")


def _asked(each: Planned) -> "tuple[list[Asked], dict[str, int], Any]":
    """The questions as token ids, how many were refused and why, and the tokenizer that made
    them."""
    from transformers import AutoConfig

    from evals.generate import Asked, window
    from finetune.model import load_tokenizer

    # A run may have tokens of its own.
    own = each.run_directory / "adapter" if each.run_directory else None
    tokenizer = load_tokenizer(
        each.files, each.template, own if own and (own / "tokenizer.json").is_file() else None
    )
    encoded = encode_prompts(
        each.template,
        tokenizer,
        ([{"role": "user", "content": question.text}] for question in each.questions),
    )
    room = window(AutoConfig.from_pretrained(str(each.files.directory)))
    asked = [
        Asked(_key(question), tuple(ids), each.suite.allowed(question.limit))
        for question, ids in zip(each.questions, encoded, strict=True)
    ]
    fitting = [question for question in asked if len(question.ids) + question.allowed <= room]
    refused: Counter[str] = Counter()
    for file in each.prompt_files:
        refused.update(file.refused)
    if len(fitting) < len(asked):
        refused[f"longer than the window of {room} tokens"] = len(asked) - len(fitting)
    if not fitting:
        raise InputError(
            f"suite `{each.suite_name}`: no prompt fits the window of `{each.base.model}`, "
            f"{room} tokens",
            "lower `unlimited_tokens` or `tokens_per_word` in the suite",
        )
    return fitting, dict(refused), tokenizer


def _partial(each: Planned, asked: "Sequence[Asked]", tokenizer: Any, device: Any) -> "Partial":
    """The stored answers of this evaluation, under all that determines them."""
    from evals.generate import Partial, answering_precision, asked_digest
    from finetune.model import library_versions

    return Partial(
        each.partial_path,
        {
            "base": each.files.digest,
            "quantization": each.base.quantization,
            "adapter": each.run.adapter_sha256 if each.run else None,
            "questions": asked_digest(asked),
            "template": each.template.name,
            "ends": stop_ids(each.template, tokenizer),
            "stops": list(each.template.stops),
            "precision": str(answering_precision(each.base, device)),
            "device": device.type,
            "greedy": True,
            "versions": library_versions(),
        },
    )


def _key(question: Question) -> str:
    return msgspec.json.encode(question.key).decode()


def _short(each: Planned) -> str:
    """What a progress bar has room for."""
    return f"{each.run.variant} s{each.run.seed}" if each.run else "base"


def _ready(model: Any, base: Base, device: Any) -> Any:
    from evals.generate import answering_precision

    return model.to(answering_precision(base, device))


def _free() -> None:
    """Give a model's memory back before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _refuse_changed_adapter(directory: Path, run: Run) -> None:
    path = directory / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        raise InputError(f"run `{run.name}` has no adapter at {path}", "train it again")
    # A flipped bit in safetensors goes unnoticed by every library that reads it.
    if file_digest(path) != run.adapter_sha256:
        raise InputError(
            f"{path}: not the adapter that run.json names",
            "bring back the file, or train the run again",
        )
