"""A directory exists whole or not at all; tables are what they are declared to be; a digest is of
rows.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder import artifacts
from dataset_builder.errors import InputError
from dataset_builder.manifest import Pointer
from dataset_builder.tables import EXAMPLES, LEDGER, read_table, table_of, write_table
from evals.generate import Partial
from evals.tables import SCORES
from finetune import foreign
from tests.tiny import example

ROOT = Path(__file__).parents[1]

ROWS = [
    {"thread_id": "a", "tree_id": "t", "split": "train", "dropped_by": None},
    {"thread_id": "b", "tree_id": "t", "split": "train", "dropped_by": "rank"},
]


def test_a_block_that_ends_well_leaves_the_directory_and_nothing_else(tmp_path: Path):
    with artifacts.building(tmp_path / "one") as out:
        (out / "rows.txt").write_text("x")
        assert not (tmp_path / "one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path):
    def fail() -> None:
        with artifacts.building(tmp_path / "one") as out:
            (out / "rows.txt").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_directory_is_never_overwritten(tmp_path: Path):
    for text in ("first", "second"):
        with artifacts.building(tmp_path / "one") as out:
            (out / "rows.txt").write_text(text)
            artifacts.write_json({}, out / "manifest.json")
    assert (tmp_path / "one" / "rows.txt").read_text() == "first"


def test_a_builder_that_another_one_overtakes_at_the_last_moment_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = os.rename

    def overtaken(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "rows.txt").write_text("first")
        (target / "manifest.json").write_text("{}")
        rename(source, target)

    monkeypatch.setattr(artifacts.os, "rename", overtaken)
    with artifacts.building(tmp_path / "one") as out:
        (out / "rows.txt").write_text("second")
    assert (tmp_path / "one" / "rows.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_directory_without_its_json_gives_way(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "rows.txt").write_text("torn")
    with artifacts.building(tmp_path / "one") as out:
        (out / "rows.txt").write_text("whole")
    assert (tmp_path / "one" / "rows.txt").read_text() == "whole"


def replaced(out: Path, text: str) -> None:
    with artifacts.building(out, replaces=True) as made:
        (made / "rows.txt").write_text(text)
        artifacts.write_json({}, made / "comparison.json")


def test_a_directory_that_is_replaced_is_replaced_whole(tmp_path: Path):
    replaced(tmp_path / "one", "first")
    (tmp_path / "one" / "more.txt").write_text("of the first")
    replaced(tmp_path / "one", "second")
    assert (tmp_path / "one" / "rows.txt").read_text() == "second"
    assert not (tmp_path / "one" / "more.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_replacement_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
):
    replaced(tmp_path / "one", "first")
    monkeypatch.setattr(artifacts, "_exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(artifacts.os, "rename", fails)
    with pytest.raises(OSError, match="no"):
        replaced(tmp_path / "one", "second")
    assert (tmp_path / "one" / "rows.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems exchange no names")
def test_a_name_always_stands_while_what_it_names_is_replaced(tmp_path: Path, monkeypatch):
    replaced(tmp_path / "one", "first")
    monkeypatch.setattr(artifacts.os, "rename", None)  # which would take it away for a moment
    replaced(tmp_path / "one", "second")
    assert (tmp_path / "one" / "rows.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_what_a_disk_refuses_names_path_and_cause(tmp_path: Path, cause: int):
    def refused(error: Exception) -> None:
        with artifacts.building(tmp_path / "deep" / "one") as out:
            (out / "rows.txt").write_text("x")
            raise error

    said = f"{tmp_path}/deep/one: cannot be written: {os.strerror(cause)}"
    rust = f"Error while serializing: I/O error: {os.strerror(cause)} (os error {cause})"
    for error in (OSError(cause, "in other words"), RuntimeError(rust)):
        with pytest.raises(InputError) as told:
            refused(error)
        assert str(told.value) == said
        assert told.value.hint
        assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):  # that is no refusal, and ours to mend
        refused(FileNotFoundError(errno.ENOENT, "none"))


@pytest.mark.parametrize("cause", [errno.EACCES, errno.EIO])
def test_what_cannot_be_read_names_path_and_cause(tmp_path: Path, monkeypatch, cause: int):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(b"x")

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(cause, os.strerror(cause))

    torch = f"unable to open file <{path}> in read-only mode: {os.strerror(cause)} ({cause})"
    safetensors = FileNotFoundError(f"No such file or directory: {path}")
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuses)
        patch.setattr(Path, "open", refuses)
        patch.setattr(Path, "read_bytes", refuses)
        for read in (
            lambda: artifacts.file_digest(path),
            lambda: artifacts.read_json(path, Pointer),
            lambda: Partial(path, {}).read(),
            lambda: doing(artifacts.reading(path), RuntimeError(torch)),
            lambda: doing(artifacts.reading(path), safetensors),
            lambda: doing(foreign.reading(str(path)), RuntimeError(torch)),
            lambda: doing(foreign.reading(str(path)), safetensors),
        ):
            with pytest.raises(InputError) as told:
                read()
            said = f"{path}: cannot be read: {os.strerror(cause)}"
            assert (str(told.value), bool(told.value.hint)) == (said, True)
    for error in (FileNotFoundError(errno.ENOENT, "none"), RuntimeError("a (5) is no (13)")):
        with pytest.raises(type(error)):
            doing(artifacts.reading(path), error)


def doing(block: AbstractContextManager[None], error: Exception) -> None:
    with block:
        raise error


def test_a_text_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch):
    artifacts.write_text("first", tmp_path / "one.txt")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(InputError, match=r"one.txt: cannot be written: No space left"):
        artifacts.write_text("second", tmp_path / "one.txt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_what_a_kill_left_of_a_text_goes_with_the_next_one(tmp_path: Path):
    killed = """
