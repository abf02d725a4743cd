"""Whether training prompts hold what a prompt file asks: the same prompt, or most of its 8-grams.

Two kinds are told apart. Exact: equal, letters and digits alone. Overlap: at least 70 % of the file
prompt's runs of eight words stand in the text, as PaLM measured it (Chowdhery et al. 2022, arXiv
2204.02311, section 8). A prompt of fewer than eight words has no such run, so it is met exactly or
not at all.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset_builder.errors import InputError
from dataset_builder.prompt_files import PromptLines, read_prompt_lines
from dataset_builder.shingles import shingles_of, words
from dataset_builder.split import letters_and_digits

GRAM_WORDS = 8
OVERLAP = 0.7

_LOW = np.uint64(2**16 - 1)

# The kinds, the stronger first.
EXACT, NEARLY = "exact", "overlap"


class Against(NamedTuple):
    """The prompt files that rows are held against, and what becomes of a row that meets one."""

    files: tuple[PromptLines, ...]
    drop: bool = True  # else only reported


class Meeting(NamedTuple):
    """A text and a file's prompt that it holds."""

    text: int  # its place
    file: int  # its place
    line: int  # of the file, from 1
    kind: str


def read_against(paths: Sequence[Path], drop: bool = True) -> Against | None:
    """The prompt files at `paths`; None where there are none. Raises InputError as
    `read_prompt_lines` does, and where two carry the same name.
    """
    # By name, so that the order in which they were named makes no other variant.
    files = tuple(
        sorted((read_prompt_lines(path, turns=True) for path in paths), key=lambda file: file.name)
    )
    for name, times in Counter(file.name for file in files).items():
        if times > 1:
            raise InputError(
                f"two prompt files are called `{name}`",
                "rename one: counts are told by file name",
            )
    return Against(files, drop) if files else None


def meetings(texts: Sequence[str], files: Sequence[PromptLines]) -> list[Meeting]:
    """Every text of `texts` with each file's prompt that it holds, exactly or by overlap; ordered
    by text, file and line.
    """
    asked = [(at, line, text) for at, file in enumerate(files) for line, text in file.prompts]
    found = {
        (text, asked[prompt][0], asked[prompt][1]): NEARLY
        for text, prompt in _overlapping(texts, [text for _, _, text in asked])
    }
    exact: dict[str, list[tuple[int, int]]] = {}
    for at, line, text in asked:
        exact.setdefault(letters_and_digits(text), []).append((at, line))
    for place, text in enumerate(texts):
        for at, line in exact.get(letters_and_digits(text), ()):
            found[place, at, line] = EXACT
    return [Meeting(*key, kind) for key, kind in sorted(found.items())]


def _overlapping(texts: Sequence[str], prompts: Sequence[str]) -> list[tuple[int, int]]:
    """(place of the text, place of the prompt) where enough of the prompt's 8-grams stand in the
    text.
    """
    long = [place for place, text in enumerate(prompts) if len(words(text)) >= GRAM_WORDS]
    if not long:
        return []
    wanted = shingles_of([prompts[place] for place in long], GRAM_WORDS)
    prompts_with: dict[int, set[int]] = {}
    sizes: list[int] = []
    for number, start in enumerate(wanted.offsets[:-1]):
        grams = set(wanted.hashes[start : wanted.offsets[number + 1]].tolist())
        sizes.append(len(grams))
        for gram in grams:
            prompts_with.setdefault(gram, set()).add(number)
    held = shingles_of(texts, GRAM_WORDS)
    # Sixteen bits rule nearly all out before any sorting.
    low = np.zeros(2**16, bool)
    low[wanted.hashes & _LOW] = True
    likely = np.flatnonzero(low[held.hashes & _LOW])
    hits = likely[np.isin(held.hashes[likely], wanted.hashes)]
    of_texts = np.searchsorted(held.offsets, hits, side="right") - 1
    # A gram counts once however often the text repeats it.
    pairs = set(zip(of_texts.tolist(), held.hashes[hits].tolist(), strict=True))
    shared = Counter(
        (text, number) for text, gram in pairs for number in prompts_with.get(gram, ())
    )
    return sorted(
        (text, long[number]) for (text, number), n in shared.items() if n >= OVERLAP * sizes[number]
    )
