"""Controls: the pool, the draw and what is matched, against a second statement in plain Python."""

import math
from collections import Counter, defaultdict
from functools import cache
from io import StringIO
from itertools import pairwise

import msgspec
import pytest
from builders import prompt, reply, tables_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from real import real
from rich.console import Console

from dataset_builder.artifacts import hash_order, hash_share
from dataset_builder.card import card
from dataset_builder.control import DRAW, ONE_EACH, short
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.recipe import BY_WORDS_OR_RANK, Keep, Recipe, Shape, load_recipe, pool
from dataset_builder.shape import STATING
from dataset_builder.summary import variants_table
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant, write_variant


def control_of(tmp_path, match, of=None, **sections):
    """The control of a recipe of these sections, or of the one that ships as `of`; by its file."""
    if of is None:
        (tmp_path / "target.toml").write_text(toml({"title": "Target", **sections}))
    path = tmp_path / "mine.toml"
    path.write_text(toml({"title": "Mine", "control": {"of": of or "target.toml", "match": match}}))
    return load_recipe(str(path))


def toml(table):
    lines = [f'title = "{table.pop("title")}"']
    for name, section in table.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {msgspec.json.encode(each).decode()}" for key, each in section.items()]
    return "\n".join(lines) + "\n"


def plan(recipe, tables):
    """The control's plan and its target's."""
    control = recipe.control
    return plan_variant("mine", recipe, tables), plan_variant(control.of, control.recipe, tables)


def count(rows, *keys):
    return Counter(tuple(row[key] for key in keys) for row in rows)


# --------------------------------------------------------------------------- a second statement


def is_usable(thread, languages):
    return (
        thread["is_complete"]
        and not thread["has_deleted"]
        and not thread["has_synthetic"]
        and not thread["review_failed"]
        and not thread["near_held_out"]
        and thread["tree_state"] == "ready_for_export"
        and (languages is None or set(thread["langs"]) <= set(languages))
    )


def drawn_by_hand(threads, target_ids, limits, match, keep, shape, side):
    """The ids of the control's rows on a side, those that were not one per prompt, those that state
    a limit.
    """
    usable = [each for each in threads if is_usable(each, keep.languages) and each["split"] == side]
    one_each = keep.best_per_prompt or keep.max_rank == 0
    left = usable
    if one_each:
        by_prompt = defaultdict(list)
        for each in usable:
            by_prompt[each["prompt_id"]].append(each)
        left = [
            min(siblings, key=lambda each: hash_order(ONE_EACH, each["thread_id"]))
            for siblings in by_prompt.values()
        ]
    target = [each for each in threads if each["thread_id"] in target_ids]
    wanted = count(target, "lang", "turns")
    seen = Counter()
    places = []
    for each in sorted(left, key=lambda each: hash_order(DRAW, each["thread_id"])):
        stratum = (each["lang"], each["turns"])
        place = (seen[stratum] + 0.5) / wanted[stratum] if wanted[stratum] else math.inf
        seen[stratum] += 1
        places.append((place, hash_order(DRAW, each["thread_id"]), each))
    ordered = [each for *_, each in sorted(places, key=lambda place: place[:2])]
    rows = []
    if match == "rows":
        rows = ordered[: len(target)]
    else:
        words = sum(each["reply_words"] for each in target)
        for each in ordered:
            have = sum(row["reply_words"] for row in rows)
            if 100 * have < 99 * words and 100 * (have + each["reply_words"]) <= 101 * words:
                rows.append(each)
    share = limits / len(target) if target else 0
    able = [
        each for each in rows if shape.limit_from != "list" or each["reply_words"] <= 100
    ]  # the list of the tests ends with 100
    able.sort(key=lambda each: hash_share(STATING, each["thread_id"]))
    able.sort(key=lambda each: each["reply_words"] > 100)
    names = [each["thread_id"] for each in rows]
    fell = {each["thread_id"] for each in usable} - {each["thread_id"] for each in left}
    return names, fell, {each["thread_id"] for each in able[: round(share * len(rows))]}


