"""What the terminal says of sources and variants: whole, in order, and no foreign escape in it."""

from itertools import permutations

import msgspec
from builders import prompt, reply, tables_of
from rich.console import Console

from dataset_builder.recipe import Recipe
from dataset_builder.summary import REFUSED_SHOWN, refused_table, variants_table
from dataset_builder.variant import plan_variant

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
