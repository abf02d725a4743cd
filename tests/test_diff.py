import json
from pathlib import Path

import msgspec
import pytest
from builders import prompt, reply, tables_of
from golden import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder import diff as diffing
from dataset_builder.__main__ import app
from dataset_builder.command_line import run
from dataset_builder.diff import changed_keys, diff_variants, kinds, numbers
from dataset_builder.diff_page import diff_page, write_diff_page
from dataset_builder.diff_tables import count_rows, diff_report, kind_rows
from dataset_builder.difference import Counts
from dataset_builder.errors import InputError
from dataset_builder.manifest import find_variant
from dataset_builder.recipe import Recipe, load_recipe
from dataset_builder.variant import plan_variant, write_variant

HOSTILE = "<script>alert(1)</script> \x1b[31m [red]bold[/red]"


def forest():
    rows = []
    for at in range(40):
        rows += [
            prompt(f"p{at}", text=f"Question {at}? {HOSTILE}"),
            reply(f"long{at}", f"p{at}", rank=0, words=110 + at),
            reply(f"short{at}", f"p{at}", rank=1, words=3 + at),
        ]
    return rows


def write_build(name, tables, **sections):
    recipe = msgspec.convert({"title": f"The {name} [b]one[/b]", **sections}, Recipe)
    return write_variant(plan_variant(name, recipe, tables))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """ranked: the long reply to each prompt; short: the short one; limits: those with limits."""
    folder = tmp_path_factory.mktemp("answers")
    short = {"reply_words": [1, 100]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        tables = tables_of(folder, forest(), held_out=0.2)
        write_build("every", tables)
        write_build("ranked", tables, keep={"max_rank": 0})
        write_build("short", tables, keep=short)
        write_build("limits", tables, keep=short, shape={"state_word_limit": 0.5})
        write_build("held", tables_of(folder, forest(), held_out=0.4), keep=short)
    return folder / "artifacts"


@pytest.fixture
def builds(built, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(built))
    return built


def difference(a, b):
    return diff_variants(find_variant(a), find_variant(b))


def test_another_reply_to_every_prompt_is_told_as_such(builds):
    found = difference("ranked", "short")
    train = found.splits["train"]
    n = found.a.rows["train"]
    assert n == found.b.rows["train"] > 20
    assert train.other_reply_prompts == train.other_reply_a == train.other_reply_b == n
    assert train.same == train.rewritten == train.only_a == train.only_b == 0
    assert [each.key for each in found.keys] == ["keep.max_rank", "keep.reply_words"]
    assert found.keys[0].a == 0
    assert found.keys[0].b is None
    assert found.concise == {"a": 0.0, "b": 1.0}
    words = next(each for each in found.shifts if each.name == "reply words")
    assert words.mean_difference == words.b.mean - words.a.mean < -100
    assert {each.kind for each in found.examples} == {"other_reply"}
    ranks = next(each for each in found.counts if each.name == "rank")
    assert ranks.a == {"0": n, "1": 0}
    assert ranks.b == {"0": 0, "1": n}
    assert found.warnings == []


def test_a_reply_more_to_the_same_prompt_is_only_in_one(builds):
    train = difference("every", "short").splits["train"]
    assert train.other_reply_prompts == 0
    assert train.only_a == train.same > 20
    assert train.only_b == 0


def test_the_same_rows_with_limits_stated_are_written_otherwise(builds):
    found = difference("short", "limits")
    train = found.splits["train"]
    stated = next(each for each in found.shifts if each.name == "stated limit")
    assert stated.a.n == 0
    assert stated.a.mean is stated.mean_difference is None
    assert train.rewritten == train.limit_changed == stated.b.n > 5
    assert train.same + train.rewritten == found.a.rows["train"]
    example = found.examples[0]
    assert example.kind == "rewritten"
    assert example.question_b.startswith(example.question)
    assert example.limit_a is None
    assert example.limit_b >= example.words_b


def test_variants_of_other_tables_are_compared_with_a_warning(builds):
    found = difference("short", "held")
    assert any("different tables (held-out shares 0.2 and 0.4)" in each for each in found.warnings)
    assert found.crossed > 0
    assert any("trains on" in each for each in found.warnings)


def test_a_variant_does_not_differ_from_itself(builds):
    found = difference("short", "short")
    assert found.keys == found.examples == found.warnings == []
    assert found.splits["train"].same == found.a.rows["train"]
    assert "They are the same." in drawn(diff_report(found), 80)


ROWS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 2), st.sampled_from([None, 10, 20]))
)


