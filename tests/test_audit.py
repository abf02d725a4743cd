import json
from pathlib import Path
from statistics import mean, median

import pytest
from builders import message, prompt, reply, tables_of, write
from golden import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real

from dataset_builder.__main__ import app
from dataset_builder.audit import audit
from dataset_builder.audit_tables import audit_report
from dataset_builder.command_line import run
from dataset_builder.export import read_export
from dataset_builder.figures import spread
from dataset_builder.threads import make_tables


def audited(*files: Path, held_out: float = 0.1):
    tables = make_tables([read_export(path) for path in files], held_out)
    return tables, audit(tables)


def test_english_validation_has_the_lengths_by_rank_that_were_measured():
    _, found = audited(real("oasst/oasst1_en_validation.messages.jsonl"))
    by_rank = {each.rank: each for each in found.lengths}
    told = {
        rank: (each.n, round(each.mean, 1), each.median, each.concise)
        for rank, each in by_rank.items()
    }
    assert told == {
        0: (418, 152.9, 124.5, 172),
        1: (414, 123.8, 84.5, 235),
        2: (283, 110.3, 63.0, 177),
        3: (14, 61.6, 38.0, 11),
        4: (1, 40.0, 40.0, 1),
        None: (55, 147.1, 116.0, 24),
    }
    assert (found.kept.n, found.kept.concise) == (1185, 620)
    assert sum(found.histogram[:10]) == 620
    best = found.best_and_worst
    assert (best.groups, best.longer, best.equal, best.shorter) == (416, 285, 5, 126)
    assert best.longest == 228
    assert found.roles == {"prompter": 779, "assistant": 1243}
    assert found.ranks == {"0": 418, "1": 416, "2": 284, "3": 14, "4": 1, "null": 110}
    assert (found.trees, found.orphans, found.deleted, found.synthetic) == (191, 3, 40, 0)
    assert found.review == {"passed": 1956, "failed": 53, "null": 13}
    assert found.tree_states == {"ready_for_export": 191}
    labels = {each.name: each for each in found.labels}
    assert (labels["helpfulness"].prompts, labels["fails_task"].prompts) == (17, 2)


def test_the_early_export_has_its_counts_and_the_best_reply_is_mostly_the_longest():
    tables, found = audited(real("oasst/laion_en_100.trees.jsonl"))
    assert (found.messages, found.synthetic, found.deleted) == (1167, 22, 0)
    assert list(found.ranks.values()) == [212, 212, 155, 38, 11, 8, 2, 2, 1, 46]
    assert found.kept.concise == 369
    assert found.labels == []
    # 165 is the count between white space; by UAX #29 one of the 212 groups is equal instead.
    groups: dict[str, list] = {}
    for row in tables.messages.to_pylist():
        if row["rank"] is not None:
            groups.setdefault(row["parent_id"], []).append((row["rank"], len(row["text"].split())))
    ordered = [sorted(each) for each in groups.values() if len(each) > 1]
    assert sum(each[0][1] > each[-1][1] for each in ordered) == 165
    best = found.best_and_worst
    assert (best.groups, best.longer, best.equal, best.shorter) == (212, 164, 3, 45)


def test_states_languages_and_what_stands_twice_are_told_of_the_mixed_export():
    _, found = audited(real("oasst/oasst2_animals.trees.jsonl"))
    assert list(found.tree_states.values()) == [314, 94, 46, 28, 21, 17]
    assert [(each.lang, each.messages) for each in found.languages[:4]] == [
        ("en", 746),
        ("es", 362),
        ("zh", 98),
        ("ru", 72),
    ]
    assert len(found.languages) == 32
    assert (found.messages, found.duplicates.merged, found.deleted) == (1500, 52, 52)


@st.composite
def forests(draw):
    rows = []
    for tree in range(draw(st.integers(1, 4))):
        lang = draw(st.sampled_from(["en", "es"]))
        rows.append(prompt(f"p{tree}", lang=lang, deleted=draw(st.booleans())))
        for n in range(draw(st.integers(0, 4))):
            rows.append(
                reply(
                    f"r{tree}{n}",
                    f"p{tree}",
                    rank=draw(st.sampled_from([None, n])),
                    words=draw(st.integers(1, 400)),
                    lang=draw(st.sampled_from(["en", "es"])),
                    deleted=draw(st.booleans()),
                    review_result=draw(st.sampled_from([True, False, None])),
                    labels={"quality": {"value": draw(st.floats(0, 1)), "count": 1}},
                )
            )
    return rows


