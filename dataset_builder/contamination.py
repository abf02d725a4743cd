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
import pyarrow as pa

from dataset_builder.errors import InputError
from dataset_builder.folds import fold_codes
from dataset_builder.gather import Texts, chunks_of
from dataset_builder.prompt_files import PromptLines, read_prompt_lines
from dataset_builder.shingles import shingles_of
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


def meetings(texts: Texts, files: Sequence[PromptLines]) -> list[Meeting]:
    """Every text of `texts` (none of them null) with each file's prompt that it holds, exactly or
    by overlap; ordered by text, file and line.
    """
    asked = [(at, line, text) for at, file in enumerate(files) for line, text in file.prompts]
    found = {
        (text, asked[prompt][0], asked[prompt][1]): NEARLY
        for text, prompt in _overlapping(texts, [text for _, _, text in asked])
    }
    prompts = pa.array([text for *_, text in asked], pa.string())
    codes = fold_codes(pa.chunked_array([*chunks_of(texts), prompts], pa.string()))
    exact: dict[int, list[tuple[int, int]]] = {}
    for code, (at, line, text) in zip(codes[len(texts) :].tolist(), asked, strict=True):
        if letters_and_digits(text):
            exact.setdefault(code, []).append((at, line))
    met = np.flatnonzero(np.isin(codes[: len(texts)], list(exact)))
    for place, code in zip(met.tolist(), codes[met].tolist(), strict=True):
        for at, line in exact[code]:
            found[place, at, line] = EXACT
    return [Meeting(*key, kind) for key, kind in sorted(found.items())]


def _overlapping(texts: Texts, prompts: Sequence[str]) -> list[tuple[int, int]]:
    """(place of the text, place of the prompt) where enough of the prompt's 8-grams stand in the
    text.
    """
    asked = shingles_of(pa.array(prompts, pa.string()), GRAM_WORDS)
    long = np.flatnonzero(asked.words >= GRAM_WORDS).tolist()
    if not long:
        return []
    prompts_with: dict[int, set[int]] = {}
    sizes: list[int] = []
    for number, place in enumerate(long):
        grams = asked.of(place)
        sizes.append(len(grams))
        for gram in grams:
            prompts_with.setdefault(gram, set()).add(number)
    held = shingles_of(texts, GRAM_WORDS)
    wanted = np.array(list(prompts_with), np.uint64)
    # Sixteen bits rule nearly all out before any sorting.
    low = np.zeros(2**16, bool)
    low[wanted & _LOW] = True
    likely = np.flatnonzero(low[held.hashes & _LOW])
    hits = likely[np.isin(held.hashes[likely], wanted)]
    of_texts = np.searchsorted(held.offsets, hits, side="right") - 1
    # A gram counts once however often the text repeats it.
    pairs = set(zip(of_texts.tolist(), held.hashes[hits].tolist(), strict=True))
    shared = Counter(
        (text, number) for text, gram in pairs for number in prompts_with.get(gram, ())
    )
    return sorted(
        (text, long[number]) for (text, number), n in shared.items() if n >= OVERLAP * sizes[number]
    )
