"""lm-evaluation-harness's tasks on runs: answered by the model that treetune answers with, scored
by the task, and stored as rows in scores.parquet beside its own.

One evaluation per run and task, and one of the base model. A task that generates is asked in the
run's own template, as ids that no text of a prompt can turn into control tokens; one that scores
given continuations is read plainly, as published numbers are. The harness's per-sample logs are
kept as they are in samples.jsonl; scores are made of them, so that a comparison pairs by sample.
Its cache is never used: its key does not hold the model, and an adapter would get the base's
answers.

A local task file may name functions of the folder that it lies in: that code is run.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import building, write_json
from dataset_builder.tables import table_of, write_table
from evals.harness_tasks import HarnessTask, quiet, task_manager
from evals.plan import Planned, Watcher, base_evaluation, planned_runs
from evals.prompts import Prompt, contaminated
from evals.tables import GENERATIONS, SCORES, Evaluation

SAMPLES = "samples.jsonl"


def plan_harness(
    run_directories: Sequence[Path], tasks: Sequence[HarnessTask], merged: bool, watcher: Watcher
) -> list[tuple[Planned, HarnessTask]]:
    """An evaluation per run and task, and one per base model among them."""
    planned = {}
    for of_run in planned_runs(run_directories, watcher):
        for task in tasks:
            # Merged and unmerged answers are not for one comparison.
            parts = f"{task.digest} {task.limit} {merged}"
            digest = hashlib.sha256(parts.encode()).hexdigest()
            name = f"{task.label}-{digest[:8]}"
            here = replace(
                of_run,
                directory=of_run.directory / "evals" / name,
                suite_name=task.label,
                suite_digest=digest,
            )
            of_base = base_evaluation(
                here.files, here.base, here.template.name, here.tables, task.label, digest
            )
            base = replace(here, directory=of_base, run=None, run_directory=None, manifest=None)
            for each in (here, base):
                planned[each.directory] = (each, task)
    return sorted(planned.values(), key=lambda pair: pair[0].run is None)


def evaluate_harness(
    planned: Sequence[tuple[Planned, HarnessTask]],
    watcher: Watcher,
    *,
    merged: bool = True,
    rows: int | None = None,
) -> list[Path]:
    """Evaluate what is not there yet, a model loaded once for all of its tasks; the directories.

    `merged` answers by the adapter merged into the base, as `just eval` does; else by the base as
    it was trained on, in 4 bit where the preset says so, with the adapter beside it.
    """
    from finetune.model import pick_device

    device = pick_device()
    left = [pair for pair in planned if not pair[0].is_done]
    for each, task in planned:
        if each.is_done:
            watcher.say(f"{each.label}: `{task.label}` evaluated already")
    for _, group in groupby(left, key=lambda pair: (pair[0].label, pair[0].template.name)):
        pairs = list(group)
        first = pairs[0][0]
        watcher.say(f"loading {first.label}")
        model, tokenizer = _model(first, device, merged)
        for each, task in pairs:
            watcher.say(f"{each.label}: {task.label}")
            began = time.monotonic()
            results = _run(model, tokenizer, each, task, rows)
            _store(each, task, results, time.monotonic() - began, device, merged, watcher)
        del model
    return [each.directory for each, _ in planned]


def _model(each: Planned, device: Any, merged: bool) -> tuple[Any, Any]:
    """The model that answers, as it stands, and its tokenizer."""
    from transformers import GenerationConfig

    from dataset_builder.template import stop_ids
    from evals.generate import answering_precision
    from finetune.foreign import adapter_of, reading
    from finetune.model import load_base, load_merged, load_tokenizer, quiet_loading

    adapter = each.run_directory / "adapter" if each.run_directory else None
    own = adapter if adapter and (adapter / "tokenizer.json").is_file() else None
    tokenizer = load_tokenizer(each.files, each.template, own)
    if merged:
        model: Any = load_merged(each.files, each.base, adapter, device)
        model = model.to(answering_precision(each.base, device))
    else:
        model, _ = load_base(each.files, each.base, device)
        if adapter is not None:
            from peft import PeftModel

            with quiet_loading(), reading(f"{adapter}"):
                model = PeftModel.from_pretrained(model, adapter_of(adapter))
        model.eval()
    # What ends an answer is the template's, not what the base's files say.
    ends = stop_ids(each.template, tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    return model, tokenizer


def _run(
    model: Any, tokenizer: Any, each: Planned, task: HarnessTask, rows: int | None
) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    from evals.harness_model import run_model

    with quiet():
        model = run_model(model, tokenizer, each.template, rows or 8, task.is_templated)
        found = simple_evaluate(
            model=model,
            tasks=[task.spec],
            task_manager=task_manager(task.include),
            limit=task.limit,
            apply_chat_template=task.is_templated,
            bootstrap_iters=0,
            use_cache=None,
            cache_requests=False,
            log_samples=True,
        )
    results: dict[str, Any] = found
    return results


def score_rows(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of table `scores` that per-sample logs make, and how many values make none, by
    metric.

    A prompt is a sample: `<task>/<doc_id>-<doc_hash>`, its own cluster. A number makes one row, a
    list of truths (IFEval's instructions) one each, numbered as samples; a metric that is only an
    ingredient, such as a pair of sums, none. Where a task filters answers in several ways, the
    filter stands behind the metric.
    """
    rows, left = [], Counter[str]()
    for task, logged in samples.items():
        filters = {sample["filter"] for sample in logged}
        for sample in logged:
            name = f"{task}/{sample['doc_id']}-{sample['doc_hash'][:8]}"
            for metric in sample["metrics"]:
                values = _values(sample[metric])
                shown = f"{metric},{sample['filter']}" if len(filters) > 1 else metric
                if values is None:
                    left[shown] += 1
                for place, value in enumerate(values or []):
                    rows.append(
                        {
                            "answerer": "run",
                            "prompt_id": name,
                            "tree_id": name,
                            "sample": place,
                            "metric": shown,
                            "value": value,
                        }
                    )
    return rows, dict(left)


