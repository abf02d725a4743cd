import math
import re
from collections import Counter
from threading import Event, Timer

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from builders import lines, message, nested, prompt, reply, tables_of, threads_of, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_rules import jaccard, shingles
from real import real

from dataset_builder import forest
from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forest import join_exports
from dataset_builder.manifest import Sources
from dataset_builder.neighbours import near_prompts
from dataset_builder.paths import CHUNK_BYTES, batches_of
from dataset_builder.split import normalised, side
from dataset_builder.tables import HELDOUT, MESSAGES, REJECTS, THREADS, read_table
from dataset_builder.threads import (
    BATCH,
    SQL,
    Threads,
    database,
    make_tables,
    run_sql,
    write_tables,
    writing_tables,
)
from dataset_builder.words import count_words, whitespace_words

# ------------------------------------------------------------------- a second way to walk a forest


def walk(rows):
    """Every reply's messages from the topmost one down, by plain Python."""
    known = {row["message_id"]: row for row in rows}
    for row in rows:
        if row["role"] == "assistant":
            path = [row]
            while path[0]["parent_id"] in known:
                path.insert(0, known[path[0]["parent_id"]])
            yield path


def children(rows, name):
    """As Open Assistant's exports list them: by rank, those without one last and by id."""
    found = [row for row in rows if row["parent_id"] == name]
    return sorted(found, key=export_order)


def export_order(row):
    rank = row.get("rank")
    return (1 if rank is None else 0, rank or 0, row["message_id"])


def standing(rows, row):
    alone = len(children(rows, row["parent_id"])) == 1
    return 0 if row.get("rank") is None and alone else row.get("rank")


def open_assistant_leaves(rows, synthetic):
    """Replies that end a thread in Open Assistant's own loader, ported as it stands."""
    found = set()
    for row in rows:
        path = [row]
        known = {each["message_id"]: each for each in rows}
        while path[0]["parent_id"] in known:
            path.insert(0, known[path[0]["parent_id"]])
        if len(path) < 2 or children(rows, row["message_id"]):
            continue
        if row["role"] == "prompter" and children(rows, path[-2]["message_id"])[0] is not row:
            continue
        if any(each.get("deleted") or (each.get("synthetic") and not synthetic) for each in path):
            continue
        found.add(path[-1 if row["role"] == "assistant" else -2]["message_id"])
    return found


def best_path(rows, root):
    """The end of the best path below `root`, step by step; None where the root has no answer."""
    end = None
    at = root
    while at is not None and not at.get("deleted"):
        usable = [
            each
            for each in children(rows, at["message_id"])
            if not each.get("deleted")
            and each.get("review_result") is not False
            and standing(rows, each) is not None
        ]
        if not usable:
            break
        best = min(usable, key=lambda each: (bool(each.get("synthetic")), standing(rows, each)))
        end = best["message_id"]
        answered = [
            each
            for each in children(rows, end)
            if not each.get("deleted") and best_path(rows, each) is not None
        ]
        at = answered[0] if answered else None
    return end


@st.composite
def forests(draw):
    """A few trees of any shape, with blemishes."""
    rows = []
    for n in range(draw(st.integers(1, 40))):
        # Rarely below a message that is not there, mostly below an earlier one.
        parent = draw(st.sampled_from([None, "no reply", "no prompt", *rows, *rows]))
        parent_id = parent["message_id"] if isinstance(parent, dict) else parent
        above = parent["role"] if isinstance(parent, dict) else parent
        role = "assistant" if above in ("prompter", "no prompt") else "prompter"
        flags = {key: True for key in ("deleted", "synthetic") if draw(st.integers(0, 7)) == 0}
        review = draw(st.sampled_from([True, True, True, False, None]))
        rows.append(message(f"m{n}", parent_id, role, review_result=review, **flags))
    # Ranked as Open Assistant ranks: distinct among siblings, some left out, never an only child.
    for row in rows:
        ranks = draw(st.permutations(range(len(children(rows, row["message_id"])))))
        for rank, child in zip(ranks, children(rows, row["message_id"]), strict=True):
            is_ranked = len(ranks) > 1 and draw(st.integers(0, 4)) > 0
            child["rank"] = rank if is_ranked and child["role"] == "assistant" else None
    return rows


