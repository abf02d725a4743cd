"""Every prompt and answer of a comparison as compressed blocks, which the page's script unpacks
where they are looked at.

The first block, the index, holds all numbers and the beginning of every prompt: enough to list,
filter and sort. The others hold texts, `PER_BLOCK` prompts each. A text that
stands several times under a prompt is stored once. Where a page would grow past its size, texts are
left out and counted; their numbers stay.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataset_builder.artifacts import hash_order
from dataset_builder.printable import printable
from evals.arms import BASE
from reports.answers import HUMAN, Answer, Asked, Question

# Small enough to unpack between two frames, large enough that deflate forgets nothing at the seams.
PER_BLOCK = 100
# So much of a prompt stands in the list.
LEAD = 160
# What all blocks of a page may take, in bytes of base64; the promise is 15 MB for the whole page.
ROOM = 14_200_000
# So many blocks are made to see how large all would be.
SAMPLED = 5

ABSENT = -1  # no such answer; of a text, it was never given
LEFT_OUT = -2  # given, and its text is not on this page


@dataclass(frozen=True)
class Slot:
    """A place in every row of answers: who answered, with which seed, as which of several."""

    name: str
    seed: int | None
    sample: int


@dataclass(frozen=True)
class Blocks:
    """The blocks of one page, each base64 of deflated JSON."""

    index: str
    texts: list[str]
    answers: int
    left_out: int  # answers whose texts were left out


def pack(
    questions: Sequence[Question],
    limits: Sequence[int | None],
    answerers: Mapping[str, Mapping[str, Any]],
    room: int = ROOM,
) -> Blocks:
    """The blocks for `questions`; `answerers` are those that are shown, with what the script must
    know of each.

    Texts are left out where all would take more than `room`, in the order of a hash; those of
    prompts on which the arms differ in keeping a limit (as most answers of each do) go last.
    """
    slots = _slots(questions, list(answerers))
    index = _deflated(_index(questions, limits, answerers, slots))
    units = _in_order(questions)
    starts = range(0, len(questions), PER_BLOCK)

    def packed(start: int, chosen: set[tuple[int, int | None]]) -> str:
        return _deflated(_texts(questions[start : start + PER_BLOCK], start, limits, slots, chosen))

    # A few blocks say about how large all would be, so that a page far too large is not made.
    some = starts[:: max(1, len(starts) // SAMPLED)]
    about = sum(len(packed(start, set(units))) for start in some) * len(starts) / len(some or [0])
    kept = min(len(units), int(len(units) * max(0, room - len(index)) / (about or 1)))
    if len(starts) <= SAMPLED or about < 0.9 * (room - len(index)):
        kept = len(units)
    while True:
        chosen = set(units[:kept])
        blocks = [packed(start, chosen) for start in starts]
        size = len(index) + sum(map(len, blocks))
        if size <= room or not kept:
            break
        # Texts deflate about evenly, so the next attempt is seldom too large again.
        kept = int(kept * max(0.0, (room - len(index)) / (size - len(index))) * 0.99)
    missing = [_asked(questions, unit) for unit in units[kept:]]
    return Blocks(
        index,
        blocks,
        sum(len(answers) for each in _all_asked(questions) for answers in each.answers.values()),
        sum(len(answers) for each in missing for answers in each.answers.values()),
    )


def unpack(block: str) -> Any:
    """What a block holds."""
    return json.loads(zlib.decompress(base64.b64decode(block), wbits=-zlib.MAX_WBITS))


def clean(text: str) -> str:
    """`text` as a page shows it: nothing in it that reorders or hides."""
    return printable(text.replace("\r\n", "\n"))


def _slots(questions: Sequence[Question], names: Sequence[str]) -> list[Slot]:
    found = {
        slot
        for asked in _all_asked(questions)
        for name in asked.answers
        for slot, _ in _slotted(name, asked.answers[name])
    }
    order = {name: place for place, name in enumerate(names)}
    return sorted(
        (slot for slot in found if slot.name in order),
        key=lambda slot: (order[slot.name], slot.seed is None, slot.seed or 0, slot.sample),
    )


def _slotted(name: str, answers: Sequence[Answer]) -> Iterator[tuple[Slot, Answer]]:
    met: dict[int | None, int] = {}
    for answer in answers:
        sample = met[answer.seed] = met.get(answer.seed, -1) + 1
        yield Slot(name, answer.seed, sample), answer


def _index(
    questions: Sequence[Question],
    limits: Sequence[int | None],
    answerers: Mapping[str, Mapping[str, Any]],
    slots: Sequence[Slot],
) -> dict[str, Any]:
    names = list(answerers)
    langs = sorted({question.lang for question in questions})
    origins = sorted({question.origin for question in questions})
    words: list[int] = []
    ends: list[str] = []
    relevance: list[float | None] = []
    for answer in _cells(questions, limits, slots):
        words.append(ABSENT if answer is None else answer.words)
        # 0 not known, 1 ended by itself, 2 cut at the tokens allowed.
        stopped = None if answer is None else answer.is_stopped
        ends.append("0" if stopped is None else "1" if stopped else "2")
        score = None if answer is None else answer.relevance
        relevance.append(None if score is None else round(score, 2))
    return {
        "limits": list(limits),
        "answerers": [
            {key: clean(value) if isinstance(value, str) else value for key, value in each.items()}
            for each in answerers.values()
        ],
        "slots": [[names.index(slot.name), slot.seed] for slot in slots],
        "langs": [clean(lang) for lang in langs],
        "origins": [clean(origin.replace("_", "-")) for origin in origins],
        "perBlock": PER_BLOCK,
        "lead": [
            clean(" ".join(question.prompt[: 2 * LEAD].split())[:LEAD]) for question in questions
        ],
        "lang": [langs.index(question.lang) for question in questions],
        "origin": [origins.index(question.origin) for question in questions],
        "compared": [int(question.is_compared) for question in questions],
        "words": words,
        "ends": "".join(ends),
        "relevance": relevance if any(score is not None for score in relevance) else None,
    }


def _texts(
    questions: Sequence[Question],
    start: int,
    limits: Sequence[int | None],
    slots: Sequence[Slot],
    chosen: set[tuple[int, int | None]],
) -> list[list[Any]]:
    """By prompt: itself, its id, its texts, and for each cell which text and where its limit is.

    A place in a text is in UTF-16 units, as the script counts; 0 where no word is past the limit.
    """
    rows = []
    for place, question in enumerate(questions, start):
        texts: dict[str, int] = {}
        at: list[int] = []
        cuts: list[int] = []
        for number, answer in enumerate(_cells([question], limits, slots)):
            cut = 0
            if answer is None:
                at.append(ABSENT)
            elif (place, limits[number // len(slots)]) not in chosen:
                at.append(LEFT_OUT)
            else:
                within = clean(answer.within)
                at.append(texts.setdefault(within + clean(answer.beyond), len(texts)))
                cut = _utf16(within) if answer.beyond else 0
            cuts.append(cut)
        rows.append([clean(question.prompt), clean(question.prompt_id), list(texts), at, cuts])
    return rows


def _cells(
    questions: Sequence[Question], limits: Sequence[int | None], slots: Sequence[Slot]
) -> Iterator[Answer | None]:
    """Every answer by prompt, limit and slot; None where there is none."""
    for question in questions:
        for limit in limits:
            asked = question.asked.get(limit)
            found = {
                slot: answer
                for name, answers in (asked.answers if asked else {}).items()
                for slot, answer in _slotted(name, answers)
            }
            for slot in slots:
                yield found.get(slot)


def _in_order(questions: Sequence[Question]) -> list[tuple[int, int | None]]:
    """Prompt and limit of every row of answers, those worth most to a reader first."""
    units = []
    for place, question in enumerate(questions):
        for limit, asked in question.asked.items():
            broken = {
                2 * sum(map(_breaks, answers)) > len(answers)
                for name, answers in asked.answers.items()
                if limit is not None and name not in (BASE, HUMAN)
            }
            key = hash_order("page", f"{question.prompt_id} {limit}")
            units.append((len(broken) < 2, key, (place, limit)))
    return [unit for *_, unit in sorted(units, key=lambda each: each[:2])]


def _breaks(answer: Answer) -> bool:
    return answer.excess > 0 or answer.is_empty


def _asked(questions: Sequence[Question], unit: tuple[int, int | None]) -> Asked:
    place, limit = unit
    return questions[place].asked[limit]


def _all_asked(questions: Sequence[Question]) -> Iterator[Asked]:
    return (asked for question in questions for asked in question.asked.values())


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _deflated(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(text) + packer.flush()).decode("ascii")
