"""Files of answers made elsewhere, read: Open Assistant's sampling reports, lm-eval's sample logs,
and plain rows of prompt and answer.

Such a file is foreign. What cannot be read is refused, counted by reason and told; an empty answer
is an answer. Which form a file has is told by what is in it, not by its name: a report that ends in
`.jsonl` is a report.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dataset_builder.artifacts import file_digest
from dataset_builder.errors import InputError
from dataset_builder.split import letters_and_digits

# What one file may weigh: the largest report known has two megabytes.
FILE_BYTES = 2**28
FORMS = {
    "report": "Open Assistant's sampling report",
    "harness": "lm-eval's sample log",
    "rows": "rows of prompt and answer",
}
WANTED = (
    "wanted: a sampling report of Open Assistant, a sample log of lm-eval, or JSON Lines with "
    "`prompt` and `answer` a line"
)
# The names by which other programs' rows call the two.
PROMPT_KEYS = ("prompt", "instruction")
ANSWER_KEYS = ("answer", "output", "response")

# Marks of the end of an answer, as tokenizers spell them.
ENDS = (
    *("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>"),
    *("<end_of_turn>", "<eos>", "<|eos|>"),
)
# Marks that may stand before an answer.
STARTS = ("<s>", "<|assistant|>", "<|startoftext|>", "<|begin_of_text|>", "<bos>")


class Given(NamedTuple):
    """One answer that somebody gave elsewhere."""

    prompt: str
    answer: str
    prompt_id: str | None = None
    tree_id: str | None = None
    limit: int | None = None  # words
    is_stopped: bool | None = None  # None where the file does not say


@dataclass
class GivenArm:
    """All answers of one file that were sampled in one way."""

    sampling: str  # the configuration's name; empty where the file has none
    settings: dict[str, Any]
    answers: list[Given] = field(default_factory=list)


@dataclass(frozen=True)
class AnswerFile:
    """A file of answers as it was read."""

    name: str
    sha256: str
    form: str  # a key of FORMS
    model: str | None  # as the file says it
    made: str | None  # likewise
    arms: list[GivenArm]
    refused: dict[str, int]  # answers, by reason
    examples: tuple[str, ...]  # where and why, the first few
    marks: dict[str, int]  # what was taken off answers, and how often


@dataclass
class _Reading:
    """What has been read so far."""

    arms: dict[str, GivenArm] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)

    def refuse(self, place: str, reason: str, n: int = 1) -> None:
        self.refused[reason] += n
        if len(self.examples) < 5:
            self.examples.append(f"{place}: {reason}")

    def add(self, sampling: str, settings: Mapping[str, Any], given: Given) -> None:
        text, found = without_marks(given.answer)
        self.marks.update(found)
        if any(mark in ENDS for mark in found):
            given = given._replace(is_stopped=True)
        arm = self.arms.setdefault(sampling, GivenArm(sampling, dict(settings)))
        arm.answers.append(given._replace(answer=text))


def read_answer_file(path: Path) -> AnswerFile:
    """The answers in the file, an arm for each way in which it says that they were sampled.

    Where some answers of an arm end by a mark, those without one were cut; where none does, the
    file does not say. Raises InputError where the file is missing or too large, has none of the
    known forms, or most of its answers are refused.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= FILE_BYTES else b""
    except OSError as error:
        raise InputError(f"answers `{path}`: cannot be read: {error.strerror}", WANTED) from error
    if size > FILE_BYTES:
        raise InputError(
            f"answers `{path}`: {size:,} bytes, more than the {FILE_BYTES:,} that are read",
            "split the file",
        )
    content = content.removeprefix(b"\xef\xbb\xbf")
    reading = _Reading()
    whole = _decoded(content)
    model = made = None
    if isinstance(whole, dict) and isinstance(whole.get("prompts"), list):
        form = "report"
        _read_report(whole, reading)
        model, made = (_text(whole.get(key)) for key in ("model_name", "date"))
    else:
        rows = enumerate(whole, start=1) if isinstance(whole, list) else _lines(content)
        form = _read_rows(rows, reading)
    for arm in reading.arms.values():
        if any(given.is_stopped for given in arm.answers):
            arm.answers = [each._replace(is_stopped=bool(each.is_stopped)) for each in arm.answers]
    found = AnswerFile(
        path.name,
        file_digest(path),
        form,
        model,
        made,
        list(reading.arms.values()),
        dict(reading.refused),
        tuple(reading.examples),
        dict(reading.marks),
    )
    _refuse_unreadable(path, found)
    return found