relaxed = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed
@given(forests())
def test_threads_leaves_and_best_paths_are_those_of_plain_walks(tmp_path, rows):
    threads = threads_of(tmp_path, rows)
    check_walk(threads, rows)
    check_leaves(threads.values(), rows)
    check_best_paths(threads.values(), rows)


def check_walk(threads, rows):
    """Each thread is what a plain walk finds."""
    paths = {path[-1]["message_id"]: path for path in walk(rows)}
    assert threads.keys() == paths.keys()
    for name, path in paths.items():
        thread = threads[name]
        *before, last = path
        told = [turn["text"] for turn in thread["history"]]
        told += [thread["question"]] if thread["question"] is not None else []
        assert told == [each["text"] for each in before]
        assert thread["reply"] == last["text"]
        assert thread["is_complete"] == (path[0]["parent_id"] is None)
        assert thread["has_deleted"] == any(each.get("deleted", False) for each in path)
        assert thread["has_synthetic"] == any(each.get("synthetic", False) for each in path)
        assert thread["review_failed"] == (last["review_result"] is False)
        assert thread["turns"] == sum(each["role"] == "prompter" for each in path)
        stands = [standing(rows, each) for each in path if each["role"] == "assistant"]
        assert thread["standing"] == stands[-1]
        assert thread["worst_standing"] == (None if None in stands else max(stands))


def check_leaves(threads, rows):
    """The leaves are those of Open Assistant's loader."""
    for synthetic in (False, True):
        ours = {
            row["thread_id"]
            for row in threads
            if row["is_leaf"]
            and not row["has_deleted"]
            and (synthetic or not (row["has_synthetic"] or row["cuts_synthetic"]))
        }
        # Its loader knows no orphan: there, a thread of one message is none.
        theirs = open_assistant_leaves(rows, synthetic)
        alone = {row["thread_id"] for row in threads if row["question"] is None}
        assert ours - alone == theirs - alone


def check_best_paths(threads, rows):
    """Every tree has its one best path, or none."""
    ours = {row["thread_id"] for row in threads if row["is_best_path"]}
    roots = [row for row in rows if row["parent_id"] is None]
    assert ours == {best_path(rows, root) for root in roots} - {None}


# Four tables an example, where the properties beside it make one.
@settings(relaxed, max_examples=8)
@given(forests(), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.4]))
def test_rows_in_any_order_and_files_in_any_order_make_the_same_tables(
    tmp_path, rows, random, held_out
):
    shuffled = random.sample(rows, len(rows))
    columns = [name for name in MESSAGES.schema.names if name != "source"]
    ours = tables_of(tmp_path, rows, held_out=held_out)
    theirs = tables_of(tmp_path, shuffled, held_out=held_out)
    assert ours.threads.equals(theirs.threads)
    assert ours.heldout.equals(theirs.heldout)
    assert ours.messages.select(columns).equals(theirs.messages.select(columns))
    half = len(rows) // 2
    parts = {"one.jsonl": rows[:half] + rows[:1], "two.jsonl": rows[half:] + rows[:1]}
    exports = [read_export(write(tmp_path / name, part)) for name, part in parts.items() if part]
    one_way = make_tables(exports, held_out)
    assert one_way.sources.digest == make_tables(reversed(exports), held_out).sources.digest


def test_each_of_many_messages_of_one_file_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(forest, "ALIKE_ROWS", 4)
    rows = [prompt("a"), *(reply(f"b{n}", "a") for n in range(9))]
    export = read_export(write(tmp_path / "x.jsonl", rows))
    source = forest.join_exports([export]).messages["source"]
    assert source.to_pylist() == [export.sha256] * 10


@relaxed
@given(forests(), st.sampled_from([0.1, 0.5, 0.9]))
def test_no_tree_is_on_two_sides_and_held_out_prompts_are_not_trained_on(tmp_path, rows, held_out):
    tables = tables_of(tmp_path, rows, held_out=held_out)
    sides = {}
    for row in [*tables.threads.to_pylist(), *tables.heldout.to_pylist()]:
        assert sides.setdefault(row["tree_id"], row["split"]) == row["split"]
    assert "train" not in tables.heldout["split"].to_pylist()
    assert tables.sources.threads == tables.threads.num_rows
    assert sum(tables.sources.trees_by_split.values()) == tables.sources.trees


# ------------------------------------------------------------------------------- by example


