"""Lines that exporters write, with what none of them writes in each."""

from tests.fuzzing import fuzzing
from tests.hostile_terminal import PAYLOADS
from tests.usual_lines import USUAL

CAMPAIGN = fuzzing(
    "compiled",
    "whatever stands in a usual line, compiled code reads it as the slow reader does",
    lambda: [*USUAL, *(text.encode("utf-8", "surrogatepass") for text in PAYLOADS)],
)
