import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import lines, message, nested, prompt, reply, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real import real

from dataset_builder import compiled, shards
from dataset_builder import export as export_module
from dataset_builder import lines as lines_module
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forest import DEPTH, join_exports
from dataset_builder.lines import Place
from dataset_builder.messages import NAME
from dataset_builder.rows import Met, Refusal, read_row
from dataset_builder.threads import make_tables

CONVERSATION = [
    prompt("a"),
    reply("b", "a", rank=0),
    reply("c", "a", rank=1),
    prompt("d", "b"),
    reply("e", "d"),
]


def read(folder, content: bytes, name="rows.jsonl"):
    path = folder / name
    path.write_bytes(content)
    return read_export(path)


def reasons(export):
    return [(refusal.at.line, refusal.reason) for refusal in export.refusals]


def joined(folder, rows):
    """The forest of a flat file of `rows`, among enough sound ones that it is not refused whole."""
    sound = [
        each for n in range(20) for each in (prompt(f"sound{n}"), reply(f"sound{n}r", f"sound{n}"))
    ]
    return join_exports([read(folder, lines([*sound, *rows]))])


def refused(forest):
    return {row["message_id"]: row["reason"] for row in forest.rejects.to_pylist()}


@pytest.mark.parametrize(
    "name",
    [
        "x.trees.jsonl",
        "x.trees.jsonl.gz",
        "x.trees.jsonl.zst",
        "x.jsonl",
        "x.jsonl.gz",
        "x.jsonl.zst",
        "x.parquet",
    ],
)
def test_every_form_of_a_file_holds_the_same_messages(tmp_path, name):
    forest = join_exports([read_export(write(tmp_path / name, CONVERSATION))])
    plain = join_exports([read_export(write(tmp_path / "plain.jsonl", CONVERSATION))])
    assert forest.messages.num_rows == 5
    columns = [each for each in forest.messages.column_names if each != "source"]
    assert forest.messages.select(columns).equals(plain.messages.select(columns))


def test_the_form_is_told_by_content_and_not_by_name(tmp_path):
    content = lines(nested(CONVERSATION))
    assert read(tmp_path, content, "x.parquet").form == "trees"
    assert read(tmp_path, gzip.compress(content), "y.txt").form == "trees"
    # A flat message names its tree too: testing for the tree key first would misread it.
    flat = lines([{**each, "message_tree_id": "a"} for each in CONVERSATION])
    assert read(tmp_path, flat, "z.jsonl").form == "messages"


def test_a_message_with_replies_of_its_own_is_a_tree(tmp_path):
    bare = [{**tree["prompt"], "tree_state": tree["tree_state"]} for tree in nested(CONVERSATION)]
    export = read(tmp_path, lines(bare))
    assert [met.message.message_id for met in export.messages] == ["a", "b", "d", "e", "c"]


def test_labels_and_emojis_read_alike_as_maps_and_as_parallel_lists(tmp_path):
    maps = {"labels": {"spam": {"value": 0.0, "count": 3}}, "emojis": {"+1": 2}}
    parallel = {
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]},
        "emojis": {"name": ["+1"], "count": [2]},
    }
    for number, fields in enumerate((maps, parallel)):
        rows = lines([message("a", **fields)])
        row = join_exports([read(tmp_path, rows, f"{number}.jsonl")]).messages.to_pylist()[0]
        assert row["labels"] == [{"name": "spam", "value": 0.0, "count": 3}]
        assert row["emojis"] == [{"name": "+1", "count": 2}]


