"""Near repeats inside a variant: greedy, exact, and the same in any order."""

import gzip
import json
import random
import unicodedata
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from builders import prompt, reply, tables_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_rules import jaccard, shingles
from real import real

from dataset_builder.export import read_export
from dataset_builder.neighbours import near_repeats
from dataset_builder.screening import _order
from dataset_builder.shingles import Units, shared_buckets, shingles_of, words
from dataset_builder.split import letters_and_digits, normalised
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from tests.test_variant import recipe

MORE = "Can you tell me more about that, with examples?"

relaxed = settings(max_examples=40, deadline=None)
LONG = "How do I keep the bread that I bake at home from getting a hard crust after one single day"

texts = st.lists(
    st.sampled_from(["red", "green", "Blue", "one", "two,", "three", "four", "five", "…", "六"]),
    max_size=16,
).map(" ".join)


def repeats_of(rows):
    """The names of `rows` (each its parts, a part its texts) that repeat one before them."""
    said = [
        (number, part, text)
        for number, row in enumerate(rows.values())
        for part, texts in enumerate(row)
        for text in texts
    ]
    owners, parts = (np.array([each[n] for each in said], np.int64) for n in (0, 1))
    units = Units(
        pa.array([each[2] for each in said], pa.string()),
        np.arange(len(said)),
        parts,
        np.searchsorted(owners, np.arange(len(rows) + 1)),
    )
    return [list(rows)[place] for place in near_repeats(units)]


def near(one, other):
    """Two rows are near by counting, as the docstrings say it."""
    parts = list(zip(one, other, strict=True))
    if all(list(map(normalised, a)) == list(map(normalised, b)) for a, b in parts):
        return True
    return all(a == b or (bag(a) and bag(b) and jaccard(bag(a), bag(b)) >= 0.8) for a, b in parts)


def bag(texts):
    return {run for text in texts for run in shingles(text)} - {""}


def greedy(rows):
    kept, dropped = [], []
    for name, row in rows.items():
        (dropped if any(near(row, rows[other]) for other in kept) else kept).append(name)
    return dropped


@relaxed
@given(
    st.lists(st.tuples(st.lists(texts, max_size=2).map(tuple), texts), max_size=7),
    st.randoms(use_true_random=False),
)
def test_repeats_are_those_that_counting_finds(pairs, chance):
    # Near copies too, or most examples would hold no pair.
    copies = [(said, f"{asked} {chance.choice(['', 'please', '!'])}") for said, asked in pairs * 2]
    rows = {str(n): (said, (asked,)) for n, (said, asked) in enumerate([*pairs, *copies])}
    assert repeats_of(rows) == greedy(rows)


def test_runs_in_arrays_are_the_runs_of_each_text():
    chance = random.Random(3)
    some = [" ".join(chance.choices("abcdefgh", k=n)) for n in [0, 1, 2, 3, 9, 40, 1, 0]]
    for size in (1, 3, 8):
        found = shingles_of(pa.array(some), size)
        for one, other in combinations(range(len(some)), 2):
            ours, theirs = (
                set(found.hashes[found.offsets[at] : found.offsets[at + 1]].tolist())
                for at in (one, other)
            )
            plain = [_runs(some[at], size) for at in (one, other)]
            assert len(ours) == len(plain[0])
            assert len(ours & theirs) == len(plain[0] & plain[1])


def _runs(text, size):
    found = words(text)
    return {tuple(found[at : at + size]) for at in range(max(1, len(found) - size + 1))}


@given(st.text())
def test_folding_keeps_letters_and_digits(text):
    folded = unicodedata.normalize("NFKC", text).casefold()
    assert letters_and_digits(text) == "".join(filter(str.isalnum, folded))


def test_a_text_that_resembles_none_shares_no_bucket():
    tree = "What is the tallest tree that ever grew in Wales?"
    texts = pa.array([LONG, LONG + " please", tree])
    assert set(shared_buckets(Units.single(texts), shingles_of(texts, 3))) == {0, 1}


def test_a_chain_of_small_changes_is_not_one_cluster():
    asked = LONG.split()
    chain = [" ".join([*asked[at:], *(f"w{n}" for n in range(at))]) for at in range(8)]
    assert near(((chain[0],),), ((chain[1],),))
    assert not near(((chain[0],),), ((chain[-1],),))
    kept = set("01234567") - set(repeats_of({str(n): ((text,),) for n, text in enumerate(chain)}))
    assert "0" in kept
    assert len(kept) > 1


def repeated_forest():
    rows = []
    for at in range(30):
        topic = " ".join(f"{word}{at // 3}" for word in LONG.split())
        ending = ["", " please", "!"][at % 3]
        rows += [
            prompt(f"p{at:02}", text=f"{topic}{ending}"),
            reply(f"a{at:02}", f"p{at:02}", words=40 + at, rank=0),
            reply(f"b{at:02}", f"p{at:02}", words=9, rank=1),
            prompt(
                f"q{at:02}", f"a{at:02}", text="Can you tell me more about that, with examples?"
            ),
            reply(f"c{at:02}", f"q{at:02}", words=20 + at),
        ]
    return rows


