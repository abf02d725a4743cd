"""What the sources hold before any choice: counts and lengths as plain values.

A *kept reply*, which lengths are counted over, is an assistant's message that was not deleted and
whose review did not fail: what every shipped recipe starts from.
"""

from statistics import median

import msgspec
import polars as pl

from dataset_builder.manifest import SourceFile
from dataset_builder.rules import is_concise
from dataset_builder.split import normalised
from dataset_builder.threads import Tables

# Words in a reply per bar of the histogram, and the number of bars; the last holds all longer ones.
BIN_WORDS = 10
BINS = 36

# Of the lengths of each rank.
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

# How a missing value is called where it counts as one.
NULL = "null"


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """One language and what is in it."""

    lang: str
    messages: int
    roots: int
    replies: int  # kept ones


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long the kept replies of one rank are, in words."""

    rank: int | None  # null: an only reply, or one that not every ranking held
    n: int
    mean: float | None  # null where there is none
    median: float | None
    concise: int  # replies of at most 100 words
    # By share, as "0.25"; the value at that place, none between. Empty where there is none.
    quantiles: dict[str, int] = {}


class BestAndWorst(msgspec.Struct, frozen=True, kw_only=True):
    """Of the prompts with two or more kept ranked replies: is the best-ranked one longer than the
    worst-ranked one, and than all others?
    """

    groups: int
    longest: int  # none of the others is longer
    longer: int
    equal: int
    shorter: int


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One label over the messages that carry it."""

    name: str
    prompts: int  # messages of that side with a value
    replies: int
    mean_prompts: float | None
    mean_replies: float | None


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """What stands more than once; texts are compared by letters and digits, case folded."""

    merged: int  # messages met again with the same id and content
    equal_roots: int  # root prompts beyond the first of each text
    equal_prompts: int  # the same of all prompts
    equal_replies: int
    near_held_out: int  # threads of the training side with a question near a held-out prompt


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """All that `just audit` says. Counts by value are dictionaries in the order they are shown."""

    sources: list[SourceFile]
    held_out: float
    trees: int
    messages: int
    orphans: int  # messages whose parent is in no source
    mixed_trees: int  # trees with messages in more than one language
    roles: dict[str, int]
    languages: list[Language]  # most messages first
    tree_states: dict[str, int]  # trees
    trees_by_split: dict[str, int]
    review: dict[str, int]  # messages: passed, failed, null
    deleted: int
    synthetic: int
    ranks: dict[str, int]  # all replies
    turns: dict[str, int]  # threads by prompts in them
    kept: Lengths  # all kept replies; its rank means nothing
    lengths: list[Lengths]  # by rank, null last
    histogram: list[int]  # kept replies by words, BIN_WORDS a bar, the last open to the right
    best_and_worst: BestAndWorst
    labels: list[Label]  # by name
    duplicates: Duplicates


def audit(tables: Tables) -> Audit:
    """What `tables` hold."""
    messages = pl.DataFrame(tables.messages)
    threads = pl.DataFrame(tables.by_number.facts)
    kept = messages.filter(is_kept())
    ids = messages["message_id"].implode()
    is_orphan = pl.col("parent_id").is_not_null() & ~pl.col("parent_id").is_in(ids)
    per_tree = messages.group_by("tree_id").agg(
        pl.col("lang").drop_nulls().n_unique().alias("langs"), pl.col("tree_state").min()
    )
    review = _counts(messages["review_result"])
    sources = tables.sources
    return Audit(
        sources=sources.files,
        held_out=sources.held_out,
        trees=sources.trees,
        messages=messages.height,
        orphans=messages.filter(is_orphan).height,
        mixed_trees=per_tree.filter(pl.col("langs") > 1).height,
        roles={
            role: messages.filter(pl.col("role") == role).height
            for role in ("prompter", "assistant")
        },
        languages=_languages(messages),
        tree_states=_counts(per_tree["tree_state"]),
        trees_by_split=sources.trees_by_split,
        review={
            "passed": review.get("true", 0),
            "failed": review.get("false", 0),
            NULL: review.get(NULL, 0),
        },
        deleted=int(messages["deleted"].sum()),
        synthetic=int(messages["synthetic"].sum()),
        ranks=_by_number(messages.filter(pl.col("role") == "assistant")["rank"]),
        turns=_by_number(threads["turns"]),
        kept=_lengths(None, kept),
        lengths=[
            _lengths(rank, kept.filter(pl.col("rank").eq_missing(rank)))
            for rank in kept["rank"].unique().sort(nulls_last=True).to_list()
        ],
        histogram=_histogram(kept["words"]),
        best_and_worst=_best_and_worst(kept),
        labels=_labels(messages),
        duplicates=_duplicates(messages, threads, sources.files),
    )


