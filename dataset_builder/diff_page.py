"""A difference of two variants as one self-contained page: no script, nothing loaded, foreign text
escaped.
"""

from pathlib import Path

from markupsafe import Markup

from dataset_builder.artifacts import artifacts_root, write_text
from dataset_builder.diff_tables import (
    SHIFT_HEADINGS,
    concise_said,
    count_rows,
    example_parts,
    kind_rows,
    kinds_titled,
    shift_rows,
    told,
    value_text,
)
from dataset_builder.difference import Difference
from dataset_builder.figures import count, share, signed
from dataset_builder.pages import page_environment

TEMPLATES = Path(__file__).parent / "templates"

# Nothing is loaded and nothing runs; the one style sheet stands in the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def diff_page(found: Difference) -> str:
    """The whole page."""
    environment = page_environment(TEMPLATES)
    environment.filters.update(count=count, share=share, signed=signed, value=value_text)
    return environment.get_template("diff.html.jinja").render(
        found=found,
        policy=POLICY,
        # Ours, from the templates folder.
        style=Markup((TEMPLATES / "diff.css").read_text(encoding="utf-8")),
        kinds={split: kind_rows(kinds, found.form) for split, kinds in found.splits.items()},
        shifts=shift_rows(found),
        shift_headings=SHIFT_HEADINGS,
        concise=concise_said(found),
        counts=[(each.name, count_rows(each, 30)) for each in told(found)],
        examples={
            title: [example_parts(each) for each in found.examples if each.kind == kind]
            for kind, title in kinds_titled(found).items()
        },
    )


def write_diff_page(found: Difference) -> Path:
    """The page below the artefacts, in a folder named for both builds."""
    out = artifacts_root() / "diffs" / f"{found.a.build}..{found.b.build}" / "diff.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(diff_page(found), out)
    return out
