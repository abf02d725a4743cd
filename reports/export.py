"""A comparison for other programs: CSV that no spreadsheet takes for formulas, Parquet, and a
Markdown table for a paper or a pull request.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.artifacts import replacing, write_text
from dataset_builder.errors import InputError
from dataset_builder.tables import table_of
from evals.tables import COMPARISON
from reports.findings import Findings
from reports.markdown import comparison_markdown

# What a spreadsheet may take a cell for a formula by; the wide forms are read like the others.
FORMULA = (
    *("=", "+", "-", "@", "\t", "\r"),
    "\N{FULLWIDTH EQUALS SIGN}",
    "\N{FULLWIDTH PLUS SIGN}",
    "\N{FULLWIDTH HYPHEN-MINUS}",
    "\N{FULLWIDTH COMMERCIAL AT}",
)

ANSWERS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("origin", pa.string()),  # held_out, or the prompt file's name
        ("lang", pa.string()),
        ("is_compared", pa.bool_()),  # answered by every arm and trained on by none
        ("limit", pa.int32()),  # words; null where none was stated
        ("answerer", pa.string()),  # an arm's label, base or human
        ("seed", pa.int32()),
        ("words", pa.int32()),
        ("excess", pa.int32()),  # words past the limit
        ("is_stopped", pa.bool_()),  # by itself; null of humans
        ("relevance", pa.float64()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
    ]
)

# By the ending of the file that is asked for.
ENDINGS = (".csv", ".parquet", ".md")


def write_export(findings: Findings, table: str, out: Path) -> None:
    """Write the table `differences` or `answers` to `out`, in the form that its ending names.

    Raises InputError where the ending is not known, the table has no such form, or `out` cannot be
    written.
    """
    if out.suffix not in ENDINGS:
        raise InputError(
            f"{out}: wanted a file that ends in one of {', '.join(ENDINGS)}",
            f"`{out.stem or 'comparison'}.csv`, for example",
        )
    if out.suffix == ".md" and table != "differences":
        raise InputError("answers are written as .csv or .parquet", f"`{out.stem}.csv`")
    found = differences(findings) if table == "differences" else answers(findings)
    try:
        if out.suffix == ".md":
            write_text(comparison_markdown(findings), out)
        elif out.suffix == ".csv":
            write_text(csv_text(found.column_names, found.to_pylist()), out)
        else:
            with replacing(out) as temporary:
                pq.write_table(found, temporary)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written: {error.strerror}", "name a file in a folder that exists"
        ) from error


def differences(findings: Findings) -> pa.Table:
    """The rows of comparison.parquet."""
    return table_of([asdict(row) for row in findings.effects], COMPARISON)


def answers(findings: Findings) -> pa.Table:
    """A row per answer: who, to what, how long, and the text."""
    rows = [
        {
            "prompt_id": question.prompt_id,
            "origin": question.origin,
            "lang": question.lang,
            "is_compared": question.is_compared,
            "limit": limit,
            "answerer": answerer,
            "seed": answer.seed,
            "words": answer.words,
            "excess": answer.excess,
            "is_stopped": answer.is_stopped,
            "relevance": answer.relevance,
            "prompt": question.prompt,
            "answer": answer.within + answer.beyond,
        }
        for question in findings.questions
        for limit, asked in question.asked.items()
        for answerer, given in asked.answers.items()
        for answer in given
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a header: text quoted and guarded, numbers plain, nothing for null."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def guarded(text: str) -> str:
    """`text` with an apostrophe before it where a spreadsheet could take it for a formula.

    >>> guarded('=HYPERLINK("http://example.org")'), guarded("a = b")
    ('\\'=HYPERLINK("http://example.org")', 'a = b')
    """
    # Some programs drop blanks, quotes and invisible characters first.
    seen = text.lstrip(" \n\v\f\0'\"\N{NO-BREAK SPACE}\N{ZERO WIDTH NO-BREAK SPACE}")
    return f"'{text}" if text.startswith(FORMULA) or seen.startswith(FORMULA) else text


def _cell(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return guarded(text)