def is_kept() -> pl.Expr:
    """Whether a message is a kept reply; over the table `messages`."""
    failed = pl.col("review_result").eq_missing(False)
    return (pl.col("role") == "assistant") & ~pl.col("deleted") & ~failed


def _languages(messages: pl.DataFrame) -> list[Language]:
    found = messages.group_by(pl.col("lang").fill_null(NULL)).agg(
        pl.len().alias("messages"),
        pl.col("parent_id").is_null().sum().alias("roots"),
        is_kept().sum().alias("replies"),
    )
    ordered = found.sort("messages", "lang", descending=[True, False])
    return [Language(**row) for row in ordered.to_dicts()]


def _lengths(rank: int | None, kept: pl.DataFrame) -> Lengths:
    words = kept["words"]
    return Lengths(
        rank=rank,
        n=kept.height,
        mean=_rounded(int(words.sum()) / kept.height) if kept.height else None,
        median=float(median(words.to_list())) if kept.height else None,
        concise=kept.select(reply_words="words").filter(is_concise()).height,
        quantiles=_quantiles(words.sort().to_list()),
    )


def _quantiles(ordered: list[int]) -> dict[str, int]:
    last = len(ordered) - 1
    return {f"{part:g}": ordered[int(part * last)] for part in QUANTILES} if ordered else {}


def _histogram(words: pl.Series) -> list[int]:
    # A bar holds 1 to 10, 11 to 20 and so on, so that a hundred words are on this side of 100.
    bins = ((words - 1) // BIN_WORDS).clip(0, BINS - 1).to_list()
    return [bins.count(place) for place in range(BINS)]


def _best_and_worst(kept: pl.DataFrame) -> BestAndWorst:
    ranked = kept.filter(pl.col("rank").is_not_null() & pl.col("parent_id").is_not_null())
    # Two siblings of one rank, which no export of Open Assistant has, stand in the order of ids.
    in_order = pl.col("words").sort_by("rank", "message_id")
    groups = (
        ranked.group_by("parent_id")
        .agg(
            pl.len().alias("n"),
            (in_order.first() - in_order.last()).alias("more"),
            (in_order.first() == pl.col("words").max()).alias("is_longest"),
        )
        .filter(pl.col("n") > 1)
    )
    more = groups["more"]
    return BestAndWorst(
        groups=groups.height,
        longest=int(groups["is_longest"].sum()),
        longer=int((more > 0).sum()),
        equal=int((more == 0).sum()),
        shorter=int((more < 0).sum()),
    )


def _labels(messages: pl.DataFrame) -> list[Label]:
    values = (
        messages.filter(pl.col("labels").list.len() > 0)
        .select("role", "labels")
        .explode("labels")
        .unnest("labels")
        .filter(pl.col("value").is_not_null())
    )
    found = []
    for name in values["name"].drop_nulls().unique().sort().to_list():
        sides = {
            role: values.filter((pl.col("name") == name) & (pl.col("role") == role))["value"]
            for role in ("prompter", "assistant")
        }
        means = {role: _mean(side.to_list()) for role, side in sides.items()}
        found.append(
            Label(
                name=name,
                prompts=sides["prompter"].len(),
                replies=sides["assistant"].len(),
                mean_prompts=means["prompter"],
                mean_replies=means["assistant"],
            )
        )
    return found


def _duplicates(
    messages: pl.DataFrame, threads: pl.DataFrame, files: list[SourceFile]
) -> Duplicates:
    texts = messages.select(
        "role", "parent_id", pl.Series("text", [normalised(text) for text in messages["text"]])
    )
    prompts = texts.filter(pl.col("role") == "prompter")
    return Duplicates(
        merged=sum(file.merged for file in files),
        equal_roots=_repeats(prompts.filter(pl.col("parent_id").is_null())["text"]),
        equal_prompts=_repeats(prompts["text"]),
        equal_replies=_repeats(texts.filter(pl.col("role") == "assistant")["text"]),
        near_held_out=threads.filter(pl.col("near_held_out") & (pl.col("split") == "train")).height,
    )


def _repeats(texts: pl.Series) -> int:
    return texts.len() - texts.n_unique()


def _counts(values: pl.Series) -> dict[str, int]:
    """How often each value stands there, the most frequent first, equal ones by name."""
    found = values.value_counts().rows()
    named = [(_name(value), n) for value, n in found]
    return dict(sorted(named, key=lambda item: (-item[1], item[0])))


def _by_number(values: pl.Series) -> dict[str, int]:
    found = values.value_counts().rows()
    ordered = sorted(found, key=lambda item: (item[0] is None, item[0] or 0))
    return {_name(value): n for value, n in ordered}


def _name(value: object) -> str:
    if value is None:
        return NULL
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mean(values: list[float]) -> float | None:
    # In the table's order, which is by id: the same on any number of threads.
    return _rounded(sum(values) / len(values)) if values else None


def _rounded(number: float) -> float:
    return round(number, 6)
