"""Prompt files: prompts to ask a model, or to keep out of its training rows.

A prompt file is foreign: an entry without a prompt is refused and counted. What form it has is told
by what it holds; only plain text and CSV, which hold anything, by their names.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dataset_builder.artifacts import file_digest
from dataset_builder.errors import InputError
from dataset_builder.split import letters_and_digits

# The longest line of a prompt file that is read: no person asks a question of a million characters.
LINE_BYTES = 2**20

# What is held whole: JSON that is one document, CSV, Parquet.
WHOLE_BYTES = 2**28

WANTED = (
    "wanted: JSON Lines, a string or an object with `prompt` a line; a JSON array of them; "
    "a .txt file, a prompt a line; CSV or Parquet with a column `prompt`"
)

_BOM = b"\xef\xbb\xbf"
_FAULTS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

# An entry, or why it is none.
Entry = tuple[Any, str]


@dataclass(frozen=True)
class PromptLines:
    """A prompt file as it was read."""

    name: str
    sha256: str
    prompts: tuple[tuple[int, str], ...]  # the number of the line or entry, from 1; the prompt
    refused: dict[str, int]  # lines or entries, by reason
    examples: tuple[str, ...]  # `line 3: reason`, the first few

    @property
    def unread(self) -> int:
        """Lines that hold no prompt; one met again is read."""
        return sum(self.refused.values()) - self.refused.get("repeated", 0)


def read_prompt_lines(path: Path, turns: bool = False) -> PromptLines:
    """The prompts of a file: JSON Lines, a JSON array, or an object whose `prompts` is one, as
    Open Assistant's sampling reports; plain text, a prompt a line; CSV or Parquet.

    An entry is a string, or an object or row with `prompt`; with `turns` also one with `turns`,
    each of which is a prompt (as MT-Bench has them), or `instruction` (as AlpacaEval). Blank lines
    are none. Raises InputError where the file is missing, or most of its entries are refused.
    """
    prompts: list[tuple[int, str]] = []
    refused: Counter[str] = Counter()
    examples: list[str] = []
    seen: set[str] = set()
    try:
        with path.open("rb") as file:
            for number, (entry, fault) in _entries(path, file):
                texts, reason = ([], fault) if fault else _prompts_in(entry, turns)
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
            f"prompt file `{path}`: cannot be read: {error.strerror or error}", WANTED
        ) from error
    found = PromptLines(path.name, digest, tuple(prompts), dict(refused), tuple(examples[:5]))
    if not prompts or found.unread > len(prompts):
        told = (
            f"{found.unread} of {refused.total() + len(prompts)} lines refused"
            if found.unread
            else "no prompt in it"
        )
        raise InputError(
            f"prompt file `{path}`: {told}{f' ({examples[0]})' if examples else ''}", WANTED
        )
    return found


def _entries(path: Path, file: BinaryIO) -> Iterable[tuple[int, Entry]]:
    """What stands in the file, by number, from 1."""
    head = file.read(4)
    file.seek(0)
    if head == b"PAR1":
        return _of_parquet(path)
    if head[:3] == _BOM:
        file.seek(3)
    begin = file.tell()
    if path.suffix.lower() == ".csv":
        return _of_csv(_whole(path, file))
    firsts = [line for line, _ in zip(_written(file), range(2), strict=False)]
    file.seek(begin)
    # A document begins like a line of JSON Lines, but its first line is not whole, or all there is.
    begins_json = bool(firsts) and firsts[0].lstrip()[:1] in (b"{", b"[")
    if begins_json and (len(firsts) == 1 or _decoded(firsts[0])[1]):
        document, fault = _decoded(_whole(path, file), WHOLE_BYTES)
        file.seek(begin)
        if isinstance(document, dict) and isinstance(document.get("prompts"), list):
            document = document["prompts"]
        if not fault and isinstance(document, list):
            return enumerate(((entry, "") for entry in document), start=1)
    numbered = ((n, line) for n, line in enumerate(file_lines(file), start=1) if line.strip())
    if path.suffix.lower() == ".txt":
        return ((n, _text(line)) for n, line in numbered)
    return ((n, _decoded(line)) for n, line in numbered)


def _of_csv(content: bytes) -> Iterator[tuple[int, Entry]]:
    try:
        rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
        yield from enumerate(((row, "") for row in rows), start=1)
    except (csv.Error, UnicodeDecodeError) as error:
        raise OSError(f"not CSV in UTF-8: {error}") from error


def _of_parquet(path: Path) -> Iterator[tuple[int, Entry]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = {"prompt", "instruction", "turns"} & {*parquet.schema_arrow.names}
            rows = (
                row
                for batch in parquet.iter_batches(batch_size=1024, columns=sorted(names))
                for row in batch.to_pylist()
            )
            yield from enumerate(((row, "") for row in rows), start=1)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise OSError(f"not Parquet: {error}") from error


def _written(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file_lines(file) if line.strip())


def _whole(path: Path, file: BinaryIO) -> bytes:
    content = file.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        raise InputError(
            f"prompt file `{path}`: more than {WHOLE_BYTES >> 20} MiB in one piece",
            "write one prompt a line",
        )
    return content


def file_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file`, each of at most `LINE_BYTES` and one byte; the rest of a longer one is
    skipped."""
    while line := file.readline(LINE_BYTES + 1):
        yield line
        while not line.endswith(b"\n") and len(line) > LINE_BYTES:
            line = file.readline(LINE_BYTES + 1)
            if not line:
                return


def _text(line: bytes) -> Entry:
    if len(line) > LINE_BYTES:
        return None, "too long"
    try:
        return line.decode().strip(), ""
    except UnicodeDecodeError:
        return None, "not UTF-8"


def _decoded(content: bytes, most: int = LINE_BYTES) -> Entry:
    if len(content) > most:
        return None, "too long"
    try:
        return msgspec.json.decode(content), ""
    except _FAULTS:
        return None, "not JSON"


def _prompts_in(found: Any, turns: bool) -> tuple[list[str], str]:
    """The prompts in an entry, and why it is refused: one of the two is empty."""
    texts = [found]
    if isinstance(found, dict):
        texts = [found.get("prompt")]
        if turns and found.get("prompt") is None:
            more = found.get("turns")
            texts = more if isinstance(more, list) else [found.get("instruction")]
    if not texts or not all(isinstance(text, str) for text in texts):
        return [], "no prompt"
    asked = [text for text in texts if letters_and_digits(text)]
    return asked, "" if asked else "empty"
