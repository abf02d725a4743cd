"""What a variant is: which threads are kept, how they are written, how many. One TOML file, and
rules as expressions.

An absent key is no rule, but for what no training row should be: deleted, of a tree that never got
ready, or machine-written unless asked for. A null fails a rule.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import polars as pl

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_names
from dataset_builder.words import CONCISE_WORDS

RECIPES = Path(__file__).parent / "recipes"

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Words = Annotated[int, msgspec.Meta(ge=0)]
Rank = Annotated[int, msgspec.Meta(ge=0)]
Limit = Annotated[int, msgspec.Meta(ge=1)]


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which threads stay."""

    languages: tuple[str, ...] | None = None  # every message of the thread is in one of these
    tree_states: tuple[str, ...] = ("ready_for_export",)  # empty: any
    synthetic: bool = False  # keep threads with machine-written messages
    review: bool = True  # drop replies that failed their review
    # replies: every reply a row; leaves: Open Assistant's own rule, whole conversations; best: one
    # path per tree
    paths: Literal["replies", "leaves", "best"] = "replies"
    max_rank: Rank | None = (
        None  # of the reply; 0 is the one its readers ranked first, or an only reply
    )
    max_path_rank: Rank | None = (
        None  # of every reply in the thread; Open Assistant's `top_k` is one more
    )
    reply_words: tuple[Words, Words] | None = None  # at least, at most
    best_per_prompt: bool = (
        False  # of the replies that pass all of the above, the best-ranked to each prompt
    )
    # Of what is left, near repeats go. prompts: of prompts that are nearly equal one is kept, with
    # its replies; rows: of rows whose prompts and replies are both nearly equal, one.
    near_duplicates: Literal["keep", "prompts", "rows"] = "keep"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the kept threads are written."""

    last_turn_only: bool = False  # the question alone, without what was said before it
    state_word_limit: Share = (
        0.0  # share of the rows with a concise reply whose question states a limit
    )
    # The limit that is stated, never one that the reply breaks. reply: its words, rounded up to a
    # ten; slack: the same times a factor drawn between the two of `slack`; list: the smallest of
    # `limits` that it keeps, none where it keeps none.
    limit_from: Literal["reply", "slack", "list"] = "reply"
    slack: tuple[float, float] = (1.0, 2.0)
    limits: tuple[Limit, ...] = (20, 50, 100)


class Cap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rows at most, the first by hash."""

    examples: Annotated[int, msgspec.Meta(ge=1)] | None = None
    concise_share: Share | None = None  # exactly this share of the rows has a concise reply


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe as its TOML file says it."""

    title: str
    keep: Keep = Keep()
    shape: Shape = Shape()
    cap: Cap = Cap()


def load_recipe(name: str) -> Recipe:
    """The recipe of that name or at that path. Raises InputError where it is unknown or does not
    make sense.
    """
    recipe = load_settings(name, RECIPES, "recipe", Recipe)
    keep, shape = recipe.keep, recipe.shape
    if keep.reply_words and keep.reply_words[0] > keep.reply_words[1]:
        low, high = keep.reply_words
        raise InputError(
            f"recipe `{name}`: `reply_words` from {low} to {high} holds no number",
            f"write [{high}, {low}]",
        )
    if keep.languages == ():
        raise InputError(
            f"recipe `{name}`: `languages` names none", "leave the key out to take every language"
        )
    if not 1 <= shape.slack[0] <= shape.slack[1]:
        raise InputError(
            f"recipe `{name}`: `slack` {list(shape.slack)}; "
            "wanted two factors from 1 upwards, the smaller first",
            "slack = [1.0, 2.0] states up to twice the words that the reply has",
        )
    return recipe


def load_recipes(names: Iterable[str]) -> dict[str, Recipe]:
    """Recipes by the name of the variant each makes, a file's without its ending, in their order.

    Raises InputError as `load_recipe` does, and where two files would make variants of one name.
    """
    recipes: dict[str, Recipe] = {}
    for name in dict.fromkeys(names):
        variant = Path(name).stem if name.endswith(".toml") else name
        if variant in recipes:
            raise InputError(f"`{name}` would be a second variant `{variant}`", "rename the file")
        recipes[variant] = load_recipe(name)
    return recipes


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return settings_names(RECIPES)


def rules(keep: Keep) -> dict[str, pl.Expr]:
    """What a kept thread satisfies, by rule name, in the order the funnel reports; over the table
    `threads`.
    """
    rules = {
        "complete": pl.col("is_complete"),
        "deleted": ~pl.col("has_deleted"),
    }
    if keep.tree_states:
        rules["tree_states"] = pl.col("tree_state").is_in(keep.tree_states)
    if keep.languages is not None:
        rules["languages"] = (
            pl.col("langs").list.eval(pl.element().is_in(keep.languages)).list.all()
        )
    if not keep.synthetic:
        rules["synthetic"] = ~pl.col("has_synthetic")
    if keep.review:
        rules["review"] = ~pl.col("review_failed")
    rules["near_held_out"] = ~pl.col("near_held_out")
    if keep.paths == "leaves":
        # A synthetic follow-up rejects the conversation although it is cut off.
        rules["leaves"] = (
            pl.col("is_leaf") if keep.synthetic else pl.col("is_leaf") & ~pl.col("cuts_synthetic")
        )
    if keep.paths == "best":
        rules["best_path"] = pl.col("is_best_path")
    if keep.max_rank is not None:
        rules["rank"] = pl.col("standing") <= keep.max_rank
    if keep.max_path_rank is not None:
        rules["path_rank"] = pl.col("worst_standing") <= keep.max_path_rank
    if keep.reply_words is not None:
        rules["reply_words"] = pl.col("reply_words").is_between(*keep.reply_words)
    return {name: rule.fill_null(False) for name, rule in rules.items()}


def is_best_to_its_prompt() -> pl.Expr:
    """Whether the reply is the best-ranked to its prompt; over threads that every rule keeps.

    One that its siblings' ranking left out comes last, and so is taken only where no other is left.
    """
    ordered = pl.col("thread_id").sort_by("standing", "thread_id", nulls_last=True)
    return pl.col("thread_id") == ordered.first().over("prompt_id")


def is_concise() -> pl.Expr:
    """Whether the reply has at most 100 words."""
    return pl.col("reply_words") <= CONCISE_WORDS
