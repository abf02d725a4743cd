"""A recipe's keys as named rules: Polars expressions over the table `threads`.

A thread is dropped by the first rule it fails, in the order they stand here.
"""

import numpy as np
import polars as pl

from dataset_builder.labels import label_rules
from dataset_builder.paths import carried, taken
from dataset_builder.recipe import Keep
from dataset_builder.threads import Threads
from dataset_builder.words import CONCISE_WORDS


def rules(keep: Keep) -> dict[str, pl.Expr]:
    """What a kept thread satisfies, by rule name, in the order the funnel reports; over the table
    `threads`, `with_root_review` where the recipe asks for it.
    """
    rules = {"complete": pl.col("is_complete")}
    if not keep.deleted:
        rules["deleted"] = ~pl.col("has_deleted")
    if keep.tree_states:
        rules["tree_states"] = pl.col("tree_state").is_in(keep.tree_states)
    if keep.root_languages is not None:
        rules["root_languages"] = pl.col("root_lang").is_in(keep.root_languages)
    if keep.languages is not None:
        rules["languages"] = (
            pl.col("langs").list.eval(pl.element().is_in(keep.languages)).list.all()
        )
    if not keep.synthetic:
        rules["synthetic"] = ~pl.col("has_synthetic")
    if keep.review:
        rules["review"] = ~pl.col("review_failed")
    if keep.root_review:
        rules["root_review"] = pl.col("root_review")
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
    if keep.turns is not None:
        rules["turns"] = pl.col("turns").is_between(*keep.turns)
    if keep.prompt_words is not None:
        rules["prompt_words"] = pl.col("question_words").is_between(*keep.prompt_words)
    rules |= label_rules(keep.min_labels, keep.max_labels)
    if keep.reply_words is not None:
        rules["reply_words"] = pl.col("reply_words").is_between(*keep.reply_words)
    return {name: rule.fill_null(False) for name, rule in rules.items()}


def with_root_review(threads: pl.DataFrame, told: Threads) -> pl.DataFrame:
    """`threads` with the review_result of each one's first message as `root_review`; null where
    that one is no root, or nobody reviewed it. `told` are the same threads.
    """
    forest = told.forest
    tops = carried(forest, np.arange(len(forest.rows)), lambda above, here: above)[told.replies]
    is_root = np.array(forest.messages["parent_id"].is_null())[forest.rows[tops]]
    reviews = pl.Series(taken(forest.messages["review_result"], forest, tops))
    return threads.with_columns(root_review=pl.when(pl.Series(is_root)).then(reviews))


def one_per_prompt(keep: Keep) -> dict[str, pl.Expr]:
    """What the one reply that is kept to each prompt satisfies, by rule name; over threads that
    every rule keeps. Empty where all of them are.
    """
    if keep.best_per_prompt:
        return {"best_per_prompt": is_best_to_its_prompt()}
    if keep.shortest_of_top is not None:
        return {"shortest_of_top": is_shortest_of_top(keep.shortest_of_top)}
    return {}


def is_best_to_its_prompt() -> pl.Expr:
    """Whether the reply is the best-ranked to its prompt; over threads that every rule keeps.

    One that its siblings' ranking left out comes last, and so is taken only where no other is left.
    """
    ordered = pl.col("thread_id").sort_by("standing", "thread_id", nulls_last=True)
    return pl.col("thread_id") == ordered.first().over("prompt_id")


def is_shortest_of_top(k: int) -> pl.Expr:
    """Whether the reply has the fewest words of the `k` best-ranked to its prompt; over threads
    that every rule keeps. Of equally short ones it is the best-ranked, then the first by id.

    One that its siblings' ranking left out comes after the ranked.
    """
    thread_id, words = (
        pl.col(name).sort_by("standing", "thread_id", nulls_last=True).head(k)
        for name in ("thread_id", "reply_words")
    )
    shortest = thread_id.sort_by(words, maintain_order=True).first()
    return pl.col("thread_id") == shortest.over("prompt_id")


def is_concise() -> pl.Expr:
    """Whether the reply has at most 100 words."""
    return pl.col("reply_words") <= CONCISE_WORDS
