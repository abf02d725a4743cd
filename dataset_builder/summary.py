"""What was read and what each recipe kept, as tables for the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dataset_builder.labels import Labels
from dataset_builder.manifest import Manifest, Sources
from dataset_builder.printable import printable
from dataset_builder.prompt_files import PromptLines

# Stands for 0, so that the eye finds the rules that dropped something; an empty cell is a rule the
# recipe has not.
ZERO = "–"

# Of the refused rows; a reader who wants more opens the table.
REFUSED_SHOWN = 5

LABELS = Labels.__struct_fields__

# Of a split, as the manifest counts them.
SIZES = ("rows", "words", "concise", "limits_stated")

# A variant's longer name is folded over its column.
NAME_WIDTH = 16

# Cells between two columns of `_table`.
GAP = 2

# All that can stand in a funnel, in the order in which it is decided.
FUNNEL = (
    *("threads", "test", "validation"),
    *("complete", "deleted", "tree_states", "root_languages", "languages", "synthetic", "review"),
    *("root_review", "near_held_out", "leaves", "best_path", "rank", "path_rank", "turns"),
    *("prompt_words", *(f"{bound}_labels.{name}" for bound in ("min", "max") for name in LABELS)),
    *("reply_words", "best_per_prompt", "shortest_of_top"),
    *("contamination", "near_duplicate_prompt", "near_duplicate_row"),
    *("same_prompt", "no_pair", "pair_gap", "share", "cap"),
    *("one_per_prompt", "one_per_tree", "control_match", "kept"),
)


def sources_table(sources: Sources) -> Group:
    """A row per file: its form, rows, messages, and what was merged or refused, by reason."""
    table = _table()
    table.add_column("source", overflow="fold")
    table.add_column("form")
    for heading in ("rows", "messages", "merged", "refused"):
        table.add_column(heading, justify="right")
    for file in sources.files:
        counts = (file.rows, file.messages, file.merged, sum(file.refused.values()))
        table.add_row(Text(printable(file.name)), file.form, *map(_count, counts))
        for reason, n in file.refused.items():
            table.add_row("", "", "", "", reason, f"{n:,}", style="dim")
        for name, n in file.conflicts.items():
            table.add_row("", "", "", f"other {name}", f"{n:,}", "", style="dim")
    sides = ", ".join(f"{n:,} {side}" for side, n in sources.trees_by_split.items())
    total = (
        f"{sources.messages:,} messages and {sources.threads:,} threads "
        f"in {sources.trees:,} trees: {sides}"
    )
    return Group(table, Text(total, style="dim"), "")


def refused_table(rejects: pa.Table, path: Path | None) -> Group:
    """The first refused rows of the table `rejects`: file, line, why; and where all of them stand,
    which is nowhere where there is no `path`. Empty where none was refused.
    """
    if not rejects.num_rows:
        return Group()
    table = _table()
    table.add_column("refused", overflow="fold")
    table.add_column("line", justify="right")
    table.add_column("reason", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for row in rejects.slice(0, REFUSED_SHOWN).to_pylist():
        cells = (Text(printable(row[name] or "")) for name in ("source", "reason", "detail"))
        source, reason, detail = cells
        table.add_row(source, f"{row['line']:,}", reason, detail)
    more = rejects.num_rows - REFUSED_SHOWN
    rest = f"and {more:,} more, " if more > 0 else ""
    where = f"all in {path}" if path else "which a build writes to rejects.parquet"
    return Group(table, Text(printable(f"{rest}{where}"), style="dim", overflow="fold"), "")


def prompt_files_told(files: Sequence[PromptLines]) -> Group:
    """A line for each prompt file of which not every line was read."""
    lines = []
    for file in files:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(file.refused.items()))
        first = next((each for each in file.examples if not each.endswith("repeated")), "")
        if file.unread:
            told = f"{file.name}: {file.unread:,} lines hold no prompt that can be read ({reasons})"
            lines.append(Text(printable(f"{told}; {first}"), style="yellow"))
    return Group(*lines)


def variants_table(manifests: Sequence[Manifest], width: int = 80) -> Group:
    """A column per variant: the funnel from all threads to the rows kept, then the size of each
    split. Variants that do not fit beside each other into `width` stand in tables below each other.
    """
    note = "Below threads: how many fell, by the first rule failed. Concise: at most 100 words."
    shares = [_share_note(each) for each in manifests if "concise_share" in each.notes]
    controls = [_control_note(each) for each in manifests if "control" in each.notes]
    lacks = [line for each in manifests if "control" in each.notes for line in _short_notes(each)]
    forms = [_pairs_note(each) for each in manifests if "pairs" in each.notes]
    more = [line for each in manifests for line in _notes(each)]
    tables = _side_by_side([_cells(each) for each in manifests], width)
    return Group(*tables, Text(note, style="dim"), *shares, *controls, *lacks, *forms, *more)


def _cells(manifest: Manifest) -> tuple[str, dict[str, str], dict[str, str]]:
    """A variant's name, its funnel, and the sizes of its splits by `side field`."""
    funnel = {name: _cell(n) for name, n in manifest.funnel.items()}
    sizes = {
        f"{side} {field}": _cell(getattr(manifest.splits[side], field))
        for side in ("train", "validation")
        for field in SIZES
    }
    return printable(manifest.name), funnel, sizes


