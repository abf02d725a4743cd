"""Lines of exports."""

from tests.fuzzing import fuzzing
from tests.hostile_rows import LINES
from tests.usual_lines import USUAL

CAMPAIGN = fuzzing(
    "reader",
    "whatever a line holds, it is read or refused, in columns as on its own",
    lambda: [*USUAL, *(row for rows in LINES.values() for row in rows)],
)
