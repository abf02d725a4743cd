import msgspec
import polars as pl
import pytest
from builders import example, prompt, reply, tables_of
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real

from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.labels import Labels
from dataset_builder.recipe import (
    RECIPES,
    Cap,
    Control,
    Keep,
    Recipe,
    Shape,
    default_names,
    load_recipe,
    load_recipes,
    recipe_names,
)
from dataset_builder.rules import rules
from dataset_builder.shape import stated_limit
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from dataset_builder.wordings import TRAINING, state_limit

ROWS = [
    prompt("a"),
    reply("a0", "a", rank=0, words=150),
    reply("a1", "a", rank=1, words=40),
    reply("a2", "a", rank=2, words=30),
    reply("unranked", "a", words=20),
    prompt("b"),
    reply("only", "b", words=100),
    prompt("c"),
    reply("failed", "c", rank=0, words=10, review_result=False),
    reply("gone", "c", rank=1, words=10, deleted=True),
    reply("machine", "c", rank=2, words=10, synthetic=True),
    reply("french", "c", rank=3, words=10, lang="fr"),
    prompt("d", lang="fr"),
    reply("answers_french", "d", words=10),
    prompt("h", lang="fr"),
    reply("all_french", "h", words=12, lang="fr"),
    prompt("e", tree_state="growing"),
    reply("growing", "e", words=10, tree_state="growing"),
    prompt("f", "a1"),
    reply("second_turn", "f", words=10),
    prompt("g", "a0"),
]


def kept(folder, rows=ROWS, shape=None, **keep):
    recipe = msgspec.convert({"title": "A test", "keep": keep, "shape": shape or {}}, Recipe)
    plan = plan_variant("test", recipe, tables_of(folder, rows))
    return set(plan.train["example_id"].to_pylist())


def dropped(folder, rows=ROWS, **keep):
    recipe = msgspec.convert({"title": "A test", "keep": keep}, Recipe)
    ledger = plan_variant("test", recipe, tables_of(folder, rows)).ledger.to_pylist()
    return {row["thread_id"]: row["dropped_by"] for row in ledger if row["dropped_by"]}


def test_without_a_key_only_what_no_row_should_be_is_dropped(tmp_path):
    assert dropped(tmp_path) == {
        "gone": "deleted",
        "failed": "review",
        "machine": "synthetic",
        "growing": "tree_states",
    }


@pytest.mark.parametrize(
    ("keep", "rule", "names"),
    [
        ({"languages": ["en"]}, "languages", {"french", "answers_french", "all_french"}),
        # A French reply to an English prompt is in two languages.
        (
            {"languages": ["fr"]},
            "languages",
            {"a0", "a1", "a2", "unranked", "only", "second_turn", "french", "answers_french"}
            | {"failed", "machine"},
        ),
        ({"max_rank": 0}, "rank", {"a1", "a2", "unranked", "french"}),
        ({"max_rank": 1}, "rank", {"a2", "unranked", "french"}),
        ({"max_path_rank": 0}, "path_rank", {"a1", "a2", "unranked", "french", "second_turn"}),
        ({"max_path_rank": 1}, "path_rank", {"a2", "unranked", "french"}),
        ({"reply_words": [10, 40]}, "reply_words", {"a0", "only"}),
        (
            {"reply_words": [11, 100]},
            "reply_words",
            {"a0", "french", "answers_french", "second_turn"},
        ),
        ({"paths": "leaves"}, "leaves", {"a1"}),
        ({"paths": "best"}, "best_path", {"a1", "a2", "unranked", "second_turn"}),
        ({"best_per_prompt": True}, "best_per_prompt", {"a1", "a2", "unranked"}),
    ],
)
def test_each_key_is_one_rule(tmp_path, keep, rule, names):
    fell = dropped(tmp_path, **keep)
    by_rule = {name for name, reason in fell.items() if reason == rule}
    assert by_rule == names


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ({"synthetic": True}, {"machine"}),
        ({"deleted": True}, {"gone"}),
        ({"review": False}, {"failed"}),
        ({"tree_states": []}, {"growing"}),
        ({"tree_states": ["ready_for_export", "growing"]}, {"growing"}),
    ],
)
def test_what_is_dropped_by_default_can_be_asked_for(tmp_path, keep, names):
    assert kept(tmp_path, **keep) - kept(tmp_path) == names


def test_the_best_short_reply_is_taken_where_the_best_one_is_long(tmp_path):
    names = kept(tmp_path, reply_words=[1, 100], best_per_prompt=True, languages=["en"])
    assert names == {"a1", "only", "second_turn"}
    assert kept(tmp_path, reply_words=[1, 100], max_rank=0, languages=["en"]) == {
        "only",
        "second_turn",
    }


