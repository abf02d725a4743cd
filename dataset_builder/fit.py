"""What a template, a tokenizer and a length do to a variant: which rows stay whole, are cut, lose
their end or go.

Variants know no tokenizer. A run applies this before its first step and stores what came of it;
nothing is cut later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from dataset_builder.errors import InputError
from dataset_builder.template import Message, Template, encode_completions, encode_prompts
from dataset_builder.words import CONCISE_WORDS

Overflow = Literal["drop", "last_turns", "cut", "cut_keep_end", "refuse"]


@dataclass(frozen=True)
class FittedRow:
    """One example as token ids. Loss falls on `completion_ids` only."""

    example_id: str
    prompt_ids: list[int]
    completion_ids: list[int]


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """fit.json: what became of a variant's rows. rows = kept + len(dropped)."""

    rows: int
    kept: int
    cut: int  # kept rows whose answer was shortened
    shortened: int  # kept rows that lost their earliest turns
    end_lost: int  # kept rows whose answer was cut before its end-of-text
    too_long: int  # rows over the length as they came
    prompt_too_long: int  # rows whose prompt alone leaves no room for one answer token
    dropped: list[str]  # example ids
    tokens: int  # of the kept rows
    trained_tokens: int  # of their answers
    concise_share_before: float  # share of rows whose reply has at most 100 words
    concise_share_after: float  # the same over kept rows
    token_quantiles: dict[str, int]  # of whole rows as they came: 0.1, 0.5, 0.9, 1
    length: int
    overflow: str
    template: str
    # Share of the positions that would hold padding if every kept row were padded to `length`.
    padding_share: float = 0.0


class Encoded(NamedTuple):
    """The token ids of each row's prompt and of its answer, whole."""

    prompts: list[list[int]]
    answers: list[list[int]]


def encode_rows(rows: Sequence[dict[str, Any]], template: Template, tokenizer: Any) -> Encoded:
    """Rows of the table `examples` as token ids, however long."""
    return Encoded(
        encode_prompts(template, tokenizer, (row["prompt"] for row in rows)),
        encode_completions(template, tokenizer, (row["completion"] for row in rows)),
    )


def fit_rows(
    rows: Iterable[dict[str, Any]],
    template: Template,
    tokenizer: Any,
    length: int,
    overflow: Overflow,
    encoded: Encoded | None = None,
) -> tuple[list[FittedRow], Fit]:
    """Rows of the table `examples` as token ids of at most `length`, and the account of it.

    `drop` drops what is too long, `last_turns` first leaves out the earliest turns, `cut` cuts the
    answer's end as TRL does, `cut_keep_end` cuts it but keeps end-of-text, `refuse` raises
    InputError at the first row that is too long. A row whose prompt leaves no room for an answer is
    dropped by every policy but `refuse`. `encoded` is what `encode_rows` makes of the rows, for
    who asks about several policies.
    """
    rows = list(rows)
    prompts, answers = encoded or encode_rows(rows, template, tokenizer)
    fitted: list[FittedRow] = []
    counts = dict.fromkeys(("cut", "shortened", "end_lost", "too_long", "prompt_too_long"), 0)
    dropped: list[str] = []
    concise_after = 0
    for row, whole_prompt, whole_answer in zip(rows, prompts, answers, strict=True):
        prompt, answer = whole_prompt, whole_answer
        whole = len(prompt) + len(answer)
        if whole > length:
            counts["too_long"] += 1
            counts["prompt_too_long"] += len(prompt) >= length
            if overflow == "refuse":
                raise InputError(
                    f"example `{row['example_id']}` has {whole} tokens,"
                    f" more than the preset's {length}",
                    "raise `length`, or choose another `overflow`",
                )
            if overflow == "last_turns":
                prompt = _shorter(row["prompt"], template, tokenizer, length - len(answer))
                counts["shortened"] += bool(prompt)
        room = length - len(prompt)
        if not prompt or room < 1 or (len(answer) > room and overflow in ("drop", "last_turns")):
            dropped.append(row["example_id"])
            continue
        if len(answer) > room:
            counts["cut"] += 1
            counts["end_lost"] += overflow == "cut"
            answer = answer[:room] if overflow == "cut" else [*answer[: room - 1], answer[-1]]
        concise_after += row["reply_words"] <= CONCISE_WORDS
        fitted.append(FittedRow(row["example_id"], prompt, answer))
    tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in fitted)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    concise_before = sum(row["reply_words"] <= CONCISE_WORDS for row in rows)
    return fitted, Fit(
        rows=len(rows),
        kept=len(fitted),
        dropped=dropped,
        tokens=tokens,
        padding_share=1 - tokens / (len(fitted) * length) if fitted else 0.0,
        trained_tokens=sum(len(row.completion_ids) for row in fitted),
        concise_share_before=concise_before / len(rows) if rows else 0.0,
        concise_share_after=concise_after / len(fitted) if fitted else 0.0,
        token_quantiles={str(q): int(np.quantile(lengths, q)) for q in (0.1, 0.5, 0.9, 1)}
        if lengths
        else {},
        length=length,
        overflow=overflow,
        template=template.name,
        **counts,
    )


def _shorter(prompt: list[Message], template: Template, tokenizer: Any, room: int) -> list[int]:
    """The prompt's ids without its earliest turns, as few as needed for `room`; empty where the
    last turn is too long.
    """
    system = [message for message in prompt if message["role"] == "system"]
    turns = [message for message in prompt if message["role"] != "system"]
    # A turn is a question and its answer, so that what is left begins with a question.
    for start in range(2, len(turns), 2):
        (ids,) = encode_prompts(template, tokenizer, [system + turns[start:]])
        if len(ids) <= room:
            return ids
    return []