@st.composite
def forests(draw):
    """Trees of one or two turns in two languages, with replies of 1 to 300 words."""
    rows = []
    for at in range(draw(st.integers(1, 12))):
        rows.append(prompt(f"p{at}", text=f"Question {at * 7919}", lang="en"))
        asked = [f"p{at}"]
        if draw(st.booleans()):
            rows.append(reply(f"r{at}", f"p{at}", rank=0, words=draw(st.integers(1, 300))))
            rows.append(prompt(f"q{at}", f"r{at}", text=f"And then {at * 7919}?"))
            asked = [f"q{at}"]
        for place in range(draw(st.integers(1, 4))):
            rows.append(
                reply(
                    f"a{at}_{place}",
                    draw(st.sampled_from(asked)),
                    rank=place + (asked[0] != f"p{at}"),
                    words=draw(st.integers(1, 300)),
                    lang=draw(st.sampled_from(["en", "en", "de"])),
                    deleted=draw(st.sampled_from([False, False, False, True])),
                    review_result=draw(st.sampled_from([True, True, False, None])),
                )
            )
    return rows


keeps = st.fixed_dictionaries(
    {},
    optional={
        "languages": st.sampled_from([["en"], ["en", "de"]]),
        "max_rank": st.integers(0, 1),
        "reply_words": st.sampled_from([[1, 100], [20, 150]]),
        "best_per_prompt": st.booleans(),
    },
)
shapes = st.fixed_dictionaries(
    {"state_word_limit": st.sampled_from([0.0, 0.5, 1.0])},
    optional={"limit_from": st.sampled_from(["reply", "slack", "list"])},
)


@settings(deadline=None, max_examples=20)
@given(forests(), keeps, shapes, st.sampled_from(["rows", "words"]), st.integers(1, 9))
def test_pool_and_draw_are_those_of_a_second_statement(
    tmp_path_factory, rows, keep, shape, match, cap
):
    folder = tmp_path_factory.mktemp("control")
    recipe = control_of(folder, match, keep=keep, shape=shape, cap={"examples": cap})
    tables = tables_of(folder, rows, held_out=0.3)
    try:
        mine, target = plan(recipe, tables)
    except InputError:  # nothing is kept, or less than half can be matched
        reject()
    threads = tables.threads.to_pylist()
    fell, kept = {}, {}
    for side in ("train", "validation"):
        theirs = getattr(target, side).to_pylist()
        names, not_one, stating = drawn_by_hand(
            threads,
            {row["example_id"] for row in theirs},
            sum(row["limit"] is not None for row in theirs),
            match,
            msgspec.convert(keep, Keep),
            msgspec.convert(shape, Shape),
            side,
        )
        ours = getattr(mine, side).to_pylist()
        assert {row["example_id"] for row in ours} == set(names)
        assert {row["example_id"] for row in ours if row["limit"] is not None} == stating
        assert all((row["limit"] or 300) >= row["reply_words"] for row in ours)
        fell |= dict.fromkeys(not_one, "one_per_prompt")
        kept |= dict.fromkeys(names)
    ledger = mine.ledger.to_pylist()
    for row in ledger:
        if row["thread_id"] in fell:
            assert row["dropped_by"] == "one_per_prompt"
        assert (row["dropped_by"] is None) == (row["thread_id"] in kept)
    for funnel in (mine.manifest.funnel, mine.manifest.validation_funnel):
        first, *dropped, last = funnel.values()
        assert first == sum(dropped) + last


# ------------------------------------------------------------------------------- a small forest


def forest(n=60):
    rows = []
    for at in range(n):
        lang = "de" if at % 3 == 2 else "en"
        rows += [
            prompt(f"p{at}", text=f"Question number {at} | about {at * 7}?", lang=lang),
            reply(f"long{at}", f"p{at}", rank=0, words=110 + at, lang=lang),
            reply(f"short{at}", f"p{at}", rank=1, words=10 + at, lang=lang),
        ]
        if at % 2:
            rows.append(prompt(f"q{at}", f"long{at}", text=f"And then {at * 11}?", lang=lang))
            rows.append(reply(f"next{at}", f"q{at}", rank=0, words=20 + 3 * at, lang=lang))
    return rows


CONCISE = {"keep": {"reply_words": [1, 100], "best_per_prompt": True}}


def test_the_order_of_files_and_of_their_rows_changes_nothing(tmp_path):
    recipe = control_of(tmp_path, "words", **CONCISE, shape={"state_word_limit": 0.5})
    rows = forest()
    orders = [(rows[:99], rows[99:]), (rows[99:][::-1], rows[:99][::-1])]
    first, second = (plan_variant("mine", recipe, tables_of(tmp_path, *each)) for each in orders)
    assert first.train.equals(second.train)
    assert first.ledger.equals(second.ledger)


