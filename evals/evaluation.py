"""What is planned, done: answer, then score.

Each run answers with its adapter merged into its base. Then the base itself is loaded once: it
answers too, where it has not yet, and is the frozen model under which relevance is measured for
all. What exists is skipped.

On several GPUs each process does all of this for its share of the questions, and of what the frozen
model reads; the first alone writes, but for the answers under way. What is on disk is looked at by
the first for all of them, since it changes that.
"""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dataset_builder.artifacts import building, read_json, write_json
from dataset_builder.errors import InputError
from dataset_builder.tables import table_of, write_table
from dataset_builder.template import encode_prompts, stop_ids
from dataset_builder.words import WORD_COUNTER
from evals.alone import alone
from evals.likelihood import LIKELIHOOD_TABLE, likelihood_scores, likelihoods
from evals.plan import Planned, Watcher, remove_partial
from evals.prompts import Question, contaminated
from evals.rescored import READ_FILE, in_order, rescore, settle
from evals.scorers import LIKELIHOODS
from evals.scoring import Judge, Scorer, score
from evals.sources import frozen_judge, others, rewarded, unmade
from evals.tables import GENERATIONS, SCORES, Evaluation
from finetune import launch
from finetune.base import ready_base
from finetune.preset import Base

if TYPE_CHECKING:
    from evals.generate import Asked, Partial


def evaluate(
    planned: Sequence[Planned],
    watcher: Watcher,
    *,
    rows: int | None = None,
    is_again: bool = False,
    judge: str | None = None,
) -> list[Path]:
    """Answer and score what is not there yet; every planned evaluation's directory.

    `rows` is the most answers made at once. With `is_again`, stored answers are scored again,
    without the tuned models, and without any where none is needed. `judge` is the address of one,
    asked only where it is given.
    """
    for _, group in groupby(sorted(planned, key=_base_key), key=_base_key):
        _evaluate_group(list(group), watcher, rows, is_again, judge)
    return [each.directory for each in planned]


def _base_key(each: Planned) -> str:
    return f"{each.files.digest} {each.base.quantization} {each.base.precision}"


def _evaluate_group(
    group: list[Planned],
    watcher: Watcher,
    rows: int | None,
    is_again: bool,
    judge: str | None,
) -> None:
    """All evaluations on one base model: the runs' answers first, then with the base loaded
    everything else."""
    done, lacking = launch.of_first(lambda: _found(group, is_again))
    open_ = [each for each in group if is_again or each.directory not in done]
    for each in group:
        if each not in open_:
            watcher.say(f"{each.label}: evaluated already{_more(each, judge)}")
    if not open_:
        return
    # Looked for before anything slow: who finds all prompts trained on may stop here.
    trained_on = {each.directory: _contamination(each, watcher) for each in open_}
    from finetune.model import load_merged, pick_device

    device = pick_device()
    for each in open_:
        if each.run is not None and each.directory not in done:
            with alone(each, watcher) as is_made:
                if not is_made:
                    _answer(each, None, device, watcher, rows)
    model = None
    if any(lacking[each.directory] or each.directory not in done for each in open_):
        watcher.say(f"loading {group[0].files.model}, the frozen model that scores")
        if not group[0].files.directory.is_dir():
            ready_base(group[0].base)  # it says what is not here
        model = load_merged(group[0].files, group[0].base, None, device)
        model = _ready(model, group[0].base, device)
    for each in open_:
        if each.run is None and each.directory not in done:
            with alone(each, watcher) as is_made:
                if not is_made:
                    _answer(each, model, device, watcher, rows)
    for each in open_:
        frozen, asked = frozen_judge(each, model, watcher), others(each, device, watcher, judge)
        with alone(each, watcher) as is_made:
            if each.directory in done:
                rescore(each, frozen, lacking[each.directory], asked, rewarded(each))
            elif not is_made:
                _score(each, frozen, asked, device, trained_on[each.directory])
    del model
    _free()


def _more(each: Planned, judge: str | None) -> str:
    """What scoring again would add to a finished evaluation."""
    stored = read_json(each.directory / "eval.json", Evaluation)
    known = stored.suite.get("scorers", ())
    new = [name for name in each.suite.scorers if name not in known]
    said = [f"scores it by {', '.join(f'`{name}`' for name in new)} too"] if new else []
    if "reward" not in new and rewarded(each) and "reward" in stored.notes:
        is_same = rewarded(each)["reward"]["digest"] == stored.notes["reward"]["digest"]
        said += [] if is_same else ["scores it by this reward model, not by the one before"]
    said += ["asks the judge"] if judge is not None else []
    return f"; `--rescore` {' and '.join(said)}" if said else ""


def _found(group: Sequence[Planned], is_again: bool) -> tuple[set[Path], dict[Path, list[str]]]:
    """The directories of finished evaluations, and of each that is scored what the frozen model has
    yet to read."""
    for each in group:
        settle(each.directory)
    done = {each.directory for each in group if each.is_done}
    for each in group:
        if each.is_done:  # a kill may have come between the tables and the end of what they hold
            remove_partial(each.partial_path)
    return done, {
        each.directory: unmade(each) for each in group if is_again or each.directory not in done
    }


