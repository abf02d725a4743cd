"""Prompt files: JSON Lines that hold prompts, to ask a model or to keep out of its training rows.

A prompt file is foreign: a line without a prompt is refused and counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from dataset_builder.artifacts import file_digest
from dataset_builder.errors import InputError
from dataset_builder.split import letters_and_digits

# The longest line of a prompt file that is read: no person asks a question of a million characters.
LINE_BYTES = 2**20

WANTED = "wanted: JSON Lines, a string or an object with `prompt` a line"


@dataclass(frozen=True)
class PromptLines:
    """A prompt file as it was read."""

    name: str
    sha256: str
    prompts: tuple[tuple[int, str], ...]  # the line's number from 1, the prompt
    refused: dict[str, int]  # lines, by reason
    examples: tuple[str, ...]  # `line 3: reason`, the first few


def read_prompt_lines(path: Path, turns: bool = False) -> PromptLines:
    """The prompts of a JSON Lines file: a string, or an object with `prompt`, a line; with `turns`
    also an object with `turns`, each of which is one (as MT-Bench has them), or `instruction` (as
    AlpacaEval). Blank lines are no lines.

    Raises InputError where the file is missing, or most of its lines are refused.
    """
    prompts: list[tuple[int, str]] = []
    refused: Counter[str] = Counter()
    examples: list[str] = []
    seen: set[str] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file_lines(file), start=1):
                if not line.strip():
                    continue
                texts, reason = _prompts_in(line, turns)
                fresh = [text for text in texts if letters_and_digits(text) not in seen]
                if not reason and not fresh:
                    reason = "repeated"
                if reason:
                    refused[reason] += 1
                    examples.append(f"line {number}: {reason}")
                    continue
                seen |= {letters_and_digits(text) for text in fresh}
                prompts += [(number, text) for text in fresh]
        digest = file_digest(path)
    except OSError as error:
        raise InputError(
            f"prompt file `{path}`: cannot be read: {error.strerror}", WANTED
        ) from error
    unread = sum(refused.values()) - refused["repeated"]
    if not prompts or unread > len(prompts):
        found = (
            f"{unread} of {unread + len(prompts) + refused['repeated']} lines refused"
            if unread
            else "no prompt in it"
        )
        raise InputError(
            f"prompt file `{path}`: {found}{f' ({examples[0]})' if examples else ''}", WANTED
        )
    return PromptLines(path.name, digest, tuple(prompts), dict(refused), tuple(examples[:5]))


def file_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file`, each of at most `LINE_BYTES` and one byte; the rest of a longer one is
    skipped."""
    while line := file.readline(LINE_BYTES + 1):
        yield line
        while not line.endswith(b"\n") and len(line) > LINE_BYTES:
            line = file.readline(LINE_BYTES + 1)
            if not line:
                return


def _prompts_in(line: bytes, turns: bool) -> tuple[list[str], str]:
    """The prompts in a line, and why it is refused: one of the two is empty."""
    if len(line) > LINE_BYTES:
        return [], "too long"
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return [], "not JSON"
    texts = [found]
    if isinstance(found, dict):
        texts = [found.get("prompt")]
        if turns and "prompt" not in found:
            more = found.get("turns")
            texts = more if isinstance(more, list) else [found.get("instruction")]
    if not texts or not all(isinstance(text, str) for text in texts):
        return [], "no prompt"
    asked = [text for text in texts if letters_and_digits(text)]
    return asked, "" if asked else "empty"
