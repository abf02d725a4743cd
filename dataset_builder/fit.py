"""What a template, a tokenizer and a length do to a variant: which rows stay whole, are cut, lose
their end or go.

Variants know no tokenizer. A run applies this before its first step and stores what came of it;
nothing is cut later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from dataset_builder.errors import InputError
from dataset_builder.template import Message, Template, encode_completions, encode_prompts
from dataset_builder.wordings import unstated
from dataset_builder.words import CONCISE_WORDS

Overflow = Literal["drop", "last_turns", "cut", "cut_keep_end", "refuse"]


@dataclass(frozen=True)
class FittedRow:
    """One example as token ids. Loss falls on `completion_ids` only."""

    example_id: str
    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def answers(self) -> list[list[int]]:
        """What stands after the prompt, each in a sequence of its own."""
        return [self.completion_ids]

    @property
    def known(self) -> list[list[int]]:
        """All that is known of the answers before training."""
        return self.answers


@dataclass(frozen=True)
class FittedPair:
    """One pair as token ids: two sequences that begin with the same prompt."""

    example_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_words: int
    rejected_words: int

    @property
    def answers(self) -> list[list[int]]:
        """The chosen one first."""
        return [self.chosen_ids, self.rejected_ids]

    @property
    def known(self) -> list[list[int]]:
        """As of a FittedRow."""
        return self.answers


@dataclass(frozen=True)
class FittedPrompt:
    """One prompt as token ids, whose answers are yet to be made."""

    example_id: str
    tree_id: str
    prompt_ids: list[int]
    plain_ids: list[int]  # of the prompt without its stated limit
    question: str  # the last user message, without its stated limit
    limit: int | None  # words, as the prompt states it
    allowed: int  # tokens that an answer may have
    group: int  # answers to make

    @property
    def answers(self) -> list[range]:
        """As many tokens as each answer may have."""
        return [range(self.allowed)] * self.group

    @property
    def known(self) -> list[list[int]]:
        """As of a FittedRow: what the answers are judged by."""
        return [self.plain_ids, [self.allowed, self.limit or 0, self.group]]


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """fit.json: what became of a variant's rows. rows = kept + len(dropped).

    A pair is one row of two answers, and fits where both do; tokens are those of both sequences,
    the prompt twice. A prompt fits where every token that an answer may have does too, and these
    are counted as if the answer had them.
    """

    rows: int
    kept: int
    cut: int  # kept rows of which an answer was shortened
    shortened: int  # kept rows that lost their earliest turns
    end_lost: int  # kept rows of which an answer was cut before its end-of-text
    too_long: int  # rows over the length as they came
    prompt_too_long: int  # rows whose prompt alone leaves no room for one answer token
    dropped: list[str]  # example ids
    tokens: int  # of the kept rows
    trained_tokens: int  # of their answers
    # Share of rows whose reply, of pairs the chosen one, has at most 100 words.
    concise_share_before: float
    concise_share_after: float  # the same over kept rows
    # Of whole rows as they came, of pairs the longer sequence: 0.1, 0.5, 0.9, 1.
    token_quantiles: dict[str, int]
    length: int
    overflow: str
    template: str
    # Share of the positions that would hold padding if every sequence were padded to `length`.
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
    each = _Rows(rows, prompts, [[answer] for answer in answers], "reply_words")
    kept, fit = _fitted(each, template, tokenizer, length, overflow)
    return [FittedRow(row["example_id"], prompt, *found) for row, prompt, found in kept], fit


def fit_pairs(
    rows: Iterable[dict[str, Any]],
    template: Template,
    tokenizer: Any,
    length: int,
    overflow: Overflow,
) -> tuple[list[FittedPair], Fit]:
    """Rows of the table `pairs` as token ids, each sequence of at most `length`, and the account.

    As `fit_rows`; both answers share one prompt, so what does not fit for one is done to the pair.
    """
    rows = list(rows)
    prompts = encode_prompts(template, tokenizer, (row["prompt"] for row in rows))
    sides = (
        encode_completions(template, tokenizer, (row[side] for row in rows))
        for side in ("chosen", "rejected")
    )
    answers = [list(pair) for pair in zip(*sides, strict=True)]
    each = _Rows(rows, prompts, answers, "chosen_words")
    kept, fit = _fitted(each, template, tokenizer, length, overflow)
    return [
        FittedPair(
            row["example_id"], prompt, chosen, rejected, row["chosen_words"], row["rejected_words"]
        )
        for row, prompt, (chosen, rejected) in kept
    ], fit


def fit_prompts(
    rows: Iterable[dict[str, Any]],
    template: Template,
    tokenizer: Any,
    length: int,
    overflow: Overflow,
    allowed: Callable[[int | None], int],
    group: int,
) -> tuple[list[FittedPrompt], Fit]:
    """Rows of the table `prompts` as token ids that leave room for an answer, and the account.

    As `fit_rows`; `allowed` gives the tokens that an answer may have by the prompt's limit, and
    `group` answers are made to each. `cut` leaves an answer what room there is.
    """
    rows = list(rows)
    prompts = encode_prompts(template, tokenizer, (row["prompt"] for row in rows))
    answers = [[[0] * allowed(row["limit"])] * group for row in rows]
    kept, fit = _fitted(
        _Rows(rows, prompts, answers, "limit"), template, tokenizer, length, overflow
    )
    plain = [
        [*row["prompt"][:-1], {"role": "user", "content": _question(row)}] for row, _, _ in kept
    ]
    plain_ids = encode_prompts(template, tokenizer, plain)
    return [
        FittedPrompt(
            row["example_id"],
            row["tree_id"],
            prompt,
            ids,
            _question(row),
            row["limit"],
            len(rooms[0]),
            group,
        )
        for (row, prompt, rooms), ids in zip(kept, plain_ids, strict=True)
    ], fit


def _question(row: dict[str, Any]) -> str:
    """The last user message without the limit that it states."""
    return unstated(row["prompt"][-1]["content"], row["limit"])


class _Rows(NamedTuple):
    """Rows with the ids of their prompts and of the answers of each."""

    rows: list[dict[str, Any]]
    prompts: list[list[int]]
    answers: list[list[list[int]]]
    words: str  # the column that counts the words a reader would get, or may get at most


def _fitted(
    each: _Rows, template: Template, tokenizer: Any, length: int, overflow: Overflow
) -> tuple[list[tuple[dict[str, Any], list[int], list[list[int]]]], Fit]:
    """Each row that stays, with its prompt's ids and its answers', and the account of all."""
    rows = each.rows
    kept: list[tuple[dict[str, Any], list[int], list[list[int]]]] = []
    counts = dict.fromkeys(("cut", "shortened", "end_lost", "too_long", "prompt_too_long"), 0)
    dropped: list[str] = []
    lengths: list[int] = []
    for row, whole, came in zip(rows, each.prompts, each.answers, strict=True):
        prompt, answers, longest = whole, came, max(map(len, came))
        lengths.append(len(prompt) + longest)
        if lengths[-1] > length:
            counts["too_long"] += 1
            counts["prompt_too_long"] += len(prompt) >= length
            if overflow == "refuse":
                raise InputError(
                    f"example `{row['example_id']}` has {lengths[-1]} tokens,"
                    f" more than the preset's {length}",
                    "raise `length`, or choose another `overflow`",
                )
            if overflow == "last_turns":
                prompt = _shorter(row["prompt"], template, tokenizer, length - longest)
                counts["shortened"] += bool(prompt)
        room = length - len(prompt)
        if not prompt or room < 1 or (longest > room and overflow in ("drop", "last_turns")):
            dropped.append(row["example_id"])
            continue
        if longest > room:
            counts["cut"] += 1
            counts["end_lost"] += overflow == "cut"
            answers = [_cut(answer, room, overflow) for answer in came]
        kept.append((row, prompt, answers))
    trained = sum(len(answer) for _, _, answers in kept for answer in answers)
    tokens = trained + sum(len(prompt) * len(answers) for _, prompt, answers in kept)
    sequences = sum(len(answers) for _, _, answers in kept)
    concise = [
        sum(_is_concise(row[each.words]) for row in some)
        for some in (rows, [row for row, _, _ in kept])
    ]
    return kept, Fit(
        rows=len(rows),
        kept=len(kept),
        dropped=dropped,
        tokens=tokens,
        padding_share=1 - tokens / (sequences * length) if kept else 0.0,
        trained_tokens=trained,
        concise_share_before=concise[0] / len(rows) if rows else 0.0,
        concise_share_after=concise[1] / len(kept) if kept else 0.0,
        token_quantiles={str(q): int(np.quantile(lengths, q)) for q in (0.1, 0.5, 0.9, 1)}
        if lengths
        else {},
        length=length,
        overflow=overflow,
        template=template.name,
        **counts,
    )


def _is_concise(words: int | None) -> bool:
    return words is not None and words <= CONCISE_WORDS


def _cut(answer: list[int], room: int, overflow: Overflow) -> list[int]:
    """The answer in `room` tokens, its end-of-text kept where the policy keeps it."""
    if len(answer) <= room:
        return answer
    return answer[:room] if overflow == "cut" else [*answer[: room - 1], answer[-1]]


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
