import gzip
import json
from itertools import permutations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import lines, message, nested, prompt, reply, write
from hostile_rows import LINES, least
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real import real
from test_export import joined, read, reasons, refused
from test_threads import export_order, forests

from dataset_builder import lines as lines_module
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forest import join_exports
from dataset_builder.tables import MESSAGES

MAPS = {
    "labels": {"spam": {"value": 0.0, "count": 3}, "quality": {"value": 0.5, "count": 2}},
    "emojis": {"+1": 2, "_skip_reply": 1},
}
LISTS = {
    "labels": {"name": ["spam", "quality"], "value": [0.0, 0.5], "count": [3, 2]},
    "emojis": {"name": ["+1", "_skip_reply"], "count": [2, 1]},
}
COLUMNS = [name for name in MESSAGES.schema.names if name != "source"]


def threads(rows):
    """`rows` as Open Assistant's threads: one for each message that nothing answers."""
    by_id = {row["message_id"]: row for row in rows}
    found = []
    for row in rows:
        if any(each["parent_id"] == row["message_id"] for each in rows):
            continue
        path = [row]
        while path[0]["parent_id"] in by_id:
            path.insert(0, by_id[path[0]["parent_id"]])
        found.append({"thread_id": row["message_id"], "thread": {"messages": path}})
    return found


# ---------------------------------------------------------------------------------- the forms


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(forests(), st.randoms(use_true_random=False))
def test_any_form_and_any_order_of_rows_and_files_is_the_same_table(tmp_path, rows, random):
    # Orphans have no nested form.
    rows = [row | LISTS for row in rows]
    while len(hanging := hanging_together(rows)) < len(rows):
        rows = hanging
    if not rows:
        return

    def shuffled(each):
        return random.sample(each, len(each))

    trees = nested([row | MAPS for row in sorted(rows, key=export_order)])
    ways = {
        "flat.jsonl": lines(rows),
        "shuffled.jsonl": lines(shuffled(rows)),
        "nested.jsonl": lines(shuffled(trees)),
        "threads.jsonl.gz": gzip.compress(lines(shuffled(threads(rows)))),
    }
    exports = [read(tmp_path, content, name) for name, content in ways.items()]
    exports.append(read_export(write(tmp_path / "rows.parquet", shuffled(rows))))
    assert [export.form for export in exports[2:]] == ["trees", "threads", "parquet"]
    tables = [join_exports([export]).messages.select(COLUMNS) for export in exports]
    assert all(table.equals(tables[0]) for table in tables)
    unions = [join_exports(each).messages for each in (exports, exports[::-1])]
    assert unions[0].equals(unions[1])
    assert unions[0].select(COLUMNS).equals(tables[0])


def hanging_together(rows):
    ids = {None, *(row["message_id"] for row in rows)}
    return [row for row in rows if row["parent_id"] in ids]


FOLLOW_UPS = [
    prompt("a"),
    reply("r", "a"),
    prompt("p", "r"),
    prompt("q", "r"),
    prompt("s", "r"),
    reply("t", "q"),
]


def nested_as(folder, name, *order):
    """The follow-ups above as a nested file that lists those of `order` so."""
    rows = [row for row in FOLLOW_UPS if row["message_id"] not in {"p", "q", "s"} - {*order}]
    rows = [row for row in rows if row["message_id"] != "t" or "q" in order]
    rows.sort(key=lambda row: order.index(row["message_id"]) if row["message_id"] in order else -1)
    rows.sort(key=lambda row: row["message_id"] == "t")
    return read(folder, lines(nested(rows)), name)


def order_of(*exports):
    rows = join_exports(exports).messages.to_pylist()
    found = sorted((row for row in rows if row["parent_id"] == "r"), key=lambda row: row["place"])
    assert [row["place"] for row in found] == list(range(len(found)))
    return "".join(row["message_id"] for row in found)


@pytest.mark.parametrize("form", [lines, lambda rows: lines(threads(rows))])
def test_the_order_of_siblings_that_no_file_nests_is_by_rank_and_id(tmp_path, form):
    for number, order in enumerate(permutations(FOLLOW_UPS)):
        if number % 90 == 0:
            assert order_of(read(tmp_path, form(order))) == "pqs"
    ranked = [row | {"rank": "sq".find(row["message_id"])} for row in FOLLOW_UPS]
    ranked = [row | {"rank": None if row["rank"] < 0 else row["rank"]} for row in ranked]
    assert order_of(read(tmp_path, form(ranked))) == "sqp"


