"""A recipe and the tables make a variant: examples, a ledger of what was dropped and why, a
manifest, a card.

Planning and writing are apart: a plan is what would be built, as a value.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa

from dataset_builder.artifacts import (
    artifacts_root,
    building,
    hash_order,
    write_json,
    write_text,
)
from dataset_builder.card import card
from dataset_builder.contamination import Against
from dataset_builder.control import control_rules, match_sides, target_of
from dataset_builder.digest import rows_digest
from dataset_builder.errors import InputError
from dataset_builder.flags import flag_counts, look_ahead
from dataset_builder.forms import drop_same_prompts, form_rules, rows_of
from dataset_builder.labels import label_hint, label_rules
from dataset_builder.languages import SECOND_LOOK
from dataset_builder.manifest import Manifest, Pointer, SplitCount
from dataset_builder.pairs import pair_up
from dataset_builder.recipe import Cap, Recipe
from dataset_builder.rules import is_concise, one_per_prompt, rules, with_root_review
from dataset_builder.screening import screened, screening_rules, with_written
from dataset_builder.strata import by_strata, strata_counts
from dataset_builder.tables import FORMS, LEDGER, checked, write_beside
from dataset_builder.threads import Chosen, Tables, Threads
from dataset_builder.words import CONCISE_WORDS, WORD_COUNTER

# Rows stand in this order, and a cap takes the first of them.
ORDER = "order of examples"


@dataclass(frozen=True)
class Plan:
    """A variant that can be written: its rows, what became of every thread, the record of both."""

    manifest: Manifest
    train: pa.Table
    validation: pa.Table
    ledger: pa.Table

    @property
    def directory(self) -> Path:
        """Where it lies, or would."""
        return artifacts_root() / "variants" / f"{self.manifest.name}-{self.manifest.digest[:12]}"


class Shares(NamedTuple):
    """How many rows a fixed share of concise replies leaves."""

    n: int
    concise: int
    others: int


def plan_variant(name: str, recipe: Recipe, tables: Tables, against: Against | None = None) -> Plan:
    """The variant that `recipe` makes of `tables`, held against prompt files where there are any.

    Raises InputError where it keeps nothing to train on.
    """
    told = tables.by_number
    # Labels are large, and few recipes ask for them.
    asks = label_rules(recipe.keep.min_labels, recipe.keep.max_labels)
    threads = pl.DataFrame(told.facts if asks else told.facts.drop(["labels"]))
    ruled = with_root_review(threads, told) if recipe.keep.root_review else threads
    decided = _decided(ruled, recipe)
    _look_ahead(told, decided, recipe)
    decided, met, noted = screened(decided, told, recipe, against)
    paired = None
    if recipe.shape.form == "prompts":
        decided = drop_same_prompts(threads, decided)
    if recipe.shape.form == "pairs":
        paired = pair_up(told, decided, recipe)  # capped already, in whole pairs
        decided = paired.decided
    cap = Cap() if paired else recipe.cap
    train, notes = _capped(decided.filter(pl.col("split") == "train"), cap)
    decided = decided.update(train.select("thread_id", "dropped_by"), on="thread_id", how="left")
    names = [*rules(recipe.keep), *_later_rules(recipe, against), *control_rules(recipe)]
    stating = None
    if recipe.control is not None:
        target = plan_variant(recipe.control.of, target_of(recipe), tables, against)
        limits = {side: count.limits_stated for side, count in target.manifest.splits.items()}
        matched = match_sides(name, recipe, threads, decided, target.ledger, limits)
        decided, stating, notes = matched.decided, matched.stating, notes | matched.notes
    funnel = _funnel(decided, "train", names)
    if not funnel["kept"]:
        raise _keeps_nothing(name, funnel, threads)
    ordered = decided.filter(pl.col("dropped_by").is_null()).sort("order")
    if paired:
        sides, notes = paired.sides, {**notes, "pairs": paired.notes}
    else:
        sides = {
            side: rows_of(
                _rows_of(told, ordered.filter(pl.col("split") == side)),
                recipe.shape,
                stating,
            )
            for side in ("train", "validation")
        }
    ledger = checked(decided.sort("thread_id").select(LEDGER.schema.names).to_arrow(), LEDGER)
    digests = {side: rows_digest(rows) for side, rows in sides.items()}
    manifest = Manifest(
        name=name,
        digest=_digest(digests, ledger, recipe, tables, against),
        title=recipe.title,
        recipe=msgspec.json.decode(msgspec.json.encode(recipe)),
        sources=tables.sources.files,
        tables=tables.sources.digest,
        held_out=tables.sources.held_out,
        funnel=funnel,
        validation_funnel=_funnel(
            decided, "validation", [each for each in names if each not in ("share", "cap")]
        ),
        splits={side: _split_count(rows) for side, rows in sides.items()},
        notes={
            **notes,
            **with_written(noted, met, set(ordered["thread_id"])),
            "flags": flag_counts(sides),
            "rows": digests,
        },
        word_counter=WORD_COUNTER,
        form=recipe.shape.form,
    )
    return Plan(manifest, sides["train"], sides["validation"], ledger)


def write_variant(plan: Plan) -> Path:
    """The directory of the planned variant, written now or long there, and now the current build of
    its name.
    """
    out = plan.directory
    if not (out / "manifest.json").is_file():
        with building(out) as directory:
            form = FORMS[plan.manifest.form]
            write_beside(
                [
                    (plan.train, form, directory / "train.parquet"),
                    (plan.validation, form, directory / "validation.parquet"),
                    (plan.ledger, LEDGER, directory / "ledger.parquet"),
                ]
            )
            write_text(card(plan.manifest), directory / "README.md")
            write_json(plan.manifest, directory / "manifest.json")
    write_json(Pointer(out.name), out.parent / f"{plan.manifest.name}.json")
    return out


def shares(cap: Cap, concise: int, others: int) -> Shares:
    """How many of `concise` and `others` rows are kept so that `cap.concise_share` of the kept are
    concise.

    Exact fractions: 0.7 as a float would lose a row here and there.
    """
    share = Fraction(str(cap.concise_share))
    bounds = [Fraction(cap.examples)] if cap.examples is not None else []
    bounds += [concise / share] if share else []
    bounds += [others / (1 - share)] if share < 1 else []
    n = int(min(bounds))
    return Shares(n, round(share * n), n - round(share * n))


def _decided(threads: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Every thread with the first rule it fails as `dropped_by`, before share and cap; those that
    fail none with their place in the `order`.
    """
    failed = [pl.when(~rule).then(pl.lit(name)) for name, rule in rules(recipe.keep).items()]
    on_test = pl.when(pl.col("split") == "test").then(pl.lit("test"))
    decided = threads.with_columns(pl.coalesce(on_test, *failed).alias("dropped_by"))
    for name, is_chosen in one_per_prompt(recipe.keep).items():
        kept = decided.filter(pl.col("dropped_by").is_null())
        beaten = kept.filter(~is_chosen).select("thread_id")
        is_beaten = pl.col("thread_id").is_in(beaten["thread_id"].implode())
        decided = decided.with_columns(
            pl.when(is_beaten).then(pl.lit(name)).otherwise("dropped_by").alias("dropped_by")
        )
    orders = [
        None if reason else hash_order(ORDER, thread_id)
        for thread_id, reason in decided.select("thread_id", "dropped_by").iter_rows()
    ]
    columns = decided.select(
        "thread_id", "tree_id", "split", "lang", "standing", "reply_words", "dropped_by"
    )
    return columns.with_columns(pl.Series("order", orders, pl.String))