def _side_by_side(
    columns: Sequence[tuple[str, dict[str, str], dict[str, str]]], width: int
) -> Iterator[Table | Text]:
    """Tables of as many of `columns` as fit, in their order; no number is ever broken."""
    labels = [f"  {name}" for _, funnel, sizes in columns for name in (*funnel, *sizes)]
    left = max(map(len, labels), default=0)
    widths = [
        max(min(len(name), NAME_WIDTH), *map(len, funnel.values()), *map(len, sizes.values()))
        for name, funnel, sizes in columns
    ]
    start = 0
    while start < len(columns):
        end = start + 1
        while end < len(columns) and left + sum(n + GAP for n in widths[start : end + 1]) <= width:
            end += 1
        if start:
            yield Text()
        yield _variants(columns[start:end], left, widths[start:end])
        start = end


def _variants(
    columns: Sequence[tuple[str, dict[str, str], dict[str, str]]], left: int, widths: Sequence[int]
) -> Table:
    table = _table()
    table.add_column("variant", width=left, no_wrap=True)
    for (name, _, _), wide in zip(columns, widths, strict=True):
        table.add_column(Text(name), justify="right", overflow="fold", width=wide)
    for name in rules_in_order([list(funnel) for _, funnel, _ in columns]):
        is_kept = name == "kept"
        label = name if name in ("threads", "kept") else f"  {name}"
        cells = [funnel.get(name, "") for _, funnel, _ in columns]
        table.add_row(label, *cells, style="bold" if is_kept else "", end_section=is_kept)
    for side in ("train", "validation"):
        for field in SIZES:
            label = f"{side} rows" if field == "rows" else f"  {field.replace('_', ' ')}"
            cells = [sizes[f"{side} {field}"] for _, _, sizes in columns]
            table.add_row(label, *cells, end_section=field == SIZES[-1])
    return table


def _notes(manifest: Manifest) -> list[Text]:
    """What a variant's rows carry, and what they share with prompt files, a line each."""
    lines = []
    flagged = [
        f"{n:,} {name.replace('_', ' ')}"
        for name, n in manifest.notes.get("flags", {}).get("train", {}).items()
        if n
    ]
    if flagged:
        lines.append(f"flagged training rows: {', '.join(flagged)}")
    for file in manifest.notes.get("contamination", {"files": []})["files"]:
        usable, written = (file[name] for name in ("usable_rows", "written_rows"))
        told = "dropped" if manifest.notes["contamination"]["dropped"] else "kept"
        lines.append(
            f"{file['name']}: {sum(file['met'].values()):,} of {file['prompts']:,} prompts stand "
            f"in {sum(usable.values()):,} usable training rows ({usable['exact']:,} exactly), "
            f"{told}; {sum(written.values()):,} of them are written"
        )
    return [Text(printable(f"{manifest.name}: {line}"), style="dim") for line in lines]


def _share_note(manifest: Manifest) -> Text:
    found = manifest.notes["concise_share"]
    usable = (
        f"{found['concise_usable']:,} concise usable replies and {found['others_usable']:,} others"
    )
    return Text(f"{printable(manifest.name)}: n = {found['n']:,}, from {usable}", style="dim")


def _control_note(manifest: Manifest) -> Text:
    found, of = manifest.notes["control"]["train"], manifest.recipe["control"]["of"]
    counts = [(found[key], key.replace("_", " ")) for key in ("rows", "words", "limits_stated")]
    parts = [
        f"{count['control']:,} {label} for {count['target']:,}"
        for count, label in counts
        if any(count.values())
    ]
    if found["out_of_place"]:
        parts.append(f"{found['out_of_place']:,} of another language or number of turns")
    return Text(printable(f"{manifest.name}: of {of}, {', '.join(parts)}"), style="dim")


def _short_notes(manifest: Manifest) -> list[Text]:
    """Where a control lacks some of what it is to match."""
    control = manifest.recipe["control"]
    lines = []
    for side, found in manifest.notes["control"].items():
        counts = found[control["match"]]
        if found["short"]:
            lines.append(
                f"warning: {manifest.name} falls short of {control['of']} by {found['short']:.1%} "
                f"in {side}: {counts['control']:,} {control['match']} for {counts['target']:,}; "
                "its pool has no more that fit"
            )
    return [Text(printable(line), style="bold yellow") for line in lines]


def _pairs_note(manifest: Manifest) -> Text:
    found = manifest.notes["pairs"]["train"]
    text = (
        f"{printable(manifest.name)}: {found['rows']:,} train rows from {found['written']:,} pairs"
        f" of threads, {found['flipped']:,} flipped. Words are of the chosen reply,"
        f" the longer in {found['chosen_longer']:,}, the shorter in {found['chosen_shorter']:,}."
    )
    return Text(text, style="dim")


def rules_in_order(lists: Sequence[list[str]]) -> list[str]:
    """Every name of `lists` once, in the order of FUNNEL; one that is not in it, of another version
    of treetune, after the one before it.
    """
    places = {name: place for place, name in enumerate(FUNNEL)}
    met: dict[str, None] = {}
    for names in lists:
        place = 0
        for name in names:
            place = places.setdefault(name, place)
            met[name] = None
    return sorted(met, key=places.__getitem__)


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _cell(n: int | None) -> str:
    return "" if n is None else _count(n)


def _count(n: int) -> str:
    return f"{n:,}" if n else ZERO