def test_a_null_fails_every_rule_that_asks_for_its_column():
    schema = {
        "is_complete": pl.Boolean,
        "has_deleted": pl.Boolean,
        "tree_state": pl.String,
        "langs": pl.List(pl.String),
        "has_synthetic": pl.Boolean,
        "review_failed": pl.Boolean,
        "root_review": pl.Boolean,
        "near_held_out": pl.Boolean,
        "is_leaf": pl.Boolean,
        "cuts_synthetic": pl.Boolean,
        "standing": pl.Int32,
        "worst_standing": pl.Int32,
        "reply_words": pl.Int32,
        "root_lang": pl.String,
        "turns": pl.Int32,
        "question_words": pl.Int32,
        "labels": pl.List(pl.Struct({"name": pl.String, "value": pl.Float64})),
    }
    nulls = pl.DataFrame({name: [None] for name in schema}, schema=schema)
    strict = Keep(
        languages=("en",),
        root_languages=("en",),
        root_review=True,
        paths="leaves",
        max_rank=9,
        max_path_rank=9,
        turns=(1, 9),
        prompt_words=(0, 9),
        min_labels=Labels(quality=0.0),
        max_labels=Labels(quality=1.0),
        reply_words=(0, 9),
    )
    found = rules(strict)
    assert " ".join(found) == (
        "complete deleted tree_states root_languages languages synthetic review root_review "
        "near_held_out leaves rank path_rank turns prompt_words min_labels.quality "
        "max_labels.quality reply_words"
    )
    for name, rule in found.items():
        assert nulls.select(rule.alias("rule"))["rule"].to_list() == [False], name


strictness = st.fixed_dictionaries(
    {},
    optional={
        "languages": st.sampled_from([("en",), ("en", "fr")]),
        "max_rank": st.integers(0, 2),
        "max_path_rank": st.integers(0, 2),
        "reply_words": st.sampled_from([(1, 100), (20, 60), (0, 20)]),
        "paths": st.sampled_from(["leaves", "best"]),
    },
)


@settings(deadline=None, max_examples=40)
@given(strictness, strictness)
def test_a_stricter_recipe_keeps_a_subset(tmp_path_factory, keep, more):
    threads = pl.DataFrame(_tables(tmp_path_factory).threads)
    both = {**more, **keep}
    loose = threads.filter(*rules(Keep(**keep)).values())["thread_id"]
    strict = threads.filter(*rules(Keep(**both)).values())["thread_id"]
    assert set(strict) <= set(loose)


_made = []


def _tables(factory):
    if not _made:
        _made.append(tables_of(factory.mktemp("recipes"), ROWS))
    return _made[0]


# ----------------------------------------------------------------------------- stated limits


ids = st.text("abcdef0123456789", min_size=1, max_size=8)
shapes = st.builds(
    Shape,
    state_word_limit=st.floats(0, 1),
    limit_from=st.sampled_from(["reply", "slack", "list"]),
    slack=st.tuples(st.floats(1, 2), st.floats(2, 5)),
    limits=st.lists(st.integers(1, 200), max_size=4).map(tuple),
)


@given(ids, st.integers(0, 300), shapes)
def test_no_stated_limit_is_one_that_the_reply_breaks(thread_id, reply_words, shape):
    limit = stated_limit(thread_id, reply_words, shape)
    assert limit is None or limit >= reply_words
    assert limit is None or 1 <= reply_words <= 100


