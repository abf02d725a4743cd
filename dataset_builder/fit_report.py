"""What one length would do to variants under each overflow policy, before any run: for people.

Nothing is decided here. A run applies its preset's policy by the same `fit_rows`, and stores that.
"""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dataset_builder.fit import Fit, Overflow, encode_rows, fit_rows
from dataset_builder.printable import printable
from dataset_builder.template import Template, end_id
from dataset_builder.tokenizer import open_tokenizer

QUANTILES = ("0.1", "0.5", "0.9", "1")
# `refuse` keeps every row or none.
POLICIES: tuple[Overflow, ...] = ("drop", "last_turns", "cut_keep_end", "cut")


def open_fitting(name: str, template: Template) -> Any:
    """The tokenizer `name`. Raises InputError as `open_tokenizer` does, and where it has no token
    that ends the template's answers.
    """
    tokenizer = open_tokenizer(name)
    end_id(template, tokenizer)
    return tokenizer


def fits(
    rows: list[dict[str, Any]], template: Template, tokenizer: Any, length: int
) -> dict[str, Fit]:
    """What each policy would make of `rows` of the table `examples`, by its name."""
    encoded = encode_rows(rows, template, tokenizer)
    return {
        policy: fit_rows(rows, template, tokenizer, length, policy, encoded)[1]
        for policy in POLICIES
    }


def fit_table(found: Mapping[str, Mapping[str, Fit]], tokenizer: str) -> Group:
    """Per variant what the length meets, then a column per policy."""
    parts: list[Text | Table | str] = []
    for variant, by_policy in found.items():
        fit = by_policy["drop"]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column(f"{fit.length} tokens, `{fit.template}`", no_wrap=True)
        for name in POLICIES:
            table.add_column(name, justify="right")
        for label, cells in _by_policy(by_policy).items():
            table.add_row(label, *cells)
        parts += [Text.assemble((printable(variant), "bold"), _met(fit)), table, ""]
    note = (
        f"Tokenizer {printable(tokenizer)}. A report only: a run applies its preset's policy. "
        "The policy refuse takes a variant only where no row is too long."
    )
    return Group(*parts, Text(note, style="dim"), "")


def _met(fit: Fit) -> str:
    """What the length meets, whatever the policy."""
    share = fit.too_long / fit.rows if fit.rows else 0.0
    low, middle, high, most = (f"{fit.token_quantiles.get(q, 0):,}" for q in QUANTILES)
    return (
        f": {fit.rows:,} train rows, {fit.too_long:,} ({100 * share:.1f} %) longer than "
        f"{fit.length} tokens, {fit.prompt_too_long:,} of them by the prompt alone; "
        f"tokens of a row: {low} (10 %), {middle} (median), {high} (90 %), {most} (most)"
    )


def _by_policy(found: Mapping[str, Fit]) -> dict[str, list[str]]:
    every = [found[name] for name in POLICIES]
    return {
        "kept": [f"{fit.kept:,}" for fit in every],
        "dropped": [f"{len(fit.dropped):,}" for fit in every],
        "lost their earliest turns": [f"{fit.shortened:,}" for fit in every],
        "answer cut": [f"{fit.cut:,}" for fit in every],
        "end of text lost": [f"{fit.end_lost:,}" for fit in every],
        "trained tokens": [f"{fit.trained_tokens:,}" for fit in every],
        "padding, at full length": [f"{100 * fit.padding_share:.0f} %" for fit in every],
        "concise before": [f"{100 * fit.concise_share_before:.1f} %" for fit in every],
        "concise after": [f"{100 * fit.concise_share_after:.1f} %" for fit in every],
    }