def test_siblings_stand_as_files_nest_them_where_those_agree_and_else_by_id(tmp_path):
    nested_so = nested_as(tmp_path, "one", "q", "s", "p")
    again = nested_as(tmp_path, "again", "q", "s", "p")
    flat = read(tmp_path, lines(FOLLOW_UPS[::-1]), "flat")
    for exports in permutations([nested_so, again, flat]):
        assert order_of(*exports) == "qsp"
    otherwise = nested_as(tmp_path, "two", "s", "q", "p")
    some = nested_as(tmp_path, "three", "s")
    less = nested_as(tmp_path, "four", "q", "s")
    for others, told in (
        ([nested_so, otherwise], "pqs"),  # q and s in two places each
        ([less, some], "qs"),  # s in two
        ([less, read(tmp_path, lines(FOLLOW_UPS), "flat")], "pqs"),  # p in none
        ([some, nested_as(tmp_path, "five", "p")], "ps"),  # two in one place
    ):
        for exports in permutations(others):
            assert order_of(*exports) == told


def test_copies_that_differ_in_a_field_keep_the_places_where_files_nest_them(tmp_path):
    nested_so = nested_as(tmp_path, "one", "q", "s", "p")
    flat = read(tmp_path, lines([row | {"lang": "de"} for row in FOLLOW_UPS]), "flat")
    for exports in permutations([nested_so, flat]):
        assert order_of(*exports) == "qsp"
    otherwise = [row | {"lang": "de"} for row in FOLLOW_UPS]
    otherwise = read(tmp_path, lines(nested(otherwise)), "two")
    for exports in permutations([nested_so, otherwise]):
        assert order_of(*exports) == "pqs"


def test_a_thread_is_its_messages_whether_they_name_their_parents_or_not(tmp_path):
    rows = [prompt("a"), reply("b", "a"), prompt("c", "b"), reply("d", "c"), reply("e", "c")]
    silent = [
        {"thread_id": each["thread_id"], "messages": [{**m} for m in each["thread"]["messages"]]}
        for each in threads(rows)
    ]
    for each in silent:
        for turn in each["messages"]:
            del turn["parent_id"]
    flat = join_exports([read(tmp_path, lines(rows), "flat")]).messages.select(COLUMNS)
    for name, form in (("said", threads(rows)), ("silent", silent)):
        forest = join_exports([read(tmp_path, lines(form), name)])
        assert forest.messages.select(COLUMNS).equals(flat)
        assert (forest.files[0].messages, forest.files[0].merged) == (8, 3)


def test_a_thread_that_contradicts_itself_costs_the_message_that_does(tmp_path):
    turns = [prompt("a"), reply("b", "elsewhere"), 3, prompt("d"), {**reply("e", "d"), "rank": "x"}]
    export = read(tmp_path, lines([{"thread_id": "t", "thread": turns}]))
    assert [reason for _, reason in reasons(export)] == [
        "parent",
        "wrong_type",
        "parent",
        "wrong_type",
    ]


LABEL = pa.struct([("value", pa.float64()), ("count", pa.int32())])
NAMED = pa.struct([("name", pa.string()), *LABEL])


@pytest.mark.parametrize("form", ["lists", "maps", "structs"])
def test_hub_parquet_holds_labels_and_emojis_as_lists_or_as_maps(tmp_path, form):
    if form == "lists":
        labels, emojis = pa.array([LISTS["labels"], None]), pa.array([LISTS["emojis"], None])
    elif form == "maps":
        kinds = pa.map_(pa.string(), LABEL), pa.map_(pa.string(), pa.int32())
        labels = pa.array([list(MAPS["labels"].items()), None], kinds[0])
        emojis = pa.array([list(MAPS["emojis"].items()), None], kinds[1])
    else:
        named = [{"name": name, **label} for name, label in MAPS["labels"].items()]
        counted = [{"name": name, "count": n} for name, n in MAPS["emojis"].items()]
        labels, emojis = pa.array([named, None], pa.list_(NAMED)), pa.array([counted, None])
    columns = {name: [m[name] for m in (prompt("a"), prompt("b"))] for name in prompt("a")}
    pq.write_table(pa.table(columns | {"labels": labels, "emojis": emojis}), tmp_path / "x.parquet")
    forest = join_exports([read_export(tmp_path / "x.parquet")])
    first, second = forest.messages.to_pylist()
    assert first["labels"] == [{"name": name, **label} for name, label in MAPS["labels"].items()]
    assert first["emojis"] == [{"name": name, "count": n} for name, n in MAPS["emojis"].items()]
    assert (second["labels"], second["emojis"]) == (None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.5])
