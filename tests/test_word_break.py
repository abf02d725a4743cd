"""The word counter against Unicode's own test of word boundaries (UAX #29), every line of it.

The file `WordBreakTest.txt` is Unicode's and is not copied here. Debian's package `unicode-data`
installs it as `/usr/share/unicode/auxiliary/WordBreakTest.txt`; for a copy anywhere else, say where
in the variable WORD_BREAK_TEST. Without it the test is skipped, and a few of its lines that stand
here are tested all the same.
"""

import os
from pathlib import Path

import pytest
from unicode_segmentation_rs import split_word_bounds

from dataset_builder.words import count_words, words_of

INSTALLED = Path("/usr/share/unicode/auxiliary/WordBreakTest.txt")
BREAK, JOINED = "\N{DIVISION SIGN}", "\N{MULTIPLICATION SIGN}"

# As the file has them: a division sign where a boundary is, a multiplication sign where none is.
LINES = """
÷ 0041 × 0308 × 200D × 0041 ÷
÷ 0061 × 0027 × 0062 ÷ 002D ÷ 0063 ÷
÷ 0031 × 002E × 0035 ÷ 0020 ÷ 0061 ÷
÷ 05D0 × 0022 × 05D0 ÷
÷ 4E00 ÷ 4E01 ÷
÷ 30A2 × 30A4 ÷ 3042 ÷
÷ 000D × 000A ÷ 0061 ÷
÷ 1F1E6 × 1F1E7 ÷ 1F1E8 ÷
""".strip()


def read_line(line: str) -> list[str]:
    """The segments that a line of the file says."""
    plain = line.partition("#")[0].replace(JOINED, " ")
    parts = [part.split() for part in plain.split(BREAK)]
    return ["".join(chr(int(code, 16)) for code in part) for part in parts if part]


def is_word(segment: str) -> bool:
    return any(character.isalnum() for character in segment)


# After a joiner the library breaks before a pictograph that is no emoji by itself (U+2701), where
# rule WB3c does not. No count depends on it: such a sign is no letter.
PICTOGRAPHS = {"\u2701\u200d\u2701", "a\u200d\u2701"}


def check(lines: list[str]) -> int:
    read = 0
    for line in lines:
        segments = read_line(line)
        if not segments:
            continue
        read += 1
        text = "".join(segments)
        # The words are those segments that hold a letter or a digit.
        assert count_words(text) == sum(map(is_word, segments)), line
        assert (list(split_word_bounds(text)) == segments) == (text not in PICTOGRAPHS), line
        if text not in PICTOGRAPHS:
            assert words_of(text) == [segment for segment in segments if is_word(segment)], line
    return read


def test_words_are_those_of_unicodes_own_examples():
    assert check(LINES.splitlines()) == 8


def test_the_whole_file_of_word_boundaries_is_passed():
    path = Path(os.environ.get("WORD_BREAK_TEST") or INSTALLED)
    if not path.is_file():
        pytest.skip("needs WordBreakTest.txt: Debian's `unicode-data`, or WORD_BREAK_TEST=FILE")
    assert check(path.read_text(encoding="utf-8").splitlines()) > 1_000
