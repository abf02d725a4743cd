"""Answers made elsewhere, as runs: `imported/<name>/`, an arm of one evaluation without a seed.

Nothing was trained here, so there is no run.json: `source.json` says where the answers came from,
and `evals/` holds them, scored by what reads the answer alone. Two files share a prompt where its
letters and digits are the same, or the id that both give it; several answers to a prompt are
samples. With the evaluation of a run to go by, the answers become answers to that suite, and stand
beside that run's.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from dataset_builder.artifacts import artifacts_root, building, in_place, read_json, write_json
from dataset_builder.digest import rows_digest
from dataset_builder.errors import InputError
from dataset_builder.split import letters_and_digits
from dataset_builder.tables import checked, read_table, table_of, write_table
from dataset_builder.wordings import family, main_family, state_limit
from dataset_builder.words import WORD_COUNTER
from evals.answer_files import FORMS, AnswerFile, Given, GivenArm, read_answer_file
from evals.prompts import Prompt
from evals.rescored import in_order, replace_scores, settle
from evals.scorers import PLAIN
from evals.suite import Suite
from evals.tables import GENERATIONS, SCORES, Evaluation

IMPORTED = "imported"

# What a comparison asks of evaluations that share a suite: these answered whatever they were asked.
SUITE = Suite(title="Answers made elsewhere", held_out=False, limits=(), scorers=tuple(PLAIN))
SUITE_DIGEST = hashlib.sha256(IMPORTED.encode()).hexdigest()


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """source.json: where answers came from, and what became of them."""

    name: str
    model: str  # as the file or the user says it
    sampling: str  # the configuration's name; empty where the file has none
    settings: dict[str, Any]  # of the sampling, as the file says them
    form: str  # report, harness, rows
    file: str
    sha256: str
    made: str | None  # when, as the file says it
    imported: str  # ISO 8601, UTC
    answers: int  # of this arm
    prompts: int
    refused: dict[str, int]  # answers of the whole file that could not be read, by reason
    examples: list[str]  # where and why, the first few
    marks: dict[str, int]  # what was taken off answers of the whole file, and how often
    unasked: int  # answers of this arm to what the suite does not ask
    digest: str  # of the answers


@dataclass(frozen=True)
class Asked:
    """What an evaluated run was asked, for answers made elsewhere to be matched with."""

    evaluation: Evaluation
    by_text: dict[str, dict[str, Any]]  # letters and digits of the question -> its row
    by_limit: dict[tuple[str, int | None], dict[str, Any]]  # those of the prompt, and the limit


def imported_directories() -> list[Path]:
    """Every imported arm, sorted by name."""
    return [path.parent for path in in_place(artifacts_root(), f"{IMPORTED}/*/source.json")]


def load_imported(directory: Path) -> Imported:
    """The record of the imported arm in `directory`. Raises InputError where there is none."""
    return read_json(directory / "source.json", Imported)


def is_imported(directory: Path) -> bool:
    """Whether the directory holds answers made elsewhere."""
    return not (directory / "run.json").is_file() and (directory / "source.json").is_file()


def import_answers(
    path: Path, name: str | None = None, asked: Asked | None = None
) -> tuple[AnswerFile, list[Path]]:
    """The file as it was read, and the directory of each arm in it.

    `name` stands for the model's where the file does not say it. An arm that is there already stays
    as it is. Raises InputError where the file cannot be read, two of its rows name one prompt
    differently, or none answers what `asked` asks.
    """
    found = read_answer_file(path)
    model = name or found.model or path.stem
    return found, [_write(found, arm, model, asked) for arm in found.arms]


def said_of(found: AnswerFile, directories: Sequence[Path]) -> list[str]:
    """What a person should know of an import: what was read, refused and taken off."""
    kept = sum(len(arm.answers) for arm in found.arms)
    arms = f"{len(found.arms)} arm{'s' * (len(found.arms) != 1)}"
    said = [f"{found.name}: {FORMS[found.form]}, {kept:,} answers in {arms}"]
    if found.refused:
        counts = ", ".join(f"{n:,} {reason}" for reason, n in found.refused.items())
        said.append(f"{found.name}: refused: {counts} ({'; '.join(found.examples)})")
    if found.marks:
        counts = ", ".join(f"{n:,} x {mark}" for mark, n in found.marks.items())
        said.append(f"{found.name}: taken off answers: {counts}")
    for source in map(load_imported, directories):
        if source.unasked:
            said.append(
                f"{source.name}: {source.unasked:,} answers are not to that suite's prompts"
            )
        if source.answers > source.prompts:
            said.append(f"{source.name}: {source.answers:,} answers to {source.prompts:,} prompts")
    return said


def asked_of(directory: Path) -> Asked:
    """What the evaluation in `directory` asked."""
    rows = read_table(directory / "generations.parquet", GENERATIONS).to_pylist()
    by_text: dict[str, dict[str, Any]] = {}
    by_limit: dict[tuple[str, int | None], dict[str, Any]] = {}
    main = main_family(row["wording"] for row in rows if row["limit"] is not None)
    # A bare number of words means what the suite is about, before training's wordings or "about n".
    for row in sorted(rows, key=lambda row: family(row["wording"]) != main):
        text = row["prompt"]
        if row["wording"] is not None:
            text = state_limit(text, row["limit"], row["wording"])
        by_text.setdefault(letters_and_digits(text), row)
        by_limit.setdefault((letters_and_digits(row["prompt"]), row["limit"]), row)
    return Asked(read_json(directory / "eval.json", Evaluation), by_text, by_limit)


def generations_of(answers: Sequence[Given], asked: Asked | None) -> tuple[list[dict], int]:
    """Rows of the table `generations`, and how many answers `asked` does not ask.

    Raises InputError where one id stands for two prompts, or one prompt for two trees.
    """
    samples: Counter[tuple] = Counter()
    prompts: dict[str, tuple[str, str]] = {}  # prompt_id -> letters and digits, tree_id
    rows, unasked = [], 0
    for given in answers:
        row = _own_row(given) if asked is None else _asked_row(given, asked)
        if row is None:
            unasked += 1
            continue
        known = (letters_and_digits(row["prompt"]), row["tree_id"])
        if prompts.setdefault(row["prompt_id"], known) != known:
            raise InputError(
                f"id `{row['prompt_id']}` stands for two prompts, or in two trees",
                "give each prompt an id of its own, or leave the ids out",
            )
        place = (row["prompt_id"], row["limit"], row["wording"])
        rows.append(
            row
            | {
                "sample": samples[place],
                "answer": given.answer,
                "tokens": None,
                "is_stopped": given.is_stopped,
            }
        )
        samples[place] += 1
    return rows, unasked


def _own_row(given: Given) -> dict[str, Any]:
    letters = letters_and_digits(given.prompt)
    prompt_id = given.prompt_id or f"text-{hashlib.sha256(letters.encode()).hexdigest()[:16]}"
    return {
        "prompt_id": prompt_id,
        "tree_id": given.tree_id or prompt_id,
        "origin": IMPORTED,
        "lang": None,
        "prompt": given.prompt,
        "limit": given.limit,
        "wording": None,
    }


def _asked_row(given: Given, asked: Asked) -> dict[str, Any] | None:
    letters = letters_and_digits(given.prompt)
    # A prompt with its limit in it is known by its text; a plain one by the limit beside it.
    found = asked.by_limit.get((letters, given.limit)) or asked.by_text.get(letters)
    keys = ("prompt_id", "tree_id", "origin", "lang", "prompt", "limit", "wording")
    return None if found is None else {key: found[key] for key in keys}


def _write(found: AnswerFile, arm: GivenArm, model: str, asked: Asked | None) -> Path:
    # It loads scipy, which a list of what exists does not need.
    from evals.scoring import score

    rows, unasked = generations_of(arm.answers, asked)
    if not rows:
        raise InputError(
            f"answers `{found.name}`: none of {unasked} answers a prompt of the suite",
            "answer the prompts of that evaluation, or import without `--like`",
        )
    generations = table_of(rows, GENERATIONS)
    digest = rows_digest(generations)
    parts = [model.rpartition("/")[2] or model, arm.sampling, digest[:8]]
    name = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts if part)
    directory = artifacts_root() / IMPORTED / name
    scorers = [each for each in PLAIN if each != "stopped" or any(_knows(row) for row in rows)]
    suite = msgspec.structs.replace(SUITE, scorers=tuple(scorers))
    prompts = {row["prompt_id"]: _prompt(row) for row in rows}
    scored = score(suite, list(prompts.values()), rows, lambda pairs: {}, is_base=False)
    source = Imported(
        name=name,
        model=model,
        sampling=arm.sampling,
        settings=arm.settings,
        form=found.form,
        file=found.name,
        sha256=found.sha256,
        made=found.made,
        imported=datetime.now(UTC).isoformat(timespec="seconds"),
        answers=len(rows),
        prompts=len(prompts),
        refused=found.refused,
        examples=list(found.examples),
        marks=found.marks,
        unasked=unasked,
        digest=digest,
    )
    suite_name = asked.evaluation.suite_name if asked else IMPORTED
    suite_digest = asked.evaluation.suite_digest if asked else SUITE_DIGEST
    evaluation = f"{suite_name}-{suite_digest[:8]}"
    record = _evaluation(source, evaluation, suite_name, suite_digest, rows)
    if is_imported(directory):
        _score_anew(directory / "evals" / evaluation, in_order([scored.table]), record)
        return directory
    with building(directory) as out:
        (out / "evals" / evaluation).mkdir(parents=True)
        write_table(generations, GENERATIONS, out / "evals" / evaluation / "generations.parquet")
        write_table(in_order([scored.table]), SCORES, out / "evals" / evaluation / "scores.parquet")
        write_json(record, out / "evals" / evaluation / "eval.json")
        write_json(source, out / "source.json")
    return directory


def _score_anew(directory: Path, scores: pa.Table, record: Evaluation) -> None:
    """Put scores in place where they are not those that are there: scorers may have come since."""
    settle(directory)
    if not read_table(directory / "scores.parquet", SCORES).equals(checked(scores, SCORES)):
        replace_scores(directory, scores, record)


def _evaluation(
    source: Imported, name: str, suite_name: str, suite_digest: str, rows: Sequence[dict]
) -> Evaluation:
    origins = Counter({row["prompt_id"]: row["origin"] for row in rows}.values())
    unknown = sum(not _knows(row) for row in rows)
    return Evaluation(
        name=name,
        suite_name=suite_name,
        suite=msgspec.to_builtins(SUITE),
        run=source.name,
        base=source.model,
        base_digest="",
        tables="",
        adapter_sha256=None,
        template="",
        settings=source.settings | ({"sampling": source.sampling} if source.sampling else {}),
        prompts=source.prompts,
        prompts_by_origin=dict(origins),
        generations=source.answers,
        unscored={"stopped": unknown} if 0 < unknown < len(rows) else {},
        gates=[],
        contamination={},
        seconds=0.0,
        tokens_per_second=0.0,
        versions={"words": WORD_COUNTER},
        device={},
        suite_digest=suite_digest,
        refused=source.refused,
        notes={"form": FORMS[source.form], "contamination": "unknown: made elsewhere"},
    )


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(row["prompt_id"], row["tree_id"], row["origin"], row["lang"], row["prompt"])


def _knows(row: dict[str, Any]) -> bool:
    """Whether it is known how the answer ended."""
    return row["is_stopped"] is not None
