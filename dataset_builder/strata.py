"""The order in which a stratified cap takes rows: any first n of them hold each stratum in its
proportion.

Of n of m rows, a stratum of s rows gets n*s/m, rounded down or up: what largest remainders promise
too. But those may take a row away where the cap grows by one, and so do not nest. Here each row of
a stratum has a window of places: its j-th row (from 1) is due by place j*m/s, and not before
(j-1)*m/s. Taking at each place, of the rows that may be taken, the one that is due first keeps
every window (Baruah et al. 1996, "Proportionate progress"). Exact integers; no chance but the order
in which the rows come.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import polars as pl

Stratum = Literal["lang", "rank", "length"]

# The upper ends, in words, of the bands of reply lengths; a last band is open. One of them parts
# the concise replies from the others.
LENGTH_BANDS = (50, 100, 200)

_BANDS = [*(f"at most {bound}" for bound in LENGTH_BANDS), f"over {LENGTH_BANDS[-1]}"]

# A null language and a null standing are strata like the others.
_KEYS: dict[str, pl.Expr] = {
    "lang": pl.col("lang"),
    "rank": pl.col("standing"),
    "length": pl.sum_horizontal(
        *((pl.col("reply_words") > bound).cast(pl.Int32) for bound in LENGTH_BANDS)
    ).replace_strict(dict(enumerate(_BANDS)), return_dtype=pl.String),
}


def by_strata(rows: pl.DataFrame, names: Sequence[Stratum]) -> pl.DataFrame:
    """`rows` (lang, standing, reply_words, ...) in the order in which a cap stratified by `names`
    takes them; as they stand where there are no names.
    """
    if not names or rows.is_empty():
        return rows
    return rows[proportional_order(_strata(rows, names))]


def strata_counts(
    usable: pl.DataFrame, dropped: pl.DataFrame, names: Sequence[Stratum]
) -> list[dict[str, Any]]:
    """How many rows of each stratum were usable and how many were kept, largest stratum first."""
    found, gone = Counter(_strata(usable, names)), Counter(_strata(dropped, names))
    ordered = sorted(found, key=lambda each: (-found[each], str(each)))
    return [
        {
            **dict(zip(names, each, strict=True)),
            "usable": found[each],
            "kept": found[each] - gone[each],
        }
        for each in ordered
    ]


def proportional_order(strata: Sequence[Hashable]) -> list[int]:
    """Places in `strata` (each row's stratum), so ordered that of any first n each stratum has its
    share of n, rounded down or up.

    Rows of one stratum keep their order; of rows that are due at once the one that stood first is
    taken.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        members[stratum].append(row)
    streams, total = list(members.values()), len(strata)
    waiting = [(0, stream, 0) for stream in range(len(streams))]  # first place, stream, nth
    due: list[tuple[int, int, int, int]] = []  # last place + 1, row, stream, nth
    order = []
    for place in range(total):
        while waiting and waiting[0][0] <= place:
            _, stream, nth = heapq.heappop(waiting)
            rows = streams[stream]
            by = -(-(nth + 1) * total // len(rows))
            heapq.heappush(due, (by, rows[nth], stream, nth))
        _, row, stream, nth = heapq.heappop(due)
        order.append(row)
        if nth + 1 < len(streams[stream]):
            first = (nth + 1) * total // len(streams[stream])
            heapq.heappush(waiting, (first, stream, nth + 1))
    return order


def _strata(rows: pl.DataFrame, names: Sequence[Stratum]) -> list[tuple[Any, ...]]:
    return rows.select(_KEYS[name].alias(name) for name in names).rows()