def _look_ahead(threads: Threads, decided: pl.DataFrame, recipe: Recipe) -> None:
    """Has the languages of the replies found that will be written, as far as that can be said."""
    if recipe.shape.form == "prompts":
        return
    left = decided.filter(pl.col("dropped_by").is_null()).sort("order")
    is_train = pl.col("split") == "train"
    train = left.filter(is_train).head(recipe.cap.examples or left.height)
    ids = pl.concat([train, left.filter(~is_train)])["thread_id"].to_arrow().cast(pa.string())
    places = threads.places_of(ids)
    langs = threads.facts["lang"].take(pa.array(places)).to_pylist()
    look_ahead(threads.heads(places, SECOND_LOOK), langs)


def _capped(train: pl.DataFrame, cap: Cap) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The threads with `share` and `cap` among the reasons, and what was decided for the whole."""
    kept = train.filter(pl.col("dropped_by").is_null()).sort("order")
    if cap.concise_share is not None:
        concise = by_strata(kept.filter(is_concise()), cap.stratify)
        others = by_strata(kept.filter(~is_concise()), cap.stratify)
        found = shares(cap, concise.height, others.height)
        surplus, reason = pl.concat([concise[found.concise :], others[found.others :]]), "share"
        notes: dict[str, Any] = {
            "concise_share": {
                "n": found.n,
                "concise_usable": concise.height,
                "others_usable": others.height,
            }
        }
    else:
        kept = by_strata(kept, cap.stratify)
        surplus, reason = kept[cap.examples :] if cap.examples is not None else kept.clear(), "cap"
        notes = {}
    if cap.stratify:
        notes["strata"] = strata_counts(kept, surplus, cap.stratify)
    return surplus.with_columns(pl.lit(reason).alias("dropped_by")), notes


def _later_rules(recipe: Recipe, against: Against | None) -> list[str]:
    names = [*one_per_prompt(recipe.keep), *screening_rules(recipe.keep, against)]
    names += form_rules(recipe.shape)
    if recipe.cap.concise_share is not None:
        return [*names, "share"]
    return [*names, "cap"] if recipe.cap.examples is not None else names


def _funnel(decided: pl.DataFrame, side: str, names: Sequence[str]) -> dict[str, int]:
    """Threads in, threads out and why: for `train` of all threads, else of that side's. It adds up,
    or it is our bug.
    """
    sides = Counter(decided["split"].to_list())
    reasons = Counter(decided.filter(pl.col("split") == side)["dropped_by"].to_list())
    if side == "train":
        funnel = {
            "threads": decided.height,
            "test": sides["test"],
            "validation": sides["validation"],
        }
    else:
        funnel = {"threads": sides[side]}
    funnel |= {name: reasons[name] for name in names} | {"kept": reasons[None]}
    assert 2 * funnel["threads"] == sum(funnel.values()), funnel
    return funnel


def _rows_of(threads: Threads, ordered: pl.DataFrame) -> Chosen:
    """The rows of `threads` that `ordered` has, in its order."""
    ids = ordered["thread_id"].to_arrow().cast(pa.string())
    return Chosen(threads, threads.places_of(ids))


def _split_count(rows: pa.Table) -> SplitCount:
    is_pairs = "chosen_words" in rows.column_names
    words = rows["chosen_words" if is_pairs else "reply_words"].to_pylist()
    return SplitCount(
        rows=len(words),
        words=sum(words),
        concise=sum(n <= CONCISE_WORDS for n in words),
        limits_stated=rows.num_rows - rows["limit"].null_count,
    )


def _digest(
    digests: dict[str, str],
    ledger: pa.Table,
    recipe: Recipe,
    tables: Tables,
    against: Against | None,
) -> str:
    # All that the directory holds follows from these: an equal digest is an equal directory.
    parts = [digests["train"], digests["validation"], rows_digest(ledger)]
    parts += [msgspec.json.encode(recipe, order="sorted").decode(), tables.sources.digest]
    if against:
        parts += [str(against.drop), *(f"{file.name} {file.sha256}" for file in against.files)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _keeps_nothing(name: str, funnel: dict[str, int], threads: pl.DataFrame) -> InputError:
    if not funnel["threads"]:
        return InputError(
            f"recipe `{name}` keeps nothing: the sources hold no reply",
            "add a `--source` with replies",
        )
    dropped = [(reason, n) for reason, n in funnel.items() if n and reason != "threads"]
    told = ", ".join(f"{reason} dropped {n:,}" for reason, n in dropped)
    last = dropped[-1][0]
    middle = median(threads["reply_words"].to_list())
    prompts = threads["question_words"].drop_nulls().to_list()
    common = {
        column: ", ".join(
            str(value) for value, _ in Counter(threads[column].to_list()).most_common(5)
        )
        for column in ("root_lang", "tree_state")
    }
    hints = {
        "test": "hold out a smaller share with `--held-out`",
        "validation": "hold out a smaller share with `--held-out`",
        "tree_states": f"`tree_states` may be too narrow; the sources hold {common['tree_state']}",
        "languages": f"`languages` may be too narrow; the sources hold {common['root_lang']}",
        "root_languages": (
            f"`root_languages` may be too narrow; the sources hold {common['root_lang']}"
        ),
        "root_review": "the sources may hold no reviews; leave `root_review` out",
        "turns": f"`turns` may be too narrow; the longest thread has {max(threads['turns'])}",
        "prompt_words": (
            "`prompt_words` may be too narrow; the median prompt has "
            f"{median(prompts or [0]):.0f} words"
        ),
        "reply_words": f"`reply_words` may be too narrow; the median reply has {middle:.0f} words",
        "no_pair": "a pair is two ranked replies to one prompt that all rules keep;"
        " the sources may hold none",
        "pair_gap": "`flip_gap` may be too wide",
        "cap": "a pair is written whole or not at all; raise `examples`",
        "contamination": "leave out the prompt file, or only report with `--report-contamination`",
        "share": "the share needs both concise and longer replies; leave `concise_share` out",
    }
    if last.startswith(("min_labels.", "max_labels.")):
        hints[last] = label_hint(last, threads)
    return InputError(
        f"recipe `{name}` keeps none of {funnel['threads']:,} threads: {told}",
        hints.get(last, f"loosen what the rule `{last}` asks"),
    )
