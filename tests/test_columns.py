"""The same messages by the batch as one by one."""

import json
import pickle
from hashlib import sha256

import pyarrow as pa
import pytest
from builders import lines, message, nested, prompt, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_forest import plain_forest
from real import real
from test_export import read, reasons
from usual_lines import SCORES

from dataset_builder import lines as lines_module
from dataset_builder import shards
from dataset_builder.columns import MET
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forest import join_exports
from dataset_builder.plain import Taken
from dataset_builder.shards import joined, read_shard, shards_of

relaxed = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

names = st.sampled_from("abcdef")
labels = st.dictionaries(
    st.sampled_from(["spam", "quality", "a:b"]),
    st.fixed_dictionaries(
        {"value": st.sampled_from([0.0, 0.5, 1 / 3]), "count": st.integers(0, 3)}
    ),
    max_size=3,
)
# Mostly sound, with something of everything that is not.
nodes = st.fixed_dictionaries(
    {
        "message_id": st.one_of(names, names, names, st.just("")),
        "text": st.sampled_from(["one", "one", "two: 2", "é\u2028\U0001f600", "nul \0"]),
        "role": st.sampled_from(["prompter", "assistant", "prompter", "assistant", "system"]),
    },
    optional={
        "parent_id": st.none() | names,
        "lang": st.sampled_from([None, "en", "de"]),
        "rank": st.sampled_from([None, 0, 1]),
        "deleted": st.sampled_from([None, True, False]),
        "labels": st.none() | labels,
        "emojis": st.none() | st.dictionaries(st.sampled_from(["+1", "-1"]), st.integers(0, 2)),
        "message_tree_id": st.sampled_from([None, "", "t", "u"]),
        "tree_state": st.sampled_from([None, "", "growing"]),
        "detoxify": st.none() | st.just({"toxicity": 0.5}),
        "user_id": st.sampled_from([None, "u", "u:1"]),
        "events": st.none(),
        "of another tool": st.integers(0, 1),
    },
)


def with_replies(inner):
    return st.builds(
        lambda node, replies: node if replies is None else {**node, "replies": replies},
        nodes,
        st.none() | st.lists(inner, max_size=2),
    )


trees = st.builds(
    lambda node, tree: {**tree, "prompt": node},
    st.recursive(nodes, with_replies, max_leaves=5),
    st.fixed_dictionaries(
        {},
        optional={
            "message_tree_id": st.sampled_from([None, "", "t"]),
            "tree_state": st.sampled_from([None, "", "ready_for_export"]),
            "origin": st.none(),
        },
    ),
)
SOUND = lines([prompt(f"s{n}") for n in range(30)])
contents = st.builds(
    lambda rows, escaped, blank: (
        (b"\n" * blank).join(json.dumps(row, ensure_ascii=escaped).encode() for row in rows) + b"\n"
    ),
    st.lists(nodes | trees, max_size=7),
    st.booleans(),
    st.integers(1, 3),
)


@relaxed
@given(st.lists(contents, min_size=1, max_size=3, unique=True), st.booleans())
def test_hostile_files_make_the_forest_that_plain_dicts_make(tmp_path, parts, many):
    # Mostly among enough sound messages that no file is refused whole.
    parts = [SOUND + part if many else part for part in parts]
    try:
        exports = [read(tmp_path, part, f"{n}.jsonl") for n, part in enumerate(parts)]
        forest = join_exports(exports)
    except InputError:
        return
    files = [
        (sha256(part).hexdigest(), export.name, part)
        for part, export in zip(parts, exports, strict=True)
    ]
    messages, rejects, counts = plain_forest(files)
    columns = ["message_id", "parent_id", "text", "role", "lang", "rank", "deleted", "labels"]
    columns += ["emojis", "tree_id", "tree_state", "place", "source"]
    assert forest.messages.select(columns).to_pylist() == [
        {name: row[name] for name in columns} for row in messages
    ]
    assert [tuple(row.values())[:5] for row in forest.rejects.to_pylist()] == rejects
    for file, count in zip(forest.files, counts, strict=True):
        assert (file.rows, file.messages, file.merged) == (
            count["rows"],
            count["messages"],
            count["merged"],
        )
        assert file.conflicts == {
            name.removeprefix("conflict "): n for name, n in sorted(count.items()) if " " in name
        }


def leave_all(batch):
    return Taken(MET.empty_table(), {}, list(range(len(batch.contents))))


