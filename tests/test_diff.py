import json
from pathlib import Path

import msgspec
import pytest
from browser import chromium
from builders import prompt, reply, tables_of
from golden import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder import diff as diffing
from dataset_builder.__main__ import app
from dataset_builder.command_line import run
from dataset_builder.diff import changed_keys, diff_variants, kinds, numbers
from dataset_builder.diff_page import diff_page, write_diff_page
from dataset_builder.diff_tables import diff_report, kind_rows
from dataset_builder.errors import InputError
from dataset_builder.manifest import find_variant
from dataset_builder.recipe import Recipe
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


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """ranked: the long reply to each prompt; short: the short one; limits: those with limits."""
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    tables = tables_of(tmp_path, forest(), held_out=0.2)
    write_build("every", tables)
    write_build("ranked", tables, keep={"max_rank": 0})
    write_build("short", tables, keep={"reply_words": [1, 100]})
    write_build("limits", tables, keep={"reply_words": [1, 100]}, shape={"state_word_limit": 0.5})
    other = tables_of(tmp_path, forest(), held_out=0.4)
    write_build("held", other, keep={"reply_words": [1, 100]})
    return tmp_path / "artifacts"


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


def test_a_variant_of_another_form_is_refused(builds, monkeypatch):
    directory, manifest = find_variant("short")

    class Pairs:
        name, form = manifest.name, "pairs"

    with pytest.raises(InputError, match="variant `short` holds pairs; wanted answers"):
        diff_variants((directory, manifest), (directory, Pairs()))


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
    assert "no variant `none` has been built" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize("width", [380, 1280])
def test_a_browser_is_asked_for_nothing_and_the_page_stays_in_its_width(builds, width):
    page = write_diff_page(difference("short", "limits")).resolve()
    with chromium() as tab:
        tab.open(page, width=width)
        assert tab.complaints == []
        assert [each for each in tab.requests if each != page.as_uri()] == []
        assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.run("document.querySelectorAll('.example').length") == 3
        assert tab.run("document.scripts.length") == 0
