"""What was read and what each recipe kept, as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from dataset_builder.manifest import Manifest, Sources
from dataset_builder.printable import printable

NONE = "–"


def sources_table(sources: Sources) -> Table:
    """A row per file: its form, rows, messages, and what was merged or refused."""
    caption = (
        f"{sources.messages:,} messages, {sources.threads:,} threads, {sources.trees:,} trees: "
        + ", ".join(f"{n:,} {side}" for side, n in sources.trees_by_split.items())
    )
    table = _table("Sources", caption)
    table.add_column("file", overflow="fold")
    table.add_column("form")
    for heading in ("rows", "messages", "merged", "refused"):
        table.add_column(heading, justify="right")
    for file in sources.files:
        counts = (file.rows, file.messages, file.merged, sum(file.refused.values()))
        table.add_row(Text(printable(file.name)), file.form, *map(_count, counts))
        for reason, n in file.refused.items():
            table.add_row("", "", "", "", Text(reason, style="dim"), Text(f"{n:,}", style="dim"))
    return table


def variants_table(manifests: Sequence[Manifest]) -> Table:
    """A column per variant: the funnel from all threads to the rows kept, then the size of each split."""
    table = _table("Variants", "dropped: the first rule a thread fails; concise: at most 100 words")
    table.add_column("", no_wrap=True)
    for manifest in manifests:
        table.add_column(Text(printable(manifest.name)), justify="right", overflow="fold")
    for name in _in_order([list(manifest.funnel) for manifest in manifests]):
        label = name if name in ("threads", "kept") else f"– {name}"
        cells = [_cell(manifest.funnel.get(name)) for manifest in manifests]
        table.add_row(
            label, *cells, style="bold" if name == "kept" else "", end_section=name == "kept"
        )
    for side, heading in (("train", "train"), ("validation", "validation")):
        for field in ("rows", "words", "concise", "limits_stated"):
            cells = [_cell(getattr(manifest.splits[side], field)) for manifest in manifests]
            table.add_row(
                f"{heading} {field.replace('_', ' ')}", *cells, end_section=field == "limits_stated"
            )
    return table


def _in_order(lists: Sequence[list[str]]) -> list[str]:
    """Every name once, each after those that stand before it in the list that first holds it."""
    ordered: list[str] = []
    for names in lists:
        at = 0
        for name in names:
            if name in ordered:
                at = ordered.index(name) + 1
            else:
                ordered.insert(at, name)
                at += 1
    return ordered


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=None,
        padding=(0, 2, 0, 0),
    )


def _cell(n: int | None) -> str:
    return "" if n is None else _count(n)


def _count(n: int) -> str:
    return f"{n:,}" if n else NONE
