"""Screenshots of a report, to be looked at: desktop and phone, light and dark, its parts and whole.

python -m bench.shots [REPORT.html] [FOLDER]: without a report, one of four real models' answers
where shared/data lies beside the project, else of the tests' made-up comparison.
"""

import sys
import tempfile
from pathlib import Path

from reports.findings import read_findings
from reports.html import write_report
from tests.browser import Tab, chromium
from tests.real import DATA
from tests.reports_fixture import real_world, write_artifacts

WIDTHS = {"desktop": 1440, "phone": 390}
SCHEMES = ("light", "dark")
# What is brought to the top of the window, by the name of the shot.
PARTS = {
    "head": "body",
    "beside": "#beside",
    "quality": "#quality",
    "words": "#words",
    "lengths": "#lengths",
    "table": "#table",
    "rows": "#rows",
    "training": "#training",
    "answers": "#viewer",
    "reading": "#detail",
}


def main(report: Path | None, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, chromium() as tab:
        page = report or _page(Path(made))
        for name, width in WIDTHS.items():
            for scheme in SCHEMES:
                tab.open(page, width, scheme)
                tab.wait("document.documentElement.dataset.ready !== undefined")
                for part in _shots(tab, folder, f"{name}-{scheme}"):
                    print(part)


def _shots(tab: Tab, folder: Path, prefix: str) -> list[Path]:
    made = []
    for part, selector in PARTS.items():
        if tab.run(f"!document.querySelector({selector!r})"):
            continue
        where = "{behavior: 'instant', block: 'start'}"
        tab.run(f"document.querySelector({selector!r}).scrollIntoView({where})")
        tab.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        made.append(folder / f"{prefix}-{part}.png")
        tab.shot(made[-1])
    made.append(folder / f"{prefix}-whole.png")
    tab.shot(made[-1], full=True)
    return made


def _page(folder: Path) -> Path:
    world = real_world() if DATA.exists() else ()
    page = folder / "report.html"
    write_report(read_findings(write_artifacts(folder, *world)), page)
    return page


if __name__ == "__main__":
    given = [Path(each) for each in sys.argv[1:]]
    is_page = bool(given) and given[0].suffix == ".html"
    main(
        given.pop(0).resolve() if is_page else None,
        given[0] if given else Path("artifacts/report-shots"),
    )