def without_marks(text: str) -> tuple[str, list[str]]:
    """`text` without the marks of a tokenizer around it, and those that were there.

    What follows the first mark of an end is no answer: a sampler that does not stop there runs on.
    `</s>` also ends crossed-out text in HTML; with a `<s>` before it, it is left alone.

    >>> without_marks(" Yes.</s></s>")
    ('Yes.', ['</s>'])
    """
    found = []
    start = next((mark for mark in STARTS if text.lstrip().startswith(mark)), None)
    if start and not (start == "<s>" and _closes(text)):
        found.append(start)
        text = text.lstrip().removeprefix(start)
    places = [
        (place, mark)
        for mark in ENDS
        for place in [_end(text, mark)]
        if place is not None and place >= 0
    ]
    if places:
        place, mark = min(places)
        rest = re.sub("|".join(map(re.escape, ENDS)), "", text[place:])
        found.append(mark)
        if rest.strip():
            found.append("text after the end")
        text = text[:place]
    return text.strip(), found


def _closes(text: str) -> bool:
    """Whether the first `</s>` closes a `<s>` of the text's own: something stands after it."""
    before, mark, after = text.partition("</s>")
    return bool(mark) and before.count("<s>") == 1 and bool(after.strip())


def _end(text: str, mark: str) -> int | None:
    place = text.find(mark)
    if mark == "</s>":
        while place >= 0 and text.count("<s>", 0, place) > text.count("</s>", 0, place):
            place = text.find(mark, place + 1)
    return place


def _read_report(report: dict[str, Any], reading: _Reading) -> None:
    """`prompts[].prompt` and `prompts[].results[]` of `sampling_config`, `sampling_params` and
    `outputs`."""
    for n, each in enumerate(report["prompts"], start=1):
        place = f"prompt {n}"
        prompt = each.get("prompt") if isinstance(each, dict) else None
        results = each.get("results") if isinstance(each, dict) else None
        if not isinstance(results, list) or not results:
            reading.refuse(place, "no results")
            continue
        for result in results:
            outputs = result.get("outputs") if isinstance(result, dict) else None
            if not isinstance(outputs, list) or not outputs:
                reading.refuse(place, "no outputs")
                continue
            settings = result.get("sampling_params")
            sampling = _text(result.get("sampling_config")) or "sample"
            for output in outputs:
                reason = _unasked(prompt) or ("" if isinstance(output, str) else "no answer")
                if reason:
                    reading.refuse(place, reason)
                    continue
                known = settings if isinstance(settings, dict) else {}
                reading.add(sampling, known, Given(str(prompt), output))


def _read_rows(rows: Iterator[tuple[int, Any]], reading: _Reading) -> str:
    """Rows of prompt and answer, or of lm-eval's log; which of the two most of them are."""
    forms: Counter[str] = Counter()
    seen: set[bytes] = set()
    for number, row in rows:
        place = f"row {number}"
        if not isinstance(row, dict):
            reading.refuse(place, "no object" if row is not None else "not JSON")
        elif "resps" in row and "doc" in row:
            forms["harness"] += 1
            key = msgspec.json.encode([row.get("doc_id"), row.get("doc_hash")])
            # With several filters lm-eval writes an answer several times.
            if row.get("filter") is not None and key in seen:
                reading.refuse(place, "the same answer under another filter")
                continue
            seen.add(key)
            _read_sample(place, row, reading)
        else:
            forms["rows"] += 1
            _read_row(place, row, reading)
    return forms.most_common(1)[0][0] if forms else "rows"


