"""Texts a person reads, kept whole: `python -m tests.golden` writes them anew, for review."""

import io
import json
import tempfile
from math import exp
from pathlib import Path

from rich.console import Console, RenderableType

from dataset_builder.artifacts import hash_share
from reports.findings import read_findings
from reports.html import comparison_page
from reports.listing import listing
from reports.machine import schema_text
from reports.markdown import comparison_markdown
from reports.terminal import comparison_report
from tests.page import Page
from tests.reports_fixture import PROMPTS, World, write_artifacts

FOLDER = Path(__file__).parent / "golden"
SCHEMA = Path(__file__).parents[1] / "docs" / "comparison.schema.json"

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


def write_metrics(root: Path, steps: int = 24) -> None:
    """What each run below `root` could have written while it trained."""
    for run in sorted(root.glob("runs/*/*/run.json")):
        lines = [
            {
                "step": step,
                "loss": 1.4 + exp(-step / 6) + 0.2 * hash_share(run.parent.name, str(step)),
                "examples_seen": 8 * step,
            }
            for step in range(1, steps + 1)
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (run.parent / "metrics.jsonl").write_text(text, encoding="utf-8")


def drawn(renderable: RenderableType, width: int) -> str:
    """What a console of that width without colour shows, without spaces at the ends of lines."""
    console = Console(width=width, file=io.StringIO(), no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    # Not splitlines, which would hide control characters that end lines.
    return "".join(f"{line.rstrip(' ')}\n" for line in capture.get().removesuffix("\n").split("\n"))


def golden_texts(folder: Path) -> dict[str, str]:
    """Every golden text by its file's name, made from artefacts written below `folder`."""
    texts = {}
    for name, world in WORLDS.items():
        directory = write_artifacts(folder / name, world)
        write_metrics(folder / name)
        findings = read_findings(directory)
        texts[f"comparison_{name}.md"] = comparison_markdown(findings)
        for width in WIDTHS:
            texts[f"comparison_{name}_{width}.txt"] = drawn(comparison_report(findings), width)
        if world is None:  # one page is long enough to review
            texts[f"page_{name}.txt"] = Page(comparison_page(findings)).shown()
    texts["listing_empty_80.txt"] = drawn(listing(folder / "nothing"), 80)
    return texts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in golden_texts(Path(folder)).items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