@settings(max_examples=40, deadline=None)
@given(a=ROWS, b=ROWS)
def test_every_row_is_of_one_kind_by_a_plain_statement_too(a, b):
    # A row's prompt follows from its id, as in a forest.
    sides = [
        {
            name: {"prompt_id": ord(name) % 3, "completion": text, "limit": limit}
            for name, (text, limit) in side.items()
        }
        for side in (a, b)
    ]
    found = kinds(*sides)
    rows = kind_rows(found)
    assert sum(row[1] for row in rows) == len(a)
    assert sum(row[2] for row in rows) == len(b)
    swaps = {(one, two) for one in a for two in b if one not in b and two not in a}
    swaps = {(one, two) for one, two in swaps if ord(one) % 3 == ord(two) % 3}
    assert found.other_reply_a == len({one for one, _ in swaps})
    assert found.other_reply_b == len({two for _, two in swaps})
    assert found.other_reply_prompts == len({ord(one) % 3 for one, _ in swaps})
    assert found.rewritten == sum(name in b and a[name] != b[name] for name in a)
    assert found.limit_changed == sum(name in b and a[name][1] != b[name][1] for name in a)


def test_quantiles_are_values_that_are_there():
    found = numbers([None, 30, 10, 20, None])
    assert (found.n, found.mean) == (3, 20.0)
    assert found.quantiles["0"] == 10
    assert found.quantiles["0.5"] == 20
    assert found.quantiles["1"] == 30
    assert numbers([]).quantiles["0.5"] is None


def test_a_key_that_one_recipe_has_not_is_told_as_absent():
    found = changed_keys({"title": "x", "keep": {"a": 1}}, {"title": "y", "keep": {"b": [2]}})
    assert [(each.key, each.a, each.b) for each in found] == [
        ("keep.a", 1, "(absent)"),
        ("keep.b", "(absent)", [2]),
    ]


def test_a_control_differs_from_its_target_in_what_it_matches_and_in_the_choice_it_lacks():
    target, control = (
        msgspec.to_builtins(load_recipe(name)) for name in ("concise_best", "control_rows")
    )
    assert [each.key for each in changed_keys(target, control)] == [
        *("control.match", "control.of", "keep.best_per_prompt", "keep.reply_words")
    ]
    other = msgspec.to_builtins(load_recipe("control_rows"))
    other["control"]["recipe"]["keep"]["max_rank"] = 3
    assert [each.key for each in changed_keys(control, other)] == ["control.recipe.keep.max_rank"]


def test_rows_without_a_limit_have_a_line_of_their_own_however_many_limits_there_are():
    numbers = [str(10 * n) for n in range(1, 21)]
    sides = {
        name: {**dict.fromkeys(numbers, n), "null": 900 * n} for name, n in (("a", 0), ("b", 1))
    }
    told = [(row[0], row[3]) for row in count_rows(Counts(name="stated limit", **sides), 12)]
    assert told == [*((n, 1) for n in numbers[:12]), ("8 more", 8), ("none", 900)]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """Pairs with and without flips, prompts with two shares of limits."""
    folder = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS", str(folder / "artifacts"))
        write_forms(tables_of(folder, forest(), held_out=0.2))
        yield


def write_forms(tables):
    write_build("short", tables, keep={"reply_words": [1, 100]})
    write_build("pairs", tables, shape={"form": "pairs"})
    write_build("flips", tables, shape={"form": "pairs", "length_flips": True, "plain_too": True})
    write_build("few", tables, shape={"form": "pairs"}, cap={"examples": 9})
    for name, share in (("asked", 1.0), ("half", 0.5)):
        shape = {"form": "prompts", "state_word_limit": share}
        write_build(name, tables, shape=shape)
    ranked = {"form": "prompts", "state_word_limit": 1.0}
    write_build("fewer", tables, shape=ranked, cap={"examples": 5})


def test_variants_of_two_forms_have_no_rows_in_common(forms):
    with pytest.raises(InputError) as error:
        difference("short", "pairs")
    told = "`short` holds answers and `pairs` pairs: their rows are no match"
    assert str(error.value) == told
    assert error.value.hint == "compare variants of one form: answers, pairs, prompts"


