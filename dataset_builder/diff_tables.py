"""A difference of two variants for the terminal: reads at 80 columns and without colour."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dataset_builder.difference import NULL, Counts, Difference, Example, Kinds, Side
from dataset_builder.figures import (
    NOTHING,
    count,
    decimal,
    plain_table,
    share,
    signed,
    titled,
)
from dataset_builder.printable import printable
from dataset_builder.words import CONCISE_WORDS

# Values of a column that get a row; the rarest stand together in one more.
ROWS = 12

# Characters of a text that an example shows here; the page shows all of it.
SHOWN = 300

# How a row of the same prompt is called that only one has, and a row whose id both have.
OTHER = {
    "answers": "another reply to the same prompt",
    "pairs": "another row of the same prompt",
    "prompts": "another row of the same prompt",
}
REWRITTEN = {
    "answers": "The same reply, written otherwise",
    "pairs": "The same pair, written otherwise",
    "prompts": "The same prompt, written otherwise",
}
REPLIES = {"answers": "Replies", "pairs": "Chosen replies", "prompts": "Best human replies"}


def kinds_titled(found: Difference) -> dict[str, str]:
    """The kinds of examples with their titles."""
    return {
        "only_a": "Only in a",
        "only_b": "Only in b",
        "other_reply": OTHER[found.form].capitalize(),
        "rewritten": REWRITTEN[found.form],
    }


def diff_report(found: Difference) -> RenderableType:
    """The whole difference."""
    parts: list[RenderableType] = [_sides(found), *_warnings(found), *_keys(found)]
    parts.append(titled("Rows", _rows(found)))
    parts.append(titled("Lengths in train", _shifts(found), concise_said(found)))
    parts += [titled(each.name.capitalize(), _counts(each)) for each in told(found)]
    return Group(*parts, *_examples(found))


def told(found: Difference) -> list[Counts]:
    """The columns of values that hold more than one."""
    return [each for each in found.counts if len(each.a.keys() | each.b.keys()) > 1]


def kind_rows(kinds: Kinds, form: str = "answers") -> list[tuple[str, int, int]]:
    """The kinds by name with the rows of a and of b, which they add up to."""
    return [
        ("the same", kinds.same, kinds.same),
        ("written otherwise", kinds.rewritten, kinds.rewritten),
        (OTHER[form], kinds.other_reply_a, kinds.other_reply_b),
        ("only in a", kinds.only_a, 0),
        ("only in b", 0, kinds.only_b),
    ]


def shift_rows(found: Difference) -> list[list[str]]:
    """Of all that is compared in numbers, a row for a, one for b, and one for b less a: the name,
    then a cell under each of SHIFT_HEADINGS.
    """
    rows = []
    for each in found.shifts:
        if not each.a.n and not each.b.n:
            continue
        for letter, side in (("a", each.a), ("b", each.b)):
            cells = [decimal(n, 0) for n in side.quantiles.values()]
            rows.append([f"{each.name}, {letter}", count(side.n), decimal(side.mean), *cells])
        if each.mean_difference is None:
            continue
        pairs = zip(each.a.quantiles.values(), each.b.quantiles.values(), strict=True)
        changes = ["" if a is None or b is None else signed(b - a, 0) for a, b in pairs]
        rows.append(["b less a", "", signed(each.mean_difference), *changes])
    return rows


# As many quantiles as are kept, after n and mean.
SHIFT_HEADINGS = ("n", "mean", "least", "10 %", "25 %", "50 %", "75 %", "90 %", "most")


def concise_said(found: Difference) -> str:
    """How many of the replies are concise, on both sides."""
    a, b = found.concise["a"], found.concise["b"]
    said = f"{REPLIES[found.form]} of at most {CONCISE_WORDS} words: a {share(a)}, b {share(b)}"
    if a is None or b is None:
        return f"{said}."
    return f"{said}, {signed(100 * (b - a))} points."


def count_rows(counts: Counts, rows: int = ROWS) -> list[tuple[str, int, float, int, float]]:
    """Each value with its rows and its share on both sides; beyond `rows` the rest as one, but for
    what is null, which always has a row of its own.
    """
    names = list(counts.a)
    # No limit is a way to write a row, and no rank a fact about the export.
    none = {NULL: "none"} if counts.name == "stated limit" else {}
    shown = [(none.get(name, name), counts.a[name], counts.b[name]) for name in names[:rows]]
    if rest := [name for name in names[rows:] if name != NULL]:
        left, right = (sum(side[name] for name in rest) for side in (counts.a, counts.b))
        shown.append((f"{len(rest)} more", left, right))
    if NULL in names[rows:]:
        shown.append((none.get(NULL, NULL), counts.a[NULL], counts.b[NULL]))
    totals = [sum(side.values()) or 1 for side in (counts.a, counts.b)]
    return [(name, a, a / totals[0], b, b / totals[1]) for name, a, b in shown]


def value_text(value: object) -> str:
    """A recipe's value in short."""
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "(none)"
    if value is None:
        return NOTHING
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sides(found: Difference) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for letter, side in (("a", found.a), ("b", found.b)):
        table.add_row(Text(letter, style="bold"), _side(side))
    return table