import os, signal
from pathlib import Path
from dataset_builder import artifacts

os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
artifacts.write_json({}, Path("one.json"))
"""
    ran = subprocess.run(
        [sys.executable, "-c", killed],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.glob("*.json"))
    artifacts.write_json({}, tmp_path / "two.json")
    assert [path.name for path in tmp_path.iterdir()] == ["two.json"]


def test_what_a_dead_builder_left_is_swept_and_a_living_ones_stays(tmp_path: Path):
    dead = tmp_path / f"{artifacts.BUILDING}999999999-one"
    living = tmp_path / f"{artifacts.BUILDING}{os.getppid()}-two"
    dead.mkdir()
    living.mkdir()
    artifacts.sweep(tmp_path)
    assert not dead.exists()
    assert living.exists()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_one_directory_replaces_another_loses_neither(tmp_path: Path, renames: int):
    def replace(text: str) -> None:
        with artifacts.building(tmp_path / "one", replaces=True) as out:
            (out / "rows.txt").write_text(text)
            artifacts.write_json({}, out / "export.json")

    replace("first")
    killed = f"""
import os
from pathlib import Path
from dataset_builder import artifacts
left, rename = {renames}, os.rename

def counted(*paths):
    global left
    if not left:
        os._exit(9)
    left -= 1
    rename(*paths)

os.rename = counted
artifacts._exchange = lambda one, other: False  # as where the system cannot
with artifacts.building(Path({str(tmp_path / "one")!r}), replaces=True) as out:
    (out / "rows.txt").write_text("second")
    artifacts.write_json({{}}, out / "export.json")