def test_a_deleted_message_cuts_its_thread(tmp_path):
    threads = threads_of(
        tmp_path,
        [prompt("a"), reply("b", "a"), prompt("c", "b", deleted=True), reply("d", "c")],
    )
    assert not threads["b"]["has_deleted"]
    assert threads["d"]["has_deleted"]


def test_an_only_reply_stands_first_but_not_where_its_sibling_was_deleted(tmp_path):
    threads = threads_of(
        tmp_path,
        [
            prompt("a"),
            reply("only", "a"),
            prompt("b"),
            reply("left", "b"),
            reply("gone", "b", deleted=True),
        ],
    )
    assert threads["only"]["standing"] == 0
    assert threads["left"]["standing"] is None


def test_a_long_thread_keeps_every_turn(tmp_path):
    rows = [
        message(
            f"m{n}", f"m{n - 1}" if n else None, "assistant" if n % 2 else "prompter", text=str(n)
        )
        for n in range(150)
    ]
    thread = threads_of(tmp_path, rows)["m149"]
    assert [turn["text"] for turn in thread["history"]] == [str(n) for n in range(148)]
    assert (thread["question"], thread["reply"], thread["turns"]) == ("148", "149", 75)


def test_languages_of_all_messages_are_told_and_a_missing_one_is_undetermined(tmp_path):
    rows = [prompt("a", lang="de"), reply("b", "a", lang=None), prompt("c", "b", lang="de")]
    rows.append(reply("d", "c", lang="en"))
    threads = threads_of(tmp_path, rows)
    assert threads["d"]["langs"] == ["de", "en", "und"]
    assert (threads["d"]["root_lang"], threads["d"]["lang"]) == ("de", "en")


def test_held_out_prompts_come_with_their_usable_replies_best_first(tmp_path):
    rows = [
        prompt("a"),
        reply("worse", "a", rank=1),
        reply("best", "a", rank=0),
        reply("gone", "a", deleted=True),
        reply("machine", "a", synthetic=True),
        reply("failed", "a", review_result=False),
        prompt("follow-up", "best"),
        prompt("deleted", "best", deleted=True),
        prompt("below", "worse", deleted=True),
        prompt("halted", tree_state="halted_by_moderator"),
        prompt("spam", review_result=False),
        prompt("orphan", "nowhere"),
    ]
    table = tables_of(tmp_path, rows, held_out=0.999999).heldout.to_pylist()
    assert {row["prompt_id"] for row in table} == {"a", "follow-up"}
    root, follow_up = sorted(table, key=lambda row: row["turns"])
    assert [each["reply_id"] for each in root["replies"]] == ["best", "worse"]
    assert root["is_root"]
    assert not follow_up["is_root"]
    assert [turn["message_id"] for turn in follow_up["history"]] == ["a", "best"]
    assert follow_up["replies"] == []


def test_equal_root_texts_land_on_one_side_whatever_their_case_and_punctuation():
    for text in ("Why is the sky blue?", "Wie geht's?", "¿Qué?", "？！"):
        assert side(text, 0.5) == side(f"  {text.upper()} ...", 0.5) or text == "？！"
    assert normalised("Cafe\u0301 NR.\u00a07") == normalised("café nr 7") == "cafénr7"
    assert normalised("?!") == "?!"


def test_the_side_of_a_text_never_changes():
    # Else what a variant holds out is what an older one was trained on.
    sides = "".join(side(f"Question {n}?", 0.5)[1] for n in range(40))
    assert sides == "aeeaaaarreeaarerreerrerrrrreraerraerarea"


def test_the_held_out_share_grows_around_what_was_held_out_before():
    texts = [f"question {n}" for n in range(4000)]
    tenth = {text for text in texts if side(text, 0.1) != "train"}
    half = {text for text in texts if side(text, 0.5) != "train"}
    assert tenth < half
    assert math.isclose(len(tenth) / 4000, 0.1, abs_tol=0.02)
    test = {text for text in half if side(text, 0.5) == "test"}
    assert math.isclose(len(test) / len(half), 0.5, abs_tol=0.05)
    # The halves do not move with the share.
    assert all(side(text, 0.1) == side(text, 0.5) for text in tenth)


# --------------------------------------------------------------------------------- neighbours


LONG = "How do I keep the bread that I bake at home from getting a hard crust after one single day"


