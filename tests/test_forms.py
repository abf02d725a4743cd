"""Preference pairs and prompts: against a second, plain statement of both, and in TRL's hands."""

import hashlib
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from builders import prompt, reply, tables_of
from hypothesis import given, settings
from hypothesis import strategies as st
from real import real

from dataset_builder.artifacts import read_json
from dataset_builder.errors import InputError
from dataset_builder.export import read_export
from dataset_builder.forms import refuse_texts
from dataset_builder.manifest import Manifest, find_variant, read_variant
from dataset_builder.pairs import ROOM, augmentations
from dataset_builder.recipe import Recipe, Shape, load_recipe
from dataset_builder.tables import FORMS, PAIRS, PROMPTS, read_table
from dataset_builder.threads import make_tables
from dataset_builder.variant import plan_variant, write_variant
from dataset_builder.wordings import TRAINING, state_limit
from dataset_builder.words import count_words

WHICH = ["top_two", "best_worst", "adjacent", "all"]


def recipe(keep=None, cap=None, **shape):
    sections = {"title": "A test", "keep": keep or {}, "shape": shape, "cap": cap or {}}
    return msgspec.convert(sections, Recipe)


def plan(tables, **sections):
    return plan_variant("test", recipe(**sections), tables)


def pairs(tables, **sections):
    return plan(tables, form="pairs", **sections)


def ranked(n=40):
    """So many prompts with three ranked replies each, of lengths that differ by 0 to 60 words."""
    rows = []
    for at in range(n):
        rows.append(prompt(f"p{at}", text=f"Question number {at} | about {at * 7}?"))
        rows += [
            reply(f"r{at}_{rank}", f"p{at}", rank=rank, words=20 + at * (7 + 11 * rank) % 61)
            for rank in range(3)
        ]
    return rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return tables_of(tmp_path_factory.mktemp("forest"), ranked(), held_out=0.3)


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture(scope="module")
def validation():
    return real("oasst/oasst1_en_validation.messages.jsonl")


@pytest.fixture(scope="module")
def validation_tables(validation):
    return make_tables([read_export(validation)], 0.0)


# ----------------------------------------------------------------------- a second statement of it


def share(salt, key):
    """A number in [0, 1) from a hash, as the project draws one."""
    return int(hashlib.sha256(f"{salt}\0{key}".encode()).hexdigest()[:13], 16) / 16**13


def said_pairs(rows, which):
    """The (better, worse) pairs of flat rows, by what the words of the recipe say."""
    siblings = defaultdict(list)
    for row in rows:
        if row["role"] == "assistant" and not row.get("deleted") and row["review_result"]:
            siblings[row["parent_id"]].append(row)
    found = set()
    for group in siblings.values():
        order = sorted((row["rank"], row["message_id"]) for row in group if row["rank"] is not None)
        first = dict(reversed(order))
        for at, one in enumerate(order):
            for to, other in enumerate(order):
                wanted = {
                    "all": True,
                    "adjacent": to - at == 1,
                    "best_worst": (at, to) == (0, len(order) - 1),
                    "top_two": (first.get(0), first.get(1)) == (one[1], other[1]),
                }
                if one[0] < other[0] and wanted[which]:
                    found.add((one[1], other[1]))
    return found


def said_rows(better, worse, words, gap, plain_too):
    """(augmentation, limit, chosen, rejected) of a pair under flips, by LIFT's recipe."""
    key = hashlib.sha256(f"pair\0{json.dumps([better, worse])}".encode()).hexdigest()[:32]
    rows = [("plain", None, better, worse)] if plain_too else []
    n, m = words[better], words[worse]
    if abs(n - m) < gap:
        return rows
    rows.append(("kept", max(n, m) + 10, better, worse))
    limits = range(max(1, min(n, m)), max(n, m))
    limit = limits[int(share("limit between two replies", key) * len(limits))]
    rows.append(("flipped", limit, worse, better) if n > m else ("kept", limit, better, worse))
    return rows


