"""Lengths that a prompt states itself, as rows of IFEval's file say them beside it (Zhou et al.
2023, arXiv 2311.07911), or a plain `limit` or `least` of words.

Of IFEval's length family are read `number_words` and `number_sentences`, upper limits (`less than`;
"less than 151" is at most 150) and lower ones (`at least`) apart, and `number_paragraphs`, which
asks for exactly so many. `nth_paragraph_first_word` is about a word, and is not read. Words and
sentences are counted by Unicode's rules, as everywhere here; docs/design.md says where IFEval's
counts differ. `just eval RUN --harness ifeval` scores by IFEval's own.
"""

from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from dataset_builder.prompt_files import file_lines

NUMBER_WORDS = "length_constraints:number_words"
NUMBER_SENTENCES = "length_constraints:number_sentences"
NUMBER_PARAGRAPHS = "length_constraints:number_paragraphs"
UNSTATED = "states no length"

# A number, and the wording that says of what, and whether it is an upper limit.
Stated = tuple[int, str]


def stated_limits(path: Path) -> dict[int, list[Stated]]:
    """By the line's number from 1: the lengths that its prompt states."""
    found = {}
    with path.open("rb") as file:
        for number, line in enumerate(file_lines(file), start=1):
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue
            if stated := limits_of(row):
                found[number] = stated
    return found


def limits_of(row: Any) -> list[Stated]:
    """What the row says that its prompt states; empty where that is no length.

    >>> limits_of({"instruction_id_list": [NUMBER_WORDS],
    ...            "kwargs": [{"relation": "less than", "num_words": 151}]})
    [(150, 'own')]
    >>> limits_of({"instruction_id_list": [NUMBER_PARAGRAPHS], "kwargs": [{"num_paragraphs": 3}]})
    [(3, 'own_paragraphs')]
    >>> limits_of({"prompt": "Why? In at least 9 words.", "least": 9})
    [(9, 'own_at_least')]
    """
    if not isinstance(row, dict):
        return []
    plain = [(row.get("limit"), "own"), (row.get("least"), "own_at_least")]
    stated = [(n, wording) for n, wording in plain if _is_number(n)]
    names, settings = row.get("instruction_id_list"), row.get("kwargs")
    if isinstance(names, list) and isinstance(settings, list):
        # strict=False: a row with too few settings states what those say.
        for name, setting in zip(names, settings, strict=False):
            if isinstance(setting, dict):
                stated += _of_ifeval(name, setting)
    return list(dict.fromkeys(stated))


def _of_ifeval(name: Any, setting: dict[str, Any]) -> list[Stated]:
    key, wording = _KEYS.get(name, ("", "")) if isinstance(name, str) else ("", "")
    n, relation = setting.get(key), setting.get("relation")
    if isinstance(n, float) and n.is_integer():  # as a table of the Hub has it
        n = int(n)
    if not _is_number(n):
        return []
    if name == NUMBER_PARAGRAPHS:
        return [(n, wording)]
    if relation == "less than" and n > 1:
        return [(n - 1, wording)]
    return [(n, f"{wording}_at_least")] if relation == "at least" else []


_KEYS = {
    NUMBER_WORDS: ("num_words", "own"),
    NUMBER_SENTENCES: ("num_sentences", "own_sentences"),
    NUMBER_PARAGRAPHS: ("num_paragraphs", "own_paragraphs"),
}


def _is_number(n: Any) -> TypeGuard[int]:
    return type(n) is int and 0 < n < 2**31