def near_names(prompts, held_out):
    texts, asked = (
        pa.chunked_array([pa.array(list(some), pa.string())])
        for some in ([text for text, _ in held_out], prompts.values())
    )
    is_root = np.array([is_root for _, is_root in held_out], bool)
    return sorted(list(prompts)[place] for place in near_prompts(asked, texts, is_root))


def test_a_prompt_near_a_held_out_one_is_found_and_a_mere_relative_is_not():
    prompts = {
        "same": LONG.upper() + "!!",
        "near": LONG + " please",
        "relative": "How do I keep the bread that I buy in town from going mouldy within one week",
        "thanks": "Thanks!",
        "hello": "Hello",
    }
    held_out = [(LONG, True), ("thanks", False), ("hello", True)]
    assert near_names(prompts, held_out) == ["hello", "near", "same"]


words = st.lists(
    st.sampled_from(["red", "green", "blue", "one", "two", "three", "four", "five", "six"]),
    min_size=1,
    max_size=25,
)


@relaxed
@given(st.lists(words, min_size=1, max_size=6), st.lists(words, max_size=4))
def test_minhash_finds_the_pairs_that_counting_finds(ours, theirs):
    prompts = {str(n): " ".join(text) for n, text in enumerate(ours)}
    # Near copies too, or most examples would hold no pair.
    held_out = [" ".join(text) for text in theirs] + [
        " ".join(text[:-1] or text) for text in ours[:2]
    ]
    plain = sorted(
        name
        for name, text in prompts.items()
        if any(
            normalised(text) == normalised(other) or jaccard(shingles(text), shingles(other)) >= 0.8
            for other in held_out
        )
    )
    assert near_names(prompts, [(text, True) for text in held_out]) == plain


def test_a_training_thread_with_a_held_out_prompt_anywhere_in_it_is_marked(tmp_path):
    held = next(f"{LONG} {n}" for n in range(999) if side(f"{LONG} {n}", 0.2) == "test")
    kept = next(
        f"Something else {n}" for n in range(999) if side(f"Something else {n}", 0.2) == "train"
    )
    rows = [prompt("held", text=held), reply("x", "held")]
    rows += [prompt("a", text=kept), reply("b", "a"), prompt("c", "b", text=held), reply("d", "c")]
    threads = threads_of(tmp_path, rows, held_out=0.2)
    assert threads["x"]["split"] == "test"
    near = {name for name, thread in threads.items() if thread["near_held_out"]}
    assert near == {"d"}


# -------------------------------------------------------------------------------- the folder


def test_every_sql_file_has_its_header_and_runs_on_an_empty_forest(tmp_path):
    files = sorted(SQL.glob("*.sql"))
    assert len(files) >= 5
    for file in files:
        head, _, query = file.read_text(encoding="utf-8").partition("\n\n")
        assert re.search(r"^-- reads: .*    grain: \w+$", head, re.MULTILINE), file
        assert query.count("order by") >= 1, file
    empty = make_tables([], 0.1)
    assert (empty.threads.num_rows, empty.heldout.num_rows) == (0, 0)