@pytest.mark.parametrize("form", ["lists", "structs", "maps", "nested"])
def test_what_is_no_number_is_refused_in_parquet_as_in_json(tmp_path, value, form):
    labels = {"name": ["spam", "quality"], "value": [0.0, value], "count": [3, 3]}
    kind = None
    if form != "lists":
        labels = [
            {"name": name, "value": n, "count": 3}
            for name, n in zip(labels["name"], labels["value"], strict=True)
        ]
    if form == "maps":
        kind = pa.map_(pa.string(), LABEL)
        labels = [(each["name"], {"value": each["value"], "count": 3}) for each in labels]
    rows = [prompt("a"), reply("b", "a"), prompt("c"), prompt("d")]
    columns = {name: [row.get(name) for row in rows] for name in reply("b", "a")}
    columns["labels"] = pa.array([None, labels, None, None], kind)
    if form == "nested":
        node = {"message_id": "b", "role": "assistant", "text": "x", "labels": labels}
        trees = [prompt("a", replies=[node]), *rows[2:]]
        columns = {"prompt": trees, "message_tree_id": ["a", "c", "d"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    forest = join_exports([read_export(tmp_path / "x.parquet")])
    assert refused(forest) == ({} if value == 0.5 else {"b": "wrong_type"})
    assert forest.messages.num_rows == 4 - len(refused(forest))
    for row in forest.rejects.to_pylist():
        assert (row["line"], row["detail"].split()[0]) == (1 if form == "nested" else 2, "`labels`")


# --------------------------------------------------------------------------------- the border


@pytest.mark.parametrize(
    ("row", "reason"),
    [(row, reason) for reason, rows in LINES.items() for row in rows],
)
def test_hostile_rows_cost_themselves_alone_and_stand_among_the_rejects(tmp_path, row, reason):
    before, after = (lines([message(f"{side}{n}") for n in range(3)]) for side in "ab")
    forest = join_exports([read(tmp_path, before + row + b"\n" + after)])
    (reject,) = forest.rejects.to_pylist()
    assert (reject["source"], reject["line"], reject["reason"]) == ("rows.jsonl", 4, reason)
    assert reject["byte_offset"] == len(before)
    assert reject["detail"]
    assert forest.messages.num_rows == 6


@pytest.mark.parametrize(
    "row",
    [
        least('"text": "a: \\"text\\": b", "detoxify": {"a": 1}, "user_id": null'),
        least('"text": "caf\\u00e9 \\u003a \\\\u0041"'),
        least('"text": "a", "of another tool": {"text": {"text": ":"}, "role": ":"}'),
        least('"text" : "a" , "labels":{"spam":{"value":null}} , "emojis" : {}'),
    ],
)
def test_colons_in_texts_escapes_and_unknown_keys_repeat_nothing(tmp_path, row):
    assert not read(tmp_path, row).refusals


CHAINS = [[n] for n in range(1, 3)] + [[2, 3], [4], [2, 2, 2], [5, 4], [10], [3, 8], [7, 2], [6]]


@pytest.mark.parametrize("lengths", CHAINS)
def test_circles_of_any_length_are_refused(tmp_path, lengths):
    rows = [
        message(f"{k}-{n}", f"{k}-{(n + 1) % length}", "assistant" if n % 2 else "prompter")
        for k, length in enumerate(lengths)
        for n in range(length)
    ]
    reason = set(refused(joined(tmp_path, [*rows, *map(prompt, "abcdefgh")])).values())
    assert reason <= {"cycle", "self_parent"}
    assert len(reason) == 1


@pytest.mark.parametrize("packed", ["gz", "zst"])
@pytest.mark.parametrize("bound", ["UNPACKED_RATIO", "UNPACKED_BYTES"])
def test_what_unpacks_beyond_the_bounds_is_one_clear_error(tmp_path, monkeypatch, packed, bound):
    monkeypatch.setattr(lines_module, "FREE_BYTES", 2**20)
    if bound == "UNPACKED_BYTES":
        monkeypatch.setattr(lines_module, bound, 2**20)
    content = lines([message(str(n), text="a" * 9999) for n in range(900)]) + b"\n" * 2**23
    small = gzip.compress(content) if packed == "gz" else pa.compress(content, "zstd", asbytes=True)
    told = "200 times its size" if bound == "UNPACKED_RATIO" else "0.000976562 GiB"
    with pytest.raises(InputError, match=f"x: unpacks to more than {told}") as error:
        read(tmp_path, small, "x")
    assert error.value.hint == "unpack it yourself if you trust it, and name the result"


def test_parquet_that_unpacks_beyond_the_bounds_is_the_same_error(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "FREE_BYTES", 2**20)
    column = pa.array(["a" * 2**22])
    pq.write_table(
        pa.table({"text": column}), tmp_path / "x", compression="zstd", use_dictionary=False
    )
    with pytest.raises(InputError, match="x: unpacks to more than 200 times its size"):
        read_export(tmp_path / "x")


def test_parquet_that_stores_a_text_once_and_means_it_often_is_the_same_error(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lines_module, "FREE_BYTES", 2**20)
    rows = pa.table({"text": pa.array(["a" * 2**14] * 4096)})
    pq.write_table(rows, tmp_path / "x", compression="zstd")
    said = pq.ParquetFile(tmp_path / "x").metadata.row_group(0).total_byte_size
    assert said < 2**16
    with pytest.raises(InputError, match="x: unpacks to more than 200 times its size"):
        read_export(tmp_path / "x")


def test_a_packed_file_of_several_parts_is_read_whole_and_a_cut_one_refused(tmp_path):
    parts = [lines([message(name)]) for name in "abc"]
    for pack in (gzip.compress, lambda part: pa.compress(part, "zstd", asbytes=True)):
        whole = b"".join(map(pack, parts))
        assert len(read(tmp_path, whole, "whole").messages) == 3
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path, whole[:-5], "cut")


# ------------------------------------------------------------------------------------ merging


def test_copies_fill_each_other_and_the_smallest_sha256_wins(tmp_path):
    files = [
        [message("a", lang="en", rank=None, emojis={"+1": 1})],
        [message("a", lang="de", rank=2, emojis={"name": ["+1"], "count": [1]})],
        [message("a", lang=None, rank=2, review_result=None, labels=MAPS["labels"])],
    ]
    exports = [read(tmp_path, lines(rows), f"{n}.jsonl") for n, rows in enumerate(files)]
    first = min(exports[:2], key=lambda export: export.sha256)
    lang = first.messages[0].message.lang
    tables = set()
    for order in permutations(exports):
        forest = join_exports(order)
        (row,) = forest.messages.to_pylist()
        assert (row["lang"], row["rank"], row["review_result"]) == (lang, 2, True)
        assert row["source"] == min(export.sha256 for export in exports)
        assert row["labels"]
        assert sum(file.merged for file in forest.files) == 2
        found = [file.conflicts for file in forest.files if file.conflicts]
        assert found == [{"lang": 1}]
        tables.add(json.dumps(row))
    assert len(tables) == 1


def test_the_order_of_rows_that_contradict_each_other_never_matters(tmp_path):
    rows = [
        prompt("a"),
        prompt("a", lang="de"),
        prompt("a", lang="fr"),
        prompt("a", text="Other"),
        prompt("a", text="Another"),
    ]
    found = set()
    for order in permutations(rows):
        forest = joined(tmp_path, order)
        (row,) = (each for each in forest.messages.to_pylist() if each["message_id"] == "a")
        file = forest.files[0]
        del row["source"]
        found.add(json.dumps([row, file.merged, file.refused, file.conflicts]))
    ((row, merged, reasons_, conflicts),) = map(json.loads, found)
    assert (row["lang"], row["text"]) == ("de", "The text of a.")
    assert (merged, reasons_, conflicts) == (2, {"conflict": 2}, {"lang": 1})


def test_the_real_overlaps_are_merged_and_their_conflicts_counted():
    names = [
        "oasst/laion_en_100.trees.jsonl",
        "oasst/oasst1_en_validation.messages.jsonl",
        "oasst/oasst2_animals.trees.jsonl",
    ]
    exports = [read_export(real(name)) for name in names]
    animals = exports[2]
    roots = [met.message.message_id for met in animals.messages if met.message.parent_id is None]
    assert len(roots) - len(set(roots)) == 31
    one, other = join_exports(exports), join_exports(exports[::-1])
    assert one.messages.equals(other.messages)
    assert one.files == other.files
    alone = {row["message_id"]: row for row in join_exports([exports[0]]).messages.to_pylist()}
    shared = [row for row in one.messages.to_pylist() if row["message_id"] in alone]
    # LAION's early form has neither labels nor dates: what the others know of its messages is kept.
    assert sum(row["created_date"] is not None for row in shared) > 70
