"""Each rule against a second, plain statement of it: on random forests and on the real files."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import msgspec
import plain_rules
import polars as pl
import pytest
from builders import example, prompt, reply, tables_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real import real
from test_threads import children, forests, open_assistant_leaves

from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.labels import Labels
from dataset_builder.recipe import Cap, Keep, Recipe, Shape, load_recipe, recipe_names
from dataset_builder.strata import by_strata, proportional_order, strata_counts
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant, shares
from dataset_builder.wordings import EVALUATION, TRAINING, WORDINGS, state_limit

LANGUAGES = ["en", "en", "en", "fr", None]
MEANS = st.sampled_from([0.0, 0.25, 0.5, 1.0, None])


def recipe(**sections):
    return msgspec.convert({"title": "A test", **sections}, Recipe)


def plan(tables, **sections):
    return plan_variant("test", recipe(**sections), tables)


def ledger(plan):
    return {row["thread_id"]: row["dropped_by"] for row in plan.ledger.to_pylist()}


# ------------------------------------------------------------------------------ random forests


@st.composite
def judged_forests(draw):
    """Forests whose messages also have languages, words and labels, and whose trees have states."""
    rows = draw(forests())
    states = {}
    for row in rows:
        top = states.get(row["parent_id"])
        row["tree_state"] = top or draw(st.sampled_from(["ready_for_export"] * 4 + ["growing"]))
        states[row["message_id"]] = row["tree_state"]
        row["lang"] = draw(st.sampled_from(LANGUAGES))
        row["text"] = " ".join(["word"] * draw(st.sampled_from([0, 1, 2, 3, 5, 8])))
        labels = draw(st.dictionaries(st.sampled_from(["quality", "spam"]), MEANS, max_size=2))
        row["labels"] = {name: {"value": mean, "count": 3} for name, mean in labels.items()}
    # Something to keep, so that a recipe may be as strict as it likes.
    easy = {"labels": {"quality": {"value": 0.5}, "spam": {"value": 0.5}}}
    return [*rows, prompt("easy", text="word word"), reply("e0", "easy", words=2, **easy)]


@st.composite
def ranges(draw):
    low, high = draw(st.integers(1, 2)), draw(st.integers(2, 8))
    return low, high


BOUNDS = st.builds(Labels, quality=st.sampled_from([None, 0.5]), spam=st.sampled_from([None, 0.5]))
LANGUAGE_SETS = st.sampled_from([None, None, ("en",), ("en", "fr")])
RANKS = st.sampled_from([None, None, 0, 1])
keeps = st.builds(
    Keep,
    languages=LANGUAGE_SETS,
    root_languages=LANGUAGE_SETS,
    tree_states=st.sampled_from([("ready_for_export",), ("ready_for_export", "growing"), ()]),
    deleted=st.booleans(),
    synthetic=st.booleans(),
    review=st.booleans(),
    root_review=st.booleans(),
    paths=st.sampled_from(["replies", "replies", "leaves", "best"]),
    max_rank=RANKS,
    max_path_rank=RANKS,
    turns=st.sampled_from([None, (1, 1), (1, 2)]),
    prompt_words=st.none() | ranges(),
    min_labels=BOUNDS,
    max_labels=BOUNDS,
    reply_words=st.none() | ranges(),
)
relaxed = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed
@given(judged_forests(), keeps, st.sampled_from([None, "best", 1, 2, 3]))
def test_the_ledger_says_of_each_reply_the_first_rule_it_fails(tmp_path, rows, keep, chosen):
    keep = msgspec.structs.replace(
        keep,
        best_per_prompt=chosen == "best",
        shortest_of_top=chosen if isinstance(chosen, int) else None,
    )
    tables = tables_of(tmp_path, rows)
    mine = Recipe(title="A test", keep=keep)
    forest = plain_rules.Forest(tables.messages.to_pylist(), 0.0)
    assert ledger(plan_variant("test", mine, tables)) == plain_rules.dropped_by(forest, mine)


@relaxed
@given(judged_forests(), st.sampled_from([1, 2, None]))
def test_one_recipe_keeps_what_open_assistants_own_loader_keeps(tmp_path, rows, top_k):
    known = {row["message_id"]: row for row in rows}

    def path(name):
        above = known[name]["parent_id"]
        return ([] if above not in known else path(above)) + [known[name]]

    def is_ranked(row):
        if row.get("rank") is None:
            return len(children(rows, row["parent_id"])) == 1
        return row["rank"] < top_k

    def is_theirs(name):
        root, *_ = path(name)
        replies = [row for row in path(name) if row["role"] == "assistant"]
        return (
            root["parent_id"] is None
            and root["tree_state"] == "ready_for_export"
            and root["review_result"] is True
            and root["lang"] == "en"
            and (top_k is None or all(is_ranked(row) for row in replies))
        )

    keep = {
        "root_languages": ["en"],
        "root_review": True,
        "review": False,
        "paths": "leaves",
        "max_path_rank": None if top_k is None else top_k - 1,
    }
    theirs = {name for name in open_assistant_leaves(rows, False) if is_theirs(name)}
    assert kept(tmp_path, rows, **keep) == theirs
    assert "e0" in theirs


@given(st.lists(st.sampled_from("aaaaabbbcd"), max_size=60))
def test_any_first_rows_hold_each_stratum_in_proportion_to_a_row(strata):
    order = proportional_order(strata)
    assert sorted(order) == list(range(len(strata)))
    sizes, taken = Counter(strata), Counter()
    for n, row in enumerate(order, start=1):
        taken[strata[row]] += 1
        for each, size in sizes.items():
            assert abs(taken[each] - Fraction(n * size, len(strata))) < 1
    for each in sizes:
        members = [row for row in order if strata[row] == each]
        assert members == sorted(members)


def test_where_all_rows_are_of_one_stratum_their_order_stays():
    assert proportional_order(["a"] * 5) == [0, 1, 2, 3, 4]
    assert proportional_order([]) == []
    # Due at once, the row that stands first is taken, whatever its stratum is called.
    assert proportional_order(["b", "a", "b", "a"])[0] == 0
    assert proportional_order(["a", "b", "a", "b"])[0] == 0


def test_rows_stay_as_they_are_without_a_name_and_none_are_none():
    rows = pl.DataFrame({"lang": [*"bbaa"], "standing": [0, 1, 0, 1], "reply_words": [1, 2, 3, 4]})
    assert by_strata(rows, []).equals(rows)
    assert by_strata(rows, ["lang"]).rows() == [rows.row(n) for n in (0, 2, 1, 3)]
    assert by_strata(rows.clear(), ["lang"]).equals(rows.clear())


def test_strata_are_counted_the_largest_first_and_equal_ones_by_name():
    schema = {"lang": pl.String, "standing": pl.Int32, "reply_words": pl.Int32}
    usable = pl.DataFrame({"lang": [*"ccbaaa", None], "standing": 0, "reply_words": 1}, schema)
    found = strata_counts(usable, usable[[3, 0]], ["lang"])
    assert [(each["lang"], each["usable"], each["kept"]) for each in found] == [
        ("a", 3, 2),
        ("c", 2, 1),
        ("b", 1, 1),
        (None, 1, 1),
    ]


# -------------------------------------------------------------------------------- by example


SPANISH = [
    prompt("es", lang="es"),
    reply("es_en", "es", rank=0, lang="en", words=9),
    reply("es_es", "es", rank=1, lang="es", words=7),
    prompt("en", text="one two three"),
    reply("en_es", "en", lang="es", words=5),
    prompt("more", "en_es", text="four five"),
    reply("last", "more", words=3),
]


def kept(folder, rows, **keep):
    return {
        name for name, rule in ledger(plan(tables_of(folder, rows), keep=keep)).items() if not rule
    }


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ({"root_languages": ["es"]}, {"es_en", "es_es"}),
        ({"root_languages": ["en"]}, {"en_es", "last"}),
        ({"root_languages": ["es"], "languages": ["es"]}, {"es_es"}),
        ({"languages": ["es", "en"]}, {"es_en", "es_es", "en_es", "last"}),
        ({"turns": [2, 9]}, {"last"}),
        ({"turns": [1, 1]}, {"es_en", "es_es", "en_es"}),
        ({"prompt_words": [3, 3]}, {"en_es"}),
        ({"prompt_words": [1, 2]}, {"last"}),
    ],
)
def test_a_thread_is_judged_by_its_root_its_messages_its_turns_and_its_prompt(
    tmp_path, keep, names
):
    assert kept(tmp_path, SPANISH, **keep) == names


def labelled(name, **means):
    labels = {label: {"value": mean, "count": 3} for label, mean in means.items()}
    return reply(name, "p", words=5, labels=labels)


def test_a_label_that_nobody_gave_fails_a_minimum_and_a_maximum(tmp_path):
    rows = [
        prompt("p"),
        labelled("good", quality=0.75, toxicity=0.0),
        labelled("edge", quality=0.5, toxicity=0.25),
        labelled("poor", quality=0.25, toxicity=0.5),
        labelled("half", quality=1.0),
        labelled("unsure", quality=None, toxicity=None),
        reply("unasked", "p", words=5, labels=None),
        reply("hub", "p", words=5, labels={"name": ["quality"], "value": [0.75], "count": [3]}),
    ]
    assert kept(tmp_path, rows, min_labels={"quality": 0.5}) == {"good", "edge", "half", "hub"}
    assert kept(tmp_path, rows, max_labels={"toxicity": 0.25}) == {"good", "edge"}
    fell = ledger(
        plan(
            tables_of(tmp_path, rows),
            keep={"min_labels": {"quality": 0.5}, "max_labels": {"toxicity": 0.2}},
        )
    )
    assert fell["poor"] == "min_labels.quality"
    assert fell["edge"] == fell["half"] == "max_labels.toxicity"
    assert fell["good"] is None


def test_a_thread_carries_the_labels_of_its_reply_by_name(tmp_path):
    asked = {"spam": {"value": 1.0, "count": 3}}
    rows = [prompt("p", labels=asked), labelled("r", toxicity=0.25, pii=None), reply("s", "p")]
    threads = {row["thread_id"]: row for row in tables_of(tmp_path, rows).threads.to_pylist()}
    assert threads["r"]["labels"] == [
        {"name": "pii", "value": None},
        {"name": "toxicity", "value": 0.25},
    ]
    assert threads["s"]["labels"] is None


def test_the_shortest_of_the_top_is_looked_for_among_what_the_other_rules_keep(tmp_path):
    rows = [
        prompt("p"),
        reply("first", "p", rank=0, words=90),
        reply("second", "p", rank=1, words=40),
        reply("third", "p", rank=2, words=40),
        reply("fourth", "p", rank=3, words=10),
        reply("left_out", "p", words=1),
        reply("failed", "p", rank=4, words=5, review_result=False),
    ]

    def best(**keep):
        return kept(tmp_path, rows, **keep)

    assert best(shortest_of_top=1) == best(best_per_prompt=True) == {"first"}
    # Of equally short ones the better-ranked.
    assert best(shortest_of_top=2) == best(shortest_of_top=3) == {"second"}
    assert best(shortest_of_top=4) == {"fourth"}
    # The one that its readers left out comes last, and the failed one not at all.
    assert best(shortest_of_top=5) == best(shortest_of_top=99) == {"left_out"}
    assert best(shortest_of_top=2, reply_words=[1, 39]) == {"left_out"}
    assert best(shortest_of_top=1, reply_words=[1, 39]) == {"fourth"}


def test_open_assistants_top_k_rejects_an_unranked_reply_only_where_it_has_siblings(tmp_path):
    rows = [
        prompt("a"),
        reply("ranked", "a", rank=1),
        reply("unranked", "a"),
        prompt("b", "ranked"),
        reply("only", "b"),
        prompt("c", "unranked"),
        reply("below", "c"),
    ]
    assert kept(tmp_path, rows, max_path_rank=1) == {"ranked", "only"}
    rows[-1]["rank"] = 7
    assert kept(tmp_path, [*rows, prompt("d"), reply("alone", "d", rank=3)], max_path_rank=2) == {
        "ranked",
        "only",
    }


# ------------------------------------------------------------------------------------- the cap


def mixed(n):
    """So many prompts of two languages, each with a ranked reply of each of three lengths."""
    rows = []
    for at in range(n):
        lang = "de" if at % 4 == 0 else "en"
        rows.append(prompt(f"p{at}", lang=lang))
        rows += [
            reply(f"r{at}_{rank}", f"p{at}", rank=rank, words=words, lang=lang)
            for rank, words in enumerate((40 + 3 * at, 130, 300)[: 1 + at % 3])
        ]
    return rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_of(tmp_path_factory.mktemp("mixed"), mixed(40))


@pytest.mark.parametrize("names", [["lang"], ["length", "rank"], ["lang", "rank", "length"]])
@pytest.mark.parametrize("share", [None, 0.5])
def test_a_stratified_cap_is_proportional_and_nested(tables, names, share):
    forest = plain_rules.Forest(tables.messages.to_pylist(), 0.0)
    replies = [row for row in forest.known.values() if row["role"] == "assistant"]
    strata = {row["message_id"]: plain_rules.stratum(forest, row, names) for row in replies}
    concise = {row["message_id"] for row in replies if row["words"] <= 100}
    found = []
    for n in (1, 7, 20, 33):
        cap = {"examples": n, "stratify": names}
        cap |= {} if share is None else {"concise_share": share}
        made = plan(tables, cap=cap)
        rows = set(made.train["example_id"].to_pylist())
        assert len(rows) == n
        groups = [set(strata)]
        if share is not None:
            groups = [concise, set(strata) - concise]
            sizes = shares(msgspec.convert(cap, Cap), *map(len, groups))
            assert [len(rows & group) for group in groups] == [sizes.concise, sizes.others]
        for group in groups:
            own = {name: strata[name] for name in group}
            plain_rules.assert_proportional(own, rows & group, len(rows & group))
        told = made.manifest.notes["strata"]
        assert sum(each["usable"] for each in told) == len(strata)
        assert {
            tuple(each[name] for name in names): each["kept"] for each in told if each["kept"]
        } == (Counter(strata[name] for name in rows))
        found.append(rows)
    assert all(smaller < larger for smaller, larger in pairwise(found))


def test_a_stratified_cap_that_takes_all_is_the_plain_cap(tables):
    everything = plan(tables, cap={"examples": 999})
    assert plan(tables, cap={"examples": 999, "stratify": ["lang"]}).train.equals(everything.train)
    assert "strata" not in everything.manifest.notes


# -------------------------------------------------------------------------------- the wordings


def test_limits_are_stated_in_the_wordings_that_the_recipe_names():
    thread = {"tree_id": "t", "prompt_id": "p", "lang": "en", "turns": 1, "rank": 0}
    thread |= {"reply_words": 12, "history": [], "question": "Why?", "reply": "Because."}
    assert Shape().wordings == tuple(TRAINING)
    for names in (["at_most"], ["lift", "up_to"], list(EVALUATION)):
        shape = msgspec.convert({"state_word_limit": 1.0, "wordings": names}, Shape)
        told = {
            example({**thread, "thread_id": str(n)}, shape)["prompt"][-1]["content"]
            for n in range(80)
        }
        assert told == {state_limit("Why?", 20, name) for name in names}


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "[keep.min_labels]\nqualty = 0.5",
            "mine.toml: unknown key `qualty` in `[keep.min_labels]`",
            "did you mean `quality`?",
        ),
        (
            "[keep.max_labels]\ntoxicity = 3",
            "mine.toml: `keep.max_labels.toxicity`: expected `float` <= 1.0, got 3",
            "the most is 1.0",
        ),
        (
            "[keep.min_labels]\nquality = 0.5\n[keep.max_labels]\nquality = 0.25",
            "recipe `{path}`: `quality` of at least 0.5 and at most 0.25",
            "exchange the two, or leave one out",
        ),
        (
            "[keep]\nturns = [3, 1]",
            "recipe `{path}`: `turns` from 3 to 1 holds no number",
            "write [1, 3]",
        ),
        (
            "[keep]\nroot_languages = []",
            "recipe `{path}`: `root_languages` names none",
            "leave the key out to take every language",
        ),
        (
            "[keep]\nbest_per_prompt = true\nshortest_of_top = 3",
            "recipe `{path}`: `best_per_prompt` and `shortest_of_top` each choose one reply",
            "leave one out; `shortest_of_top = 1` is the best-ranked",
        ),
        (
            '[shape]\nwordings = ["at_mots"]',
            "recipe `{path}`: unknown wording `at_mots`",
            "did you mean `at_most`?",
        ),
        (
            '[shape]\nwordings = ["at_most", "shout"]',
            "recipe `{path}`: unknown wording `shout`",
            f"known wordings: {', '.join(WORDINGS)}",
        ),
        (
            "[shape]\nwordings = []",
            "recipe `{path}`: `wordings` is empty",
            "leave the key out for the default; `state_word_limit = 0` states no limit",
        ),
        (
            "[shape]\nslack = [1.0, inf]",
            "recipe `{path}`: `slack` [1.0, inf]; "
            "wanted two factors from 1 to 100, the smaller first",
            "slack = [1.0, 2.0] states up to twice the words that the reply has",
        ),
        (
            '[cap]\nstratify = ["lang"]',
            "recipe `{path}`: `stratify` without a cap changes nothing",
            "add `examples` to `[cap]`, or leave `stratify` out",
        ),
        (
            '[cap]\nexamples = 9\nstratify = ["lang", "lang"]',
            "recipe `{path}`: `stratify` ['lang', 'lang'] names one twice",
            "name each once",
        ),
        (
            '[cap]\nexamples = 9\nstratify = ["langs"]',
            "mine.toml: `cap.stratify[0]`: unknown value `langs`",
            "did you mean `lang`?",
        ),
    ],
)
def test_a_selection_that_makes_no_sense_is_an_input_error(tmp_path, text, message, hint):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "Mine"\n{text}\n')
    with pytest.raises(InputError) as error:
        load_recipe(str(path))
    assert str(error.value) == message.replace("{path}", str(path))
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("keep", "hint"),
    [
        (
            {"root_languages": ["zh"]},
            "`root_languages` may be too narrow; the sources hold en, es",
        ),
        ({"turns": [5, 9]}, "`turns` may be too narrow; the longest thread has 2"),
        (
            {"prompt_words": [90, 99]},
            "`prompt_words` may be too narrow; the median prompt has 4 words",
        ),
        (
            {"min_labels": {"quality": 0.5}},
            "leave `min_labels.quality` out: no reply of the sources has the label `quality`",
        ),
    ],
)
def test_a_rule_that_keeps_nothing_says_what_the_sources_hold(tmp_path, keep, hint):
    with pytest.raises(InputError) as error:
        plan(tables_of(tmp_path, SPANISH), keep=keep)
    assert error.value.hint == hint


def test_a_threshold_that_keeps_nothing_says_the_median(tmp_path):
    rows = [prompt("p"), labelled("good", quality=0.75), labelled("poor", quality=0.25)]
    with pytest.raises(InputError) as error:
        plan(tables_of(tmp_path, rows), keep={"min_labels": {"quality": 0.9}})
    assert error.value.hint == (
        "`min_labels.quality` may be too strict; the median reply with the label has 0.50"
    )


# ------------------------------------------------------------------------------ the real files


EVERY_RULE = {
    "languages": {"languages": ("en",)},
    "root_languages": {"root_languages": ("en",)},
    "deleted": {"deleted": True, "review": False, "synthetic": True, "tree_states": ()},
    "max_rank": {"max_rank": 1},
    "max_path_rank": {"max_path_rank": 0},
    "leaves": {"paths": "leaves"},
    "leaves with synthetic": {"paths": "leaves", "synthetic": True},
    "best path": {"paths": "best", "tree_states": ()},
    "turns": {"turns": (2, 3)},
    "prompt_words": {"prompt_words": (5, 20)},
    "labels": {
        "min_labels": Labels(quality=0.5, helpfulness=0.6),
        "max_labels": Labels(toxicity=0.3, spam=0.0),
    },
    "reply_words": {"reply_words": (20, 100)},
    "root_review": {"root_review": True, "review": False, "tree_states": ()},
    "best_per_prompt": {"best_per_prompt": True, "reply_words": (1, 100)},
    "shortest_of_top": {"shortest_of_top": 3},
}
FILES = {
    "oasst1_en_validation.messages.jsonl": 0.1,
    "laion_en_100.trees.jsonl": 0.2,
    "oasst2_animals.trees.jsonl": 0.2,
}


@pytest.fixture(scope="module", params=FILES)
def real_tables(request):
    held_out = FILES[request.param]
    tables = make_tables([read_export(real(f"oasst/{request.param}"))], held_out)
    forest = plain_rules.Forest(tables.messages.to_pylist(), held_out)
    forest.near = plain_rules.near_held_out(forest, tables)
    return tables, forest


def test_on_the_real_files_each_rule_is_what_its_plain_statement_says(real_tables):
    tables, forest = real_tables
    recipes = [Recipe(title=name, keep=Keep(**keep)) for name, keep in EVERY_RULE.items()]
    recipes += [Recipe(title=name, keep=load_recipe(name).keep) for name in recipe_names()]
    for mine in recipes:
        plain = plain_rules.dropped_by(forest, mine)
        # A file without labels, or without a second language, keeps nothing of some of them.
        if any(
            rule is None and forest.sides[forest.known[name]["tree_id"]] == "train"
            for name, rule in plain.items()
        ):
            assert ledger(plan_variant("test", mine, tables)) == plain, mine.title
        else:
            with pytest.raises(InputError):
                plan_variant("test", mine, tables)


def test_a_stratified_cap_on_a_real_file_is_proportional_and_nested(real_tables):
    tables, forest = real_tables
    names = ["lang", "rank", "length"]
    usable = plan(tables).train["example_id"].to_pylist()
    strata = {name: plain_rules.stratum(forest, forest.known[name], names) for name in usable}
    found = []
    for n in (len(usable) // 7, len(usable) // 2):
        cap = {"examples": n, "stratify": names}
        found.append(set(plan(tables, cap=cap).train["example_id"].to_pylist()))
        plain_rules.assert_proportional(strata, found[-1], n)
    assert found[0] < found[1]
