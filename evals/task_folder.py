"""A suite as a folder that plain lm-evaluation-harness runs, scored by treetune's own functions.

    PYTHONPATH=<treetune> lm_eval run --include_path FOLDER --tasks treetune_word_limit ...

One task per limit and family of wordings, since the harness allows tokens and reports means by the
task, and a group of them all. The folder may be moved: its tasks read `prompts.jsonl` beside them,
through no cache of rows. What needs more than the answer's text is left out: whether an answer
stopped by itself, and what a model judges.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_builder.artifacts import artifacts_root, building
from dataset_builder.errors import InputError
from dataset_builder.template import Template, text
from dataset_builder.wordings import family
from dataset_builder.words import WORD_COUNTER
from evals.scorers import METRICS, PLAIN
from evals.units import plain_score

PROMPTS, RECORD = "prompts.jsonl", "task.json"

MAIN = family(None)

# Scorers that read more than the answer's text.
NOT_IN_TEXT = ("stopped",)

UTILS = '''"""Written by treetune: the prompts beside it, and scores by treetune's own functions."""

from pathlib import Path

try:
    from evals.task_folder import read_prompts, score_answer as process_results
except ImportError as error:
    raise ImportError(
        "treetune cannot be imported: run lm_eval with PYTHONPATH=<treetune's folder>"
    ) from error


def prompts(limit=None, family=None, **_):
    import datasets

    rows = read_prompts(Path(__file__).parent, limit, family)
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
'''


def write_task_folder(
    suite: Any,
    suite_name: str,
    digest: str,
    questions: Sequence[Any],
    template: Template | None,
    out: Path | None = None,
) -> Path:
    """Write the suite's questions as tasks; the folder, under the artefacts unless told otherwise.

    `digest` is that of the suite with its prompt files. With a template, prompts stand as a model
    reads them; without one they are plain, for `--apply_chat_template`. A folder that is there
    already is not written again. Raises InputError where no scorer of the suite reads an answer's
    text alone, or `out` is another folder.
    """
    metrics = [name for name in suite.scorers if name in PLAIN and name not in NOT_IN_TEXT]
    if not metrics:
        raise InputError(
            f"suite `{suite_name}` has no scorer that reads an answer's text alone",
            f"such as {', '.join(name for name in PLAIN if name not in NOT_IN_TEXT)}",
        )
    rows = [_row(question, template) for question in questions]
    record = {
        "suite": suite_name,
        "suite_digest": digest,
        "template": template.name if template else None,
        "prompts_sha256": hashlib.sha256(_lines(rows)).hexdigest(),
        "word_counter": WORD_COUNTER,
        "left_out": [name for name in suite.scorers if name not in metrics],
    }
    name = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    folder = out or artifacts_root() / "tasks" / f"{suite_name}-{name}"
    if folder.exists() and any(folder.iterdir()):
        stored = folder / RECORD
        if not stored.is_file() or json.loads(stored.read_text(encoding="utf-8")) != record:
            raise InputError(
                f"{folder}: something else stands there", "name a folder that does not exist"
            )
        return folder
    places = {(row["limit"] is None, row["limit"] or 0, row["family"]) for row in rows}
    with building(folder) as made:
        (made / PROMPTS).write_bytes(_lines(rows))
        (made / "utils.py").write_text(UTILS, encoding="utf-8")
        tasks = []
        for is_unlimited, words, family_name in sorted(places):
            limit = None if is_unlimited else words
            here = [row for row in rows if (row["limit"], row["family"]) == (limit, family_name)]
            parts = ["treetune", suite_name, "none" if limit is None else str(limit)]
            # The wordings that a verdict is about need no name.
            name = "_".join([*parts, *([] if family_name == MAIN else [family_name])])
            tasks.append(name)
            scored = [
                each for each in metrics if any(each in score_answer(row, ["One."]) for row in here)
            ]
            settings = [
                *_drawing(suite),
                ("max_gen_toks", suite.allowed(limit, here[0]["wording"])),
            ]
            yaml = _task(name, here[0], settings, template, scored, digest)
            (made / f"{name}.yaml").write_text(yaml, encoding="utf-8")
        group = f"group: treetune_{suite_name}\ntask:\n" + "".join(f"  - {t}\n" for t in tasks)
        (made / f"treetune_{suite_name}.yaml").write_text(group, encoding="utf-8")
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder


def read_prompts(folder: Path, limit: int | None, family_name: str) -> list[dict[str, Any]]:
    """The questions at one limit and in one family of wordings, as the folder's tasks read them."""
    lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if (row["limit"], row["family"]) == (limit, family_name)]


def score_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """An answer's scores by metric, by the functions that score treetune's own evaluations.

    >>> doc = {"limit": 5, "wording": "lift"}
    >>> score_answer(doc, ["It is blue because air scatters blue light."])["violation"]
    1.0
    """
    answer = results[0]
    found = {
        name: plain_score(name, answer, doc["limit"], doc["wording"], True)
        for name in PLAIN
        if name not in NOT_IN_TEXT
    }
    return {name: value for name, value in found.items() if value is not None}


def _row(question: Any, template: Template | None) -> dict[str, Any]:
    asked = question.text
    messages = [{"role": "user", "content": asked}]
    return {
        "prompt_id": question.prompt.prompt_id,
        "tree_id": question.prompt.tree_id,
        "origin": question.prompt.origin,
        "prompt": question.prompt.text,
        "limit": question.limit,
        "wording": question.wording,
        "family": family(question.wording),
        "sample": question.sample,
        "text": text(template, messages) if template else asked,
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _drawing(suite: Any) -> list[tuple[str, Any]]:
    """How the harness is to make answers: greedily, or drawn as here, but for the numbers drawn."""
    if not suite.temperature:
        return [("do_sample", False)]
    from finetune.decode import TOP

    return [("do_sample", True), ("temperature", suite.temperature), ("top_k", TOP)]


def _task(
    name: str,
    row: Mapping[str, Any],
    settings: Sequence[tuple[str, Any]],
    template: Template | None,
    metrics: Sequence[str],
    digest: str,
) -> str:
    """The YAML of one task. Texts are quoted as JSON, which YAML reads."""
    until = [template.end, *template.also_end, *template.stops] if template else []
    lines = [
        f"task: {json.dumps(name)}",
        "custom_dataset: !function utils.prompts",
        "dataset_kwargs:",
        f"  limit: {json.dumps(row['limit'])}",
        f"  family: {json.dumps(row['family'])}",
        "test_split: test",
        "output_type: generate_until",
        'doc_to_text: "{{text}}"',
        'doc_to_target: ""',
        "num_fewshot: 0",
        "generation_kwargs:",
        f"  until: {json.dumps(until, ensure_ascii=False)}",
        *(f"  {key}: {json.dumps(value)}" for key, value in settings),
        "process_results: !function utils.process_results",
        "metric_list:",
    ]
    for metric in metrics:
        lines += [f"  - metric: {metric}", "    aggregation: mean"]
        if METRICS[metric]:
            lines.append(f"    higher_is_better: {json.dumps(METRICS[metric] > 0)}")
    lines += ["metadata:", "  version: 1", f"  suite: {json.dumps(digest[:12])}"]
    return "\n".join(lines) + "\n"
