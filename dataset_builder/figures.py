"""Numbers, bars and plain tables as the terminal shows them; the same in an audit and a diff."""

import json
from collections.abc import Sequence, Set

import msgspec
from rich.box import Box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

# Stands where there is no number to give.
NOTHING = "–"

# A line under the head and between sections, and nothing else.
LINES = Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(part: float | None, width: int = 16) -> str:
    """A bar as long as `part`, 0 to 1, of `width` cells; a sliver for all that is not zero.

    >>> bar(0.5, 4)
    '██'
    """
    eighths = round(max(0.0, min(part or 0.0, 1.0)) * width * 8) or int(bool(part))
    whole, left = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[left] if left else "")


def spread(values: Sequence[float], most: float, width: int = 40) -> str:
    """Five quantiles on a scale from 0 to `most` of `width` cells: a thin line from the first to
    the last, thick between the second and the fourth, a mark at the middle one.

    >>> spread([1, 3, 4, 6, 9], 10, 11)
    ' ──━┃━━─── '
    """
    places = [round(min(value / most, 1.0) * (width - 1)) if most else 0 for value in values]
    first, low, middle, high, last = places
    cells = [" "] * width
    cells[first : last + 1] = "─" * (last + 1 - first)
    cells[low : high + 1] = "━" * (high + 1 - low)
    cells[middle] = "┃"
    return "".join(cells)


def count(n: int | None) -> str:
    """`n` with thousands separated; a dash for none."""
    return f"{n:,}" if n else NOTHING


def share(part: float | None) -> str:
    """A share of 0 to 1 in per cent.

    >>> share(0.404), share(0.0004)
    ('40.4 %', '<0.1 %')
    """
    if part is None or part == 0:
        return NOTHING
    return "<0.1 %" if 0 < part < 0.0005 else f"{part:.1%}".replace("%", " %")


def decimal(number: float | None, places: int = 1) -> str:
    """`number` with so many places; a dash for none."""
    return NOTHING if number is None else f"{number:,.{places}f}"


def signed(number: float | None, places: int = 1) -> str:
    """A difference with its sign; a dash for none."""
    return NOTHING if number is None else f"{number:+,.{places}f}"


def json_text(record: msgspec.Struct) -> str:
    """`record` as indented JSON in ASCII, so that no text in it can steer a terminal."""
    # DEL is ASCII, and steers one too.
    return json.dumps(msgspec.to_builtins(record), indent=2).replace("\x7f", "\\u007f")


def plain_table(*headings: str, left: Set[int] = frozenset({0})) -> Table:
    """A table with a line under its head and no other; columns not in `left` are numbers."""
    table = Table(box=LINES, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, heading in enumerate(headings):
        if place in left:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    return table


def titled(title: str, body: RenderableType, note: str = "") -> RenderableType:
    """`body` under its title, and what is said of it below."""
    parts: list[RenderableType] = [Text(), Text(title, style="bold"), body]
    return Group(*parts, Text(note, style="dim")) if note else Group(*parts)