def _side(side: Side) -> Text:
    rows = ", ".join(f"{n:,} {split}" for split, n in side.rows.items())
    text = Text(f"{printable(side.build)}: {rows}\n")
    return text.append(printable(side.title), style="dim")


def _warnings(found: Difference) -> list[RenderableType]:
    return [Text(f"\nwarning: {printable(each)}", style="yellow") for each in found.warnings]


def _keys(found: Difference) -> list[RenderableType]:
    if not found.keys:
        return [titled("Recipes", Text("They are the same."))]
    table = plain_table("key", "a", "b", left={0, 1, 2})
    for each in found.keys:
        values = (Text(printable(value_text(value))) for value in (each.a, each.b))
        table.add_row(Text(printable(each.key)), *values)
    return [titled("Recipe keys that differ", table)]


def _rows(found: Difference) -> RenderableType:
    table = plain_table("", "train a", "train b", "validation a", "validation b")
    train, validation = (
        kind_rows(found.splits[side], found.form) for side in ("train", "validation")
    )
    for (name, *ours), (_, *theirs) in zip(train, validation, strict=True):
        is_last = name == "only in b"
        table.add_row(name, *map(count, [*ours, *theirs]), end_section=is_last)
    totals = [side.rows[split] for split in ("train", "validation") for side in (found.a, found.b)]
    table.add_row("rows", *map(count, totals), style="bold")
    limits = found.splits["train"].limit_changed
    prompts = found.splits["train"].other_reply_prompts
    other = "reply" if found.form == "answers" else "row"
    note = f"In train {prompts:,} prompts with another {other}; of the rows written otherwise, "
    return Group(table, Text(f"{note}{limits:,} with another stated limit.", style="dim"))


def _shifts(found: Difference) -> RenderableType:
    table = plain_table("", *SHIFT_HEADINGS)
    for row in shift_rows(found):
        table.add_row(*row, style="dim" if row[0] == "b less a" else "")
    return table


def _counts(counts: Counts) -> RenderableType:
    table = plain_table("", "a", "share", "b", "share", "points")
    for name, a, share_a, b, share_b in count_rows(counts):
        points = signed(100 * (share_b - share_a))
        table.add_row(
            Text(printable(name)), count(a), share(share_a), count(b), share(share_b), points
        )
    return table


def _examples(found: Difference) -> Iterator[RenderableType]:
    for kind, title in kinds_titled(found).items():
        shown = [each for each in found.examples if each.kind == kind]
        if shown:
            yield titled(f"{title}: examples", Group(*(_example(each) for each in shown)))


def _example(each: Example) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in example_parts(each):
        table.add_row(name, Text(printable(cut(text))))
    return Padding(table, (0, 0, 1, 0))


def example_parts(each: Example) -> list[tuple[str, str]]:
    """What an example shows, by name: the question, in two writings where they differ, and the
    replies with their words.
    """
    parts = [("asked", each.question)]
    if each.question_b is not None:
        parts = [("asked by a", each.question), ("asked by b", each.question_b)]
    if each.kind == "rewritten" and each.messages_a != each.messages_b:
        said = f"{each.messages_a:,} messages in a, {each.messages_b:,} in b"
        parts.append(("prompt", said))
    is_same = each.kind == "rewritten" and each.b is None
    for letter, reply, rejected, n in (
        ("a", each.a, each.rejected_a, each.words_a),
        ("b", each.b, each.rejected_b, each.words_b),
    ):
        if reply is not None:
            whose = "reply" if is_same and rejected is None else "" if is_same else letter
            kind = "chosen" if rejected is not None else ""
            parts.append((f"{' '.join(filter(None, [whose, kind]))}, {words_said(n)}", reply))
        if rejected is not None:
            parts.append(("rejected" if is_same else f"{letter} rejected", rejected))
    return parts


def words_said(n: int | None) -> str:
    """`n` words, in words."""
    return f"{n or 0:,} word{'' if n == 1 else 's'}"


def cut(text: str, characters: int = SHOWN) -> str:
    """`text` on one line, its end cut off beyond so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[:characters].rstrip()} …"