@settings(max_examples=8, deadline=None)
@given(rows=forests())
def test_an_audit_says_what_a_plain_count_of_the_rows_says(tmp_path_factory, rows):
    found = audit(tables_of(tmp_path_factory.mktemp("forest"), rows))
    replies = [row for row in rows if row["role"] == "assistant"]
    kept = [row for row in replies if not row["deleted"] and row["review_result"] is not False]
    lengths = {}
    for row in kept:
        lengths.setdefault(row["rank"], []).append(len(row["text"].split()))
    assert {each.rank: each.n for each in found.lengths} == {k: len(v) for k, v in lengths.items()}
    for each in found.lengths:
        assert each.mean == pytest.approx(mean(lengths[each.rank]))
        assert each.median == median(lengths[each.rank])
        assert each.concise == sum(n <= 100 for n in lengths[each.rank])
    assert sum(found.ranks.values()) == found.roles["assistant"] == len(replies)
    assert sum(found.histogram) == len(kept)
    assert sum(each.messages for each in found.languages) == len(rows)
    assert sum(found.review.values()) == len(rows)
    groups: dict[str, list] = {}
    for row in kept:
        if row["rank"] is not None:
            groups.setdefault(row["parent_id"], []).append((row["rank"], len(row["text"].split())))
    ordered = [sorted(each) for each in groups.values() if len(each) > 1]
    more = [each[0][1] - each[-1][1] for each in ordered]
    best = found.best_and_worst
    assert best.longest == sum(each[0][1] == max(n for _, n in each) for each in ordered)
    told = (best.longer, best.equal, best.shorter)
    assert told == (sum(n > 0 for n in more), sum(n == 0 for n in more), sum(n < 0 for n in more))
    if replies:
        assert found.labels[0].replies == len(replies)
        values = [row["labels"]["quality"]["value"] for row in replies]
        assert found.labels[0].mean_replies == pytest.approx(mean(values), abs=1e-6)
    assert "Kept replies by rank" in drawn(audit_report(found), 80)


def test_equal_texts_are_counted_whatever_their_case_and_punctuation(tmp_path):
    rows = [
        prompt("a", text="What is a tree?"),
        prompt("b", text="what is a TREE"),
        reply("c", "a", words=3),
        prompt("d", "c", text="What is a tree!"),
    ]
    found = audit(tables_of(tmp_path, rows)).duplicates
    assert (found.equal_roots, found.equal_prompts, found.equal_replies) == (1, 2, 0)


def audit_command(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        run(app, ["audit", *map(str, arguments)])
    return stopped.value.code


def test_the_command_prints_tables_that_fit_and_hide_no_escape(tmp_path, capsys, monkeypatch):
    rows = [
        prompt("a", lang="\x1b[31m[red]"),
        reply("b", "a", rank=0, words=4),
        reply("c", "a", rank=1, words=200, labels={"[bold]\x1b": {"value": 0.5, "count": 3}}),
        message("d", "a", tree_state="growing"),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    assert audit_command("--source", write(tmp_path / "rows.jsonl", rows)) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31m[red]" in out
    assert "[bold]" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_command_prints_the_same_as_json_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    source = write(tmp_path / "rows.jsonl", [prompt("a"), reply("b", "a", words=4)])
    assert audit_command("--source", source, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"]["n"] == 1
    assert told["sources"][0]["name"] == "rows.jsonl"
    assert not (tmp_path / "artifacts").exists()


def test_a_missing_file_is_an_input_error(tmp_path, capsys):
    assert audit_command("--source", tmp_path / "none.jsonl") == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err


def test_lengths_by_rank_are_drawn_from_their_quantiles():
    assert spread([1, 3, 4, 6, 9], 10, 11) == " ──━┃━━─── "
    assert spread([5, 5, 5, 5, 5], 10, 11) == "     ┃     "
    assert spread([0, 0, 0, 0, 0], 0, 3) == "┃  "
    tables = make_tables([read_export(real("oasst/oasst1_en_validation.messages.jsonl"))], 0.0)
    found = audit(tables)
    assert found.lengths[0].quantiles["0.5"] in (124, 125)
    for each in [*found.lengths, found.kept]:
        assert [*each.quantiles.values()] == sorted(each.quantiles.values())
