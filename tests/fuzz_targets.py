"""What is fed to each part that meets foreign bytes, and what it promises of them.

    python -m tests.fuzz_targets TARGET [LIBFUZZER'S OPTIONS]

Needs atheris, which follows the branches of our Python as libFuzzer follows those of C.
"""

import contextlib
import csv
import io
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import atheris

with atheris.instrument_imports(
    include=["dataset_builder", "evals", "finetune", "reports", "tomllib"]
):
    import pyarrow as pa

    from dataset_builder.columns import table_of_met
    from dataset_builder.compiled import is_at_hand, library
    from dataset_builder.errors import InputError
    from dataset_builder.export import read_export
    from dataset_builder.flags import has_control_tokens, has_personal_data
    from dataset_builder.folds import fold_codes
    from dataset_builder.lines import Chunk, Place, as_block, chunks_of, lines_in
    from dataset_builder.pages import page_environment
    from dataset_builder.printable import printable
    from dataset_builder.recipe import load_recipe
    from dataset_builder.recipe_file import recipe_files
    from dataset_builder.rows import Met, Refusal, read_row
    from dataset_builder.scanning import scanned
    from dataset_builder.settings import as_stored
    from dataset_builder.shards import _of_chunk
    from dataset_builder.shingles import shingles_of
    from dataset_builder.shingles import words as folded_words
    from dataset_builder.split import normalised
    from dataset_builder.words import (
        count_words,
        first_words,
        word_counts,
        words_of,
    )
    from evals.suite import load_suite
    from evals.units import count_paragraphs, count_sentences
    from finetune.preset import load_preset
    from reports.answers import split_at_limit
    from reports.export import FORMULA, csv_text, guarded
    from reports.markdown import code, plain
    from reports.study import load_study

from tests.usual_lines import ROWS, USUAL

assert library() is not None
assert is_at_hand()  # or nothing compiled is looked at

# On a file system in memory, where there is one.
PLACE = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))

# What neither a terminal nor a page may be given.
STEERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


# Making tables takes a hundred times as long as looking at one line or text. An attempt's
# executions are a multiple of it, so that each is looked at.
TOGETHER = 125

Item = TypeVar("Item")


def together(check: Callable[[list[Item]], None]) -> Callable[[Item], None]:
    """Gives `check` what it is given, many at once. Where that breaks, all of it is written down,
    as libFuzzer keeps the last input only, and what breaks it alone is named.
    """
    held: list[Item] = []

    def add(item: Item) -> None:
        held.append(item)
        if len(held) == TOGETHER:
            items = held[:]
            held.clear()
            try:
                check(items)
            except Exception:  # whatever it is goes on below; what it came of is kept first
                (Path(tempfile.gettempdir()) / "together.txt").write_text(repr(items))
                for each in items:
                    _alone(check, each)
                raise

    return add


def _alone(check: Callable[[list[Item]], None], item: Item) -> None:
    try:
        check([item])
    except Exception as error:  # of any kind: libFuzzer takes each for what it looks for
        raise AssertionError(f"broken by {repr(item)[:4000]}") from error


def reader(content: bytes) -> None:
    """Lines: each is messages or refused, and in columns as on its own."""
    for chunk in chunks_of(io.BytesIO(content)):
        _read_slowly(chunk)
    _in_columns_as_slowly(content)


def compiled(content: bytes) -> None:
    """Lines that exporters write, each with a little in it that none writes: compiled code reads
    them as the slow reader does. What libFuzzer makes of lines it leaves nearly always.
    """
    chance = random.Random(content)
    if chance.random() < 0.5:
        row = {**chance.choice(ROWS), "text": content.decode("utf-8", "replace")}
        _compiled_as_slowly(json.dumps(row, ensure_ascii=chance.random() < 0.5).encode())
        return
    line = chance.choice(USUAL)
    at = chance.randrange(len(line))
    some = content[: chance.randint(1, 4)].replace(b"\n", b"")
    _compiled_as_slowly(line[:at] + some + line[at + chance.choice((0, len(some))) :])


def _read_slowly(chunk: Chunk) -> list[Met | Refusal]:
    found: list[Met | Refusal] = []
    for lines in lines_in(chunk):
        for number, offset, line in zip(lines.numbers, lines.offsets, lines.contents, strict=True):
            if line is not None and line.strip():
                each = read_row(line, Place(number + 1, offset))[1]
                assert each or b'"' in line  # only a thread or a tree may hold nothing
                found += each
    return found


def _is_read_as_slowly(contents: list[bytes]) -> None:
    for chunk in chunks_of(io.BytesIO(b"\n".join(contents))):
        found = _read_slowly(chunk)
        [part] = _of_chunk(chunk)
        assert part.refusals == [each for each in found if isinstance(each, Refusal)]
        assert part.met.equals(table_of_met([each for each in found if isinstance(each, Met)]))


