"""Numbers of words that a prompt states itself, as rows of IFEval's file say them beside it (Zhou
et al. 2023, arXiv 2311.07911), or a plain `limit` or `least`.

Of IFEval's length family the words are read, upper and lower limits apart: `number_words` with the
relation `less than` or `at least`. "Less than 151" is at most 150. Limits of sentences and
paragraphs are none of words, and lm-evaluation-harness has their checkers.
"""

from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from dataset_builder.prompt_files import file_lines

NUMBER_WORDS = "length_constraints:number_words"
UNSTATED = "states no number of words"

# A limit in words, and the wording that says whether it is an upper one.
Stated = tuple[int, str]


def stated_limits(path: Path) -> dict[int, list[Stated]]:
    """By the line's number from 1: the numbers of words that its prompt states."""
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
    """What the row says that its prompt states; empty where that is no number of words.

    >>> limits_of({"instruction_id_list": [NUMBER_WORDS],
    ...            "kwargs": [{"relation": "less than", "num_words": 151}]})
    [(150, 'own')]
    >>> limits_of({"prompt": "Why? In at least 9 words.", "least": 9})
    [(9, 'own_at_least')]
    """
    if not isinstance(row, dict):
        return []
    plain = [(row.get("limit"), "own"), (row.get("least"), "own_at_least")]
    stated = [(n, wording) for n, wording in plain if _is_words(n)]
    names, settings = row.get("instruction_id_list"), row.get("kwargs")
    if isinstance(names, list) and isinstance(settings, list):
        # strict=False: a row with too few settings states what those say.
        for name, setting in zip(names, settings, strict=False):
            if name == NUMBER_WORDS and isinstance(setting, dict):
                stated += _of_ifeval(setting)
    return list(dict.fromkeys(stated))


def _of_ifeval(setting: dict[str, Any]) -> list[Stated]:
    n, relation = setting.get("num_words"), setting.get("relation")
    if isinstance(n, float) and n.is_integer():  # as a table of the Hub has it
        n = int(n)
    if relation == "less than" and _is_words(n) and n > 1:
        return [(n - 1, "own")]
    return [(n, "own_at_least")] if relation == "at least" and _is_words(n) else []


def _is_words(n: Any) -> TypeGuard[int]:
    return type(n) is int and 0 < n < 2**31