def test_pairs_differ_in_rows_in_augmentations_and_in_which_reply_is_longer(forms):
    found = difference("pairs", "flips")
    n = found.a.rows["train"]
    train = found.splits["train"]
    assert found.b.rows["train"] == 3 * n
    assert (train.same, train.rewritten, train.only_b) == (n, 0, 2 * n)
    counts = {each.name: each for each in found.counts}
    assert counts["augmentation"].a == {"plain": n, "kept": 0, "flipped": 0}
    assert counts["augmentation"].b == {"plain": n, "kept": n, "flipped": n}
    # The long reply is ranked first; a flip chooses the short one.
    assert counts["the chosen reply is"].b == {"longer": 2 * n, "shorter": n}
    shifts = {each.name: each for each in found.shifts}
    assert shifts["chosen less rejected"].a.quantiles["0.5"] == 107
    assert shifts["stated limit"].a.n == 0
    assert shifts["stated limit"].b.n == 2 * n
    assert found.concise == {"a": 0.0, "b": 1 / 3}
    examples = {each.kind: each for each in found.examples}
    assert examples.keys() == {"only_b"}
    assert examples["only_b"].b
    assert examples["only_b"].rejected_b not in (None, examples["only_b"].b)
    only = difference("few", "pairs").splits["train"]
    assert (only.same, only.only_b) == (9, n - 9)


def test_prompts_differ_in_the_limits_they_state(forms):
    found = difference("asked", "half")
    train = found.splits["train"]
    assert train.rewritten == train.limit_changed > 5
    assert train.same + train.rewritten == found.a.rows["train"] == found.b.rows["train"]
    example = found.examples[0]
    assert example.kind == "rewritten"
    assert example.question.startswith(example.question_b)
    assert example.a is example.b is None
    only = difference("asked", "fewer").splits["train"]
    assert (only.same, only.only_a) == (5, found.a.rows["train"] - 5)


PAIRS_OF_FORMS = [("pairs", "flips"), ("flips", "few"), ("asked", "half"), ("fewer", "asked")]


def test_every_form_is_shown_in_the_terminal_and_on_a_page(forms):
    for pair in PAIRS_OF_FORMS:
        found = difference(*pair)
        shown = drawn(diff_report(found), 80)
        assert max(map(len, shown.splitlines())) <= 80
        assert "\x1b" not in shown
        page = diff_page(found)
        assert "<script" not in page
        for text in (shown, page):
            assert "another row of the same prompt" in text
        if found.form == "pairs":
            assert "rejected" in shown
            assert "<dt>a rejected</dt>" in page or "<dt>b rejected</dt>" in page


def test_the_terminal_fits_80_columns_and_shows_no_escape(builds):
    for pair in (("ranked", "short"), ("short", "limits"), ("held", "every")):
        shown = drawn(diff_report(difference(*pair)), 80)
        assert max(map(len, shown.splitlines())) <= 80
        assert "\x1b" not in shown
        assert "[red]" in shown
        assert "[b]one[/b]" in shown


def test_the_page_escapes_all_that_is_foreign_and_runs_nothing(builds):
    page = diff_page(difference("ranked", "short"))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "script-src" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_examples_shown_do_not_depend_on_the_order_of_rows(builds):
    a, b = find_variant("ranked"), find_variant("short")
    rows = diffing._rows(a[0] / "train.parquet"), diffing._rows(b[0] / "train.parquet")
    turned = [dict(reversed(side.items())) for side in rows]
    assert diffing._examples(*rows) == diffing._examples(*turned)


def diff_command(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        run(app, ["diff", *arguments])
    return stopped.value.code


def test_the_command_prints_tables_or_json_or_the_path_of_a_page(builds, capsys):
    assert diff_command("ranked", "short") == 0
    assert "another reply to the same prompt" in capsys.readouterr().out
    assert diff_command("ranked", "short", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == msgspec.to_builtins(difference("ranked", "short"))
    assert diff_command("ranked", "short", "--html") == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.name == "diff.html"
    assert page.read_text(encoding="utf-8") == diff_page(difference("ranked", "short"))


def test_a_variant_that_was_never_built_is_an_input_error(builds, capsys):
    assert diff_command("ranked", "none") == 2
    told = capsys.readouterr().err
    assert "no variant `none` has been built\nhint: built: " in told
    assert diff_command("ranked", "shrot") == 2
    assert "hint: did you mean `short`?" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize("width", [380, 1280])
def test_a_browser_is_asked_for_nothing_and_the_page_stays_in_its_width(builds, tab, width):
    page = write_diff_page(difference("short", "limits")).resolve()
    tab.open(page, width=width)
    assert tab.complaints == []
    assert [each for each in tab.requests if each != page.as_uri()] == []
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.run("document.querySelectorAll('.example').length") == 3
    assert tab.run("document.scripts.length") == 0