def test_an_absent_key_and_an_explicit_null_are_the_same(tmp_path):
    least = {"message_id": "a", "text": "Hello", "role": "prompter"}
    nulls = {
        **least,
        **dict.fromkeys(["parent_id", "rank", "labels", "emojis", "deleted", "synthetic", "lang"]),
    }
    tables = [
        join_exports([read(tmp_path, lines([row]), f"{number}.jsonl")]).messages.drop(["source"])
        for number, row in enumerate((least, nulls))
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].to_pylist()[0]["deleted"] is False


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"message_id": "x", "text": "caf\xe9", "role": "prompter"}', "utf8"),
        (b'{"message_id": "x", "text": "\\ud800", "role": "prompter"}', "json"),
        (b'{"message_id": "x", "text": "a\\u0000b", "role": "prompter"}', "nul"),
        (b'{"message_id": "x", "text": "a", "role": "prompter", "lang": "e\\u0000"}', "nul"),
        (b'{"message_id": "x", "text": 3, "role": "prompter"}', "wrong_type"),
        (
            b'{"message_id": "x", "text": "a", "role": "prompter", "rank": 99999999999}',
            "wrong_type",
        ),
        (b'{"message_id": "x", "text": "a", "role": "prompter", "rank": NaN}', "json"),
        (b'{"message_id": "x", "role": "prompter"}', "incomplete"),
        (b'{"message_id": "x", "text": "a"}', "incomplete"),
        (b'{"message_id": "x", "text": null, "role": "prompter"}', "incomplete"),
        (b'{"message_id": "", "text": "a", "role": "prompter"}', "incomplete"),
        (b'{"text": "a", "role": "prompter"}', "incomplete"),
        (b'{"message_id": "x", "text": "a", "role": "system"}', "role"),
        (b'{"message_id": "x", "parent_id": "x", "text": "a", "role": "prompter"}', "self_parent"),
        (b'{"message_id": "x", "text": "a", "ro', "json"),
        (b'{"thread_id": "x"}', "form"),
        (b'{"something": "else"}', "form"),
        (b'["a list"]', "form"),
        (b"3", "form"),
        (b'{"a":' * 100_000, "too_deep"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_alone_with_its_place_and_reason(
    tmp_path, row, reason
):
    before = lines([message("a")])
    export = read(tmp_path, before + b"\n" + row + b"\n" + lines([message("b")]))
    assert reasons(export) == [(3, reason)]
    assert export.refusals[0].at.byte_offset == len(before) + 1
    assert export.refusals[0].detail
    assert [met.message.message_id for met in export.messages] == ["a", "b"]
    assert export.rows == 3


def test_a_line_beyond_the_bound_is_refused_and_never_held(tmp_path):
    huge = b'{"message_id": "x", "text": "' + b"a" * 16 * 2**20 + b'", "role": "prompter"}\n'
    content = gzip.compress(lines([message("a")]) + huge + lines([message("b")]), compresslevel=1)
    export = read(tmp_path, content)
    assert reasons(export) == [(2, "too_long")]
    assert [met.message.message_id for met in export.messages] == ["a", "b"]
    assert export.messages[1].at.byte_offset == len(lines([message("a")]) + huge)


def test_blank_lines_bom_crlf_and_a_missing_last_newline_cost_nothing(tmp_path):
    rows = [json.dumps(message(name, text="one\u2028two")).encode() for name in "abc"]
    export = read(tmp_path, b"\xef\xbb\xbf" + b"\r\n\r\n".join(rows))
    assert [met.message.message_id for met in export.messages] == ["a", "b", "c"]
    assert export.rows == 3


def test_a_wrong_value_in_a_tree_costs_that_message_alone(tmp_path):
    tree = nested(CONVERSATION)[0]
    tree["prompt"]["replies"][0]["rank"] = "first"
    tree["prompt"]["replies"].append("no object")
    export = read(tmp_path, lines([tree]))
    assert reasons(export) == [(1, "wrong_type"), (1, "wrong_type")]
    assert [met.message.message_id for met in export.messages] == ["a", "d", "e", "c"]


def test_what_hangs_below_a_message_without_id_is_refused_with_it_and_makes_no_root(tmp_path):
    tree = nested([prompt("a"), reply("b", "a"), prompt("c", "b")])[0]
    del tree["prompt"]["replies"][0]["message_id"]
    del tree["prompt"]["replies"][0]["replies"][0]["parent_id"]
    export = read(tmp_path, lines([tree]))
    assert reasons(export) == [(1, "incomplete"), (1, "parent")]


def test_a_parent_id_that_contradicts_the_nesting_is_refused(tmp_path):
    tree = nested(CONVERSATION)[0]
    tree["prompt"]["replies"][1]["parent_id"] = "elsewhere"
    assert reasons(read(tmp_path, lines([tree]))) == [(1, "parent")]


@pytest.mark.parametrize("form", ["flat.jsonl", "nested.trees.jsonl"])
def test_messages_deeper_than_the_bound_are_refused(tmp_path, form):
    rows = [prompt("m0")]
    for n in range(1, DEPTH + 10):
        rows.append(message(f"m{n}", f"m{n - 1}", "assistant" if n % 2 else "prompter"))
    forest = join_exports([read_export(write(tmp_path / form, rows))])
    assert forest.messages.num_rows == DEPTH
    assert set(refused(forest).values()) == {"too_deep"}


def test_a_message_met_again_is_merged_and_other_content_under_its_id_refused(tmp_path):
    rows = [
        prompt("a"),
        reply("b", "a"),
        reply("b", "a", lang="de"),
        reply("b", "a", text="Other"),
        reply("a", "b"),
    ]
    forest = joined(tmp_path, rows)
    file = forest.files[0]
    assert (file.merged, file.refused) == (1, {"conflict": 2})
    assert file.messages == forest.messages.num_rows + 1 + 2
    details = [row["detail"] for row in forest.rejects.to_pylist()]
    assert details == [
        "line 42 of rows.jsonl has this id with another text",
        "line 41 of rows.jsonl has this id with another role, parent_id",
    ]


def test_cycles_are_refused_and_what_hangs_below_them_is_an_orphan(tmp_path):
    forest = joined(
        tmp_path, [prompt("a", "b"), reply("b", "a"), prompt("c", "b"), reply("d", "c")]
    )
    assert refused(forest) == {"a": "cycle", "b": "cycle"}
    left = {row["message_id"] for row in forest.messages.to_pylist()}
    assert {"c", "d"} <= left


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([prompt("a"), prompt("x", "a")], "alternation"),
        ([prompt("a"), reply("b", "a"), reply("x", "b")], "alternation"),
        ([message("x", None, "assistant")], "alternation"),
    ],
)
def test_roles_that_do_not_alternate_are_refused(tmp_path, rows, reason):
    assert refused(joined(tmp_path, rows)) == {"x": reason}