def test_a_sql_file_sees_no_file_and_no_python_variable(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builder.threads.SQL", tmp_path)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    secret_frame = pa.table({"a": [1]})
    peek = tmp_path / "peek.sql"
    with database() as connection:
        peek.write_text("select a from secret_frame")
        assert run_sql(connection, "peek", {"secret_frame": secret_frame}).num_rows == 1
        with pytest.raises(duckdb.Error, match="secret_frame does not exist"):
            run_sql(connection, "peek", {})
        peek.write_text(f"select * from read_csv('{secret}')")
        with pytest.raises(duckdb.Error, match="disabled"):
            run_sql(connection, "peek", {})


def test_tables_are_written_once_and_read_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    tables = tables_of(tmp_path, [prompt("a"), reply("b", "a"), {"thread_id": "x"}], held_out=0.5)
    out = write_tables(tables)
    assert out.name == tables.sources.digest[:12]
    first = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(first) == [
        "heldout.parquet",
        "messages.parquet",
        "rejects.parquet",
        "source.json",
        "threads.parquet",
    ]
    assert write_tables(tables) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == first
    assert read_json(out / "source.json", Sources) == tables.sources
    for name, declared in (
        ("messages", MESSAGES),
        ("threads", THREADS),
        ("heldout", HELDOUT),
        ("rejects", REJECTS),
    ):
        assert read_table(out / f"{name}.parquet", declared).equals(getattr(tables, name))


@pytest.mark.parametrize("share", [-0.1, 1, 50])
def test_a_share_that_is_none_is_an_input_error(share):
    with pytest.raises(InputError) as error:
        make_tables([], share)
    assert str(error.value) == f"held-out share {share:g}; wanted at least 0 and below 1"


# ---------------------------------------------------------------------------- the real files


def test_laion_gives_the_conversations_that_open_assistants_own_loader_gives():
    threads = make_tables(
        [read_export(real("oasst/laion_en_100.trees.jsonl"))], 0.0
    ).threads.to_pylist()
    assert len(threads) == 687

    def leaves(top_k, synthetic):
        return sum(
            row["is_leaf"]
            and not row["has_deleted"]
            and (synthetic or not (row["has_synthetic"] or row["cuts_synthetic"]))
            and (
                top_k is None
                or (row["worst_standing"] is not None and row["worst_standing"] < top_k)
            )
            for row in threads
        )

    assert [leaves(top_k, False) for top_k in (None, 2, 1)] == [538, 276, 98]
    assert [leaves(top_k, True) for top_k in (None, 2, 1)] == [555, 286, 103]


def test_laion_has_its_known_messages():
    table = join_exports([read_export(real("oasst/laion_en_100.trees.jsonl"))]).messages
    assert (table.num_rows, sum(table["synthetic"].to_pylist())) == (1167, 22)


def test_the_validation_messages_give_the_known_kept_replies():
    export = read_export(real("oasst/oasst1_en_validation.messages.jsonl"))
    threads = make_tables([export], 0.0).threads.to_pylist()
    assert len(threads) == 1243
    kept = [
        row
        for row in threads
        if row["is_complete"] and not row["has_deleted"] and not row["review_failed"]
    ]
    assert len(kept) == 1185
    assert Counter(row["rank"] for row in kept) == {0: 418, 1: 414, 2: 283, 3: 14, 4: 1, None: 55}
    # Only replies, but for four that have a deleted or failed sibling: nobody compared those.
    assert Counter(row["standing"] for row in kept if row["rank"] is None) == {0: 51, None: 4}
    assert sum(whitespace_words(row["reply"]) <= 100 for row in kept) == 617
    assert sum(row["reply_words"] <= 100 for row in kept) == 620
    assert all(row["reply_words"] == count_words(row["reply"]) for row in kept[:100])


def test_rows_with_long_questions_come_a_few_at_a_time(tmp_path):
    """Their texts together would not fit one array of Arrow's, nor memory."""
    question = prompt("q", text="word " * 2**18)
    rows = [question, *(reply(f"{n:05}", "q", text="x") for n in range(2500))]
    (tmp_path / "x.jsonl").write_bytes(lines(nested(rows)))
    threads = make_tables([read_export(tmp_path / "x.jsonl")], 0.0).by_number
    bounds = list(batches_of(threads.forest, threads.replies, BATCH))
    sizes = [threads.forest.path_bytes[threads.replies[start:end]].sum() for start, end in bounds]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == 2500
    assert sum(sizes) == 2500 * (5 * 2**18 + 1)
    assert CHUNK_BYTES / 2 < max(sizes) <= CHUNK_BYTES
    first = next(threads.batches())
    assert first.num_rows == bounds[0][1]
    assert first.select(["question", "reply"]).slice(7, 1).to_pylist() == [
        {"question": question["text"], "reply": "x"}
    ]


def test_where_a_plan_fails_the_rest_of_the_tables_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    tables = tables_of(tmp_path, [prompt("q"), *(reply(f"r{n}", "q") for n in range(50))])
    began, goes_on = Event(), Event()
    written = []

    def batches(threads):
        for n in range(threads.facts.num_rows):
            began.set()
            goes_on.wait(10)
            written.append(n)
            yield threads.rows(np.array([n]))

    monkeypatch.setattr(Threads, "batches", batches)

    def fail():
        with writing_tables(tables):
            began.wait(10)
            Timer(0.2, goes_on.set).start()
            raise InputError("nothing is kept")

    with pytest.raises(InputError):
        fail()
    assert len(written) == 1
    assert not (tmp_path / "artifacts").exists()