def test_a_control_of_a_smaller_cap_lies_inside_that_of_a_larger_one(tmp_path):
    tables = tables_of(tmp_path, forest())
    names = []
    for cap in (9, 30, 60):
        sections = {"keep": {"languages": ["en"]}, "cap": {"examples": cap}}
        made, target = plan(control_of(tmp_path, "rows", **sections), tables)
        names.append(set(made.train["example_id"].to_pylist()))
        assert made.train.num_rows == target.train.num_rows == cap
        # Another draw than the cap's own.
        assert names[-1] != set(target.train["example_id"].to_pylist())
    # But for a row or two, where the larger cap moved the share of the turns.
    assert all(len(small - large) <= 2 for small, large in pairwise(names))


def test_a_control_states_as_many_limits_where_its_concise_replies_do_not_suffice(tmp_path):
    tables = tables_of(tmp_path, forest())
    shape = {"state_word_limit": 1.0}
    made, target = plan(control_of(tmp_path, "rows", **CONCISE, shape=shape), tables)
    rows = made.train.to_pylist()
    assert all(row["limit"] >= row["reply_words"] for row in rows)
    assert any(row["reply_words"] > 100 for row in rows)
    assert target.manifest.splits["train"].limits_stated == len(rows)
    # A list that no longer reply keeps leaves them without, and the manifest says so.
    shape |= {"limit_from": "list", "limits": [100]}
    made, _ = plan(control_of(tmp_path, "rows", **CONCISE, shape=shape), tables)
    concise = made.manifest.splits["train"].concise
    noted = made.manifest.notes["control"]["train"]["limits_stated"]
    assert noted == {"target": made.train.num_rows, "control": concise}
    assert made.manifest.splits["train"].limits_stated == concise


def test_a_pool_without_enough_of_a_language_is_filled_and_the_rows_out_of_place_are_counted(
    tmp_path,
):
    # To each German question a short German reply, ranked first, and many in English.
    rows = []
    for at in range(20):
        rows.append(prompt(f"p{at}", text=f"Frage {at * 7919}", lang="de"))
        rows.append(reply(f"de{at}", f"p{at}", rank=0, words=50, lang="de"))
        rows += [reply(f"en{at}_{n}", f"p{at}", rank=1 + n, words=50) for n in range(3)]
    made, target = plan(
        control_of(tmp_path, "rows", keep={"max_rank": 0}), tables_of(tmp_path, rows)
    )
    english = sum(row["lang"] == "en" for row in made.train.to_pylist())
    assert (target.train.num_rows, made.train.num_rows) == (20, 20)
    assert made.manifest.notes["control"]["train"]["out_of_place"] == english > 0


def test_less_than_half_of_the_words_is_an_input_error_and_less_than_all_is_noted(tmp_path):
    def tables(short):
        rows = []
        for at in range(20):
            rows.append(prompt(f"p{at}", text=f"Question {at * 7919}"))
            rows.append(reply(f"long{at}", f"p{at}", rank=0, words=200))
            rows += [reply(f"s{at}_{n}", f"p{at}", rank=1 + n, words=short) for n in range(9)]
        return tables_of(tmp_path, rows)

    recipe = control_of(tmp_path, "words", keep={"max_rank": 0})
    with pytest.raises(InputError) as error:
        plan(recipe, tables(short=2))
    assert str(error.value).startswith("recipe `mine`: its pool has ")
    assert str(error.value).endswith(" words of the 4,000 of `target`")
    assert error.value.hint == "add a `--source`, or control a recipe that keeps less"
    made, _ = plan(recipe, tables(short=150))
    words = made.manifest.notes["control"]["train"]["words"]
    assert words["target"] == 4000
    assert 3000 <= words["control"] == made.manifest.splits["train"].words < 3960
    short = made.manifest.notes["control"]["train"]["short"]
    assert short == round(1 - words["control"] / 4000, 4) > 0.01
    told = (
        f"mine falls short of target by {short:.1%} in train: {words['control']:,} words for 4,000"
    )
    console = Console(width=200, file=StringIO())
    console.print(variants_table([made.manifest]))
    assert f"warning: {told}" in console.file.getvalue()
    said = " ".join(card(made.manifest).split())
    assert f"**It falls short:** in `train` it has {words['control']:,} words for 4,000" in said


def test_a_control_that_matches_falls_short_of_nothing(tmp_path):
    for match in ("rows", "words"):
        made, _ = plan(control_of(tmp_path, match, **CONCISE), tables_of(tmp_path, forest()))
        assert {side["short"] for side in made.manifest.notes["control"].values()} == {0.0}
        assert "falls short" not in card(made.manifest)