def _values(value: Any) -> list[float] | None:
    if isinstance(value, list) and value and all(isinstance(each, bool) for each in value):
        return [float(each) for each in value]
    if isinstance(value, Real) or hasattr(value, "item"):
        number = float(value)
        return [number] if number == number else None
    return None


def directions(results: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, int]:
    """By metric: -1 where less is better, 1 where more is, 0 where tasks say neither or both."""
    found: dict[str, set[bool]] = {}
    for by_metric in results.get("higher_is_better", {}).values():
        for metric, is_higher in by_metric.items():
            if is_higher is not None:
                found.setdefault(metric, set()).add(bool(is_higher))
    said = {metric: found.get(metric.partition(",")[0], set()) for metric in metrics}
    return {
        metric: (1 if True in ways else -1) if len(ways) == 1 else 0
        for metric, ways in said.items()
    }


def primary(tasks: Mapping[str, Any], metrics: Mapping[str, int]) -> str | None:
    """The metric a verdict is about: the first that the task lists and that is better one way."""
    listed = [
        str(each.get("metric")) for task in tasks.values() for each in task.config.metric_list or []
    ]
    order = sorted(metrics, key=lambda name: _place(listed, name.partition(",")[0]))
    return next((name for name in order if metrics[name]), None)


def _place(listed: Sequence[str], name: str) -> int:
    return listed.index(name) if name in listed else len(listed)


def _store(
    each: Planned,
    task: HarnessTask,
    results: Mapping[str, Any],
    seconds: float,
    device: Any,
    merged: bool,
    watcher: Watcher,
) -> None:
    """Write samples.jsonl, generations, scores, and last the record of it."""
    from importlib import metadata

    from evals.generate import answering_precision
    from finetune.model import describe_device, library_versions, pick_precision

    samples = results["samples"]
    rows, left = score_rows(samples)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    ways = directions(results, metrics)
    if left:
        said = ", ".join(f"{metric} {n}" for metric, n in left.items())
        watcher.say(f"{each.label}: values that are no number of one sample, not stored: {said}")
    found = _contaminated(samples, each)
    precision = (
        answering_precision(each.base, device) if merged else pick_precision(each.base, device)
    )
    prompts = {row["prompt_id"] for row in rows}
    generations = _generations(samples) if task.is_templated else []
    evaluation = Evaluation(
        name=each.directory.name,
        suite_name=task.label,
        suite={"harness": task.spec, "tasks": sorted(task.tasks), "samples": task.limit},
        run=each.run.name if each.run else None,
        base=each.base.model,
        base_digest=each.files.digest,
        tables=each.tables,
        adapter_sha256=each.run.adapter_sha256 if each.run else None,
        template=each.template.name,
        settings={
            "precision": str(precision).removeprefix("torch."),
            "quantization": each.base.quantization,
            "merged": merged,
            "templated": task.is_templated,
        },
        prompts=len(prompts),
        prompts_by_origin=dict(Counter(name.partition("/")[0] for name in prompts)),
        generations=len(generations),
        unscored=left,
        gates=[],
        contamination=dict(Counter(name.partition("/")[0] for name in found or [])),
        seconds=round(seconds, 3),
        tokens_per_second=0.0,
        versions=library_versions() | {"lm-eval": metadata.version("lm-eval")},
        device=describe_device(device),
        suite_digest=each.suite_digest,
        contaminated=found or [],
        notes={
            "harness": {
                "directions": ways,
                "primary": primary(task.tasks, ways),
                "results": _plain(results["results"]),
                "versions": _plain(results.get("versions", {})),
            }
        }
        | ({} if found is not None else {"contamination": "unknown: no training rows here"}),
    )
    with building(each.directory) as out:
        with (out / SAMPLES).open("w", encoding="utf-8") as file:
            for name, logged in samples.items():
                for sample in logged:
                    line = _plain({"task": name, **sample})
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        write_table(table_of(generations, GENERATIONS), GENERATIONS, out / "generations.parquet")
        write_table(table_of(rows, SCORES), SCORES, out / "scores.parquet")
        write_json(evaluation, out / "eval.json")


def _generations(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The answers that were generated, each once, however many filters read it."""
    rows = {}
    for task, logged in samples.items():
        for sample in logged:
            name = f"{task}/{sample['doc_id']}-{sample['doc_hash'][:8]}"
            for place, answer in enumerate(sample["resps"][0]):
                rows[name, place] = {
                    "prompt_id": name,
                    "tree_id": name,
                    "origin": task,
                    "prompt": str(sample["arguments"][0][0]),
                    "sample": place,
                    "answer": str(answer),
                }
    return list(rows.values())


def _contaminated(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], each: Planned
) -> list[str] | None:
    """The samples of which some text stands among the run's training prompts."""
    if each.run is None:
        return []
    prompts = [
        Prompt(name, name, task, None, value)
        for task, logged in samples.items()
        for sample in logged
        for name in [f"{task}/{sample['doc_id']}-{sample['doc_hash'][:8]}"]
        for value in sample["doc"].values()
        if isinstance(value, str) and len(value.split()) > 2
    ]
    found = contaminated(prompts, each.run.manifests)
    return None if found is None else sorted(set(found))


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it; what it cannot is written as text."""
    return msgspec.json.decode(
        json.dumps(value, default=lambda each: each.item() if hasattr(each, "item") else str(each))
    )
