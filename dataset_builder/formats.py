"""A variant's rows in forms that other programs read: whole conversations as messages, or as text
under a template that ships or any tokenizer's own.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dataset_builder.artifacts import building, file_digest, read_json, write_json, write_text
from dataset_builder.errors import InputError
from dataset_builder.template import TEMPLATES, Message, text
from dataset_builder.tokenizer import (
    DAY,
    TEMPLATE_FAULTS,
    asks_for_the_day,
    chat_template,
    open_tokenizer,
)
from dataset_builder.variant import Plan


class Exported(msgspec.Struct, frozen=True):
    """export.json, which stands beside the files once they are whole."""

    variant: str  # digest
    files: dict[str, str]  # name -> sha256


class TextFormat(NamedTuple):
    """How a conversation becomes one text."""

    name: str  # part of a directory's name
    text_of: Callable[[Sequence[Message]], str]
    note: str = ""  # what a reader of the texts has to know


def text_format(name: str) -> TextFormat:
    """The template that ships as `name`, or the chat template of the tokenizer that `name` is: a
    directory, or a model of the Hub with its commit.

    Raises InputError where it is neither, or the tokenizer has no chat template.
    """
    if name in TEMPLATES:
        return TextFormat(name, partial(text, TEMPLATES[name]))
    if "/" not in name and not Path(name).exists():
        near = difflib.get_close_matches(name, TEMPLATES, n=1)
        known = (
            f"known: {', '.join(TEMPLATES)}; or name a tokenizer's directory, or OWNER/NAME@COMMIT"
        )
        raise InputError(
            f"unknown template `{name}`", f"did you mean `{near[0]}`?" if near else known
        )
    tokenizer = open_tokenizer(name)
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer `{name}` has no chat template",
            f"name a template that ships: {', '.join(TEMPLATES)}",
        )
    digest = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    note = f"The chat template of {name} asks for the day; it was told {DAY}, in every text"
    return TextFormat(
        f"chat-{digest[:8]}",
        partial(_rendered, tokenizer, chat_template(tokenizer), name),
        note if asks_for_the_day(tokenizer) else "",
    )


def write_texts(plan: Plan, form: TextFormat, out: Path) -> None:
    """Write train.jsonl and val.jsonl, `{"text": …}` a line, into the directory `out`.

    Raises InputError where the template refuses a conversation.
    """
    _write(plan, out, lambda messages: {"text": form.text_of(messages)})


def write_messages(plan: Plan, out: Path) -> None:
    """Write train.jsonl and val.jsonl, `{"messages": [{"role": …, "content": …}, …]}` a line, into
    the directory `out`.
    """
    _write(plan, out, lambda messages: {"messages": messages})


def _write(plan: Plan, out: Path, line_of: Callable[[list[Message]], dict[str, Any]]) -> None:
    """Writes the rows, each as `line_of` its conversation. What stands there stays until the new
    directory is whole; where it would be the same, nothing is written.
    """
    contents = {}
    for file, rows in (("train.jsonl", plan.train), ("val.jsonl", plan.validation)):
        lines = (
            json.dumps(line_of([*row["prompt"], *row["completion"]]), ensure_ascii=False)
            for row in rows.to_pylist()
        )
        contents[file] = "".join(f"{line}\n" for line in lines)
    files = {
        name: hashlib.sha256(content.encode()).hexdigest() for name, content in contents.items()
    }
    exported = Exported(plan.manifest.digest, files)
    if _stands(out, exported):
        return
    with building(out, replaces=True) as directory:
        for name, content in contents.items():
            write_text(content, directory / name)
        write_json(exported, directory / "export.json")


def _stands(out: Path, exported: Exported) -> bool:
    try:
        found = read_json(out / "export.json", Exported)
        return found == exported and all(
            file_digest(out / name) == sha256 for name, sha256 in exported.files.items()
        )
    except (InputError, OSError):
        return False


def _rendered(tokenizer: Any, template: str, name: str, messages: Sequence[Message]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, chat_template=template)
        )
    except TEMPLATE_FAULTS as error:
        raise InputError(
            f"the chat template of `{name}` refuses a conversation: {error}",
            f"name a template that ships: {', '.join(TEMPLATES)}",
        ) from error
