"""Texts a person reads, kept whole: `python -m tests.golden` writes them anew, for review."""

import io
import tempfile
from pathlib import Path

from rich.console import Console, RenderableType

from reports.findings import read_findings
from reports.listing import listing
from reports.terminal import comparison_report
from tests.reports_fixture import PROMPTS, World, write_artifacts

FOLDER = Path(__file__).parent / "golden"

# Three arms, three seeds and the longest row of limits that a shipped suite has.
WIDE = World(
    PROMPTS,
    (20, 50, 100, 200, None),
    variants=("full", "capped", "concise_best"),
    seeds=3,
    relevance_passed=False,
)
WORLDS: dict[str, World | None] = {"demo": None, "wide": WIDE}
WIDTHS = (80, 120)


def drawn(renderable: RenderableType, width: int) -> str:
    """What a console of that width without colour shows, without spaces at the ends of lines."""
    console = Console(width=width, file=io.StringIO(), no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def golden_texts(folder: Path) -> dict[str, str]:
    """Every golden text by its file's name, made from artefacts written below `folder`."""
    texts = {}
    for name, world in WORLDS.items():
        findings = read_findings(write_artifacts(folder / name, world))
        for width in WIDTHS:
            texts[f"comparison_{name}_{width}.txt"] = drawn(comparison_report(findings), width)
    texts["listing_empty_80.txt"] = drawn(listing(folder / "nothing"), 80)
    return texts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in golden_texts(Path(folder)).items():
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
