"""What a variant is: which threads are kept, how they are written, how many. One TOML file.

An absent key is no rule, but for what no training row should be: deleted, of a tree that never got
ready, or machine-written unless asked for. A null fails a rule.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Union

import msgspec

from dataset_builder.errors import InputError
from dataset_builder.labels import Labels, bounds
from dataset_builder.settings import load_settings, read_settings, settings_names, settings_path
from dataset_builder.strata import Stratum
from dataset_builder.wordings import TRAINING, WORDINGS

RECIPES = Path(__file__).parent / "recipes"

# The keys of `Keep` that choose by words or by rank. A
# control's pool is what the others keep; a new key has to be put on one side or the other.
BY_WORDS_OR_RANK = frozenset(
    {
        "max_rank",
        "max_path_rank",
        "prompt_words",
        "reply_words",
        "best_per_prompt",
        "shortest_of_top",
    }
)

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Words = Annotated[int, msgspec.Meta(ge=0)]
Rank = Annotated[int, msgspec.Meta(ge=0)]
Turns = Annotated[int, msgspec.Meta(ge=1)]
Limit = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]

# Factors beyond it are slips of the pen, and would not fit a limit's column.
SLACK = 100


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which threads stay."""

    languages: tuple[str, ...] | None = None  # every message of the thread is in one of these
    # The tree's first message is in one of these, whatever the others are in: what Open Assistant's
    # exports and loader mean by a language.
    root_languages: tuple[str, ...] | None = None
    tree_states: tuple[str, ...] = ("ready_for_export",)  # empty: any
    # Keep threads with deleted messages. The paths `leaves` and `best` have rules of their own: a
    # deleted follow-up rejects a leaf, and no best path goes through a deleted message.
    deleted: bool = False
    synthetic: bool = False  # keep threads with machine-written messages
    review: bool = True  # drop replies that failed their review
    # Keep only trees whose first message passed its review, as Open Assistant's own loader does.
    # Not by default: every ready tree there has such a root, and other sources have no reviews.
    root_review: bool = False
    # replies: every reply a row; leaves: Open Assistant's own rule, whole conversations; best: one
    # path per tree
    paths: Literal["replies", "leaves", "best"] = "replies"
    max_rank: Rank | None = (
        None  # of the reply; 0 is the one its readers ranked first, or an only reply
    )
    max_path_rank: Rank | None = (
        None  # of every reply in the thread; Open Assistant's `top_k` is one more
    )
    turns: tuple[Turns, Turns] | None = None  # prompts in the thread: at least, at most
    prompt_words: tuple[Words, Words] | None = None  # of the last prompt alone: at least, at most
    # Of the reply's labels, each a mean from 0 to 1: at least, at most. One without the label fails
    # either.
    min_labels: Labels = Labels()
    max_labels: Labels = Labels()
    reply_words: tuple[Words, Words] | None = None  # at least, at most
    best_per_prompt: bool = (
        False  # of the replies that pass all of the above, the best-ranked to each prompt
    )
    # Of the replies that pass all of the above, so many of the best-ranked to each prompt are
    # looked at, and the one of fewest words is kept; of equal ones the better-ranked, then the
    # first by id.
    shortest_of_top: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # Of what is left, near repeats go. prompts: of prompts that are nearly equal one is kept, with
    # its replies; rows: of rows whose prompts and replies are both nearly equal, one.
    near_duplicates: Literal["keep", "prompts", "rows"] = "keep"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the kept threads are written."""

    # What a row is. answers: a prompt and the reply; pairs: a prompt, the chosen and the rejected
    # of two sibling replies (dataset_builder.pairs); prompts: a prompt alone, one row for all its
    # replies (dataset_builder.forms).
    form: Literal["answers", "pairs", "prompts"] = "answers"
    # Which two of a prompt's kept, ranked replies: ranks 0 and 1; the best and the worst; each and
    # the next; every two.
    pairs: Literal["top_two", "best_worst", "adjacent", "all"] = "top_two"
    length_flips: bool = False  # two rows a pair: one limit both keep, one only the shorter keeps
    flip_gap: Annotated[int, msgspec.Meta(ge=2)] = 10  # a closer pair, in words, is not flipped
    plain_too: bool = False  # beside the flips, each pair as it is ranked, without a limit
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
    # In which words, one of them for each row by hash; those kept for evaluation have to be named.
    wordings: tuple[str, ...] = tuple(TRAINING)


class Cap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rows at most, the first by hash: a smaller cap lies inside a larger one.

    Rows are ordered by sha256 of a salt and the thread's id, so that no two are equal and nothing
    else decides: not the order of files or rows.
    """

    examples: Annotated[int, msgspec.Meta(ge=1)] | None = None
    concise_share: Share | None = None  # exactly this share of the rows has a concise reply
    # Every language, rank or band of length (or combination of them) has its proportion of the
    # usable rows, rounded down or up to a row; with a share, of the concise rows and of the others
    # apart. Inside each the first by hash.
    stratify: tuple[Stratum, ...] = ()


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe is a control: a random draw that matches another recipe's variant, its target."""

    of: str  # the target: a recipe that ships, or a TOML file's path from the control's own file
    match: Literal["rows", "words"]  # as many rows, or as many words in replies within 1 %
    recipe: Union["Recipe", None] = None  # the target whole: never written, `load_recipe` fills it


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe as its TOML file says it."""

    title: str
    keep: Keep = Keep()
    shape: Shape = Shape()
    cap: Cap = Cap()
    control: Control | None = None


def load_recipe(name: str) -> Recipe:
    """The recipe of that name or at that path. Raises InputError where it is unknown or does not
    make sense.
    """
    recipe = load_settings(name, RECIPES, "recipe", Recipe)
    _check_keep(name, recipe.keep)
    _check_shape(name, recipe.shape)
    cap = recipe.cap
    if cap.stratify and cap.examples is None and cap.concise_share is None:
        raise InputError(
            f"recipe `{name}`: `stratify` without a cap changes nothing",
            "add `examples` to `[cap]`, or leave `stratify` out",
        )
    if len(set(cap.stratify)) < len(cap.stratify):
        raise InputError(
            f"recipe `{name}`: `stratify` {list(cap.stratify)} names one twice", "name each once"
        )
    check_form(name, recipe)
    return recipe if recipe.control is None else _controlled(name, recipe, recipe.control)


def pool(keep: Keep) -> Keep:
    """`keep` without what chooses by words or rank: the threads that a control is drawn from.

    The best path of a tree is a choice by rank too: its pool is all whole conversations.
    """
    kept = {name: getattr(keep, name) for name in keep.__struct_fields__}
    kept = {name: value for name, value in kept.items() if name not in BY_WORDS_OR_RANK}
    return Keep(**kept | {"paths": "leaves" if keep.paths == "best" else keep.paths})


def _controlled(name: str, recipe: Recipe, control: Control) -> Recipe:
    """The control with its target inside: what it keeps is the pool, all else is the target's.

    Raises InputError where the target is unknown or a control itself, or where the file says more
    than which control it is.
    """
    path = settings_path(name, RECIPES, "recipe")
    table = read_settings(path)
    more = [f"[{key}]" for key in table if key not in ("title", "control")]
    more += ["control.recipe"] if control.recipe is not None else []
    if more:
        raise InputError(
            f"recipe `{name}`: a control takes all but the draw from `{control.of}`; "
            f"found `{more[0]}`",
            "leave in the file only `title` and `[control]` with `of` and `match`",
        )
    of = str(path.parent / control.of) if control.of.endswith(".toml") else control.of
    try:
        its_own = load_settings(of, RECIPES, "recipe", Recipe).control
        if its_own is None:
            target = load_recipe(of)
    except InputError as error:
        raise InputError(f"recipe `{name}`: `control.of`: {error}", error.hint) from error
    if its_own is not None:
        raise InputError(
            f"recipe `{name}`: `{control.of}` is a control itself",
            "name in `of` a recipe that chooses",
        )
    if target.shape.form != "answers":
        raise InputError(
            f"recipe `{name}`: `{control.of}` does not make answers, and only those have controls",
            'name a recipe of the form "answers" in `of`',
        )
    # A stem and not a path: a manifest says the same on any machine.
    inside = Control(of=_variant_name(of), match=control.match, recipe=target)
    return msgspec.structs.replace(
        target, title=recipe.title, keep=pool(target.keep), cap=Cap(), control=inside
    )


def load_recipes(names: Iterable[str]) -> dict[str, Recipe]:
    """Recipes by the name of the variant each makes, a file's without its ending, in their order.

    Raises InputError as `load_recipe` does, and where two files would make variants of one name.
    """
    recipes: dict[str, Recipe] = {}
    for name in dict.fromkeys(names):
        variant = _variant_name(name)
        if variant in recipes:
            raise InputError(f"`{name}` would be a second variant `{variant}`", "rename the file")
        recipes[variant] = load_recipe(name)
    return recipes


def _variant_name(name: str) -> str:
    return Path(name).stem if name.endswith(".toml") else name


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return settings_names(RECIPES)


def _check_keep(name: str, keep: Keep) -> None:
    for key in ("reply_words", "prompt_words", "turns"):
        low, high = getattr(keep, key) or (0, 0)
        if low > high:
            raise InputError(
                f"recipe `{name}`: `{key}` from {low} to {high} holds no number",
                f"write [{high}, {low}]",
            )
    for key in ("languages", "root_languages"):
        if getattr(keep, key) == ():
            raise InputError(
                f"recipe `{name}`: `{key}` names none", "leave the key out to take every language"
            )
    most = bounds(keep.max_labels)
    for label, least in bounds(keep.min_labels).items():
        if least > most.get(label, 1):
            raise InputError(
                f"recipe `{name}`: `{label}` of at least {least:g} and at most {most[label]:g}",
                "exchange the two, or leave one out",
            )
    if keep.best_per_prompt and keep.shortest_of_top is not None:
        raise InputError(
            f"recipe `{name}`: `best_per_prompt` and `shortest_of_top` each choose one reply",
            "leave one out; `shortest_of_top = 1` is the best-ranked",
        )


def _check_shape(name: str, shape: Shape) -> None:
    if not 1 <= shape.slack[0] <= shape.slack[1] <= SLACK:
        raise InputError(
            f"recipe `{name}`: `slack` {list(shape.slack)}; "
            f"wanted two factors from 1 to {SLACK}, the smaller first",
            "slack = [1.0, 2.0] states up to twice the words that the reply has",
        )
    for key in ("limits", "wordings"):
        if not getattr(shape, key):
            raise InputError(
                f"recipe `{name}`: `{key}` is empty",
                "leave the key out for the default; `state_word_limit = 0` states no limit",
            )
    for wording in shape.wordings:
        if wording not in WORDINGS:
            near = difflib.get_close_matches(wording, WORDINGS, n=1)
            raise InputError(
                f"recipe `{name}`: unknown wording `{wording}`",
                f"did you mean `{near[0]}`?" if near else f"known wordings: {', '.join(WORDINGS)}",
            )


def default_names() -> list[str]:
    """The recipes built where none is named: those of the form `answers`. Pairs need ranked
    siblings, which not every source has.
    """
    return [name for name in recipe_names() if load_recipe(name).shape.form == "answers"]


def check_form(name: str, recipe: Recipe) -> None:
    """Raises InputError where `recipe` sets a key its form does not read or cannot serve."""
    shape, cap, plain = recipe.shape, recipe.cap, Shape()
    unread: tuple[str, ...] = ("pairs", "length_flips", "flip_gap", "plain_too")
    if shape.form == "pairs":
        unread = ("limit_from", "slack", "limits")
        unread += ("state_word_limit",) if shape.length_flips else ("flip_gap", "plain_too")
    for key in unread:
        if getattr(shape, key) != getattr(plain, key):
            flips = "with" if shape.length_flips else "without"
            raise InputError(
                f"recipe `{name}`: `{key}` says nothing for the form `{shape.form}`"
                f"{f' {flips} `length_flips`' if shape.form == 'pairs' else ''}",
                f"leave `{key}` out",
            )
    if shape.form == "pairs" and cap != Cap(examples=cap.examples):
        raise InputError(
            f"recipe `{name}`: a cap on pairs counts rows and nothing else",
            "leave only `examples` in [cap]",
        )
    for key in ("best_per_prompt", "shortest_of_top"):
        if shape.form == "pairs" and getattr(recipe.keep, key, None):
            raise InputError(
                f"recipe `{name}`: `{key}` leaves no two replies to pair", f"leave `{key}` out"
            )
    if shape.form == "prompts" and not shape.state_word_limit:
        raise InputError(
            f"recipe `{name}`: no prompt would state a limit",
            "`state_word_limit = 1.0` in [shape] has each state one",
        )
