import json
from collections import Counter
from pathlib import Path

import pytest
from real import real

from dataset_builder.export import read_export
from dataset_builder.recipe import load_recipe
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant
from dataset_builder.words import whitespace_words

SAMPLE = Path(__file__).parents[1] / "dataset_builder/sample/forest.trees.jsonl"


@pytest.fixture(scope="module")
def trees():
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tables():
    return make_tables([read_export(SAMPLE)], 0.3)


def nodes(tree):
    stack = [tree["prompt"]]
    while stack:
        node = stack.pop()
        yield node
        stack += node["replies"]


def test_the_sample_is_as_large_and_as_mixed_as_its_readme_says(trees, tables):
    messages = [node for tree in trees for node in nodes(tree)]
    assert (len(trees), len(messages)) == (74, 482)
    assert Counter(tree["prompt"]["lang"] for tree in trees) == {
        "en": 54,
        "es": 6,
        "de": 6,
        "fr": 4,
        "zh": 4,
    }
    assert len({node["message_id"] for node in messages}) == 482
    replies = [node for node in messages if node["role"] == "assistant"]
    lengths = [whitespace_words(node["text"]) for node in replies if node["lang"] != "zh"]
    assert min(lengths) <= 5
    assert max(lengths) >= 200
    readme = (SAMPLE.parent / "README.md").read_text(encoding="utf-8")
    assert "74: 54 English, 6 Spanish, 6 German, 4 French, 4 Chinese" in readme
    assert f"482: {482 - len(replies)} by prompters, {len(replies)} replies" in readme
    file = tables.sources.files[0]
    assert (file.messages, file.merged, file.refused) == (482, 0, {})


def test_the_sample_has_the_usual_blemishes(trees):
    messages = [node for tree in trees for node in nodes(tree)]
    groups = [
        node["replies"] for node in messages if node["role"] == "prompter" and node["replies"]
    ]
    assert {node["role"] for node in messages if node["deleted"]} == {"prompter", "assistant"}
    assert any(node["review_result"] is False for node in messages)
    assert any(len(group) == 1 and group[0]["rank"] is None for group in groups)
    assert any(
        node["rank"] is None and not node["deleted"] and node["review_result"]
        for group in groups
        if any(each["rank"] is not None for each in group)
        for node in group
    )
    assert Counter(tree["tree_state"] for tree in trees) == {
        "ready_for_export": 72,
        "growing": 1,
        "aborted_low_grade": 1,
    }
    # Ranks are dense, and children stand in their order, as in the real exports.
    for group in groups:
        ranks = [node["rank"] for node in group if node["rank"] is not None]
        assert ranks == list(range(len(ranks)))
        assert [node["rank"] for node in group][: len(ranks)] == ranks


def test_most_prompts_have_replies_that_differ_in_length(trees):
    messages = [node for tree in trees for node in nodes(tree)]
    groups = [node["replies"] for node in messages if len(node["replies"]) > 1]
    groups = [group for group in groups if group[0]["role"] == "assistant"]
    asked = sum(node["role"] == "prompter" for node in messages)
    assert len(groups) > 0.8 * asked
    both = [
        group
        for group in groups
        if min(words := [whitespace_words(node["text"]) for node in group]) <= 100 < max(words)
    ]
    assert len(both) > 50


def test_the_sample_has_the_fields_of_the_real_export_in_their_order(trees):
    lines = real("oasst/oasst2_animals.trees.jsonl").read_text(encoding="utf-8").splitlines()
    theirs = next(
        tree for tree in map(json.loads, lines) if tree["tree_state"] == "ready_for_export"
    )
    assert list(trees[0]) == list(theirs)
    shapes = {tuple(node) for tree in trees for node in nodes(tree)}
    assert shapes == {tuple(theirs["prompt"])}
    ours = {name for tree in trees for node in nodes(tree) for name in node["labels"]}
    known = {
        name
        for tree in map(json.loads, lines)
        for node in nodes(tree)
        for name in node["labels"] or {}
    }
    assert ours <= known


def test_the_sample_is_enough_for_the_demo(tables):
    roots = [
        row
        for row in tables.heldout.to_pylist()
        if row["split"] == "test" and row["is_root"] and row["lang"] == "en"
    ]
    assert len(roots) >= 5
    assert all(root["replies"] for root in roots)
    concise = plan_variant("concise_best", load_recipe("concise_best"), tables)
    assert concise.train.num_rows >= 60
    assert concise.validation.num_rows >= 5
    assert max(concise.train["reply_words"].to_pylist()) <= 100
    full = plan_variant("full", load_recipe("full"), tables)
    assert full.train.num_rows > 2 * concise.train.num_rows