def test_an_orphan_stays_and_its_thread_is_not_complete(tmp_path):
    rows = [
        prompt("a"),
        reply("b", "a"),
        prompt("x", "gone"),
        reply("y", "x"),
        reply("z", "gone too"),
    ]
    threads = make_tables([read(tmp_path, lines(rows))], 0.0).threads.to_pylist()
    assert {row["thread_id"]: row["is_complete"] for row in threads} == {
        "b": True,
        "y": False,
        "z": False,
    }
    assert threads[2]["question"] is None


def test_what_hangs_together_is_one_tree_whatever_the_rows_say(tmp_path):
    rows = [
        prompt("a", message_tree_id="t"),
        reply("b", "a", message_tree_id="other"),
        prompt("c", "b"),
    ]
    forest = join_exports([read(tmp_path, lines(rows))])
    assert set(forest.messages["tree_id"].to_pylist()) == {"t"}


def test_a_row_of_parquet_is_told_by_its_number_from_1(tmp_path):
    export = read_export(write(tmp_path / "x.parquet", [prompt("a"), message("b", role="judge")]))
    assert [refusal.at.line for refusal in export.refusals] == [2]
    assert export.met["line"].to_pylist() == [1]


@pytest.mark.parametrize("form", ["flat.jsonl", "nested.trees.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("roots", "stands"),
    [
        ({"t": "t", "a": "t"}, {"t"}),  # the one that is called as the tree
        ({"t": None, "a": "t"}, {"t"}),  # a tree without an id is called by its root
        ({"b": "t", "a": "t", "c": "t"}, {"a"}),
        ({"b": "t", "a": "u", "c": "u"}, {"a", "b"}),
        ({"b": "t", "t": "u"}, {"b", "t"}),
        ({"b": None, "a": ""}, {"a", "b"}),
    ],
)
def test_of_several_roots_of_one_tree_one_stands_and_the_others_are_refused(
    tmp_path, form, roots, stands
):
    rows = []
    for name, tree_id in roots.items():
        more = {} if tree_id is None else {"message_tree_id": tree_id}
        rows += [prompt(name, **more), reply(f"{name} 1", name, **more)]
    many = [each for n in range(9) for each in (prompt(f"s{n}"), reply(f"s{n}r", f"s{n}"))]
    forests = [
        join_exports([read_export(write(tmp_path / form, each))])
        for each in ([*many, *rows], [*rows[::-1], *many])
    ]
    columns = [each for each in forests[0].messages.column_names if each != "source"]
    if "trees" not in form:
        assert forests[0].messages.select(columns).equals(forests[1].messages.select(columns))
    forest = forests[0]
    assert refused(forest) == dict.fromkeys(roots.keys() - stands, "several_roots")
    assert forest.files[0].refused.get("several_roots", 0) == len(roots) - len(stands)
    found = {row["message_id"]: row["tree_id"] for row in forest.messages.to_pylist()}
    assert len({found[name] for name in stands}) == len(stands)
    # What hung below a refused root is there, and its conversation incomplete.
    assert {f"{name} 1" for name in roots} <= found.keys()


def test_an_orphan_beside_the_root_of_its_tree_is_no_root(tmp_path):
    rows = [prompt("a", message_tree_id="t"), prompt("b", "gone", message_tree_id="t")]
    assert refused(joined(tmp_path, rows)) == {}


def test_a_file_whose_messages_are_mostly_refused_stops_the_build_and_names_the_commonest_reason(
    tmp_path,
):
    rows = [
        message("a"),
        {"thread_id": "x"},
        {"thread_id": "y"},
        {"message_id": "z", "text": "a", "role": "bot"},
    ]
    with pytest.raises(InputError) as error:
        join_exports([read(tmp_path, lines(rows), "my export.jsonl")])
    assert str(error.value) == (
        f"{tmp_path / 'my export.jsonl'}: 3 of 4 messages refused, 2 of them by `form`; "
        "line 2: a thread without messages"
    )
    assert error.value.hint is not None
    assert error.value.hint.startswith("wanted: Open Assistant trees")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (
            gzip.compress(lines([message("a")]))[:-12],
            "cannot be read: Compressed file ended before",
        ),
        (b"PAR1 and no more", "cannot be read: "),
        (b"\x28\xb5\x2f\xfd broken", "cannot be read: "),
    ],
)
def test_a_file_that_is_empty_or_damaged_is_an_input_error(tmp_path, content, found):
    with pytest.raises(InputError, match="bad file") as error:
        read(tmp_path, content, "bad file")
    assert found in str(error.value)


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        read_export(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_export(tmp_path)


def test_the_real_files_are_read_whole_and_their_overlaps_merged():
    names = [
        "oasst/laion_en_100.trees.jsonl",
        "oasst/oasst1_en_validation.messages.jsonl",
        "oasst/oasst2_animals.trees.jsonl",
    ]
    laion, validation, animals = (read_export(real(name)) for name in names)
    assert [len(each.messages) for each in (laion, validation, animals)] == [1167, 2022, 1552]
    assert not [*laion.refusals, *validation.refusals, *animals.refusals]
    assert [each.form for each in (laion, validation, animals)] == ["trees", "messages", "trees"]

    def merged(*exports):
        return sum(file.merged for file in join_exports(exports).files)

    repeats = merged(animals)
    assert repeats == 52
    assert merged(laion, validation) == 73
    assert merged(validation, animals) - repeats == 17
    assert merged(laion, animals) - repeats == 12
    union = join_exports([laion, validation, animals])
    assert union.messages.num_rows == 4587
    assert not union.rejects.num_rows


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["a", "b", "prompter", "assistant", "", "\x00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["message_id", "parent_id", "text", "role", "rank", "replies", "prompt", "labels"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_values, min_size=1, max_size=4))
def test_whatever_a_row_holds_it_is_read_or_refused_and_every_message_is_counted(tmp_path, rows):
    # Among enough sound messages that the file is not refused whole.
    sound = [message(f"sound{n}") for n in range(200)]
    export = read(tmp_path, lines([*rows, *sound]))
    assert export.rows == len(rows) + len(sound)
    assert {met.at.line for met in [*export.messages, *export.refusals]} == set(
        range(1, export.rows + 1)
    )
    forest = join_exports([export])
    file = forest.files[0]
    assert file.messages == len(export.messages) + len(export.refusals)
    assert file.messages == forest.messages.num_rows + file.merged + sum(file.refused.values())
    assert forest.rejects.num_rows == sum(file.refused.values())


@pytest.mark.parametrize("key", ["message_tree_id", "tree_state"])
def test_a_tree_or_thread_whose_id_or_state_is_no_text_is_refused_whole(tmp_path, key):
    tree = nested(CONVERSATION)[0]
    thread = {"thread_id": "t", "thread": {"messages": CONVERSATION[:2]}}
    export = read(tmp_path, lines([row | {key: 3} for row in (tree, thread)]))
    assert reasons(export) == [(1, "wrong_type"), (2, "wrong_type")]
    assert all(f"`{key}` is a int" in each.detail for each in export.refusals)


def test_a_tree_or_thread_with_a_wrong_value_in_it_keeps_its_id_and_state(tmp_path):
    wrong = [*CONVERSATION[:2], CONVERSATION[2] | {"rank": "first"}]
    (tree,) = nested(wrong)
    thread = {"thread_id": "t", "thread": {"messages": wrong[::2]}}
    said = {"message_tree_id": "mine", "tree_state": "growing"}
    for row in (tree, thread):
        export = read(tmp_path, lines([row | said]))
        assert reasons(export) == [(1, "wrong_type")]
        assert {(met.tree_id, met.tree_state) for met in export.messages} == {("mine", "growing")}


def test_a_tree_that_is_its_root_message_loses_the_wrong_one_alone(tmp_path):
    (tree,) = nested([*CONVERSATION[:3], CONVERSATION[3] | {"rank": "first"}, CONVERSATION[4]])
    export = read(tmp_path, lines([tree["prompt"]]))
    assert (export.form, reasons(export)) == ("trees", [(1, "wrong_type")])
    assert [met.message.message_id for met in export.messages] == ["a", "b", "e", "c"]


SAID = {"message_id": "x", "text": "Hello", "role": "prompter"}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ([1], "form", "a list; wanted an object"),
        ({"thread_id": "t"}, "form", "a thread without messages"),
        ({"some": 1}, "form", "neither `message_id` nor `thread_id` nor `prompt`"),
        ({"text": "Hello"}, "incomplete", "no `message_id`"),
        ({"role": "prompter"}, "incomplete", "no `message_id`"),
        (SAID | {"message_id": ""}, "incomplete", "an empty `message_id`"),
        (SAID | {"text": None}, "incomplete", "no `text`"),
        (SAID | {"role": None}, "incomplete", "no `role`"),
        (SAID | {"role": "bot"}, "role", "role `bot`; wanted prompter or assistant"),
        (SAID | {"parent_id": "x"}, "self_parent", "it is its own parent"),
        (SAID | {"text": "a\0"}, "nul", "a NUL character"),
        (
            SAID | {"message_id": "x" * (NAME + 1)},
            "too_long",
            f"an id or a tree's state of more than {NAME} characters",
        ),
        (
            {"thread_id": "t", "thread": [SAID | {"replies": [SAID]}]},
            "form",
            "a thread's message with replies",
        ),
        ({"prompt": {"replies": [3]} | SAID}, "wrong_type", "a message is a int; wanted an object"),
        (
            {"prompt": SAID | {"replies": [SAID | {"message_id": "y", "parent_id": "z"}]}},
            "parent",
            "nested below x, its `parent_id` is z",
        ),
        (
            {"prompt": {"replies": [SAID | {"parent_id": "z"}]}},
            "parent",
            "nested below a message without id, its `parent_id` is z",
        ),
        (
            {"prompt": SAID, "tree_state": 3, "some": 1},
            "wrong_type",
            "`tree_state` is a int; wanted a string",
        ),
    ],
)
def test_what_is_wrong_with_a_message_is_said_in_words(row, reason, detail):
    place = Place(1, 0)
    _, found = read_row(json.dumps(row).encode(), place)
    refusals = [each for each in found if isinstance(each, Refusal)]
    assert (refusals[-1].at, refusals[-1].reason) == (place, reason)
    assert refusals[-1].detail == detail


