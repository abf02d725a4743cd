"""Texts on their way to a terminal, a page, a spreadsheet or Markdown."""

from tests.fuzzing import fuzzing
from tests.hostile_terminal import PAYLOADS as FOR_TERMINALS
from tests.payloads import PAYLOADS as FOR_PAGES

CAMPAIGN = fuzzing(
    "escapers",
    "whatever a text holds, it is text wherever it is shown",
    lambda: [text.encode("utf-8", "surrogatepass") for text in (*FOR_PAGES, *FOR_TERMINALS)],
)
