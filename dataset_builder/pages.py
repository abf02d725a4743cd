"""Jinja2 as every page and fragment uses it: escaping always, an unknown name an error, and
characters that steer or hide text shown as escapes.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dataset_builder.printable import printable


def page_environment(templates: Path) -> Environment:
    """The environment of the templates in a folder; a caller adds the filters they name."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )


def visible(value: Any) -> Any:
    """`value` as a template shows it: of plain text, nothing that reorders or hides it.

    Markup stays: it is ours, or was made of text that went through here.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value.replace("\r\n", "\n"))
    return value
