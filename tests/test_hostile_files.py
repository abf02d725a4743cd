"""Ten and more cases of each kind of hostile file, in every packing where it applies: what is bad
is refused with its reason, and all the rest is there.

Lines of JSON that are bad are read plain in test_merge, and packed here.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import lines, nested, prompt, write
from hostile_rows import (
    ALTERNATION,
    BOT,
    CYCLES,
    FOREST,
    LINES,
    NOT_UTF8,
    ORPHANS,
    ROOTS,
    SELF_PARENTS,
    SOUND,
    USER,
    zstd,
)

from dataset_builder import lines as lines_module
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forest import join_exports
from dataset_builder.threads import make_tables

PACKINGS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


def forest_of(folder: Path, packing: str, rows):
    return join_exports([read_export(write(folder / f"x.{packing}", [*SOUND, *rows]))])


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("kind", "rows", "names"), FOREST)
def test_what_does_not_hang_together_is_refused_with_its_reason(
    tmp_path, packing, kind, rows, names
):
    forest = forest_of(tmp_path, packing, rows)
    rejects = forest.rejects.to_pylist()
    assert {row["message_id"]: row["reason"] for row in rejects} == dict.fromkeys(names, kind)
    places = {row["message_id"]: n for n, row in enumerate([*SOUND, *rows], start=1)}
    for row in rejects:
        assert row["line"] == places[row["message_id"]]
        assert (row["byte_offset"] is None) == (packing == "parquet")
    left = {row["message_id"] for row in [*SOUND, *rows]} - {*names}
    assert set(forest.messages["message_id"].to_pylist()) == left
    assert forest.files[0].refused == ({kind: len(names)} if names else {})


@pytest.mark.parametrize("packing", PACKINGS)
def test_orphans_are_there_and_in_no_whole_conversation(tmp_path, packing):
    rows = []
    for n, case in enumerate(ORPHANS):
        own = {row["message_id"] for row in case}
        for row in case:
            above = row["parent_id"]
            named = {"message_id": f"{n}{row['message_id']}"}
            rows.append(row | named | {"parent_id": f"{n}{above}" if above in own else above})
    path = write(tmp_path / f"x.{packing}", [*SOUND, *rows])
    tables = make_tables([read_export(path)], 0.0)
    assert not tables.rejects.num_rows
    assert tables.messages.num_rows == len(SOUND) + len(rows)
    found = {row["thread_id"]: row["is_complete"] for row in tables.threads.to_pylist()}
    replies = {row["message_id"] for row in rows if row["role"] == BOT}
    assert replies == {name for name, is_complete in found.items() if not is_complete}


def test_every_kind_has_ten_cases():
    kinds = [ALTERNATION, SELF_PARENTS, CYCLES, ROOTS, ORPHANS, LONG, BOMBS, *LINES.values()]
    assert all(len(kind) >= 10 for kind in kinds)


# ------------------------------------------------------------------------------ lines of JSON


@pytest.mark.parametrize("packing", PACKINGS[1:3])
@pytest.mark.parametrize("kind", LINES)
def test_hostile_lines_are_refused_in_a_packed_file_too(tmp_path, packing, kind):
    sound = lines(SOUND)
    content = sound + b"".join(row + b"\n" for row in LINES[kind]) + lines([prompt("last")])
    pack = gzip.compress if packing == "jsonl.gz" else zstd
    (tmp_path / "x").write_bytes(pack(content))
    forest = join_exports([read_export(tmp_path / "x")])
    rejects = forest.rejects.to_pylist()
    assert [row["reason"] for row in rejects] == [kind] * len(LINES[kind])
    assert [row["line"] for row in rejects] == [*range(61, 61 + len(LINES[kind]))]
    offsets = [len(sound)]
    for row in LINES[kind][:-1]:
        offsets.append(offsets[-1] + len(row) + 1)
    assert [row["byte_offset"] for row in rejects] == offsets
    assert forest.messages.num_rows == 61


LABEL = pa.struct([("value", pa.float64()), ("count", pa.int32())])
IN_PARQUET = [
    *(("nul", name, pa.array(["a\0"])) for name in ("text", "lang", "model_name", "parent_id")),
    *(("nul", name, pa.array(["\0"])) for name in ("created_date", "message_tree_id")),
    ("nul", "tree_state", pa.array(["\0"])),
    ("nul", "emojis", pa.array([[("\0", 1)]], pa.map_(pa.string(), pa.int32()))),
    ("nul", "emojis", pa.array([{"name": ["\0"], "count": [1]}])),
    ("nul", "labels", pa.array([[("\0", None)]], pa.map_(pa.string(), LABEL))),
    ("wrong_type", "text", pa.array([3])),
    ("wrong_type", "text", pa.array([b"a"])),
    ("wrong_type", "text", pa.array([["a"]])),
    ("wrong_type", "rank", pa.array([-1])),
    ("wrong_type", "rank", pa.array([2**31])),
    ("wrong_type", "rank", pa.array([0.5])),
    ("wrong_type", "rank", pa.array([float("nan")])),
    ("wrong_type", "rank", pa.array(["0"])),
    ("wrong_type", "deleted", pa.array([1])),
    ("wrong_type", "review_count", pa.array([float("inf")])),
    ("wrong_type", "labels", pa.array([{"name": ["a"], "value": [0.5, 1.0], "count": [1]}])),
    ("wrong_type", "labels", pa.array([{"name": ["a"], "value": ["b"], "count": [1]}])),
    ("wrong_type", "emojis", pa.array(["+1"])),
    ("wrong_type", "emojis", pa.array([{"name": ["a"], "count": [float("nan")]}])),
    ("wrong_type", "lang", pa.array([{"a": 1}])),
    *(
        ("wrong_type", "labels", pa.array([{"name": ["a"], "value": [value], "count": [1]}]))
        for value in (float("nan"), float("inf"), -float("inf"))
    ),
    *(
        ("duplicate_key", "emojis", pa.array([pairs], pa.map_(pa.string(), pa.int32())))
        for pairs in ([("a", 1), ("a", 1)], [("a", 1), ("b", 2), ("a", None)])
    ),
    *(
        ("duplicate_key", "labels", pa.array([pairs], pa.map_(pa.string(), LABEL)))
        for pairs in ([("a", None), ("a", None)], [("", None), ("b", None), ("", None)])
    ),
    ("duplicate_key", "emojis", pa.array([[{"name": "a", "count": 1}] * 2])),
    ("incomplete", "text", pa.array([None], pa.string())),
    ("incomplete", "role", pa.array([None], pa.string())),
    ("incomplete", "message_id", pa.array([""])),
    ("role", "role", pa.array(["system"])),
]


@pytest.mark.parametrize(("reason", "column", "value"), IN_PARQUET)
def test_hostile_values_in_parquet_cost_their_message_alone(tmp_path, reason, column, value):
    bad = {"message_id": "x", "text": "a", "role": USER}
    rows = [*SOUND[:4], bad, *SOUND[4:8]]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    nulls = pa.nulls(4, value.type)
    if value.type == columns.get(column, value).type:
        columns[column] = pa.concat_arrays(
            [columns[column][:4], value, columns[column][5:]]
            if column in columns
            else [nulls, value, nulls]
        )
    elif column in columns:
        # A column has one type, so that of the message alone is another file.
        alone = {name: pa.array([each]) for name, each in bad.items()} | {column: value}
        pq.write_table(pa.table(alone), tmp_path / "x.parquet")
        export = read_export(tmp_path / "x.parquet")
        assert [(each.at.line, each.reason) for each in export.refusals] == [(1, reason)]
        return
    else:
        columns[column] = pa.concat_arrays([nulls, value, nulls])
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    export = read_export(tmp_path / "x.parquet")
    assert [(each.at.line, each.reason) for each in export.refusals] == [(5, reason)]
    assert export.met.num_rows == 8


@pytest.mark.parametrize("text", NOT_UTF8)
def test_parquet_whose_text_is_not_utf8_is_refused_whole(tmp_path, text):
    texts = pa.array([b"a", text]).view(pa.string())
    columns = {"message_id": ["a", "b"], "role": [USER] * 2, "text": texts}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read: .*UTF8"):
        read_export(tmp_path / "x.parquet")


# ------------------------------------------------------------------------- length, and bombs

BOUND = 1000  # in place of 16 MiB


def of_length(n, **fields):
    row = json.dumps({**prompt("x", text=""), **fields}).encode()
    return row.replace(b'"text": ""', b'"text": "' + b"a" * (n - len(row)) + b'"', 1)


LONG = [
    of_length(BOUND + 1),
    of_length(BOUND * 2),
    of_length(BOUND * 40),
    b" " * BOUND + b" " + of_length(300),
    of_length(300) + b" " * BOUND,
    b"a" * (BOUND + 1),
    b"\xff" * (BOUND + 1),
    b"\0" * (BOUND * 3),
    b"[" * (BOUND * 3),
    b'{"message_id": "' + b"x" * BOUND + b'"}',
    lines(nested(SOUND)).replace(b"\n", b" "),
    ("\u00e9" * BOUND).encode(),
]


@pytest.mark.parametrize("packing", PACKINGS[:3])
@pytest.mark.parametrize("at", ["first", "between", "last"])
def test_lines_beyond_the_bound_are_refused_wherever_they_stand(tmp_path, monkeypatch, packing, at):
    monkeypatch.setattr(lines_module, "LINE_BYTES", BOUND)
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", 700)
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstd}[packing]
    for n, long in enumerate(LONG):
        before = {"first": b"", "between": lines(SOUND[:4]), "last": lines(SOUND[:6])}[at]
        after = {"first": lines(SOUND[:6]), "between": lines(SOUND[4:6]), "last": b""}[at]
        path = tmp_path / f"{n}"
        path.write_bytes(pack(before + long + (b"\n" if after else b"") + after))
        export = read_export(path)
        assert [each.reason for each in export.refusals] == ["too_long"], long[:40]
        assert export.refusals[0].at == (before.count(b"\n") + 1, len(before))
        assert export.met.num_rows == 6
    # What is as long as it may be is read.
    path.write_bytes(pack(of_length(BOUND - 1) + b"\n"))
    assert read_export(path).met.num_rows == 1


def dense(rows, column="text"):
    """Parquet that stores a text once and means it `rows` times."""
    table = pa.table({column: pa.array(["a" * 2**12] * rows)})
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue().to_pybytes()


def wide(columns):
    out = pa.BufferOutputStream()
    table = pa.table({f"c{n}": ["a" * 2**18] * 8 for n in range(columns)})
    pq.write_table(table, out, compression="gzip", use_dictionary=False)
    return out.getvalue().to_pybytes()


EMPTY = b"\0" * 2**22
BOMBS = [
    gzip.compress(EMPTY),
    gzip.compress(b"\n" * 2**22),
    gzip.compress(b"a" * 2**22),
    gzip.compress(lines([prompt("a", text="a" * 2**21)] * 2)),
    b"".join([gzip.compress(b"\n" * 2**18)] * 16),
    zstd(EMPTY),
    zstd(b"\n" * 2**22),
    zstd(lines([prompt(str(n), text=" " * 2**12) for n in range(2000)])),
    b"".join([zstd(b" " * 2**19)] * 8),
    dense(2**10),
    dense(2**11, "a column of another tool"),
    wide(4),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_what_unpacks_to_too_much_is_one_clear_error(tmp_path, monkeypatch, bomb):
    monkeypatch.setattr(lines_module, "FREE_BYTES", 2**20)
    (tmp_path / "x").write_bytes(bomb)
    with pytest.raises(InputError, match="x: unpacks to more than 200 times its size"):
        read_export(tmp_path / "x")