def both_ways(path, size):
    """The file at `path` in shards of `size` bytes, and whole with every line read on its own."""
    # As a worker in another process would give them back.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "is_compiled", lambda path: False)  # see test_scanning
        parts = [pickle.loads(pickle.dumps(read_shard(shard))) for shard in shards_of(path, size)]
        by_batch = joined(parts)
        patch.setattr(shards, "take_plain", leave_all)
        return by_batch, joined(map(read_shard, shards_of(path)))


def assert_same(one, other):
    assert one.met.equals(other.met)
    assert one[1:] == other[1:]


@relaxed
@given(
    st.lists(contents | st.sampled_from([b"{", b"\xff\n", b"3\n", b"\xef\xbb\xbf"]), max_size=4),
    st.integers(1, 2000),
    st.integers(1, 300),
)
def test_however_a_file_is_cut_each_line_is_read_as_on_its_own(tmp_path, parts, size, chunk):
    (tmp_path / "x").write_bytes(b"".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        patch.setattr(lines_module, "TAIL_BYTES", 1 + chunk // 7)
        patch.setattr(lines_module, "LINE_BYTES", 400)
        assert_same(*both_ways(tmp_path / "x", size))


@pytest.mark.parametrize(
    "name",
    [
        "laion_en_100.trees.jsonl",
        "oasst1_en_validation.messages.jsonl",
        "oasst2_animals.trees.jsonl",
    ],
)
def test_real_files_are_read_by_the_batch_as_line_by_line(name):
    path = real(f"oasst/{name}")
    assert_same(*both_ways(path, 300_001))
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(shards, "read_row")  # no line is left over
        read_export(path)


@pytest.mark.parametrize(
    "fields",
    [
        '"detoxify": {' + "".join(f'"{name}": 0.25, ' for name in SCORES) + '"threat": 0.5}',
        '"detoxify": {"a": 1, "a": 1}',
        '"events": {"ranking": [{"a": 1, "a": 2}]}',
        '"user_id": {"a": null, "a": null}',
    ],
)
def test_a_key_that_stands_twice_in_what_is_not_kept_is_refused_too(tmp_path, fields):
    row = '{"message_id": "x", "text": "a", "role": "prompter", ' + fields + "}"
    before = lines([message("a"), message("b")])
    assert reasons(read(tmp_path, before + row.encode())) == [(3, "duplicate_key")]
    before = lines(nested([prompt("a"), reply("b", "a")]))
    tree = '{"message_tree_id": "t", "prompt": ' + row + "}"
    assert reasons(read(tmp_path, before + tree.encode())) == [(2, "duplicate_key")]


@pytest.mark.parametrize("parent", ["", '"parent_id": null, '])
def test_colons_in_an_id_hide_no_key_that_stands_twice(tmp_path, parent):
    root = '"message_id": "a:b", "role": "prompter", "text": "first", '
    reply = '{"message_id": "r", ' + parent + '"role": "assistant", "text": "x"}'
    for more, found in (("", []), ('"text": "second", ', [(1, "duplicate_key")])):
        tree = '{"message_tree_id": "t", "prompt": {' + root + more + '"replies": [' + reply + "]}}"
        assert reasons(read(tmp_path, tree.encode())) == found


def test_a_whole_detoxify_is_read_by_the_batch(tmp_path, monkeypatch):
    monkeypatch.delattr(shards, "read_row")
    scores = dict.fromkeys(SCORES, 0.25)
    rows = [prompt("a", detoxify=scores), reply("b", "a", detoxify=None)]
    assert read(tmp_path, lines(nested(rows))).met.num_rows == 2


def test_copies_that_are_alike_are_merged_however_often_they_stand(tmp_path):
    rows = [
        prompt("a", labels={"spam": {"value": 0.5, "count": 2}}),
        reply("b", "a"),
        reply("c", "a"),
    ]
    exports = [read(tmp_path, lines(rows) * n, f"{n}.jsonl") for n in (1, 2, 3)]
    forest = join_exports(exports)
    assert forest.messages.drop(["source"]).equals(
        join_exports([read(tmp_path, lines(rows))]).messages.drop(["source"])
    )
    assert sorted(file.merged for file in forest.files) in ([0, 6, 9], [3, 3, 9], [3, 6, 6])
    assert not any(file.conflicts for file in forest.files)
    assert isinstance(forest.messages, pa.Table)