_in_columns_as_slowly = together(_is_read_as_slowly)


@together
def _compiled_as_slowly(lines: list[bytes]) -> None:
    # It gives a block up of which it would leave more lines than these.
    for at in range(0, len(lines), 60):
        some = lines[at : at + 60]
        block = as_block(Chunk(0, b"\n".join(some), 0))
        assert block is not None
        assert scanned(block) is not None
        _is_read_as_slowly(some)


def files(content: bytes) -> None:
    """A file of any kind: what it holds is counted, or it is refused."""
    path = PLACE / "export"
    path.write_bytes(content)
    try:
        export = read_export(path)
    except InputError:
        return
    assert export.rows
    assert export.met.num_rows + len(export.refusals)


def recipe(content: bytes) -> None:
    """A recipe: it is one, and the same when it is written again, or it is refused by one line."""
    path = PLACE / "fuzzed.toml"
    path.write_bytes(content)
    try:
        loaded = load_recipe(str(path))
    except InputError:
        return
    stored = as_stored(loaded)
    for name, text in recipe_files("fuzzed", stored).items():
        (PLACE / name).write_text(text, encoding="utf-8")
    assert as_stored(load_recipe(str(path))) == stored


def settings(content: bytes) -> None:
    """A file of settings: it is a preset, a suite or a study, or refused by one line as each."""
    path = PLACE / "fuzzed.toml"
    path.write_bytes(content)
    for load in (load_preset, load_suite, load_study):
        with contextlib.suppress(InputError):
            load(str(path))


def words(content: bytes) -> None:
    """A text: it is counted, cut, folded and looked through in one way, compiled or not."""
    text = content.decode("utf-8", "ignore")
    n, limit = count_words(text), len(content) % 7 + 1
    assert len(words_of(text)) == n
    first = first_words(text, limit)
    assert text.startswith(first)
    assert count_words(first) == min(n, limit)
    answer = split_at_limit(text, limit)
    assert answer.within + answer.beyond == text
    assert answer.excess == max(0, n - limit)
    # Not at most as many: a word may reach over the end of a sentence, as in "ab.\u068aM".
    assert bool(count_sentences(text)) == bool(n)
    assert count_paragraphs(text) >= 0
    assert has_personal_data(text) in (True, False)
    assert has_control_tokens(text) in (True, False)
    for each in (text, text[: len(text) // 2]):
        _by_tables(each)


@together
def _by_tables(texts: list[str]) -> None:
    counts = [count_words(text) for text in texts]
    assert word_counts(pa.array(texts)).tolist() == counts
    folded = [len(folded_words(text)) for text in texts]
    assert shingles_of(pa.array(texts), 3).words.tolist() == folded
    codes = fold_codes(pa.array([*texts, *map(normalised, texts)])).tolist()
    assert codes[: len(texts)] == codes[len(texts) :]


def escapers(content: bytes) -> None:
    """A text on its way to a terminal, a page, a spreadsheet or Markdown: it is text there."""
    text = content.decode("utf-8", "surrogateescape")
    shown = printable(text)
    assert not STEERS.search(shown)
    assert printable(shown) == shown
    for written in (plain(text), code(text)):
        assert "\n" not in written
        assert not STEERS.search(written)
    assert not re.search(r"(?<!\\)<", re.sub(r"`[^`]*`", "", plain(text)))
    _on_pages_and_sheets(text)


@together
def _on_pages_and_sheets(texts: list[str]) -> None:
    page = _Read()
    page.feed(_PAGE.render(texts=texts))
    page.close()
    visible = [printable(text.replace("\r\n", "\n")) for text in texts]
    assert page.found == [["p", [("title", each)], each] for each in visible]
    texts = [text for text in texts if "\0" not in text]  # which csv writes and does not read
    cells = [guarded(text) for text in texts]
    assert not any(cell.startswith(FORMULA) for cell in cells)
    table = csv_text(["x", "y"], [{"x": text, "y": "y"} for text in texts])
    read = csv.reader(io.StringIO(table, newline=""), strict=True)
    assert list(read) == [["x", "y"], *([cell, "y"] for cell in cells)]


_PAGE = page_environment(Path("/")).from_string(
    '{% for x in texts %}<p title="{{ x }}">{{ x }}</p>{% endfor %}'
)


class _Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[list] = []  # tag, attributes, text

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append([tag, attrs, ""])

    def handle_data(self, data: str) -> None:
        self.found[-1][2] += data


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (reader, compiled, files, recipe, settings, words, escapers)
}


if __name__ == "__main__":
    name, *options = sys.argv[1:]
    atheris.Setup([name, *options], TARGETS[name])
    atheris.Fuzz()