def test_an_id_may_have_as_many_characters_as_a_name():
    _, [met] = read_row(json.dumps(SAID | {"message_id": "x" * NAME}).encode(), Place(1, 0))
    assert isinstance(met, Met)


@pytest.mark.parametrize("place", ["thread", "inner", "messages"])
def test_a_thread_with_a_wrong_value_in_it_loses_that_message_alone(tmp_path, place):
    turns = [CONVERSATION[0] | {"text": "a\0b"}, CONVERSATION[1] | {"rank": "first"}]
    turns.append(CONVERSATION[3])
    row = {"inner": {"thread": {"messages": turns}}}.get(place, {place: turns})
    export = read(tmp_path, lines([{"thread_id": "t"} | row]))
    assert (export.form, reasons(export)) == ("threads", [(1, "nul"), (1, "wrong_type")])
    assert [met.message.message_id for met in export.messages] == ["d"]


@pytest.mark.parametrize("size", [10, 10**6])
def test_a_file_is_refused_once_too_much_of_it_is(tmp_path, monkeypatch, size):
    """Each refusal is kept: lines of two bytes took 600 times their room, and hours."""
    monkeypatch.setattr(shards, "REFUSED", 5)
    monkeypatch.setattr(lines_module, "TOGETHER", 10)
    path = tmp_path / "x"
    path.write_bytes(b"1\n" * 5 + lines(CONVERSATION * 3))
    assert len(read_export(path).refusals) == 5
    path.write_bytes(b"1\n" * 400)
    looked_at = []
    monkeypatch.setattr(shards, "read_row", lambda *row: looked_at.append(row) or read_row(*row))
    parts = map(shards.read_shard, shards.shards_of(path, size))
    told = r"x: more than 5 messages refused, the first of them by `form`: a int"
    with pytest.raises(InputError, match=told), shards.reading(path):
        shards.joined(parts)
    assert len(looked_at) < 20
    # Of shards that are read beside each other, whichever comes to it first.
    monkeypatch.setattr(export_module, "shards_of", lambda path: shards.shards_of(path, size))
    with pytest.raises(InputError, match=told):
        read_export(path)