@pytest.mark.parametrize(
    ("match", "target", "control", "lacks"),
    [
        ("rows", 9, 9, 0.0),
        ("rows", 9, 8, 0.1111),
        ("words", 1000, 990, 0.0),
        ("words", 1000, 1010, 0.0),
        ("words", 1000, 989, 0.011),
        ("words", 0, 0, 0.0),
    ],
)
def test_what_falls_short_is_told_beyond_the_tolerance(tmp_path, match, target, control, lacks):
    notes = {match: {"target": target, "control": control}}
    assert short(control_of(tmp_path, match, **CONCISE), notes) == lacks


def test_a_control_of_best_paths_draws_whole_conversations_one_of_a_tree(tmp_path):
    made, target = plan(
        control_of(tmp_path, "rows", keep={"paths": "best"}), tables_of(tmp_path, forest())
    )
    assert set(count(made.train.to_pylist(), "tree_id").values()) == {1}
    assert made.train.num_rows == target.train.num_rows == 60
    assert made.manifest.funnel["one_per_tree"] > 0


# ------------------------------------------------------------------------------------ the recipe


def test_every_rule_is_one_of_words_or_rank_or_stays_in_the_pool():
    stay = {"languages", "root_languages", "tree_states", "synthetic", "deleted", "review"}
    stay |= {"root_review"}
    stay |= {"paths", "turns", "min_labels", "max_labels", "near_duplicates"}
    assert set(Keep.__struct_fields__) <= stay | BY_WORDS_OR_RANK
    strict = Keep(
        languages=("de",),
        max_rank=0,
        prompt_words=(1, 9),
        reply_words=(1, 9),
        best_per_prompt=True,
    )
    assert pool(strict) == Keep(languages=("de",))


def test_the_manifest_holds_the_target_whole_and_no_path(tmp_path):
    recipe = control_of(tmp_path, "rows", **CONCISE, shape={"state_word_limit": 0.5})
    made, target = plan(recipe, tables_of(tmp_path, forest()))
    control = made.manifest.recipe["control"]
    assert control == {"of": "target", "match": "rows", "recipe": target.manifest.recipe}
    assert made.manifest.recipe["shape"] == target.manifest.recipe["shape"]
    assert made.manifest.title == "Mine"
    assert str(tmp_path) not in msgspec.json.encode(made.manifest).decode()
    # What a manifest holds is a recipe that makes the same variant.
    again = msgspec.convert(made.manifest.recipe, Recipe)
    assert again == recipe


def test_the_card_and_the_terminal_say_what_was_matched(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    made, target = plan(control_of(tmp_path, "rows", **CONCISE), tables_of(tmp_path, forest()))
    n = target.train.num_rows
    content = " ".join((write_variant(made) / "README.md").read_text(encoding="utf-8").split())
    assert "a draw by hash among the threads that the recipe `target` keeps before" in content
    assert f"as many rows in `train` as it has there ({n} for {n})" in content
    assert "It is a control" not in card(target.manifest)
    console = Console(width=200, file=StringIO())
    console.print(variants_table([target.manifest, made.manifest]))
    assert f"mine: of target, {n} rows for {n}, " in console.file.getvalue()
    assert "limits stated for" not in console.file.getvalue()


def test_the_controls_that_ship_control_concise_best():
    for match in ("rows", "words"):
        control = load_recipe(f"control_{match}").control
        assert (control.of, control.match) == ("concise_best", match)
        assert control.recipe == load_recipe("concise_best")


def test_the_pool_of_best_paths_is_all_whole_conversations():
    assert (
        pool(Keep(paths="best", max_rank=0)) == pool(Keep(paths="leaves")) == Keep(paths="leaves")
    )
    assert pool(Keep(paths="replies")).paths == "replies"


def test_the_target_is_found_beside_the_file_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.toml").write_text('title = "One"\n')
    (tmp_path / "deep" / "two.toml").write_text(
        'title = "Two"\n[control]\nof = "one.toml"\nmatch = "rows"\n'
    )
    assert load_recipe("deep/two.toml").control.recipe.title == "One"


ROWS_OF = '[control]\nmatch = "rows"\nof = '


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            f'{ROWS_OF}"concise_bst"',
            "recipe `{path}`: `control.of`: unknown recipe `concise_bst`",
            "did you mean `concise_best`?",
        ),
        (
            f'{ROWS_OF}"control_rows"',
            "recipe `{path}`: `control_rows` is a control itself",
            "name in `of` a recipe that chooses",
        ),
        (
            f'{ROWS_OF}"mine.toml"',
            "recipe `{path}`: `mine.toml` is a control itself",
            "name in `of` a recipe that chooses",
        ),
        (
            f'{ROWS_OF}"pairs"',
            "recipe `{path}`: `pairs` does not make answers, and only those have controls",
            'name a recipe of the form "answers" in `of`',
        ),
        (
            f'{ROWS_OF}"full"\n[keep]\nlanguages = ["en"]',
            "recipe `{path}`: a control takes all but the draw from `full`; found `[keep]`",
            "leave in the file only `title` and `[control]` with `of` and `match`",
        ),
        (
            f'{ROWS_OF}"full"\n[control.recipe]\ntitle = "Mine"',
            "recipe `{path}`: a control takes all but the draw from `full`; found `control.recipe`",
            "leave in the file only `title` and `[control]` with `of` and `match`",
        ),
        (
            '[control]\nof = "full"\nmatch = "tokens"',
            "mine.toml: `control.match`: unknown value `tokens`",
            None,
        ),
        ('[control]\nof = "full"', "mine.toml: no key `match` in `[control]`", None),
    ],
)
def test_a_control_that_makes_no_sense_is_an_input_error(tmp_path, text, message, hint):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "Mine"\n{text}\n')
    with pytest.raises(InputError) as error:
        load_recipe(str(path))
    assert str(error.value) == message.replace("{path}", str(path))
    assert hint is None or error.value.hint == hint


