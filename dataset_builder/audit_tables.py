"""An audit for the terminal: tables with bars beside the numbers, and the lengths as a histogram.

Reads at 80 columns and without colour.
"""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dataset_builder.audit import BIN_WORDS, BINS, NULL, Audit, Label, Lengths
from dataset_builder.figures import bar, count, decimal, plain_table, share, spread, titled
from dataset_builder.printable import printable
from dataset_builder.words import CONCISE_WORDS

# Rows of a table of values; what is rarer stands together in one more.
ROWS = 12

# So many bars of the audit are one row of the histogram.
JOINED = 2


def audit_report(audit: Audit) -> RenderableType:
    """The whole audit."""
    return Group(
        _whole(audit),
        titled("Languages", _languages(audit)),
        titled("Tree states", _counts("state", "trees", audit.tree_states)),
        titled("Turns", _counts("prompts", "threads", audit.turns)),
        titled(
            "Kept replies by rank",
            _ranks(audit),
            "Kept: not deleted, review not failed. Rank 0 is best; null: an only reply, or one "
            f"that not every ranking held. Concise: at most {CONCISE_WORDS} words.",
        ),
        *_spreads(audit),
        *_best_and_worst(audit),
        *_histogram(audit.histogram),
        *_labels(audit.labels),
        titled("Said more than once", _duplicates(audit)),
    )


def _whole(audit: Audit) -> RenderableType:
    sides = ", ".join(f"{n:,} {side}" for side, n in audit.trees_by_split.items())
    review = audit.review
    rows = {
        "trees": f"{audit.trees:,}: {sides} ({audit.held_out:g} held out)",
        "messages": f"{audit.messages:,}: {audit.roles['prompter']:,} prompts, "
        f"{audit.roles['assistant']:,} replies",
        "review": f"{review['passed']:,} passed, {review['failed']:,} failed, "
        f"{review[NULL]:,} without",
        "deleted": f"{audit.deleted:,}",
        "synthetic": f"{audit.synthetic:,}",
        "orphans": f"{audit.orphans:,} whose parent is missing",
        "mixed trees": f"{audit.mixed_trees:,} in more than one language",
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, said in rows.items():
        table.add_row(Text(name, style="dim"), said)
    return table


def _languages(audit: Audit) -> RenderableType:
    table = plain_table("language", "messages", "share", "", "roots", "kept replies", left={0, 3})
    shown, rest = audit.languages[:ROWS], audit.languages[ROWS:]
    for each in shown:
        part = each.messages / audit.messages
        table.add_row(
            Text(printable(each.lang)),
            count(each.messages),
            share(part),
            bar(part),
            count(each.roots),
            count(each.replies),
        )
    if rest:
        messages = sum(each.messages for each in rest)
        table.add_row(
            f"{len(rest)} more",
            count(messages),
            share(messages / audit.messages),
            bar(messages / audit.messages),
            count(sum(each.roots for each in rest)),
            count(sum(each.replies for each in rest)),
        )
    return table


def _counts(heading: str, of: str, counts: Mapping[str, int]) -> RenderableType:
    table = plain_table(heading, of, "share", "", left={0, 3})
    total = sum(counts.values())
    for name, n in counts.items():
        table.add_row(Text(printable(name)), count(n), share(n / total), bar(n / total))
    return table


def _ranks(audit: Audit) -> RenderableType:
    headings = ("rank", "all", "kept", "mean words", "median", "concise", "share", "")
    table = plain_table(*headings, left={0, 7})
    for each in [*audit.lengths, audit.kept]:
        is_total = each is audit.kept
        name = "all" if is_total else _rank(each)
        met = audit.roles["assistant"] if is_total else audit.ranks[_rank(each)]
        part = each.concise / each.n if each.n else None
        table.add_row(
            name,
            count(met),
            count(each.n),
            decimal(each.mean),
            decimal(each.median),
            count(each.concise),
            share(part),
            bar(part),
            style="bold" if is_total else "",
        )
    return table


def _spreads(audit: Audit) -> list[RenderableType]:
    shown = [each for each in [*audit.lengths, audit.kept] if each.quantiles]
    if not shown:
        return []
    # The longest tenth would leave the others no room.
    most = max(each.quantiles["0.9"] for each in shown)
    table = plain_table("rank", "10 %", f"0 to {most:,} words", "90 %", left={0, 2})
    for each in shown:
        is_total = each is audit.kept
        values = list(each.quantiles.values())
        table.add_row(
            "all" if is_total else _rank(each),
            count(values[0]),
            spread(values, most),
            count(values[-1]),
            style="bold" if is_total else "",
        )
    note = "Thin: from the shortest tenth to the longest; thick: the middle half; ┃: the median."
    return [titled("Words in a kept reply by rank", table, note)]


def _rank(each: Lengths) -> str:
    return NULL if each.rank is None else str(each.rank)


def _best_and_worst(audit: Audit) -> list[RenderableType]:
    found = audit.best_and_worst
    if not found.groups:
        return []
    table = plain_table("the best-ranked reply is", "prompts", "share", "", left={0, 3})
    for name, n in (
        ("longer", found.longer),
        ("of equal length", found.equal),
        ("shorter", found.shorter),
    ):
        table.add_row(name, count(n), share(n / found.groups), bar(n / found.groups))
    note = (
        f"Of {found.groups:,} prompts with two or more kept ranked replies. To "
        f"{count(found.longest)} of them ({share(found.longest / found.groups)}) no other of these "
        "is longer than the best-ranked."
    )
    return [titled("The best-ranked reply against the worst-ranked", table, note)]


def _histogram(bins: Sequence[int]) -> list[RenderableType]:
    total = sum(bins)
    if not total:
        return []
    table = plain_table("words", "kept replies", "share", "", left={0, 3})
    joined = [sum(bins[at : at + JOINED]) for at in range(0, BINS, JOINED)]
    wide, most, last = JOINED * BIN_WORDS, max(joined), len(joined) - 1
    for place, n in enumerate(joined):
        low, high = place * wide + 1 if place else 0, (place + 1) * wide
        table.add_row(
            f"{low}–{high}" if place < last else f"{low} and more",
            count(n),
            share(n / total),
            bar(n / most, 36),
            end_section=high == CONCISE_WORDS,
        )
    return [titled("Words in a kept reply", table)]


def _labels(labels: Sequence[Label]) -> list[RenderableType]:
    if not labels:
        return []
    table = plain_table("label", "prompts", "mean", "", "replies", "mean", "", left={0, 3, 6})
    for each in labels:
        table.add_row(
            Text(printable(each.name)),
            count(each.prompts),
            decimal(each.mean_prompts, 3),
            bar(each.mean_prompts, 10),
            count(each.replies),
            decimal(each.mean_replies, 3),
            bar(each.mean_replies, 10),
        )
    return [titled("Labels", table, "Means of messages that carry the label, 0 to 1.")]


def _duplicates(audit: Audit) -> RenderableType:
    found = audit.duplicates
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    for n, said in (
        (found.merged, "messages met again, and merged"),
        (found.equal_roots, "root prompts that repeat another's text"),
        (found.equal_prompts, "prompts that repeat another's text"),
        (found.equal_replies, "replies that repeat another's text"),
        (found.near_held_out, "training threads near a held-out prompt"),
    ):
        table.add_row(count(n), said)
    return table