@st.composite
def forests(draw):
    """Rows of a few trees; replies ranked with gaps and ties or not, some unusable, some alike."""
    rows = []
    for at in range(draw(st.integers(1, 4))):
        rows.append(prompt(f"p{at}", text=f"Question {at}?"))
        if at and draw(st.booleans()):
            # A follow-up to an earlier reply, so that pairs stand below the first turn too.
            above = draw(
                st.sampled_from([row for row in rows if row["role"] == "assistant"] or [None])
            )
            if above and not above.get("deleted"):
                rows[-1] = prompt(f"p{at}", above["message_id"], text=f"Question {at}?")
        for n in range(draw(st.integers(0, 4))):
            rows.append(
                reply(
                    f"r{at}_{n}",
                    f"p{at}",
                    rank=draw(st.one_of(st.none(), st.integers(0, 4))),
                    words=draw(st.integers(0, 40)),
                    deleted=draw(st.sampled_from([False] * 6 + [True])),
                    review_result=draw(st.sampled_from([True] * 6 + [False])),
                )
            )
    return rows


@settings(max_examples=12, deadline=None)
@given(forests(), st.sampled_from([2, 10]))
def test_pairs_and_flips_are_what_a_plain_statement_of_them_says(tmp_path_factory, rows, gap):
    words = {row["message_id"]: count_words(row["text"]) for row in rows}
    found = tables_of(tmp_path_factory.mktemp("forest"), rows)
    for which in WHICH:
        for options in (
            {},
            {"length_flips": True, "flip_gap": gap},
            {"length_flips": True, "flip_gap": gap, "plain_too": True},
        ):
            wanted, fates = [], {}
            for better, worse in said_pairs(rows, which):
                made = [("plain", None, better, worse)]
                if options:
                    made = said_rows(better, worse, words, gap, "plain_too" in options)
                wanted += made
                for name in (better, worse):
                    fates[name] = None if made or fates.get(name, "") is None else "pair_gap"
            if not wanted:
                with pytest.raises(InputError):
                    pairs(found, pairs=which, **options)
                continue
            plan = pairs(found, pairs=which, **options)
            columns = ("augmentation", "limit", "chosen_id", "rejected_id")
            got = [tuple(row[name] for name in columns) for row in plan.train.to_pylist()]
            assert Counter(got) == Counter(wanted)
            ledger = {row["thread_id"]: row["dropped_by"] for row in plan.ledger.to_pylist()}
            ours = {
                name: reason
                for name, reason in ledger.items()
                if reason in (None, "no_pair", "pair_gap")
            }
            assert ours == {name: fates.get(name, "no_pair") for name in ours}
            assert fates.keys() <= ours.keys()


@settings(max_examples=200)
@given(st.integers(0, 300), st.integers(0, 300), st.uuids().map(str), st.integers(2, 20))
def test_the_limit_above_is_kept_by_both_and_the_one_between_by_the_shorter_alone(
    better, worse, pair_id, gap
):
    shape = Shape(form="pairs", length_flips=True, flip_gap=gap)
    rows = augmentations(pair_id, better, worse, shape)
    if abs(better - worse) < gap:
        assert rows == ()
        return
    above, between = rows
    assert above == ("above", max(better, worse) + ROOM, False)
    assert max(1, min(better, worse)) <= between.limit < max(better, worse)
    assert between.is_flipped == (better > worse)
    assert (above.name, between.name) == ("kept", "flipped" if better > worse else "kept")


def test_the_limit_between_is_drawn_from_all_there_are():
    shape = Shape(form="pairs", length_flips=True)
    drawn = Counter(augmentations(f"{n}", 30, 20, shape)[1].limit for n in range(2000))
    assert sorted(drawn) == list(range(20, 30))
    assert min(drawn.values()) > 140


# ------------------------------------------------------------------------------------ pairs as rows