@given(ids, st.integers(1, 100), shapes)
def test_each_way_to_choose_a_limit_does_what_it_says(thread_id, reply_words, shape):
    shape = msgspec.structs.replace(shape, state_word_limit=1.0)
    limit = stated_limit(thread_id, reply_words, shape)
    if shape.limit_from == "reply":
        assert limit == -(-reply_words // 10) * 10
    elif shape.limit_from == "slack":
        low, high = shape.slack
        assert limit % 10 == 0
        assert reply_words * low <= limit < reply_words * high + 10
    else:
        enough = [each for each in shape.limits if each >= reply_words]
        assert limit == (min(enough) if enough else None)


def test_the_share_of_limits_is_the_share_of_concise_rows_and_grows_around_them():
    def stating(share, words=50):
        shape = Shape(state_word_limit=share)
        return {n for n in range(4000) if stated_limit(f"id{n}", words, shape) is not None}

    assert stating(0.0) == stating(1.0, words=101) == set()
    assert len(stating(1.0)) == 4000
    assert abs(len(stating(0.5)) / 4000 - 0.5) < 0.03
    assert stating(0.2) < stating(0.5)


def test_a_limit_ends_the_question_in_one_of_the_training_wordings(tmp_path):
    thread = {
        "thread_id": "",
        "tree_id": "t",
        "prompt_id": "p",
        "lang": "en",
        "turns": 2,
        "rank": 0,
        "reply_words": 12,
        "history": [
            {"message_id": "1", "role": "prompter", "text": "First {limit}?"},
            {"message_id": "2", "role": "assistant", "text": "First answer."},
        ],
        "question": "Second?",
        "reply": "Second answer.",
    }
    seen = set()
    for n in range(80):
        row = example({**thread, "thread_id": str(n)}, Shape(state_word_limit=1.0))
        *before, last = row["prompt"]
        assert [each["content"] for each in before] == ["First {limit}?", "First answer."]
        assert row["limit"] == 20
        seen.add(last["content"])
    assert seen == {state_limit("Second?", 20, wording) for wording in TRAINING}


def test_the_last_turn_alone_has_no_history(tmp_path):
    tables = tables_of(tmp_path, ROWS)
    for last_turn_only, contents in ((False, 3), (True, 1)):
        shape = {"last_turn_only": last_turn_only}
        recipe = msgspec.convert({"title": "A test", "shape": shape}, Recipe)
        rows = plan_variant("test", recipe, tables).train.to_pylist()
        row = next(each for each in rows if each["example_id"] == "second_turn")
        assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user"][-contents:]
        assert row["turns"] == (2 if contents == 3 else 1)
        assert row["completion"][0]["role"] == "assistant"


# ------------------------------------------------------------------------------------- files


def test_the_recipes_that_ship_load_and_those_of_answers_are_built_where_none_is_named():
    choosing = ["capped", "concise_best", "concise_rank0", "full", "rank0"]
    answers = sorted([*choosing, "control_rows", "control_words"])
    assert default_names() == answers
    assert recipe_names() == sorted([*answers, "pairs", "pairs_flipped", "prompts"])
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.keep.languages == ("en",)
        assert load_recipe(str(RECIPES / f"{name}.toml")) == recipe
    capped = load_recipe("capped")
    assert (capped.cap.examples, capped.cap.concise_share) == (32000, 0.7)
    assert capped.shape.state_word_limit == 0.5


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "[keep]\nmax_rnk = 0",
            "mine.toml: unknown key `max_rnk` in `[keep]`",
            "did you mean `max_rank`?",
        ),
        ("[kep]\n", "mine.toml: unknown key `kep`", "did you mean `keep`?"),
        (
            '[keep]\nmax_rank = "0"',
            "mine.toml: `keep.max_rank`: expected `int | null`, got `str`",
            "numbers, lists and true or false stand without quotes",
        ),
        (
            "[cap]\nconcise_share = 1.5",
            "mine.toml: `cap.concise_share`: expected `float` <= 1.0, got 1.5",
            "the most is 1.0",
        ),
        (
            "[keep]\nturns = [0, 2]",
            "mine.toml: `keep.turns[0]`: expected `int` >= 1, got 0",
            "the least is 1",
        ),
        (
            '[keep]\nlanguages = "en"',
            "mine.toml: `keep.languages`: expected `array | null`, got `str`",
            'a list stands in brackets: ["en"]',
        ),
        (
            '[keep]\npaths = "leafs"',
            "mine.toml: `keep.paths`: unknown value `leafs`",
            "did you mean `leaves`?",
        ),
        (
            "[keep]\nreply_words = [100, 1]",
            "recipe `{path}`: `reply_words` from 100 to 1 holds no number",
            "write [1, 100]",
        ),
        (
            "[keep]\nlanguages = []",
            "recipe `{path}`: `languages` names none",
            "leave the key out to take every language",
        ),
        (
            "[shape]\nslack = [2.0, 1.0]",
            "recipe `{path}`: `slack` [2.0, 1.0]; "
            "wanted two factors from 1 to 100, the smaller first",
            "slack = [1.0, 2.0] states up to twice the words that the reply has",
        ),
        (
            "[shape]\nflip_gap = 20",
            "recipe `{path}`: `flip_gap` says nothing for the form `answers`",
            "leave `flip_gap` out",
        ),
        (
            '[shape]\nform = "pairs"\nlength_flips = true\nstate_word_limit = 0.5',
            "recipe `{path}`: `state_word_limit` says nothing for the form `pairs` "
            "with `length_flips`",
            "leave `state_word_limit` out",
        ),
        (
            '[shape]\nform = "pairs"\n[cap]\nconcise_share = 0.5',
            "recipe `{path}`: a cap on pairs counts rows and nothing else",
            "leave only `examples` in [cap]",
        ),
        (
            '[keep]\nshortest_of_top = 2\n[shape]\nform = "pairs"',
            "recipe `{path}`: `shortest_of_top` leaves no two replies to pair",
            "leave `shortest_of_top` out",
        ),
        (
            '[shape]\nform = "prompts"',
            "recipe `{path}`: no prompt would state a limit",
            "`state_word_limit = 1.0` in [shape] has each state one",
        ),
        (
            "[keep]\nbest_per_prompt = true\nshortest_of_top = 2",
            "recipe `{path}`: `best_per_prompt` and `shortest_of_top` each choose one reply",
            "leave one out; `shortest_of_top = 1` is the best-ranked",
        ),
        (
            "[keep]\nmin_labels = {quality = 0.5}\nmax_labels = {quality = 0.25}",
            "recipe `{path}`: `quality` of at least 0.5 and at most 0.25",
            "exchange the two, or leave one out",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_input_error(tmp_path, text, message, hint):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "Mine"\n{text}\n')
    with pytest.raises(InputError) as error:
        load_recipe(str(path))
    assert str(error.value) == message.replace("{path}", str(path))
    assert error.value.hint == hint


def test_the_least_and_the_most_of_each_number_are_taken(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "Mine"\n[keep]\nprompt_words = [0, 0]\nturns = [1, 1]\nmax_rank = 0\n'
        "max_path_rank = 0\nshortest_of_top = 1\nmin_labels = {quality = 1.0}\n"
        "[shape]\nslack = [1.0, 100.0]\nlimits = [1, 2147483647]\nstate_word_limit = 1.0\n"
        "[cap]\nexamples = 1\nconcise_share = 0.0\n"
    )
    recipe = load_recipe(str(path))
    assert (recipe.keep.prompt_words, recipe.keep.turns) == ((0, 0), (1, 1))
    assert recipe.shape.limits == (1, 2**31 - 1)
    for text in ("[keep]\nprompt_words = [-1, 2]", "[shape]\nlimits = [2147483648]"):
        path.write_text(f'title = "Mine"\n{text}\n')
        with pytest.raises(InputError):
            load_recipe(str(path))


def test_a_recipe_without_title_broken_toml_and_unknown_names_are_input_errors(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[keep]\n")
    with pytest.raises(InputError, match=r"mine\.toml: no key `title`"):
        load_recipe(str(path))
    path.write_text("[keep\n")
    with pytest.raises(InputError, match=r"mine\.toml: not valid TOML: "):
        load_recipe(str(path))
    with pytest.raises(InputError, match=r"no recipe file `gone\.toml`"):
        load_recipe("gone.toml")
    with pytest.raises(InputError) as error:
        load_recipe("concise_bst")
    assert str(error.value) == "unknown recipe `concise_bst`"
    assert error.value.hint == "did you mean `concise_best`?"


@pytest.mark.parametrize("section", [Keep, Shape, Cap, Control, Recipe])
def test_what_a_recipe_says_is_named_and_does_not_change_once_it_is_read(section):
    made = {"title": "Mine", "of": "full", "match": "rows"}
    known = {name: made[name] for name in section.__struct_fields__ if name in made}
    mine = msgspec.convert(known, section)
    first = section.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(mine, first, getattr(mine, first))
    with pytest.raises(TypeError):
        section(*known.values() or [None])
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**known, "other": 1}, section)


