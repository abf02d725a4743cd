"""Compiled code takes what it takes as the slow reader would, and leaves everything else to it."""

import _ctypes
import json
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from builders import lines, nested, prompt, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real import real
from test_columns import assert_same, contents, leave_all
from usual_lines import USUAL

from dataset_builder import compiled, shards, words
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.lines import block_of
from dataset_builder.messages import NAME
from dataset_builder.scanning import scanned
from dataset_builder.shards import Part, joined, read_shard, shards_of
from tests.campaigns import fuzz_scan

relaxed = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def library():
    if compiled.library() is None:
        pytest.skip("no C compiler")


def ways(path: Path, size: int = 2**23) -> tuple[Part, Part]:
    """The file at `path` by compiled code in shards of `size` bytes, and with every line on its
    own.
    """
    fast = joined(map(read_shard, shards_of(path, size)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "is_compiled", lambda path: False)
        patch.setattr(shards, "take_plain", leave_all)
        return fast, joined(map(read_shard, shards_of(path)))


def found(path: Path):
    with path.open("rb") as file:
        block = block_of(file, 0, None)
        assert block is not None
        return scanned(block)


def edited(row: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, size, new in edits:
        at = place % len(row) if row else 0
        row = row[:at] + new + row[at + size :]
    return row


edits = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.integers(0, 3),
        st.sampled_from(
            [*(bytes([n]) for n in b'"\\,:{}[]01-+.eEu\t\r\0 \x1f\x7f\xc3\xa9\xed\xf5')]
        )
        | st.binary(max_size=3)
        | st.sampled_from([b"null", b"true", b"1e5", b"\\ud83d", b"\\u00e9", b'"text": ""', b"\n"]),
    ),
    max_size=3,
)


@relaxed
@given(st.lists(st.tuples(st.sampled_from(USUAL), edits), min_size=1, max_size=6))
def test_lines_with_any_fault_are_read_as_each_on_its_own(tmp_path, parts):
    path = tmp_path / "x.jsonl"
    # Behind a blank line: at the start of a file, some edits make it gzip.
    path.write_bytes(b"\n" + b"\n".join(edited(row, changes) for row, changes in parts))
    assert_same(*ways(path))


@relaxed
@given(st.lists(contents, max_size=4), st.integers(200, 2000))
def test_files_of_every_kind_are_read_as_line_by_line(tmp_path, parts, size):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(parts))
    assert_same(*ways(path, size))


def test_usual_lines_are_all_taken(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(USUAL) + b"\n\n \t\r\n")
    taken = found(path)
    assert (len(taken.forms), taken.left, taken.lines) == (len(USUAL), [], len(USUAL) + 2)
    for name in ("laion_en_100.trees.jsonl", "oasst2_animals.trees.jsonl"):
        assert found(real(f"oasst/{name}")).left == []


@pytest.mark.parametrize("name", ["laion_en_100.trees.jsonl", "oasst2_animals.trees.jsonl"])
def test_real_files_are_read_as_line_by_line(name):
    assert_same(*ways(real(f"oasst/{name}"), 100_001))


NUMBERS = "0 1 0.0 0.1 0.3333333333333333 0.16666666666666666 0.30000000000000004 9007199254740993"
NUMBERS += " 0.9007199254740993 1e-05 7.5E-3 2.5e+10 123456789012345.678 0.000000000000000000001"
NUMBERS += " 01 1. .5 -1 -0.0 1e999 1e 0x1 NaN Infinity 1234567890123456789012345 0.1e 1.5e1.5"


def test_means_are_rounded_as_by_the_slow_reader(tmp_path):
    path = tmp_path / "x.jsonl"
    row = '{"message_id": "%s", "text": "a", "role": "prompter", "labels": %s}'
    label = '{"spam": {"count": 1, "value": %s}}'
    rows = [row % (n, label % value) for n, value in enumerate(NUMBERS.split())]
    path.write_text("\n".join(rows))
    fast, slow = ways(path)
    assert_same(fast, slow)
    of = dict(zip(fast.met["message_id"].to_pylist(), fast.met["labels"].to_pylist(), strict=True))
    for n, value in enumerate(NUMBERS.split()[:14]):
        assert of[str(n)] == [{"name": "spam", "value": float(value), "count": 1}]


