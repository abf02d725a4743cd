"""The checker of limits against lm-eval's own code of IFEval, and IFEval's prompts as a suite."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.errors import InputError
from dataset_builder.wordings import bounds, family
from dataset_builder.words import count_words, ifeval_words
from evals.ifeval import limits_of
from evals.prompts import questions, read_prompt_files
from evals.scorers import violation
from evals.scoring import score
from evals.suite import load_suite
from evals.units import count_paragraphs, count_sentences, plain_score

# Where the two conventions count alike: words of letters, apart by spaces and these marks.
PLAIN_WORDS = st.lists(
    st.sampled_from(
        ["sky", "Blue", "42", "état", "ok,", "yes.", "(no)", "re-do", "—", "...", "\n"]
    ),
    max_size=30,
).map(" ".join)


@pytest.fixture(scope="module")
def has_punkt() -> bool:
    """Whether nltk's English model of sentences is here. It is in no package of its own; the wheel
    of `llama-index-core` has it: NLTK_DATA=…/llama_index/core/_static/nltk_cache."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


@pytest.fixture(scope="module")
def instructions(has_punkt: bool) -> Any:
    """lm-eval's module of IFEval's instructions, as it is; what it would download is kept away.
    Without the model, sentences are told by nltk's same algorithm that has learnt no abbreviation.
    """
    import nltk
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    patch = pytest.MonkeyPatch()
    if not has_punkt:
        patch.setattr(nltk.data, "find", lambda name: name)
    from lm_eval.tasks.ifeval import instructions as found

    if not has_punkt:
        untrained = PunktSentenceTokenizer()
        patch.setattr(found.instructions_util, "_get_sentence_tokenizer", lambda: untrained)
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


# Where the two conventions of sentences agree: each begins with a capital, ends with one mark, and
# holds no abbreviation.
SENTENCES = st.lists(
    st.tuples(
        st.sampled_from(["The sky", "Rain", "Why", "Él", "We, too,"]),
        st.sampled_from([" is blue", " fell on 3.5 roofs", "", " (they said)", " can't stay"]),
        st.sampled_from([".", "!", "?", '."', ".)"]),
        st.sampled_from([" ", "  ", "\n", "\n\n"]),
    ).map("".join),
    max_size=12,
).map("".join)


def kept(text: str, row: dict[str, Any]) -> bool:
    """Whether the text keeps to the one length that the row states, as treetune scores it."""
    [(limit, wording)] = limits_of(row)
    return plain_score("violation", text, limit, wording, True) == 0


def follows_row(instructions: Any, text: str, row: dict[str, Any]) -> bool:
    """The same as lm-eval's scoring does it, which fails what is blank before it asks the rule."""
    rules = {
        "length_constraints:number_sentences": instructions.NumberOfSentences,
        "length_constraints:number_paragraphs": instructions.ParagraphChecker,
    }
    [name], [wanted] = row["instruction_id_list"], row["kwargs"]
    rule = rules[name](name)
    rule.build_description(**wanted)
    return bool(text.strip()) and bool(rule.check_following(text))


@settings(max_examples=50)
@given(SENTENCES, st.integers(1, 12))
def test_limits_of_sentences_are_kept_as_lm_eval_says_where_sentences_are_sentences(
    instructions: Any, text: str, n: int
):
    assert count_sentences(text) == instructions.instructions_util.count_sentences(text)
    for relation, number in (("less than", n + 1), ("at least", n)):
        row = {
            "instruction_id_list": ["length_constraints:number_sentences"],
            "kwargs": [{"relation": relation, "num_sentences": number}],
        }
        assert kept(text, row) == follows_row(instructions, text, row)


@pytest.mark.parametrize(
    ("text", "ours", "untrained", "trained", "reason"),
    [
        ("Mr. Smith went.", 2, 2, 1, "an abbreviation before a capital"),
        ("J. Smith came.", 2, 1, 1, "an initial"),
        ("Stop. go on.", 1, 2, 2, "a small letter goes on with the sentence"),
        ("Stop. 3 apples are here.", 1, 2, 2, "and so does a number before one"),
        ("- One\n- Two\n- Three", 3, 1, 1, "the end of a line ends a sentence, of a list's too"),
        ("Wait... What?", 2, 1, 1, "three full stops, then a capital"),
        ("1. First\n2. Second", 4, 3, 3, "the number of a list's line"),
        ("...", 0, 1, 1, "nothing but marks"),
        ("天空是蓝的。云是白的。", 2, 1, 1, "full stops of another script"),
    ],
)
def test_where_the_two_conventions_of_sentences_part(
    instructions: Any,
    has_punkt: bool,
    text: str,
    ours: int,
    untrained: int,
    trained: int,
    reason: str,
):
    theirs = trained if has_punkt else untrained
    assert count_sentences(text) == ours, reason
    assert instructions.instructions_util.count_sentences(text) == theirs, reason


