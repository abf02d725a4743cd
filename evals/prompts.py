"""What a suite asks: the roots of held-out test trees and the lines of prompt files, each at every
limit.

A prompt file is foreign: a line that cannot be asked is refused and counted. A prompt that also
stands in a run's training rows is found and named, so that a comparison leaves it out for every
arm.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dataset_builder.artifacts import artifacts_root, hash_order
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest, find_tables, read_variant
from dataset_builder.prompt_files import read_prompt_lines
from dataset_builder.settings import settings_digest
from dataset_builder.split import letters_and_digits
from dataset_builder.tables import HELDOUT, read_table
from dataset_builder.wordings import OTHER, WORDINGS, family, state_limit
from evals.ifeval import UNSTATED, stated_limits
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
    ranks: tuple[int | None, ...] = ()  # of those replies
    own: tuple[tuple[int, str], ...] = ()  # limits that the text states itself, and how


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


def read_prompt_file(path: Path, own_limits: bool = False) -> PromptFile:
    """The prompts of a JSON Lines file: a string, or an object with `prompt`, a line. Blank lines
    are no lines. With `own_limits`, those that state a length.

    Raises InputError where the file is missing, or most of its lines are refused, or none states a
    length where one is to.
    """
    found = read_prompt_lines(path)
    stated = stated_limits(path) if own_limits else {}
    prompts, refused = [], dict(found.refused)
    for number, text in found.prompts:
        own = tuple(stated.get(number, ()))
        if own_limits and not own:
            refused[UNSTATED] = refused.get(UNSTATED, 0) + 1
            continue
        name = f"{found.name}:{number}"
        prompts.append(Prompt(name, name, found.name, None, text, own=own))
    if not prompts:
        raise InputError(
            f"prompt file `{path}`: none of {len(found.prompts)} prompts states a length",
            "wanted: rows of IFEval's `input_data.jsonl`, or `limit` beside each `prompt`",
        )
    return PromptFile(found.name, found.sha256, tuple(prompts), refused, found.examples)


def read_prompt_files(suite: Suite, more: list[Path]) -> list[PromptFile]:
    """The suite's prompt files, then `more`. Raises InputError where two carry the same name."""
    files = [
        read_prompt_file(path, suite.own_limits) for path in [*map(Path, suite.prompt_files), *more]
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
            tuple(reply["rank"] for reply in row["replies"]),
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
    """Each prompt at every limit of the suite, in one wording of each family that its hash draws or
    in every one, and without a limit where the suite says so; a prompt with limits of its own, at
    those. Each question as often as the suite takes samples."""
    families: dict[str, list[str]] = {}
    for wording in sorted(suite.wordings):
        families.setdefault(family(wording), []).append(wording)
    asked: list[tuple[Prompt, int | None, str | None]] = []
    for prompt in prompts:
        if suite.own_limits:
            asked += [(prompt, limit, wording) for limit, wording in prompt.own]
            continue
        drawn = int(hash_order("wording", prompt.prompt_id)[:8], 16)
        chosen = [
            wording
            for names in families.values()
            for wording in (names if suite.every_wording else [names[drawn % len(names)]])
        ]
        asked += [(prompt, limit, wording) for limit in suite.limits for wording in chosen]
        if suite.no_limit:
            asked.append((prompt, None, None))
    return [Question(*each, sample) for each in asked for sample in range(suite.samples)]


def suite_digest(suite: Suite, files: list[PromptFile]) -> str:
    """The sha256 of what a suite asks, prompt files included, in hexadecimal. How answers are
    scored and what margin is allowed are no part of it: a scorer named later runs over the stored
    ones."""
    asks = msgspec.structs.replace(
        suite,
        title="",
        scorers=(),
        relevance_others=1,
        reward_model=None,
        judge_model=None,
        margins={},
    )
    parts = [settings_digest(asks), *(f"{file.name} {file.sha256}" for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def contaminated(prompts: list[Prompt], manifests: Sequence[Manifest]) -> list[str] | None:
    """The ids of prompts that stand, case and punctuation aside, among the questions of the
    training rows of any of the variants.

    None where one of them is no longer there to look into.
    """
    trained: set[str] = set()
    for manifest in manifests:
        build = f"{manifest.name}-{manifest.digest[:12]}"
        directory = artifacts_root() / "variants" / build
        if not (directory / "train.parquet").is_file():
            return None
        trained |= _questions_in(directory, manifest)
    return [prompt.prompt_id for prompt in prompts if normalised(prompt.text) in trained]


def _questions_in(directory: Path, manifest: Manifest) -> set[str]:
    """The questions of a variant's rows, with and without a stated limit."""
    trained: set[str] = set()
    table = read_variant(directory, manifest, "train", ["prompt", "limit"])
    for turns, limit in zip(table["prompt"].to_pylist(), table["limit"].to_pylist(), strict=True):
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        trained |= {normalised(text) for text in asked}
        if limit is not None and asked:
            trained |= {normalised(text) for text in _unstated(asked[-1], limit)}
    return trained


def normalised(text: str) -> str:
    """`text` as letters and digits alone, case folded: what two prompts are compared by.

    >>> normalised("What's the Weather?")
    'whatstheweather'
    """
    return letters_and_digits(text)


def _unstated(text: str, limit: int) -> list[str]:
    """What the question may have been before `limit` was stated in it, in any wording."""
    found = []
    for wording in (*WORDINGS.values(), OTHER["at_least"], OTHER["about"]):
        before, after = wording.replace("{limit}", str(limit)).split("{question}")
        if text.startswith(before) and text.endswith(after):
            found.append(text[len(before) : len(text) - len(after)])
    return found
