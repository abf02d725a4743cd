"""The template of any model: derived from its tokenizer's chat template, and proved equal to it.

A chat template is a program; a template here is the text before and after each message. So a few
conversations of marked messages are rendered, what stands between the marks is read off, and the
ids of several conversations are compared with the tokenizer's own. Where they differ nothing is
trained.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from dataset_builder.errors import InputError
from dataset_builder.template import (
    TEMPLATES,
    Message,
    Template,
    end_id,
    find_template,
    prompt_ids,
    token_id,
)
from dataset_builder.tokenizer import TEMPLATE_FAULTS, chat_template
from finetune.base import BaseFiles
from finetune.foreign import NO_CODE, reading
from finetune.preset import Preset

AUTO = "auto"
_MARKS = {"system": "MARKsystemMARK", "user": "MARKuserMARK", "assistant": "MARKanswerMARK"}
_SECOND = "MARKsecondMARK"


def template_of(preset: Preset, files: BaseFiles) -> Template:
    """The preset's template; `auto` is what the base's tokenizer says.

    Raises InputError for an unknown name, and where a chat template cannot be followed.
    """
    if preset.template != AUTO:
        return find_template(preset.template)
    from transformers import AutoTokenizer

    with reading(f"the tokenizer of `{files.model}`"):
        tokenizer = AutoTokenizer.from_pretrained(str(files.directory), **NO_CODE)
    return own_template(tokenizer, files.model)


def own_template(tokenizer: Any, model: str) -> Template:
    """The template that the tokenizer was made with, or `instruct` with its own end-of-text."""
    if not tokenizer.chat_template:
        return _instruct(tokenizer, model)
    template = _derived(tokenizer)
    if template is None or not _is_same(template, tokenizer):
        raise InputError(
            f"base model `{model}`: its chat template cannot be followed exactly",
            f"set `template` in the preset to one of: {', '.join(TEMPLATES)}",
        )
    return template


def _instruct(tokenizer: Any, model: str) -> Template:
    end = tokenizer.eos_token
    if not end:
        raise InputError(
            f"base model `{model}`: its tokenizer has no chat template and no end-of-text token",
            f"set `template` in the preset to one of: {', '.join(TEMPLATES)}",
        )
    plain = TEMPLATES["instruct"]
    # A tokenizer that begins every text with a token was trained so.
    ids = tokenizer("text")["input_ids"]
    begin = tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""
    if (begin, end) == (plain.begin, plain.end):
        return plain
    return dataclasses.replace(
        plain,
        name=f"instruct-{begin}-{end}",
        begin=begin,
        end=end,
        specials=tuple(dict.fromkeys([*filter(None, [begin]), end])),
    )


def _derived(tokenizer: Any) -> Template | None:
    """What stands around the marks; None where that is not the same every time."""
    user, answer = _MARKS["user"], _MARKS["assistant"]
    asked = _split(_render(tokenizer, [("user", user)], True), user)
    told = _split(_render(tokenizer, [("user", user), ("assistant", answer)], False), user, answer)
    longer = [("user", user), ("assistant", answer), ("user", _SECOND)]
    again = _split(_render(tokenizer, longer, True), user, answer, _SECOND)
    if asked is None or told is None or again is None:
        return None
    before, invitation = asked
    end = _first_special(tokenizer, told[2])
    if end is None or not told[1].startswith(invitation) or not again[2].startswith(told[2]):
        return None
    user_before = again[2][len(told[2]) :]
    if not before.endswith(user_before):
        return None
    begin = before.removesuffix(user_before)
    begin, system, default = _system(tokenizer, begin, user_before)
    also = [tokenizer.eos_token] if tokenizer.eos_token not in (None, end) else []
    lead = told[1][len(invitation) :]
    digest = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return Template(
        name=f"chat-{digest[:8]}",
        system=system,
        user=(user_before, ""),
        assistant=(again[1], told[2]),
        invitation=invitation,
        lead=lead,
        end=end,
        specials=_specials(
            tokenizer, [begin, *(system or ()), user_before, *again, *told, invitation, end]
        ),
        also_end=tuple(also),
        default_system=default,
        begin=begin,
    )


def _system(
    tokenizer: Any, begin: str, user_before: str
) -> tuple[str, tuple[str, str] | None, str | None]:
    """The begin without a default system message, what stands around one, and the default."""
    mark, user = _MARKS["system"], _MARKS["user"]
    found = _split(_render(tokenizer, [("system", mark), ("user", user)], True), mark, user)
    if found is None or not found[1].endswith(user_before):
        return begin, None, None
    before, after = found[0], found[1].removesuffix(user_before)
    if before.startswith(begin):
        return begin, (before.removeprefix(begin), after), None
    if begin.startswith(before) and begin.endswith(after):
        return "", (before, after), begin[len(before) : len(begin) - len(after)]
    return begin, None, None


def _render(tokenizer: Any, turns: Sequence[tuple[str, str]], invites: bool) -> str | None:
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=invites,
            chat_template=chat_template(tokenizer),
        )
    except TEMPLATE_FAULTS:  # its own refusal, of system messages for one, or a fault
        return None
    return text


def _split(text: str | None, *marks: str) -> list[str] | None:
    """What stands before, between and after the marks; None where one is not there just once."""
    parts: list[str] = []
    for mark in marks:
        if text is None or text.count(mark) != 1:
            return None
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text or ""]


def _special_tokens(tokenizer: Any) -> list[str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def _first_special(tokenizer: Any, text: str) -> str | None:
    """The special token that `text` begins with."""
    found = [token for token in _special_tokens(tokenizer) if text.startswith(token)]
    return max(found, key=len, default=None)


def _specials(tokenizer: Any, parts: Sequence[str]) -> tuple[str, ...]:
    # Longer ones first: one may begin as another does.
    known = sorted(_special_tokens(tokenizer), key=len, reverse=True)
    return tuple(token for token in known if any(token in part for part in parts))


_CHECKED: list[list[Message]] = [
    [{"role": "user", "content": "What is this?"}],
    [
        {"role": "user", "content": "One\n\ntwo"},
        {"role": "assistant", "content": "Three: 4."},
        {"role": "user", "content": "é 漢 ?"},
    ],
]


def _is_same(template: Template, tokenizer: Any) -> bool:
    """Whether conversations get the ids that the tokenizer's own template gives them."""
    checked = _CHECKED
    if template.system is not None:
        checked = [
            *checked,
            *([{"role": "system", "content": "Be kind."}, *turns] for turns in _CHECKED),
        ]
    for turns in checked:
        wanted = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, chat_template=chat_template(tokenizer)
        )["input_ids"]
        if prompt_ids(template, tokenizer, turns) != list(wanted):
            return False
    return token_id(tokenizer, template.end) == end_id(template, tokenizer)