@given(
    st.lists(st.sampled_from(["***", "*", " *** ", "\n", " ", "One.", "Two, three"]), max_size=9),
    st.integers(1, 5),
)
def test_numbers_of_paragraphs_are_those_of_lm_eval(instructions: Any, parts: list[str], n: int):
    text = "".join(parts)
    row = {
        "instruction_id_list": ["length_constraints:number_paragraphs"],
        "kwargs": [{"num_paragraphs": n}],
    }
    assert kept(text, row) == follows_row(instructions, text, row)
    assert (count_paragraphs(text) == n) == follows_row(instructions, text, row)


def test_an_evaluation_scores_each_limit_by_what_it_counts(tmp_path: Path):
    suite = load_suite("ifeval_length")
    [file] = read_prompt_files(suite, [write(tmp_path / "input_data.jsonl", SAMPLE)])
    answer = "The first. It is long.\n***\nSecond!\n***\nThe third?"
    generations = [
        {
            "prompt_id": each.prompt.prompt_id,
            "limit": each.limit,
            "wording": each.wording,
            "sample": 0,
            "answer": answer,
            "is_stopped": True,
        }
        for each in questions(suite, list(file.prompts))
    ]
    scored = score(suite, file.prompts, generations, lambda pairs: {}, is_base=True)
    found = {
        (row["answerer"], family(row["wording"])): row["value"]
        for row in scored.table.to_pylist()
        if row["metric"] == "violation"
    }
    own = {kind: value for (answerer, kind), value in found.items() if answerer == "run"}
    assert own == {
        "evaluation": 0.0,
        "at_least": 1.0,
        "sentences": 1.0,
        "sentences_at_least": 1.0,
        "paragraphs": 0.0,
    }
    # One word is one sentence and one paragraph.
    assert found["one_word", "sentences"] == 0.0
    assert found["one_word", "paragraphs"] == 1.0
    assert not scored.unscored
    shares = {
        row["metric"] for row in scored.table.to_pylist() if row["wording"] == "own_sentences"
    }
    assert {"violation", "words"} <= shares
    assert not shares & {"overshoot", "overshoot_share", "under_length", "undershoot"}


def test_of_sentences_and_paragraphs_only_what_is_kept_is_scored():
    scored = {
        metric: plain_score(metric, "One. Two, three.", 1, "own_sentences", True)
        for metric in ("violation", "overshoot", "limit_share", "under_length", "words", "stopped")
    }
    assert {metric: value for metric, value in scored.items() if value is not None} == {
        "violation": 1.0,
        "words": 3.0,
        "stopped": 1.0,
    }
    # Of words nothing changed.
    assert plain_score("overshoot", "One. Two, three.", 1, "own", True) == 2.0


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
        "prompt": "Describe a river in three paragraphs parted by ***, each of some sentences.",
        "instruction_id_list": [
            "length_constraints:number_paragraphs",
            "length_constraints:number_sentences",
        ],
        "kwargs": [{"num_paragraphs": 3}, {"relation": "at least", "num_sentences": 6}],
    },
    {
        "key": 5,
        "prompt": "Begin the second paragraph with a certain word.",
        "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
        "kwargs": [{"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "rain"}],
    },
    {
        "key": 6,
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
    assert file.refused == {"states no length": 1}
    asked = questions(suite, list(file.prompts))
    found = [(question.text, question.limit, family(question.wording)) for question in asked]
    assert found == [
        (SAMPLE[0]["prompt"], 59, "evaluation"),
        (SAMPLE[1]["prompt"], 200, "at_least"),
        (SAMPLE[2]["prompt"], 3, "sentences"),
        (SAMPLE[3]["prompt"], 3, "paragraphs"),
        (SAMPLE[3]["prompt"], 6, "sentences_at_least"),
        (SAMPLE[5]["prompt"], 100, "at_least"),
        (SAMPLE[5]["prompt"], 150, "evaluation"),
    ]
    # Room for three tokens a word, 25 words a sentence, 100 a paragraph.
    rooms = [suite.allowed(question.limit, question.wording) - 64 for question in asked]
    assert rooms == [177, 600, 225, 900, 450, 300, 450]


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
        SAMPLE[2] | {"kwargs": [{"relation": "less than", "num_words": 4}]},
        SAMPLE[2] | {"kwargs": [{"relation": "less than", "num_sentences": 1}]},
        SAMPLE[3] | {"kwargs": [{"num_paragraphs": 0}, {}]},
        SAMPLE[4],
        SAMPLE[4] | {"instruction_id_list": [["length_constraints:number_words"], None]},
        "Why?",
    ],
)
def test_a_file_without_any_length_is_refused(tmp_path: Path, row: Any):
    suite = load_suite("ifeval_length")
    with pytest.raises(InputError, match="none of 1 prompts states a length") as caught:
        read_prompt_files(suite, [write(tmp_path / "input_data.jsonl", [row])])
    assert "IFEval" in str(caught.value.hint)


def test_a_plain_row_may_state_its_limit_too():
    assert limits_of({"prompt": "Why?", "limit": 20}) == [(20, "own")]
    assert limits_of({"prompt": "Why?", "least": 9}) == [(9, "own_at_least")]