@pytest.mark.parametrize(
    "text",
    [r"\n\t\r\b\f\/\\\"", r"\u00e9\u4e2d\u0041", r"\ud83d\ude00\ud83d\ude00", r"a\u2028" * 40],
)
def test_escapes_stand_for_what_they_say(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"message_id": "a", "text": "{text}", "role": "prompter"}}')
    assert found(path).left == []
    assert ways(path)[0].met["text"].to_pylist() == [json.loads(f'"{text}"')]


@pytest.mark.parametrize(
    "text",
    [r"\ud83d", r"\ude00", r"\ud83d\n", r"\u0000", r"\x", r"\u12g4", "\x01", "\\"],
)
def test_what_is_no_text_is_left(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"message_id": "a", "text": "{text}", "role": "prompter"}}')
    assert [line for line, _, _ in found(path).left] == [0]
    assert_same(*ways(path))


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]
)
def test_what_is_no_utf8_is_left(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"message_id": "a", "text": "%s", "role": "prompter"}' % text)
    assert [line for line, _, _ in found(path).left] == [0]
    assert [refusal.reason for refusal in ways(path)[0].refusals] == ["utf8"]


def test_replies_below_replies_are_bounded(tmp_path):
    deep = [prompt("m0")]
    for n in range(1, 90):
        deep.append((reply if n % 2 else prompt)(f"m{n}", f"m{n - 1}"))
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(nested(deep[:60])) + lines(nested(deep)))
    assert [line for line, _, _ in found(path).left] == [1]
    assert_same(*ways(path))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text("ab1_'.:,; é\n-", max_size=12) | st.text(max_size=8), max_size=6))
def test_words_are_counted_as_by_the_library(texts):
    column = pa.array(texts, pa.string())
    assert words.word_counts(column).tolist() == [words.count_words(text) for text in texts]
    assert words.word_counts(column[1:]).tolist() == [words.count_words(text) for text in texts[1:]]


@pytest.fixture
def anew(monkeypatch):
    """Nothing compiled yet: a function that says where it may go and what CC is, and compiles."""

    def compile_in(*folders: Path, cc: object = None):
        monkeypatch.setattr(compiled, "_folders", lambda: list(folders))
        if cc is not None:
            monkeypatch.setenv("CC", str(cc))
        compiled.library.cache_clear()
        return compiled.library()

    yield compile_in
    monkeypatch.undo()
    compiled.library.cache_clear()


def script(path: Path, *steps: str) -> Path:
    """A compiler that does so; `$out` is what it shall write."""
    out = 'for each; do [ "$before" = -o ] && out=$each; before=$each; done'
    path.write_text("\n".join(["#!/bin/sh", out, *steps]))
    path.chmod(0o700)
    return path


def test_without_a_compiler_the_tables_are_the_same(tmp_path, monkeypatch, anew):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(USUAL))
    fast = read_export(path)
    assert anew(tmp_path / "empty", cc=tmp_path / "no compiler") is None
    monkeypatch.setattr(shards, "COMPILED_BYTES", 0)
    slow = read_export(path)
    assert fast.met.equals(slow.met)
    assert not list((tmp_path / "empty").glob("*"))


def test_what_was_compiled_is_kept(tmp_path, anew):
    assert anew(tmp_path) is not None
    assert compiled.is_at_hand()
    (kept,) = tmp_path.iterdir()
    assert anew(tmp_path, cc=tmp_path / "no compiler") is not None
    assert [kept] == list(tmp_path.iterdir())


def test_what_cannot_be_loaded_is_compiled_again(tmp_path, anew):
    (tmp_path / compiled._name()).write_bytes(b"cut short")
    assert anew(tmp_path) is not None
    assert anew(tmp_path, cc=tmp_path / "no compiler") is not None


@pytest.mark.parametrize(
    "steps",
    [["exit 1"], ["exit 0"], ["rm $out"], ["echo garbage > $out"], [f"cp {_ctypes.__file__} $out"]],
)
def test_a_compiler_that_fails_costs_nothing_but_speed(tmp_path, anew, steps):
    (tmp_path / "cc").mkdir()
    cc = script(tmp_path / "cc" / "cc", *steps)
    assert anew(tmp_path / "one", tmp_path / "two", cc=cc) is None
    assert anew(tmp_path / "one", cc='cc "') is None
    assert not list((tmp_path / "one").glob("*.tmp"))