def test_a_packed_file_is_one_shard_and_a_plain_one_as_many_as_it_fills(tmp_path):
    content = lines(CONVERSATION)
    path = tmp_path / "x"

    def ends():
        return [(shard.begin, shard.end) for shard in shards.shards_of(path, 100)]

    path.write_bytes(content[:250])
    assert ends() == [(0, 100), (100, 200), (200, None)]
    assert {shard.path for shard in shards.shards_of(path, 100)} == {str(path)}
    path.write_bytes(b"")
    assert [*shards.shards_of(path, 1)] == [shards.Shard(str(path))]
    mixed = bytes(range(256))  # packs to more than a shard
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": [mixed.decode("latin-1")]}), parquet)
    zstd = pa.compress(mixed, codec="zstd", asbytes=True)
    for packed in (gzip.compress(mixed), zstd, parquet.getvalue()):
        assert len(packed) > 200
        path.write_bytes(packed)
        assert ends() == [(0, None)]


@pytest.mark.parametrize("size", [60, 200, 10_000])
def test_the_shards_of_a_file_together_are_the_file(tmp_path, size):
    odd = [b"\n", b"5\n", b'{"text": 1}\n', b"\n"]
    rows = [line + b"\n" for line in lines(CONVERSATION).splitlines()]
    path = tmp_path / "x"
    path.write_bytes(b"".join(odd + rows[:2] + odd + rows[2:] + odd))
    found = shards.joined(map(shards.read_shard, shards.shards_of(path, size)))
    assert found.met["message_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert found.met["line"].to_pylist() == [5, 6, 11, 12, 13]
    assert [each.at.line for each in found.refusals] == [2, 3, 8, 9, 15, 16]
    assert (found.rows, found.lines, found.form) == (11, 17, "messages")
    whole = shards.read_shard(shards.Shard(str(path)))
    assert (whole.rows, whole.lines, whole.form) == (11, 17, "messages")


def test_rows_are_reported_as_they_are_read_and_in_the_end_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "shards_of", lambda path: shards.shards_of(path, 300))
    path = tmp_path / "x"
    path.write_bytes(lines(CONVERSATION))
    told = []
    assert read_export(path, report=told.append).rows == 5
    assert told == sorted(told)
    assert (told[-1], len(told) > 1) == (5, True)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(5, "Input/output error"), "Input/output error"),
        (EOFError("cut off"), "cut off"),
        (EOFError(), "it ends too early"),
        (pa.ArrowInvalid("not a table"), "not a table"),
    ],
)
def test_whatever_goes_wrong_with_a_file_is_said_with_its_name(tmp_path, fault, reason):
    with pytest.raises(InputError) as error, shards.reading(tmp_path / "x"):
        raise fault
    assert str(error.value) == f"{tmp_path / 'x'}: cannot be read: {reason}"
    assert error.value.hint == shards.WANTED