# -------------------------------------------------------------------------------- the real files


@cache
def real_tables():
    names = ("oasst1_en_validation.messages", "laion_en_100.trees", "oasst2_animals.trees")
    return make_tables([read_export(real(f"oasst/{name}.jsonl")) for name in names], 0.3)


@pytest.mark.parametrize("of", ["concise_best", "concise_rank0", "capped"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_on_the_real_files_rows_words_languages_turns_and_limits_are_matched(tmp_path, of, share):
    sections = msgspec.to_builtins(load_recipe(of))
    keep = {key: each for key, each in sections["keep"].items() if each is not None}
    cap = {key: each for key, each in sections["cap"].items() if each is not None}
    shape = {"state_word_limit": share}
    for match in ("rows", "words"):
        made, target = plan(
            control_of(tmp_path, match, keep=keep, shape=shape, cap=cap), real_tables()
        )
        ours, theirs = made.train.to_pylist(), target.train.to_pylist()
        want, have = count(theirs, "lang", "turns"), count(ours, "lang", "turns")
        if match == "rows":
            assert len(ours) == len(theirs)
            assert have == want
        else:
            scale = len(ours) / len(theirs)
            # By whole rows, and the last few chosen by length.
            assert all(abs(have[key] - want[key] * scale) <= 2 for key in have | want)
            words = [sum(row["reply_words"] for row in rows) for rows in (ours, theirs)]
            assert abs(words[0] - words[1]) <= 0.01 * words[1]
        stated = [sum(row["limit"] is not None for row in rows) for rows in (ours, theirs)]
        assert abs(stated[0] - stated[1] * len(ours) / len(theirs)) <= 1
        if of != "capped":
            assert len({row["prompt_id"] for row in ours}) == len(ours)
            assert {row["example_id"] for row in ours} != {row["example_id"] for row in theirs}


def test_on_the_real_files_the_draw_is_that_of_the_second_statement():
    threads = real_tables().threads.to_pylist()
    for match in ("rows", "words"):
        recipe = load_recipe(f"control_{match}")
        made, target = plan(recipe, real_tables())
        for side in ("train", "validation"):
            kept = set(getattr(target, side)["example_id"].to_pylist())
            names, fell, _ = drawn_by_hand(
                threads, kept, 0, match, recipe.control.recipe.keep, recipe.shape, side
            )
            assert names
            assert set(getattr(made, side)["example_id"].to_pylist()) == set(names)
            ledger = made.ledger.to_pylist()
            assert fell == {
                row["thread_id"]
                for row in ledger
                if row["dropped_by"] == "one_per_prompt" and row["split"] == side
            }


def test_the_controls_that_ship_hold_many_long_replies_of_the_real_files():
    rows = plan_variant("control_rows", load_recipe("control_rows"), real_tables())
    words = plan_variant("control_words", load_recipe("control_words"), real_tables())
    concise = plan_variant("concise_best", load_recipe("concise_best"), real_tables())
    count = concise.manifest.splits["train"]
    assert rows.manifest.splits["train"].rows == count.rows
    assert 0.4 < rows.manifest.splits["train"].concise / count.rows < 0.65
    assert words.manifest.splits["train"].rows < count.rows / 2
