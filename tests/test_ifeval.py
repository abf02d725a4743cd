"""The checker of limits against lm-eval's own code of IFEval, and IFEval's prompts as a suite."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.errors import InputError
from dataset_builder.wordings import bounds, family
from dataset_builder.words import count_words, ifeval_words
from evals.ifeval import limits_of
from evals.prompts import questions, read_prompt_files
from evals.scorers import violation
from evals.suite import load_suite

# Where the two conventions count alike: words of letters, apart by spaces and these marks.
PLAIN_WORDS = st.lists(
    st.sampled_from(
        ["sky", "Blue", "42", "état", "ok,", "yes.", "(no)", "re-do", "—", "...", "\n"]
    ),
    max_size=30,
).map(" ".join)


@pytest.fixture(scope="module")
def instructions() -> Any:
    """lm-eval's module of IFEval's instructions, as it is; what it would download is kept away."""
    import nltk

    patch = pytest.MonkeyPatch()
    patch.setattr(nltk.data, "find", lambda name: name)
    from lm_eval.tasks.ifeval import instructions as found

    yield found
    patch.undo()


def follows(instructions: Any, text: str, relation: str, n: int) -> bool:
    rule = instructions.NumberOfWords("length_constraints:number_words")
    rule.build_description(num_words=n, relation=relation)
    return bool(rule.check_following(text))


# Marks, joiners and number signs: where Python's `\\w`, by which IFEval's published numbers were
# counted, and that of the module `regex`, which nltk uses from 3.10 on, are not the same.
DIVIDED = ("Mn", "Mc", "Me", "Cf", "Pc", "No", "Nl", "So", "Cn")


@given(st.text(st.characters(exclude_categories=(*DIVIDED, "Cs")) | st.just("_"), max_size=80))
def test_ifevals_words_are_counted_as_lm_eval_counts_them(instructions: Any, text: str):
    assert ifeval_words(text) == instructions.instructions_util.count_words(text)


@pytest.mark.parametrize(
    ("text", "published", "ours"),
    [
        ("e\N{COMBINING ACUTE ACCENT}tat", 2, 1),  # an accent apart from its letter
        ("हिन्दी", 3, 1),  # vowel signs
        ("ok\N{ZERO WIDTH JOINER}ay", 2, 1),  # a joiner
    ],
)
def test_marks_part_words_in_published_numbers_and_not_in_newer_nltk(
    instructions: Any, text: str, published: int, ours: int
):
    nltk = pytest.importorskip("nltk")
    is_new = tuple(map(int, nltk.__version__.split(".")[:2])) >= (3, 10)
    theirs = instructions.instructions_util.count_words(text)
    assert (ifeval_words(text), theirs) == (published, ours if is_new else published)
    assert count_words(text) == ours


@given(PLAIN_WORDS, st.integers(1, 30))
def test_limits_are_kept_as_lm_eval_says_where_words_are_words(
    instructions: Any, text: str, n: int
):
    assert count_words(text) == ifeval_words(text)
    # IFEval's upper limit is strict: "less than n + 1" is "at most n".
    row = {"instruction_id_list": ["length_constraints:number_words"]}
    for relation, number in (("less than", n + 1), ("at least", n)):
        [(limit, wording)] = limits_of(
            row | {"kwargs": [{"relation": relation, "num_words": number}]}
        )
        asked = bounds(limit, wording)
        ours = violation(text, asked.most, True, asked.least) == 0
        theirs = follows(instructions, text, relation, number)
        if count_words(text):
            assert ours == theirs
        else:
            # An answer without a word keeps no limit here. IFEval's rule alone says that it keeps
            # an upper one, and its scoring fails what is empty before it asks the rule.
            assert not ours
            assert theirs == (relation == "less than")


@pytest.mark.parametrize(
    ("text", "ours", "theirs", "reason"),
    [
        ("don't", 1, 2, "an apostrophe within a word"),
        ("it’s", 1, 2, "a typographic one"),
        ("3.5", 1, 2, "a decimal point"),
        ("1,000", 1, 2, "a comma between digits"),
        ("U.S.A.", 1, 3, "full stops between letters"),
        ("_", 0, 1, "an underscore is no letter"),
        ("天空是蓝的", 5, 1, "a Han sign is a word, and a run of them one to `\\w+`"),
        ("कमल", 1, 1, "Hindi without signs between its letters"),
        ("state-of-the-art", 4, 4, "a hyphen parts words in both"),
    ],
)
def test_where_the_two_conventions_part(
    instructions: Any, text: str, ours: int, theirs: int, reason: str
):
    assert (count_words(text), ifeval_words(text)) == (ours, theirs), reason
    assert follows(instructions, text, "less than", theirs + 1)
    assert not follows(instructions, text, "less than", theirs)
    assert violation(text, max(ours, 1), True) == (ours == 0)


# Of the form of IFEval's `input_data.jsonl`, with prompts of our own.
SAMPLE: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Describe a lighthouse at night in less than 60 words.",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"relation": "less than", "num_words": 60}],
    },
    {
        "key": 2,
        "prompt": "Write a letter to a neighbour, at least 200 words, without any commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"relation": "at least", "num_words": 200}],
    },
    {
        "key": 3,
        "prompt": "Name three rivers in fewer than 4 sentences.",
        "instruction_id_list": ["length_constraints:number_sentences"],
        "kwargs": [{"relation": "less than", "num_sentences": 4}],
    },
    {
        "key": 4,
        "prompt": "Tell a story of at least 100 and less than 151 words.",
        "instruction_id_list": ["length_constraints:number_words"] * 2,
        "kwargs": [
            {"relation": "at least", "num_words": 100.0},
            {"relation": "less than", "num_words": 151.0},
        ],
    },
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_suite_asks_ifevals_prompts_as_they_stand_upper_and_lower_limits_apart(tmp_path: Path):
    suite = load_suite("ifeval_length")
    [file] = read_prompt_files(suite, [write(tmp_path / "input_data.jsonl", SAMPLE)])
    assert file.refused == {"states no number of words": 1}
    asked = questions(suite, list(file.prompts))
    found = [(question.text, question.limit, family(question.wording)) for question in asked]
    assert found == [
        (SAMPLE[0]["prompt"], 59, "evaluation"),
        (SAMPLE[1]["prompt"], 200, "at_least"),
        (SAMPLE[3]["prompt"], 100, "at_least"),
        (SAMPLE[3]["prompt"], 150, "evaluation"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?"},
        {"prompt": "Why?", "limit": 0},
        {"prompt": "Why?", "limit": "20"},
        {"prompt": "Why?", "limit": True},
        {"prompt": "Why?", "limit": 20.5},
        {"prompt": "Why?", "instruction_id_list": "length_constraints:number_words"},
        {"prompt": "Why?", "instruction_id_list": ["length_constraints:number_words"]},
        SAMPLE[0] | {"kwargs": [None]},
        SAMPLE[0] | {"kwargs": [{"relation": "more than", "num_words": 3}]},
        SAMPLE[0] | {"kwargs": [{"relation": "less than", "num_words": 1}]},
        SAMPLE[0] | {"kwargs": [{"relation": "less than", "num_words": None}]},
        "Why?",
    ],
)
def test_a_file_without_any_number_of_words_is_refused(tmp_path: Path, row: Any):
    suite = load_suite("ifeval_length")
    with pytest.raises(InputError, match="none of 1 prompts states a number of words") as caught:
        read_prompt_files(suite, [write(tmp_path / "input_data.jsonl", [row])])
    assert "IFEval" in str(caught.value.hint)


def test_a_plain_row_may_state_its_limit_too():
    assert limits_of({"prompt": "Why?", "limit": 20}) == [(20, "own")]
    assert limits_of({"prompt": "Why?", "least": 9}) == [(9, "own_at_least")]