def ledger_of(made):
    return {row["thread_id"]: row["dropped_by"] for row in made.ledger.to_pylist()}


def test_of_near_prompts_the_first_by_hash_is_kept_with_all_its_replies(tmp_path):
    tables = tables_of(tmp_path, repeated_forest())
    made = plan_variant("test", recipe(keep={"near_duplicates": "prompts"}), tables)
    reasons = ledger_of(made)
    for start in range(0, 30, 3):
        group = sorted((f"p{at:02}" for at in range(start, start + 3)), key=_order)
        for place, name in enumerate(group):
            wanted = None if place == 0 else "near_duplicate_prompt"
            assert reasons[f"a{name[1:]}"] == reasons[f"b{name[1:]}"] == wanted
    # The follow-up is the same everywhere, but not what was said before it.
    assert made.manifest.funnel["near_duplicate_prompt"] == sum(
        reason is not None for reason in reasons.values()
    )
    alone = plan_variant(
        "test", recipe(keep={"near_duplicates": "prompts"}, shape={"last_turn_only": True}), tables
    )
    assert sum(not ledger_of(alone)[f"c{at:02}"] for at in range(30)) == 1


def test_rows_are_near_only_where_prompt_and_reply_are(tmp_path):
    rows = [
        prompt("p1", text=LONG),
        prompt("p2", text=LONG + " please"),
        reply("a", "p1", text="Wrap it in a cloth, and keep it in a wooden box."),
        reply("b", "p2", text="wrap it in a cloth and keep it in a wooden box"),
        reply("c", "p1", text="Eat it at once."),
    ]
    made = plan_variant("test", recipe(keep={"near_duplicates": "rows"}), tables_of(tmp_path, rows))
    first, second = sorted(["a", "b"], key=_order)
    assert ledger_of(made) == {first: None, second: "near_duplicate_row", "c": None}
    assert made.manifest.funnel["near_duplicate_row"] == 1


@pytest.mark.parametrize("which", ["prompts", "rows"])
def test_the_order_of_rows_does_not_matter_and_a_smaller_cap_is_inside_a_larger(tmp_path, which):
    rows = repeated_forest()
    wanted = recipe(keep={"near_duplicates": which})
    made = plan_variant("test", wanted, tables_of(tmp_path, rows, held_out=0.2))
    random.Random(5).shuffle(rows)
    (tmp_path / "again").mkdir()
    again = plan_variant("test", wanted, tables_of(tmp_path / "again", rows, held_out=0.2))
    assert ledger_of(made) == ledger_of(again)
    assert made.train.equals(again.train)
    sizes = [
        plan_variant(
            "test",
            recipe(keep={"near_duplicates": which}, cap={"examples": n}),
            tables_of(tmp_path, rows, held_out=0.2),
        )
        .train["example_id"]
        .to_pylist()
        for n in (3, 8)
    ]
    assert sizes[0] == sizes[1][:3] == made.train["example_id"].to_pylist()[:3]


def test_on_real_files_the_repeats_are_those_that_counting_finds():
    files = ["laion_en_100.trees.jsonl", "oasst2_animals.trees.jsonl"]
    tables = make_tables([read_export(real(f"oasst/{name}")) for name in files], 0.1)
    loose = {"tree_states": [], "review": False}
    keep = {**loose, "near_duplicates": "prompts"}
    made = plan_variant("test", recipe(keep=keep, shape={"last_turn_only": True}), tables)
    whole = plan_variant("test", recipe(keep=loose, shape={"last_turn_only": True}), tables)
    questions = {row["prompt_id"]: row["prompt"][0]["content"] for row in whole.train.to_pylist()}
    bags = {name: bag([questions[name]]) for name in sorted(questions, key=_order)}
    kept = []
    for name in bags:
        if not any(
            normalised(questions[name]) == normalised(questions[other])
            or (
                # Sets of too different a size cannot overlap so far, and need no counting.
                0.8 * len(bags[name]) <= len(bags[other]) <= len(bags[name]) / 0.8
                and jaccard(bags[name], bags[other]) >= 0.8
            )
            for other in kept
        ):
            kept.append(name)
    assert 0 < len(questions) - len(kept) < 20
    assert set(made.train["prompt_id"].to_pylist()) == set(kept)


def test_near_repeats_stand_in_the_train_texts_as_copies_do():
    with gzip.open(real("oasst/oasst1_en_train.texts.jsonl.gz"), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(6_000), strict=False)]
    repeats = repeats_of({str(n): ((text,),) for n, text in enumerate(texts)})
    folded = {normalised(text) for text in texts}
    kept = [text for n, text in enumerate(texts) if str(n) not in set(repeats)]
    # Copies go, and some more that only resemble one.
    assert len(texts) - len(folded) < len(repeats) < 2 * (len(texts) - len(folded)) + 100
    assert len({normalised(text) for text in kept}) == len(kept)