def test_two_files_of_one_name_do_not_shadow_each_other(tmp_path):
    path = tmp_path / "full.toml"
    path.write_text('title = "Mine"\n')
    assert list(load_recipes(["full", "rank0", "full"])) == ["full", "rank0"]
    with pytest.raises(InputError) as error:
        load_recipes(["full", str(path)])
    assert str(error.value) == f"`{path}` would be a second variant `full`"
    assert error.value.hint == "rename the file"


# ---------------------------------------------------------------------------- the real files


def test_on_the_validation_messages_the_recipes_keep_what_was_counted_before():
    export = read_export(real("oasst/oasst1_en_validation.messages.jsonl"))
    tables = make_tables([export], 0.0)

    def rows(name):
        return plan_variant(name, load_recipe(name), tables).train.to_pylist()

    assert len(rows("full")) == 1185
    # Of 346 prompts with a kept reply of at most 100 words, one has only drawings without a word.
    assert len(rows("concise_best")) == 345


def test_laion_by_open_assistants_own_rule_through_a_recipe():
    tables = make_tables([read_export(real("oasst/laion_en_100.trees.jsonl"))], 0.0)

    def rows(**keep):
        recipe = Recipe(title="A test", keep=Keep(paths="leaves", **keep))
        return plan_variant("leaves", recipe, tables).train.num_rows

    assert [rows(), rows(max_path_rank=1), rows(max_path_rank=0)] == [538, 276, 98]
    synthetic = {"synthetic": True}
    assert rows(**synthetic) == 555
    assert [rows(max_path_rank=n, **synthetic) for n in (1, 0)] == [286, 103]