def test_a_file_in_shards_has_the_form_of_the_first_shard_with_one(tmp_path):
    tree, lone = lines(nested([prompt("a"), reply("b", "a")])), lines([prompt("c")])
    path = tmp_path / "x"
    for content, form in (
        (lone + tree, "messages"),
        (tree + lone, "trees"),
        (b"5\n" + tree + lone, "trees"),
        (lone + lone.replace(b'"c"', b'"d"') + tree, "messages"),
    ):
        path.write_bytes(content)
        for size in (200, 10**6):
            parts = map(shards.read_shard, shards.shards_of(path, size))
            assert shards.joined(parts).form == form


def test_a_text_of_a_table_that_is_no_utf8_is_refused_in_one_line(tmp_path):
    offsets, data = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    path = tmp_path / "x"
    pq.write_table(pa.table({"message_id": ["m"], "text": text}), path)
    with pytest.raises(InputError, match=r"x: cannot be read: .*UTF8"):
        read_export(path)


@pytest.mark.parametrize(
    ("most", "is_refused"), [(4_000_000, True), (9_000_000, True), (20_000_000, False)]
)
def test_a_table_whose_texts_repeat_is_refused_before_it_is_spread_out(
    tmp_path, monkeypatch, most, is_refused
):
    # 10 MB of one text that the file holds once: three batches of 4,096 rows at most.
    path = tmp_path / "x"
    names = [f"m{n}" for n in range(10_000)]
    pq.write_table(pa.table({"message_id": names, "text": ["a" * 1000] * 10_000}), path)
    monkeypatch.setattr(lines_module, "FREE_BYTES", 0)
    monkeypatch.setattr(lines_module, "UNPACKED_RATIO", most / path.stat().st_size)
    if is_refused:
        with pytest.raises(InputError, match="unpacks to more than"):
            read_export(path)
    else:
        found = read_export(path)
        assert (found.rows, found.form) == (10_000, "parquet")


@pytest.mark.parametrize("first", [b"5", b'{"text": 1}', b"{", b'{"message_id": "x"}'])
def test_a_file_has_the_form_of_its_first_row_that_could_be_read(tmp_path, first):
    tree = lines(nested([prompt("a"), reply("b", "a")]))
    lone = lines([prompt("c")])
    assert read(tmp_path, first + b"\n" + tree + lone).form == "trees"
    assert read(tmp_path, first + b"\n" + lone + tree).form == "messages"
    assert read(tmp_path, first + b"\n" + lone).form == "messages"