def test_a_compiler_that_hangs_is_stopped_with_all_that_it_started(tmp_path, monkeypatch, anew):
    monkeypatch.setattr(compiled, "_SECONDS", 2)
    pid = tmp_path / "pid"
    cc = script(tmp_path / "cc", f"sleep 60 & echo $! > {pid}", "wait")
    began = time.monotonic()
    assert anew(tmp_path / "one", tmp_path / "two", cc=cc) is None
    assert time.monotonic() - began < 50
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    # A signal that was sent is not yet one that was met.
    while time.monotonic() - began < 55 and is_running(status):
        time.sleep(0.05)
    assert not is_running(status)


def is_running(status: Path) -> bool:
    """Whether the process whose file in /proc this is does anything yet."""
    try:
        return status.read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_others_may_write_is_never_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = tmp_path / "treetune"
    assert ours in compiled._folders()
    for mode, is_private in ((0o700, True), (0o777, False), (0o770, False), (0o755, True)):
        ours.mkdir(exist_ok=True)
        ours.chmod(mode)
        assert (ours in compiled._folders()) == is_private
    owner = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert ours not in compiled._folders()


def test_what_another_made_meanwhile_is_not_compiled_into(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = tmp_path / "treetune"
    assert ours in compiled._folders()
    ours.mkdir()
    ours.chmod(0o777)
    with pytest.raises(PermissionError):
        compiled._compiled(ours)
    assert not list(ours.iterdir())


def test_a_user_without_a_home_has_no_caches(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert compiled._folders() == [compiled.SOURCE.parent / "__pycache__"]


NAMES = ["message_id", "parent_id", "message_tree_id", "tree_state"]


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("sign", ["x", "é", "\U0001f600"])
def test_ids_are_bounded_by_their_characters(tmp_path, key, sign):
    path = tmp_path / "x.jsonl"
    rows = [
        {"message_id": str(n), "role": "prompter", "text": "a", key: sign * (NAME + n)}
        for n in range(2)
    ]
    path.write_bytes(lines(rows))
    fast, slow = ways(path)
    assert_same(fast, slow)
    assert [(each.at.line, each.reason) for each in fast.refusals] == [(2, "too_long")]


@pytest.mark.parametrize("reader", ["compiled", "batch", "rows"])
@pytest.mark.parametrize("key", ["message_id", "message_tree_id", "tree_state", "named"])
def test_what_a_line_says_once_is_not_held_once_for_each_reply(tmp_path, monkeypatch, key, reader):
    """4,096 replies that take over a MiB each once came to 4 GiB, and to 0 in 32 bits."""
    replies = [{"message_id": str(n), "role": "assistant", "text": "b"} for n in range(2**12)]
    row = {"message_id": "r", "role": "prompter", "text": "a", "replies": replies}
    row["message_id" if key == "named" else key] = "x" * 2**20
    if key == "named":
        row["replies"] = [each | {"parent_id": "another"} for each in replies]
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([row]))
    if reader != "compiled":
        monkeypatch.setattr(shards, "is_compiled", lambda path: False)
    if reader == "rows":
        monkeypatch.setattr(shards, "take_plain", leave_all)
    part = joined(map(read_shard, shards_of(path)))
    assert part.met.num_rows == 0
    reasons = Counter(each.reason for each in part.refusals)
    assert reasons == ({"too_long": 1, "parent": 2**12} if key == "named" else {"too_long": 4097})
    assert sum(len(each.detail) for each in part.refusals) < 2**22


def test_compiled_code_keeps_to_its_room_under_the_sanitizers(tmp_path):
    """The campaign `fuzz_scan`, for a second."""
    (tmp_path / "shared").mkdir()
    try:
        with fuzz_scan.prepare(tmp_path / "shared", runs=3000) as attempt:
            assert attempt(0, tmp_path).tried == 3000
    except InputError as error:
        pytest.skip(f"{error}; {error.hint}")
