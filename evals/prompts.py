"""What a suite asks: the roots of held-out test trees and the lines of prompt files, each at every
limit.

A prompt file is foreign: a line that cannot be asked is refused and counted. A prompt that also
stands in a run's training rows is found and named, so that a comparison leaves it out for every
arm.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from dataset_builder.artifacts import artifacts_root, hash_order
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest, find_tables
from dataset_builder.prompt_files import read_prompt_lines
from dataset_builder.settings import settings_digest
from dataset_builder.split import letters_and_digits
from dataset_builder.tables import EXAMPLES, HELDOUT, read_table
from dataset_builder.wordings import WORDINGS, state_limit
from evals.suite import Suite

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Prompt:
    """A prompt as a person asked it, without a limit."""

    prompt_id: str
    tree_id: str
    origin: str  # held_out, or the prompt file's name
    lang: str | None
    text: str
    replies: tuple[str, ...] = ()  # usable human ones, best first


@dataclass(frozen=True)
class Question:
    """A prompt at one limit: what a model is asked."""

    prompt: Prompt
    limit: int | None
    wording: str | None  # None where no limit is stated
    sample: int = 0

    @property
    def text(self) -> str:
        """The prompt with its limit stated."""
        return (
            self.prompt.text
            if self.wording is None
            else state_limit(self.prompt.text, self.limit, self.wording)
        )

    @property
    def key(self) -> tuple[str, int | None, str | None, int]:
        """What names it within an evaluation."""
        return (self.prompt.prompt_id, self.limit, self.wording, self.sample)


@dataclass(frozen=True)
class PromptFile:
    """A prompt file as it was read."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]
    refused: dict[str, int]  # lines, by reason
    examples: tuple[str, ...]  # `line 3: reason`, the first few


def read_prompt_file(path: Path) -> PromptFile:
    """The prompts of a JSON Lines file: a string, or an object with `prompt`, a line. Blank lines
    are no lines.

    Raises InputError where the file is missing, or most of its lines are refused.
    """
    found = read_prompt_lines(path)
    names = [(f"{found.name}:{number}", text) for number, text in found.prompts]
    prompts = tuple(Prompt(name, name, found.name, None, text) for name, text in names)
    return PromptFile(found.name, found.sha256, prompts, found.refused, found.examples)


def read_prompt_files(suite: Suite, more: list[Path]) -> list[PromptFile]:
    """The suite's prompt files, then `more`. Raises InputError where two carry the same name."""
    files = [read_prompt_file(Path(name)) for name in suite.prompt_files] + [
        read_prompt_file(path) for path in more
    ]
    for name, times in Counter(file.name for file in files).items():
        if times > 1:
            raise InputError(
                f"two prompt files are called `{name}`",
                "rename one: the name is part of a prompt's id",
            )
    return files


def held_out_prompts(suite: Suite, tables: str) -> list[Prompt]:
    """The roots of held-out test trees in the suite's languages, in an order drawn by hash, at most
    `max_prompts`."""
    if not suite.held_out:
        return []
    rows = read_table(find_tables(tables) / "heldout.parquet", HELDOUT).to_pylist()
    found = [
        Prompt(
            row["prompt_id"],
            row["tree_id"],
            HELD_OUT,
            row["lang"],
            row["question"],
            tuple(reply["text"] for reply in row["replies"]),
        )
        for row in rows
        if row["split"] == "test"
        and row["is_root"]
        and (not suite.languages or row["lang"] in suite.languages)
        and normalised(row["question"])
    ]
    found.sort(key=lambda prompt: hash_order("suite", prompt.prompt_id))
    return found[: suite.max_prompts]


def suite_prompts(
    suite: Suite, suite_name: str, tables: str, files: list[PromptFile]
) -> list[Prompt]:
    """All that the suite asks. A file's prompt that is a held-out one too is asked once, as the
    held-out one.

    Raises InputError where nothing is left to ask.
    """
    held_out = held_out_prompts(suite, tables)
    texts = {normalised(prompt.text) for prompt in held_out}
    prompts = list(held_out)
    for file in files:
        fresh = [prompt for prompt in file.prompts if normalised(prompt.text) not in texts]
        texts |= {normalised(prompt.text) for prompt in fresh}
        prompts += fresh
    if not prompts:
        languages = ", ".join(suite.languages) or "any language"
        raise InputError(
            f"suite `{suite_name}` has no prompts: these tables hold no held-out test root "
            f"in {languages}" + (", and no prompt file is named" if not files else ""),
            "build the data with a larger `--held-out`, or give `--prompts FILE`",
        )
    return prompts


def questions(suite: Suite, prompts: list[Prompt]) -> list[Question]:
    """Each prompt at every limit of the suite, in the wording its hash draws, and without one where
    the suite says so."""
    wordings = sorted(suite.wordings)
    asked = []
    for prompt in prompts:
        drawn = (
            int(hash_order("wording", prompt.prompt_id)[:8], 16) % len(wordings) if wordings else 0
        )
        asked += [Question(prompt, limit, wordings[drawn]) for limit in suite.limits]
        if suite.no_limit:
            asked.append(Question(prompt, None, None))
    return asked


def suite_digest(suite: Suite, files: list[PromptFile]) -> str:
    """The sha256 of a suite and the prompt files it was asked with, in hexadecimal: of what was
    asked, whatever margin is allowed afterwards."""
    asked = msgspec.structs.replace(suite, margins={})
    parts = [settings_digest(asked), *(f"{file.name} {file.sha256}" for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def contaminated(prompts: list[Prompt], manifest: Manifest) -> list[str] | None:
    """The ids of prompts that stand, case and punctuation aside, among the questions of the
    variant's training rows.

    None where the variant is no longer there to look into.
    """
    path = (
        artifacts_root() / "variants" / f"{manifest.name}-{manifest.digest[:12]}" / "train.parquet"
    )
    if not path.is_file():
        return None
    trained: set[str] = set()
    with path.open("rb") as file:
        table = pq.read_table(file, columns=["prompt", "limit"])
    if not set(table.column_names) <= set(EXAMPLES.schema.names):
        raise InputError(f"{path}: not the table `examples`", "build the variant again")
    for turns, limit in zip(table["prompt"].to_pylist(), table["limit"].to_pylist(), strict=True):
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        trained |= {normalised(text) for text in asked}
        if limit is not None and asked:
            trained |= {normalised(text) for text in _unstated(asked[-1], limit)}
    return [prompt.prompt_id for prompt in prompts if normalised(prompt.text) in trained]


def normalised(text: str) -> str:
    """`text` as letters and digits alone, case folded: what two prompts are compared by.

    >>> normalised("What's the Weather?")
    'whatstheweather'
    """
    return letters_and_digits(text)


def _unstated(text: str, limit: int) -> list[str]:
    """What the question may have been before `limit` was stated in it, in any wording."""
    found = []
    for wording in WORDINGS.values():
        before, after = wording.replace("{limit}", str(limit)).split("{question}")
        if text.startswith(before) and text.endswith(after):
            found.append(text[len(before) : len(text) - len(after)])
    return found