def _read_row(place: str, row: dict[str, Any], reading: _Reading) -> None:
    prompt = next((row[key] for key in PROMPT_KEYS if key in row), None)
    answer = next((row[key] for key in ANSWER_KEYS if key in row), None)
    reason = _unasked(prompt) or ("" if isinstance(answer, str) else "no answer")
    limit, prompt_id, tree_id = row.get("limit"), row.get("id"), row.get("tree")
    stopped = row.get("is_stopped")
    if not reason and not _is_limit(limit):
        reason = "limit is no number of words"
    if not reason and not all(_is_name(each) for each in (prompt_id, tree_id)):
        reason = "id or tree is no name"
    if not reason and not (stopped is None or isinstance(stopped, bool)):
        reason = "is_stopped is neither true nor false"
    if reason:
        reading.refuse(place, reason)
        return
    names = [None if each is None else str(each) for each in (prompt_id, tree_id)]
    reading.add("", {}, Given(str(prompt), str(answer), names[0], names[1], limit, stopped))


def _read_sample(place: str, row: dict[str, Any], reading: _Reading) -> None:
    """One line of lm-eval's log: a document, what was asked, and `resps`, a list of lists of
    texts."""
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    first = _first_argument(row.get("arguments"))
    prompt = doc.get("prompt") if isinstance(doc.get("prompt"), str) else first
    limit, prompt_id, tree_id = (doc.get(key) for key in ("limit", "prompt_id", "tree_id"))
    resps = row["resps"] if isinstance(row["resps"], list) else []
    texts = [text for each in resps for text in (each if isinstance(each, list) else [each])]
    reason = _unasked(prompt)
    if not reason and not (texts and all(isinstance(text, str) for text in texts)):
        reason = "no generated text"
    # Of tasks that compare likelihoods: ["-12.3", "False"].
    if not reason and all(_is_likelihood(each) for each in resps):
        reason = "no generated text"
    if not reason and not _is_limit(limit):
        reason = "limit is no number of words"
    if reason:
        reading.refuse(place, reason)
        return
    names = [each if isinstance(each, str) and each else None for each in (prompt_id, tree_id)]
    for text in texts:
        reading.add("", {}, Given(str(prompt), text, names[0], names[1], limit))


def _is_likelihood(resp: Any) -> bool:
    return (
        isinstance(resp, list)
        and len(resp) == 2
        and bool(re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?|-?inf", resp[0]))
        and resp[1] in ("True", "False")
    )


def _first_argument(arguments: Any) -> Any:
    """What the model was asked, in either form of lm-eval's `arguments`."""
    if isinstance(arguments, dict):
        arguments = next(iter(arguments.values()), None)
        return arguments.get("arg_0") if isinstance(arguments, dict) else None
    while isinstance(arguments, list) and arguments:
        arguments = arguments[0]
    return arguments


def _lines(content: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, _decoded(line)


def _decoded(content: bytes) -> Any:
    """What the JSON says; None where it is none."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _unasked(prompt: Any) -> str:
    """Why this is no prompt; empty where it is one."""
    if not isinstance(prompt, str):
        return "no prompt"
    return "" if letters_and_digits(prompt) else "empty prompt"


def _is_limit(limit: Any) -> bool:
    return limit is None or (type(limit) is int and 0 < limit < 2**31)


def _is_name(name: Any) -> bool:
    return name is None or (isinstance(name, str) and name != "") or type(name) is int


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _refuse_unreadable(path: Path, found: AnswerFile) -> None:
    kept = sum(len(arm.answers) for arm in found.arms)
    twice = found.refused.get("the same answer under another filter", 0)
    refused = sum(found.refused.values()) - twice
    if not kept or refused > kept:
        said = f"{refused} of {refused + kept} answers refused" if refused else "no answer in it"
        first = f" ({found.examples[0]})" if found.examples else ""
        raise InputError(f"answers `{path}`: {said}{first}", WANTED)