os._exit(9)
"""
    ran = subprocess.run([sys.executable, "-c", killed], cwd=ROOT, check=False)
    assert ran.returncode == 9
    artifacts.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one" / "rows.txt").read_text() == ("second" if renames == 2 else "first")
    replace("third")
    assert (tmp_path / "one" / "rows.txt").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_table_that_is_not_as_declared_is_refused(tmp_path: Path):
    table = table_of(ROWS, LEDGER)
    with pytest.raises(ValueError, match=r"missing: \['split'\]"):
        write_table(table.drop_columns(["split"]), LEDGER, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"repeated key in `ledger`: .*'thread_id': 'a'"):
        table_of([ROWS[0], ROWS[0]], LEDGER)
    write_table(table, LEDGER, tmp_path / "with * star.parquet")
    assert read_table(tmp_path / "with * star.parquet", LEDGER).to_pylist() == ROWS


def flipped(path: Path, load: Callable[[], Any]) -> tuple[int, int]:
    """Bits of `path` that, one at a time, made `load` refuse it, and those that changed what it
    gives.
    """
    wanted, whole, refused, unnoticed = load(), path.read_bytes(), 0, 0
    for at in range(0, 8 * len(whole), 53):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        try:
            unnoticed += load() != wanted
        except InputError:
            refused += 1
    return refused, unnoticed


def test_a_flipped_bit_of_a_record_is_noticed_or_changes_nothing(tmp_path: Path):
    artifacts.write_json(Pointer("full-0123456789ab"), tmp_path / "full.json")
    path = tmp_path / "full.json"
    refused, unnoticed = flipped(path, lambda: artifacts.read_json(path, Pointer))
    assert (refused > 10, unnoticed) == (True, 0)
    # One that was written before there were checksums, or mended by hand, is what it says.
    path.write_text('{"build": "other"}')
    assert artifacts.read_json(path, Pointer) == Pointer("other")


def test_a_flipped_bit_of_a_table_is_noticed_or_changes_nothing(tmp_path: Path):
    rows = [ROWS[0] | {"thread_id": f"thread {n}", "dropped_by": "rank"} for n in range(50)]
    path = tmp_path / "ledger.parquet"
    write_table(table_of(rows, LEDGER), LEDGER, path)
    refused, unnoticed = flipped(path, lambda: read_table(path, LEDGER))
    assert (refused > 10, unnoticed) == (True, 0)


def test_no_bit_of_a_tables_footer_is_another_unnoticed(tmp_path: Path):
    """In a footer a bit renames a field, or turns the type of a number."""
    path = tmp_path / "scores.parquet"
    scores = [
        {"answerer": "run", "prompt_id": f"{n}", "tree_id": "t", "limit": limit, "sample": 0}
        | {"metric": "words", "value": 0.25 * n}
        for n in range(4)
        for limit in (None, 3)
    ]
    write_table(table_of(scores, SCORES), SCORES, path)
    wanted, whole = read_table(path, SCORES), path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    unnoticed = []
    for place in range(8 * (len(whole) - footer), 8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            if not read_table(path, SCORES).equals(wanted):
                unnoticed.append(place)
        except InputError:
            pass
    assert not unnoticed


def test_a_table_from_before_there_were_seals_is_read_and_its_pages_are_checked(tmp_path: Path):
    path = tmp_path / "ledger.parquet"
    pq.write_table(table_of(ROWS, LEDGER), path, store_schema=False, write_page_checksum=True)
    assert read_table(path, LEDGER).to_pylist() == ROWS
    whole = bytearray(path.read_bytes())
    whole[-9 - int.from_bytes(whole[-8:-4], "little")] ^= 1  # the last byte of the last page
    path.write_bytes(whole)
    with pytest.raises(InputError, match="CRC checksum"):
        read_table(path, LEDGER)


def test_a_damaged_or_absent_table_is_the_users_to_mend(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.parquet", LEDGER)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not the table `ledger`"):
        read_table(tmp_path / "bad.parquet", LEDGER)


def test_hash_order_nests_and_hash_share_is_uniform():
    keys = [str(n) for n in range(4000)]
    shares = [artifacts.hash_share("salt", key) for key in keys]
    assert min(shares) >= 0
    assert max(shares) < 1
    # Of 4,000 uniform numbers the mean is 0.5 with a deviation of 0.0046.
    assert abs(sum(shares) / len(shares) - 0.5) < 0.02
    assert artifacts.hash_order("salt", "a") != artifacts.hash_order("other", "a")


def test_a_field_whose_name_lost_a_bit_is_noticed_and_not_read_as_null(tmp_path: Path):
    """In a column of structs, where another name is no other column."""
    path = tmp_path / "train.parquet"
    write_table(table_of([example(0)], EXAMPLES), EXAMPLES, path)
    whole = pq.read_table(path).replace_schema_metadata()
    said = pa.list_(pa.struct([("role", pa.string()), ("contmnt", pa.string())]))
    turned = [
        [{"role": turn["role"], "contmnt": turn["content"]} for turn in row]
        for row in whole["prompt"].to_pylist()
    ]
    place = whole.schema.get_field_index("prompt")
    pq.write_table(whole.set_column(place, "prompt", pa.array(turned, said)), path)

    with pytest.raises(InputError, match=r"`prompt` is list<.*contmnt"):
        read_table(path, EXAMPLES)