def _answer(each: Planned, model: Any, device: Any, watcher: Watcher, rows: int | None) -> None:
    """Make the answers that are not stored yet; the model is loaded only where there are any."""
    from evals.generate import Drawing, generate
    from finetune.model import load_merged

    asked, _, tokenizer = _asked(each)
    partial = _partial(each, asked, tokenizer, device)
    wants_likelihoods = bool(set(LIKELIHOODS) & set(each.suite.scorers))
    stored, is_read = launch.of_first(
        lambda: (len(partial.read()), partial.read_beside() is not None)
    )
    if stored == len(asked):
        watcher.say(f"{each.label}: all {len(asked)} answers were stored already")
        if is_read or not wants_likelihoods:
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
        drawing=Drawing(each.suite.temperature, each.suite.seed),
        report=lambda done, total: watcher.progress(f"{each.short} answers", done, total),
    )
    if wants_likelihoods and not is_read:
        found = likelihoods(
            model,
            each.template,
            tokenizer,
            launch.own_share(each.prompts),
            lambda done, total: watcher.progress(f"{each.short} replies", done, total),
        )
        rows_of = [row for part in launch.of_all(found) for row in part]
        if launch.is_first():
            place = {prompt.prompt_id: n for n, prompt in enumerate(each.prompts)}
            partial.add_beside(sorted(rows_of, key=lambda row: place[row["prompt_id"]]))
    del model
    _free()


def _contamination(each: Planned, watcher: Watcher) -> list[str] | None:
    """The ids of prompts in the run's training rows, which are told; None where that is unknown."""
    if each.run is None:
        return []
    found = contaminated(list(each.prompts), each.run.manifests)
    if found is None:
        watcher.say(
            f"{each.label}: a variant of it is not on this machine, so contamination is unknown"
        )
    if found:
        watcher.say(
            f"{each.label}: {len(found)} of {len(each.prompts)} prompts stand in its training "
            "rows; a comparison leaves them out"
        )
    return found


def _score(
    each: Planned,
    judge: Judge,
    others: Mapping[str, Scorer],
    device: Any,
    found: list[str] | None,
) -> None:
    """Score the answers, and store them all: generations, scores, and last the record of it."""
    from evals.generate import answering_precision
    from finetune.decode import TOP
    from finetune.model import describe_device, library_versions

    asked, refused, tokenizer = _asked(each)
    partial = _partial(each, asked, tokenizer, device)
    answers = launch.of_first(partial.read)
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
                    "seconds": answer.seconds,
                }
            )
    is_base = each.run is None
    scored = score(each.suite, each.prompts, generations, judge, is_base=is_base, others=others)
    if not launch.is_first():
        return
    read = partial.read_beside() or []
    scores = in_order([scored.table, table_of(likelihood_scores(read, each.suite.scorers), SCORES)])
    seconds = sum(answer.seconds for answer in answers.values())
    tokens = sum(answer.tokens for answer in answers.values())
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
            "greedy": not each.suite.temperature,
            "temperature": each.suite.temperature,
            "likeliest": TOP if each.suite.temperature else None,
            "seed": each.suite.seed if each.suite.temperature else None,
            "samples": each.suite.samples,
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
        notes={
            **({} if found is not None else {"contamination": "unknown: no training rows here"}),
            **rewarded(each),
        },
    )
    with building(each.directory) as out:
        write_table(table_of(generations, GENERATIONS), GENERATIONS, out / "generations.parquet")
        write_table(scores, SCORES, out / "scores.parquet")
        if read:
            write_table(table_of(read, LIKELIHOOD_TABLE), LIKELIHOOD_TABLE, out / READ_FILE)
        write_json(evaluation, out / "eval.json")
    remove_partial(each.partial_path)  # what it held lies in the tables now


def _asked(each: Planned) -> "tuple[list[Asked], dict[str, int], Any]":
    """The questions as token ids, how many were refused and why, and the tokenizer that made
    them."""
    from transformers import AutoConfig

    from evals.generate import Asked, window
    from finetune.foreign import NO_CODE
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
    room = window(AutoConfig.from_pretrained(str(each.files.directory), **NO_CODE))
    asked = [
        Asked(_key(question), tuple(ids), each.suite.allowed(question.limit, question.wording))
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
    from finetune.decode import TOP
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
            "temperature": each.suite.temperature,
            "likeliest": TOP if each.suite.temperature else None,
            "seed": each.suite.seed if each.suite.temperature else None,
            "versions": library_versions(),
        },
    )


def _key(question: Question) -> str:
    return msgspec.json.encode(question.key).decode()


def _ready(model: Any, base: Base, device: Any) -> Any:
    from evals.generate import answering_precision

    return model.to(answering_precision(base, device))


def _free() -> None:
    """Give a model's memory back before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
