"""What the terminal says of sources and variants: whole, in order, and no foreign escape in it."""

from itertools import permutations, product

import msgspec
from builders import prompt, reply, tables_of
from rich.console import Console

from dataset_builder.contamination import Against
from dataset_builder.control import control_rules
from dataset_builder.labels import Labels
from dataset_builder.recipe import Cap, Control, Keep, Recipe, Shape
from dataset_builder.rules import rules
from dataset_builder.summary import FUNNEL, REFUSED_SHOWN, refused_table, variants_table
from dataset_builder.variant import _later_rules, plan_variant

ROWS = [prompt("a"), reply("b", "a", rank=0, words=9), reply("c", "a", rank=1, words=9)]


def drawn(renderable, width=80):
    console = Console(width=width, record=True, no_color=True, quiet=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def manifests(folder, **recipes):
    tables = tables_of(folder, ROWS)
    return [
        plan_variant(name, msgspec.convert({"title": name, **sections}, Recipe), tables).manifest
        for name, sections in recipes.items()
    ]


def test_what_a_cap_took_stands_below_every_rule_whichever_recipe_comes_first(tmp_path):
    made = manifests(
        tmp_path,
        capped={"cap": {"examples": 1}},
        best={"keep": {"best_per_prompt": True, "max_rank": 9}},
        shared={"keep": {"turns": [1, 9]}, "cap": {"examples": 1}},
    )
    for order in permutations(made):
        labels = [
            line.split()[0] for line in drawn(variants_table(order)).splitlines() if line.strip()
        ]
        funnel = labels[labels.index("threads") : labels.index("kept") + 1]
        assert funnel[-2:] == ["cap", "kept"]
        assert {"turns", "rank"} < set(funnel)
        assert len(set(funnel)) == len(funnel)
        for manifest in order:
            assert [name for name in funnel if name in manifest.funnel] == list(manifest.funnel)


def test_the_funnel_has_a_place_for_every_rule_in_the_order_in_which_it_is_decided():
    labels = Labels(**dict.fromkeys(Labels.__struct_fields__, 0.5))
    every = {
        **dict.fromkeys(("languages", "root_languages"), ("en",)),
        **dict.fromkeys(("turns", "prompt_words", "reply_words"), (1, 2)),
        **dict.fromkeys(("max_rank", "max_path_rank"), 0),
        **dict.fromkeys(("min_labels", "max_labels"), labels),
        "root_review": True,
    }
    against = Against(())
    met = set()
    for paths, chooses, nears, form, cap in product(
        ("replies", "leaves", "best"),
        ({}, {"best_per_prompt": True}, {"shortest_of_top": 2}),
        ("keep", "prompts", "rows"),
        ({}, {"form": "prompts"}, {"form": "pairs", "length_flips": True}),
        ({"examples": 1}, {"concise_share": 0.5}),
    ):
        keep = Keep(**every, paths=paths, near_duplicates=nears, **chooses)
        target = Recipe(title="", keep=keep, shape=Shape(**form), cap=Cap(**cap))
        control = Control(of="x", match="rows", recipe=target)
        recipe = msgspec.structs.replace(target, control=control)
        names = [*rules(keep), *_later_rules(recipe, against), *control_rules(recipe)]
        assert names == [name for name in FUNNEL if name in names]
        met |= set(names)
    assert set(FUNNEL) - met == {"threads", "test", "validation", "kept"}


def test_refused_rows_are_shown_with_file_line_and_reason_and_where_all_of_them_stand(tmp_path):
    bad = [{"message_id": f"\x1b[31m{n}", "text": 3, "role": "x"} for n in range(7)]
    rejects = tables_of(tmp_path, [*ROWS, *ROWS, *ROWS, *bad]).rejects
    assert rejects.num_rows == 7
    told = drawn(refused_table(rejects, tmp_path / "rejects.parquet"), 300)
    rows = [line.split() for line in told.splitlines() if line.startswith("0.jsonl")]
    assert [int(row[1]) for row in rows] == list(range(10, 10 + REFUSED_SHOWN))
    assert {row[2] for row in rows} == set(rejects["reason"].to_pylist())
    assert f"and 2 more, all in {tmp_path / 'rejects.parquet'}" in told
    assert "\x1b" not in told
    assert "a build writes to rejects.parquet" in drawn(refused_table(rejects, None))


def test_where_nothing_was_refused_nothing_is_said(tmp_path):
    assert drawn(refused_table(tables_of(tmp_path, ROWS).rejects, None)).strip() == ""


def test_no_number_is_broken_however_many_variants_stand_beside_each_other(tmp_path):
    (made,) = manifests(tmp_path, short={})
    train = msgspec.structs.replace(made.splits["train"], words=264_526_000)
    splits = made.splits | {"train": train}
    several = [
        msgspec.structs.replace(made, name=name, splits=splits)
        for name in ("full", "a_name_of_more_than_sixteen_letters", *"abcdefgh")
    ]
    for width in (40, 80, 120):
        told = drawn(variants_table(several, width), width)
        assert told.count("264,526,000") == len(several)
        tables = sum(line.startswith("threads") for line in told.splitlines())
        assert tables == {40: 10, 80: 3, 120: 2}[width]
        assert all(len(line) <= width for line in told.splitlines())
