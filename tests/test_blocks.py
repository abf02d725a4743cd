"""What the page stores of the answers: all of it, or what it says it left out."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.words import count_words
from reports.answers import Asked, Question, split_at_limit
from reports.blocks import LEFT_OUT, PER_BLOCK, Blocks, clean, pack, unpack

SHOWN = {name: {"name": name} for name in ("full", "best", "human")}


def question(number: int, limits: Iterable[int | None], texts: dict[str, list[str]]) -> Question:
    answers = {
        limit: Asked(
            limit,
            {
                name: [split_at_limit(text, limit, seed=seed) for seed, text in enumerate(each)]
                for name, each in texts.items()
            },
        )
        for limit in limits
    }
    return Question(f"p{number}", "held_out", "en", f"prompt {number}", answers)


def rows(blocks: Blocks) -> list[list]:
    return [row for block in blocks.texts for row in unpack(block)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.text(max_size=60), min_size=1, max_size=3), min_size=1, max_size=5))
def test_every_text_comes_back_whole_with_its_limit_where_it_was(answers: list[list[str]]):
    limits = (3, None)
    questions = [question(n, limits, {"full": each}) for n, each in enumerate(answers)]
    blocks = pack(questions, limits, SHOWN)
    index = unpack(blocks.index)
    assert blocks.left_out == 0
    assert blocks.answers == 2 * sum(map(len, answers))
    slots = len(index["slots"])
    for number, (row, given_texts) in enumerate(zip(rows(blocks), answers, strict=True)):
        for place, text in enumerate(given_texts):
            for at, limit in enumerate(limits):
                cell = at * slots + place
                whole = row[2][row[3][cell]]
                words = index["words"][number * len(row[3]) + cell]
                assert words == count_words(text)
                if limit is None or words <= limit:
                    assert whole == clean(text)
                    assert row[4][cell] == 0
                else:
                    split = split_at_limit(text, limit)
                    assert whole == clean(split.within) + clean(split.beyond)
                    units = whole.encode("utf-16-le")
                    assert units[2 * row[4][cell] :].decode("utf-16-le") == clean(split.beyond)


def test_a_text_that_several_gave_is_stored_once():
    (row,) = rows(
        pack([question(0, (5, None), {"full": ["Yes."], "best": ["Yes."]})], (5, None), SHOWN)
    )
    assert row[2] == ["Yes."]
    assert row[3] == [0, 0, 0, 0]


def test_an_answerer_that_was_not_asked_leaves_a_hole():
    questions = [
        question(0, (None,), {"full": ["a"], "best": ["b"]}),
        question(1, (None,), {"best": ["c"]}),
    ]
    blocks = pack(questions, (None,), SHOWN)
    assert unpack(blocks.index)["words"] == [1, 1, -1, 1]
    assert [row[3] for row in rows(blocks)] == [[0, 1], [-1, 0]]


def test_blocks_hold_so_many_prompts_each():
    limits = (None,)
    blocks = pack(
        [question(n, limits, {"full": ["a"]}) for n in range(PER_BLOCK + 1)], limits, SHOWN
    )
    assert [len(unpack(block)) for block in blocks.texts] == [PER_BLOCK, 1]


@pytest.mark.parametrize("room", [40_000, 15_000, 0])
def test_what_does_not_fit_is_left_out_counted_and_unchanged_first(room: int):
    import random

    chance = random.Random(0)

    def text(words: int) -> str:
        return " ".join(f"{chance.getrandbits(40):x}" for _ in range(words))

    # On every fifth prompt one arm keeps the limit and the other does not.
    questions = [
        question(n, (9,), {"full": [text(20)], "best": [text(5 if n % 5 == 0 else 20)]})
        for n in range(150)
    ]
    blocks = pack(questions, (9,), SHOWN, room)
    index = unpack(blocks.index)
    missing = [LEFT_OUT in row[3] for row in rows(blocks)]
    assert sum(row[3].count(LEFT_OUT) for row in rows(blocks)) == blocks.left_out > 0
    assert len(blocks.index) + sum(map(len, blocks.texts)) <= room or all(missing)
    assert len(index["words"]) == 300
    assert min(index["words"]) > 0
    if not all(missing):
        changed = [gone for n, gone in enumerate(missing) if n % 5 == 0]
        assert not any(changed) or all(gone for n, gone in enumerate(missing) if n % 5)


def test_an_arm_of_several_seeds_keeps_a_limit_as_most_of_its_answers_do():
    """What the page calls changed is kept, not what a single seed broke."""

    def texts(number: int, words: tuple[int, ...]) -> list[str]:
        return [" ".join(f"{hash((number, n, w)):x}" for w in range(n)) for n in words]

    questions = [
        question(
            n,
            (9,),
            {
                "full": texts(n, (20, 20, 20) if n % 5 == 0 else (20, 8, 8)),
                "best": texts(n, (20, 8, 8) if n % 5 == 0 else (8, 8, 8)),
            },
        )
        for n in range(50)
    ]
    whole = pack(questions, (9,), SHOWN)
    room = len(whole.index) + sum(map(len, whole.texts)) * 2 // 3
    kept = [LEFT_OUT not in row[3] for row in rows(pack(questions, (9,), SHOWN, room))]
    assert all(kept[::5])
    assert not all(kept)


def test_what_a_prompt_hides_is_shown_in_the_list_too():
    hidden = Question("p\x00", "a\u202eb", "e\x1bn", "x\u2066" + "y" * 500, {None: Asked(None, {})})
    index = unpack(pack([hidden], (None,), SHOWN).index)
    assert index["origins"] == ["a\\u202eb"]
    assert index["langs"] == ["e\\x1bn"]
    assert index["lead"][0].startswith("x\\u2066y")