SHAPES = [
    {},
    {"pairs": "all"},
    {"pairs": "best_worst", "length_flips": True},
    {"pairs": "adjacent", "length_flips": True, "plain_too": True, "flip_gap": 30},
    {"state_word_limit": 0.5},
    {"last_turn_only": True, "cap": {"examples": 11}, "pairs": "all", "length_flips": True},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_thread_is_accounted_for_and_the_notes_relate_rows_to_them(tables, shape):
    made = pairs(tables, **shape)
    for side, rows, funnel in (
        ("train", made.train.to_pylist(), made.manifest.funnel),
        ("validation", made.validation.to_pylist(), made.manifest.validation_funnel),
    ):
        threads, *dropped, kept = funnel.values()
        assert threads == sum(dropped) + kept
        ledger = [row for row in made.ledger.to_pylist() if row["split"] == side]
        standing = {row[name] for row in rows for name in ("chosen_id", "rejected_id")}
        assert {row["thread_id"] for row in ledger if not row["dropped_by"]} == standing
        assert len(standing) == kept
        reasons = Counter(row["dropped_by"] for row in ledger)
        for name in ("no_pair", "pair_gap", "cap"):
            assert reasons[name] == funnel.get(name, 0)
        found = made.manifest.notes["pairs"][side]
        assert found["pairs"] == found["pair_gap"] + found["cap"] + found["written"]
        assert found["written"] == len({row["pair_id"] for row in rows})
        assert found["rows"] == len(rows) == found["plain"] + found["kept"] + found["flipped"]
        sides = Counter(
            "longer" if more > 0 else "shorter" if more else "equal"
            for more in (row["chosen_words"] - row["rejected_words"] for row in rows)
        )
        for name in ("longer", "shorter", "equal"):
            assert found[f"chosen_{name}"] == sides[name]
        count = made.manifest.splits[side]
        assert (count.rows, count.words) == (len(rows), sum(row["chosen_words"] for row in rows))
        assert count.limits_stated == sum(row["limit"] is not None for row in rows)
    trees = [set(rows["tree_id"].to_pylist()) for rows in (made.train, made.validation)]
    assert trees[0].isdisjoint(trees[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_holds_its_replies_and_states_its_limit_in_one_wording_for_the_pair(tables, shape):
    threads = {row["thread_id"]: row for row in tables.threads.to_pylist()}
    wordings = defaultdict(set)
    rows = pairs(tables, **shape).train.to_pylist()
    assert rows
    for row in rows:
        chosen, rejected = threads[row["chosen_id"]], threads[row["rejected_id"]]
        assert chosen["prompt_id"] == rejected["prompt_id"] == row["prompt_id"]
        assert row["chosen"] == [{"role": "assistant", "content": chosen["reply"]}]
        assert row["rejected"] == [{"role": "assistant", "content": rejected["reply"]}]
        assert (row["chosen_rank"], row["rejected_rank"]) == (chosen["rank"], rejected["rank"])
        is_ranked = row["chosen_rank"] < row["rejected_rank"]
        assert is_ranked == (row["augmentation"] != "flipped")
        assert row["chosen_words"] <= (row["limit"] or 9999)
        asked = row["prompt"][-1]["content"]
        if row["limit"] is None:
            assert (asked, row["augmentation"]) == (chosen["question"], "plain")
            continue
        said = {
            name
            for name in TRAINING
            if state_limit(chosen["question"], row["limit"], name) == asked
        }
        assert len(said) == 1
        wordings[row["pair_id"]] |= said
    assert all(len(said) == 1 for said in wordings.values())
    # Rows of one pair stand together.
    ids = [row["pair_id"] for row in rows]
    assert len(set(ids)) == 1 + sum(one != other for one, other in pairwise(ids))


@pytest.mark.parametrize("plain_too", [False, True])
def test_a_cap_takes_whole_pairs_and_a_smaller_one_lies_inside_a_larger_one(tables, plain_too):
    shape = {"pairs": "all", "length_flips": True, "plain_too": plain_too}
    whole = Counter(pairs(tables, **shape).train["pair_id"].to_pylist())
    last: list = []
    for n in range(3, 60, 4):
        made = pairs(tables, cap={"examples": n}, **shape)
        rows = made.train.to_pylist()
        assert n - 3 < len(rows) <= n
        assert rows[: len(last)] == last
        taken = Counter(row["pair_id"] for row in rows)
        assert all(whole[name] == count for name, count in taken.items())
        last = rows


def test_without_flips_a_limit_may_be_stated_and_never_turns_a_preference(tables):
    rows = pairs(tables, state_word_limit=1.0).train.to_pylist()
    plain = pairs(tables).train.to_pylist()
    assert {row["augmentation"] for row in rows} == {"kept"}
    for row, same in zip(rows, plain, strict=True):
        assert row["limit"] == max(row["chosen_words"], row["rejected_words"]) + ROOM
        assert (row["pair_id"], row["chosen"]) == (same["pair_id"], same["chosen"])


def test_ids_that_hold_separators_make_no_two_pairs_one(tmp_path):
    rows = [
        prompt("p"),
        *(reply(name, "p", n, 9) for n, name in enumerate(("a", "b-c", "a-b", "c"))),
    ]
    made = pairs(tables_of(tmp_path, rows), pairs="all")
    assert len(set(made.train["pair_id"].to_pylist())) == made.train.num_rows == 6


# ---------------------------------------------------------------------------------------- prompts


@settings(max_examples=10, deadline=None)
@given(forests())
def test_prompts_stand_once_with_their_best_kept_reply(tmp_path_factory, rows):
    found = tables_of(tmp_path_factory.mktemp("forest"), rows)
    shape = {"form": "prompts", "state_word_limit": 1.0, "limit_from": "list"}
    threads = {row["thread_id"]: row for row in found.threads.to_pylist()}
    usable = defaultdict(list)
    for name, row in threads.items():
        if not (row["has_deleted"] or row["review_failed"]):
            rank = 99 if row["standing"] is None else row["standing"]
            usable[row["prompt_id"]].append((rank, name))
    if not usable:
        with pytest.raises(InputError):
            plan(found, **shape)
        return
    made = plan(found, **shape)
    got = {row["example_id"]: row["reply_id"] for row in made.train.to_pylist()}
    assert got == {prompt_id: min(each)[1] for prompt_id, each in usable.items()}
    fell = Counter(row["dropped_by"] for row in made.ledger.to_pylist())
    assert fell["same_prompt"] == sum(len(each) - 1 for each in usable.values())
    assert fell[None] == made.manifest.funnel["kept"] == made.train.num_rows


def test_a_prompt_states_a_limit_of_the_list_whatever_the_reply_has(tables):
    shape = {"form": "prompts", "state_word_limit": 1.0, "limit_from": "list"}
    rows = plan(tables, limits=[5, 50], **shape).train.to_pylist()
    assert {row["limit"] for row in rows} == {5, 50}
    assert any(row["limit"] < row["reply_words"] for row in rows)
    for row in rows:
        assert row["prompt"][-1]["role"] == "user"
        assert f" {row['limit']} words" in row["prompt"][-1]["content"]
    # A longer list moves only the prompts that draw what was added.
    for row, more in zip(
        rows, plan(tables, limits=[50, 5, 90], **shape).train.to_pylist(), strict=True
    ):
        assert more["limit"] in (row["limit"], 90)


def test_a_prompt_states_a_limit_from_the_best_reply_however_long(tmp_path):
    rows = [prompt("p"), reply("a", "p", 1, 30), reply("b", "p", 0, 243)]
    row = plan(tables_of(tmp_path, rows), form="prompts", state_word_limit=1.0).train.to_pylist()[0]
    assert (row["reply_id"], row["reply_words"], row["limit"]) == ("b", 243, 250)


def test_a_cap_on_prompts_is_nested(tables):
    shape = {"form": "prompts", "state_word_limit": 0.5}
    rows = [plan(tables, cap={"examples": n}, **shape).train.to_pylist() for n in (5, 10, 20)]
    assert [len(each) for each in rows] == [5, 10, 20]
    assert rows[0] == rows[1][:5] == rows[2][:5]
    assert {row["limit"] is None for row in rows[2]} == {True, False}


# ------------------------------------------------------------------------------------ both, on disk


@pytest.mark.parametrize(
    ("name", "declared"), [("pairs", PAIRS), ("pairs_flipped", PAIRS), ("prompts", PROMPTS)]
)
def test_a_variant_of_each_form_that_ships_is_written_with_its_card(
    artifacts, tables, name, declared
):
    made = plan_variant(name, load_recipe(name), tables)
    out = write_variant(made)
    directory, manifest = find_variant(name)
    assert (directory, manifest) == (out, made.manifest)
    assert FORMS[manifest.form] is declared
    for side, rows in (("train", made.train), ("validation", made.validation)):
        assert read_table(out / f"{side}.parquet", declared).equals(rows)
        assert read_variant(out, manifest, side).equals(rows)
    card = (out / "README.md").read_text(encoding="utf-8")
    for column in declared.schema.names:
        assert f"`{column}`" in card
    assert "`completion`" not in card
    flipped = manifest.notes.get("pairs", {}).get("train", {}).get("flipped")
    assert flipped is None or f" {flipped} flipped" in card


def test_a_manifest_without_a_form_is_one_of_answers(artifacts, tables):
    out = write_variant(plan(tables))
    stored = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert stored.pop("form") == "answers"
    (out / "manifest.json").write_text(json.dumps(stored), encoding="utf-8")
    manifest = read_json(out / "manifest.json", Manifest)
    assert manifest.form == "answers"
    assert "completion" in read_variant(out, manifest, "train").column_names
    with pytest.raises(InputError, match="of the form `songs`; known: answers, pairs, prompts"):
        read_variant(out, msgspec.structs.replace(manifest, form="songs"), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[shape]\nlength_flips = true", "`length_flips` says nothing for the form `answers`"),
        (
            '[shape]\nform = "pairs"\nflip_gap = 20',
            "`flip_gap` says nothing for the form `pairs` without `length_flips`",
        ),
        ('[shape]\nform = "pairs"\nlimits = [5]', "`limits` says nothing for the form `pairs`"),
        (
            '[shape]\nform = "pairs"\nlength_flips = true\nstate_word_limit = 0.5',
            "`state_word_limit` says nothing for the form `pairs` with `length_flips`",
        ),
        (
            '[shape]\nform = "pairs"\n[cap]\nconcise_share = 0.5',
            "a cap on pairs counts rows and nothing else",
        ),
        (
            '[keep]\nbest_per_prompt = true\n[shape]\nform = "pairs"',
            "`best_per_prompt` leaves no two replies to pair",
        ),
        ('[shape]\nform = "prompts"', "no prompt would state a limit"),
        (
            '[shape]\nform = "prompts"\nstate_word_limit = 1\nlimit_from = "list"\nlimits = []',
            "`limits`",
        ),
        ('[shape]\nform = "pair"', "pair"),
        ('[shape]\nform = "pairs"\nlength_flips = true\nflip_gap = 1', "flip_gap"),
    ],
)
def test_a_recipe_that_sets_what_its_form_does_not_read_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "Mine"\n{text}\n')
    with pytest.raises(InputError) as error:
        load_recipe(str(path))
    assert message in str(error.value)


def test_sources_without_ranked_siblings_are_an_input_error_with_a_hint(tmp_path):
    rows = [prompt("p"), reply("a", "p", 0, 9), reply("b", "p", None, 9), reply("c", "p", 0, 9)]
    with pytest.raises(InputError, match="keeps none of 3 threads: no_pair dropped 3") as error:
        pairs(tables_of(tmp_path, rows))
    assert "two ranked replies" in error.value.hint


def test_pairs_have_no_single_text():
    with pytest.raises(
        InputError, match="recipe `mine`: a row of the form `pairs` is not one text"
    ):
        refuse_texts({"mine": recipe(form="pairs")})
    refuse_texts({"mine": recipe()})


def test_supervised_tuning_refuses_another_form_in_one_line(artifacts, tables):
    from finetune.plan import find_target

    write_variant(plan_variant("mine", recipe(form="pairs"), tables))
    wanted = "`mine` has rows of the form `pairs`; the method `sft` trains on `answers`"
    with pytest.raises(InputError, match=wanted) as error:
        find_target("mine", "smollm2", 0)
    assert 'form = "answers"' in error.value.hint


# --------------------------------------------------------------------------------- the real files


def test_the_validation_files_pairs_are_those_that_were_counted(validation, validation_tables):
    rows = [json.loads(line) for line in validation.read_text(encoding="utf-8").splitlines()]
    by_id = {row["message_id"]: row for row in rows}
    made = plan_variant("pairs", load_recipe("pairs"), validation_tables)
    ids = zip(*(made.train[name].to_pylist() for name in ("chosen_id", "rejected_id")), strict=True)
    found = set(ids)
    own = defaultdict(dict)
    for row in rows:
        if row["role"] == "assistant" and not row["deleted"] and row["review_result"] is not False:
            own[row["parent_id"]][row["rank"]] = row["message_id"]
    assert found == {(each[0], each[1]) for each in own.values() if {0, 1} <= each.keys()}
    # FACTS.md 1.7, by whitespace words: any turn, then the first.
    firsts = {pair for pair in found if not by_id[by_id[pair[0]]["parent_id"]]["parent_id"]}
    for chosen, wanted in ((found, (414, 146, 265, 3, 62)), (firsts, (185, 66, 118, 1, 28))):
        more = [
            len(by_id[better]["text"].split()) - len(by_id[worse]["text"].split())
            for better, worse in chosen
        ]
        counts = (len(more), sum(n < 0 for n in more), sum(n > 0 for n in more), more.count(0))
        assert (*counts, sum(abs(n) < 10 for n in more)) == wanted
    # By the project's words, as measured.
    notes = made.manifest.notes["pairs"]["train"]
    assert [notes[f"chosen_{name}"] for name in ("shorter", "longer", "equal")] == [146, 264, 4]
    flipped = plan_variant("flips", load_recipe("pairs_flipped"), validation_tables).manifest
    notes = flipped.notes["pairs"]["train"]
    assert [notes[name] for name in ("pair_gap", "written", "rows", "flipped")] == [
        61,
        353,
        706,
        236,
    ]
    assert flipped.funnel["kept"] == 2 * 353


def test_the_validation_files_other_pairs_and_prompts_are_those_that_were_counted(
    validation_tables,
):
    ends = pairs(validation_tables, pairs="best_worst").manifest.notes["pairs"]["train"]
    assert [ends[f"chosen_{name}"] for name in ("longer", "equal", "shorter")] == [285, 5, 126]
    made = plan_variant("prompts", load_recipe("prompts"), validation_tables)
    assert made.train.num_rows == 474


# ----------------------------------------------------------------------------------- in TRL's hands


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.tiny import tiny_llama

    return str(tiny_llama(tmp_path_factory.mktemp("model")))


def chat_tokenizer(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def rows_as_they_are(folder: Path, made):
    """The variant's file as `datasets` reads it, untouched."""
    from datasets import Dataset

    path = write_variant(made) / "train.parquet"
    return Dataset.from_parquet(str(path), cache_dir=str(folder / "cache"))


SETTINGS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_pairs_train_in_trl_as_they_are(tmp_path, artifacts, tables, model, method):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
    from trl.data_utils import is_conversational

    rows = rows_as_they_are(tmp_path, pairs(tables, length_flips=True, cap={"examples": 4}))
    assert is_conversational(rows[0])
    parts = {"train_dataset": rows, "processing_class": chat_tokenizer(model)}
    out = str(tmp_path / "out")
    if method == "dpo":
        base = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
        trainer = DPOTrainer(base, args=DPOConfig(out, **SETTINGS), **parts)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=1, dtype="float32"
        )
        base.config.pad_token_id = parts["processing_class"].pad_token_id
        trainer = RewardTrainer(base, args=RewardConfig(out, **SETTINGS), **parts)
    assert len(trainer.train_dataset) == 4
    assert trainer.train().training_loss > 0


def test_prompts_train_in_trls_grpo_as_they_are(tmp_path, artifacts, tables, model):
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    def reward(completions, limit, reply_words, **columns):
        seen.extend(zip(limit, reply_words, strict=True))
        return [
            float(-abs(n - len(each[0]["content"])))
            for n, each in zip(limit, completions, strict=True)
        ]

    shape = {"form": "prompts", "state_word_limit": 1.0, "limit_from": "list"}
    rows = rows_as_they_are(tmp_path, plan(tables, cap={"examples": 4}, **shape))
    args = GRPOConfig(str(tmp_path / "out"), num_generations=2, max_completion_length=8, **SETTINGS)
    base = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    GRPOTrainer(
        base, reward, args=args, train_dataset=rows, processing_class=chat_tokenizer(model)
    ).train()
    assert {n for n, _ in seen} <= {20, 50, 100}
    assert len(seen) == 2