def test_compiled_code_reads_where_it_is_at_hand(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(lines(CONVERSATION))
    if compiled.library() is None:
        pytest.skip("no C compiler here")
    assert shards.is_compiled(path) is True


def test_what_is_wrong_with_a_row_is_said_in_full(tmp_path, monkeypatch):
    at = Place(1, 0)

    def told(content):
        [refusal] = read_row(content, at)[1]
        return refusal.reason, refusal.detail

    assert told(b'{"message_id": "a", "message_id": "b"}') == (
        "duplicate_key",
        "`message_id` stands twice in one object",
    )
    row = {**prompt("a"), "labels": [{"name": "spam", "value": 0.5}] * 2}
    assert told(json.dumps(row).encode()) == ("duplicate_key", "`spam` stands twice in one map")
    deep = b'{"message_id": "a", "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    assert told(deep) == ("too_deep", "more levels than can be parsed")
    monkeypatch.setattr(lines_module, "LINE_BYTES", 50)
    monkeypatch.setattr(shards, "LINE_BYTES", 50)
    long = b'{"message_id": "' + b"a" * 60 + b'"}\n'
    [refusal] = read(tmp_path, long + b"5\n").refusals[:1]
    assert (refusal.reason, refusal.detail) == ("too_long", "more than 50 bytes")
    with pytest.raises(InputError) as error:
        read(tmp_path, b"\n \n", "empty.jsonl")
    assert str(error.value) == f"{tmp_path / 'empty.jsonl'}: holds no rows"
    assert error.value.hint == shards.WANTED


def test_a_row_with_an_id_is_a_message_whatever_else_it_has(tmp_path):
    turns = [prompt("t0"), reply("t1", "t0")]
    row = {**prompt("a"), "thread_id": "t", "thread": turns, "created_date": 5}
    form, found = read_row(json.dumps(row).encode(), Place(1, 0))
    assert (form, len(found)) == ("messages", 1)
    # `created_date` is of a wrong type, so that the row is read without types.
    assert isinstance(found[0], Refusal)
    del row["message_id"]
    form, found = read_row(json.dumps(row).encode(), Place(1, 0))
    assert (form, len(found)) == ("threads", 2)
    del row["thread_id"]
    form, found = read_row(json.dumps(row).encode(), Place(1, 0))
    assert form == "messages"


def plain_lines(content, begin, end, bound):
    """What `lines_of` says, line by line: (number, offset, line), and how many there are."""
    at, number, found = 0, 0, []
    for line in io.BytesIO(content):
        if begin <= at and (end is None or at < end):
            said = line.removesuffix(b"\n")
            if len(said) > bound:
                found.append((number, at, None))
            elif (said := said if at else said.removeprefix(b"\xef\xbb\xbf")).strip():
                found.append((number, at, said))
            number += 1
        at += len(line)
    return found, number


sizes = st.integers(1, 200)
pieces = st.sampled_from(
    [
        b"\n",
        b"\n" * 40,
        b" \n",
        b"\r\n",
        b"a",
        b"bb\n",
        b"c" * 50 + b"\n",
        b"c" * 60,
        b"c" * 150,
        b"\t",
        b"\xef\xbb\xbf",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=12), st.integers(0, 60), st.none() | st.integers(0, 90), sizes)
def test_lines_are_numbered_and_cut_as_one_by_one(parts, begin, end, chunk):
    content = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK_BYTES", chunk)
        patch.setattr(lines_module, "TAIL_BYTES", 1 + chunk // 7)
        patch.setattr(lines_module, "LINE_BYTES", 50)
        patch.setattr(lines_module, "TOGETHER", 2)
        found, before = [], 0
        for each in lines_module.lines_of(io.BytesIO(content), begin, end):
            found += [
                (before + number, offset, line)
                for number, offset, line in zip(*each[:3], strict=True)
                if line is None or line.strip()
            ]
            before += each.lines
    assert (found, before) == plain_lines(content, begin, end, 50)


def test_lines_that_are_taken_together_are_numbered_from_where_those_before_them_end(monkeypatch):
    monkeypatch.setattr(lines_module, "TOGETHER", 2)
    chunk = lines_module.Chunk(100, b"a\n\nb\n\nc\nd\n\n\ne\n\n", 0)
    assert [*lines_module.lines_in(chunk)] == [
        ([0, 2], [100, 103], [b"a", b"b"], 4),
        ([0, 1], [106, 108], [b"c", b"d"], 4),
        ([0], [112], [b"e"], 2),
    ]


def test_lines_and_blocks_are_those_that_begin_in_it(monkeypatch):
    monkeypatch.setattr(lines_module, "TAIL_BYTES", 2)
    content = b"\n\nabbbbbbbbbbbbbbb\ncc\ndddd"
    begins = [0, 1, 2, 19, 22]
    for begin in range(len(content) + 1):
        for end in (None, *range(begin + 1, len(content) + 1)):
            found = [*lines_module.lines_of(io.BytesIO(content), begin, end)]
            contents = [line for each in found for line in each.contents]
            numbered, count = plain_lines(content, begin, end, 99)
            assert contents == [line for _, _, line in numbered]
            assert sum(each.lines for each in found) == count
            block = lines_module.block_of(io.BytesIO(content), begin, end)
            own = [at for at in begins if begin <= at and (end is None or at < end)]
            behind = min((at for at in begins if own and at > own[-1]), default=len(content))
            said = content[own[0] : behind] if own else b""
            assert block.buffer[: block.size].tobytes() == said
            assert not own or block.offset == own[0]
            assert len(block.buffer) > block.size + lines_module.PADDING
            assert block.buffer[block.size :].tobytes().rstrip(b"\0") == b"\n"


def test_more_than_a_line_may_have_is_no_block(monkeypatch):
    monkeypatch.setattr(lines_module, "TAIL_BYTES", 2)
    monkeypatch.setattr(lines_module, "LINE_BYTES", 10)
    for size, is_block in ((8, True), (9, False)):
        assert bool(lines_module.block_of(io.BytesIO(b"a" * size), 0, None)) is is_block
    for held, dropped, is_block in ((10, 0, True), (11, 0, False), (3, 1, False)):
        for offset in (0, 5):
            chunk = lines_module.Chunk(offset, b"a" * held, dropped)
            assert bool(lines_module.as_block(chunk)) is is_block
    # A mark is cut from the first line of a file, and from no other.
    for offset, is_block in ((0, False), (5, True)):
        chunk = lines_module.Chunk(offset, b"\xef\xbb\xbfa", 0)
        assert bool(lines_module.as_block(chunk)) is is_block


@pytest.mark.parametrize(
    ("unpacked", "packed", "said"),
    [
        (8 * 2**30, 2**30, None),
        (8 * 2**30 + 1, 2**30, "x: unpacks to more than 8 GiB"),
        (64 * 2**20, 0, None),
        (64 * 2**20 + 200, 2**20, None),
        (200 * 2**20, 2**20, None),
        (200 * 2**20 + 1, 2**20, "x: unpacks to more than 200 times its size"),
        (64 * 2**20 + 1, 2**10, "x: unpacks to more than 200 times its size"),
    ],
)
def test_what_a_file_unpacks_to_is_bounded_in_bytes_and_in_ratio(unpacked, packed, said):
    if said is None:
        lines_module.refuse_bomb(unpacked, packed, "x")
        return
    with pytest.raises(InputError) as error:
        lines_module.refuse_bomb(unpacked, packed, "x")
    assert str(error.value) == said
    assert error.value.hint == "unpack it yourself if you trust it, and name the result"


def test_a_file_may_unpack_to_all_that_is_free_and_is_measured_from_its_first_byte(monkeypatch):
    monkeypatch.setattr(lines_module, "FREE_BYTES", 1000)
    monkeypatch.setattr(lines_module, "UNPACKED_RATIO", 2)
    for size, is_refused in ((1000, False), (1001, True)):
        packed = io.BytesIO(gzip.compress(b"a" * size))
        stream = lines_module.unpacked(packed, packed.getvalue()[:4], "x")
        if is_refused:
            with pytest.raises(InputError, match="more than 2 times its size"):
                stream.read(2000)
        else:
            assert len(stream.read(2000)) == size


@pytest.mark.parametrize("line", [b"\n", b"  \n", b"\r\n"])
def test_nothing_is_made_of_lines_without_anything(line):
    """As an object each, 64 million of them took half a gigabyte."""
    chunk = lines_module.Chunk(7, line * 10**5 + b"1\n", 0)
    [found] = lines_module.lines_in(chunk)
    assert found == ([10**5], [7 + len(line) * 10**5], [b"1"], 10**5 + 1)


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    met = times = 0

    def read(self, size=-1):
        found = super().read(size)
        self.met += len(found)
        self.times += 1
        return found

    def readinto(self, buffer):
        n = super().readinto(buffer)
        self.met += n
        return n


@pytest.mark.parametrize("ways", [lines_module.lines_of, lines_module.block_of])
def test_no_shard_of_an_endless_line_reads_all_of_it(monkeypatch, ways):
    monkeypatch.setattr(lines_module, "TAIL_BYTES", 500)
    monkeypatch.setattr(lines_module, "LINE_BYTES", 4000)
    file = Counting(b"a" * 200_000 + b"\nb\n")
    for begin in range(2000, 200_000, 2000):
        found = ways(file, begin, begin + 2000)
        assert not (list(found) if ways is lines_module.lines_of else found.size)
    assert file.met < 2 * 200_000


def test_little_more_than_a_shard_is_read_for_it(monkeypatch):
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", 1010)
    monkeypatch.setattr(lines_module, "TAIL_BYTES", 40)
    monkeypatch.setattr(lines_module, "LINE_BYTES", 300)
    for width, most in ((90, 1.1), (700, 1.4)):
        file = Counting((b"a" * width + b"\n") * 200)
        size = len(file.getvalue())
        for begin in range(0, size, 2000):
            list(lines_module.lines_of(file, begin, begin + 2000))
        assert file.met < most * size


def test_a_line_that_goes_on_is_read_in_ever_larger_pieces(monkeypatch):
    """All that is held of it is copied with each."""
    monkeypatch.setattr(lines_module, "TAIL_BYTES", 500)
    monkeypatch.setattr(lines_module, "LINE_BYTES", 40_000)
    file = Counting(b"a" * 200_000)
    assert [each.contents for each in lines_module.lines_of(file, 0, 10)] == [[None]]
    assert file.times < 60  # of 400
