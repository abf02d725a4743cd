"""The page in a real browser, offline."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.findings import read_findings
from reports.html import write_report
from tests.browser import Tab, chromium
from tests.reports_fixture import write_artifacts
from tests.test_html import hostile_findings

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_report(read_findings(write_artifacts(folder)), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_report(hostile_findings(folder), folder / "report.html")
    return folder / "report.html"


def shown(tab: Tab) -> int:
    """How many prompts can be seen."""
    return tab.run("document.querySelectorAll('.question:not([hidden])').length")


def choose(tab: Tab, selector: str, change: str) -> None:
    """Change an element of the filter as a person would, and let the page know."""
    tab.run(
        f"(e => {{ e.{change}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector({selector!r}))"
    )


def test_the_page_asks_for_nothing_and_complains_of_nothing(tab: Tab, report: Path):
    tab.open(report)
    assert tab.requests == [report.as_uri()]
    assert tab.complaints == []
    assert tab.run("document.title") == "demo · treetune"


def test_no_payload_runs_or_asks_for_anything(tab: Tab, hostile: Path):
    tab.open(hostile)
    # Whatever waits for a pointer, a focus or an opened element gets it.
    tab.run(
        "document.querySelectorAll('*').forEach(e => { for (const kind of "
        "['mouseover', 'focus', 'toggle', 'load', 'error', 'begin', 'click']) "
        "if (e.tagName !== 'A') e.dispatchEvent(new Event(kind)) })"
    )
    assert "OWNED" in tab.run("document.title")  # the name of the comparison, as text
    assert tab.run("document.title.length") > 1000
    assert tab.run("document.scripts.length") == 1
    assert tab.requests == [hostile.as_uri()]
    assert tab.complaints == []
    assert tab.run("getComputedStyle(document.body).display") == "block"


def test_a_script_from_elsewhere_is_refused_by_the_policy(tab: Tab, report: Path, tmp_path: Path):
    """Were a payload ever to come through unescaped, the policy would still stop it."""
    page = tmp_path / "pierced.html"
    text = report.read_text(encoding="utf-8")
    payload = (
        "<script>document.title='OWNED'</script><img src=x onerror=\"document.title='OWNED'\">"
    )
    page.write_text(text.replace("<main>", f"<main>{payload}"), encoding="utf-8")
    tab.open(page)
    assert tab.run("document.title") == "demo · treetune"
    assert any("Content Security Policy" in line for line in tab.complaints)


def test_search_shows_the_prompts_that_hold_the_text(tab: Tab, report: Path):
    tab.open(report)
    assert shown(tab) == 8
    choose(tab, "#filter-text", "value = 'BASIL'")
    assert shown(tab) == 1
    assert tab.run("document.getElementById('filter-count').textContent") == "1 of 8 prompts"
    choose(tab, "#filter-text", "value = 'no such words'")
    assert shown(tab) == 0
    assert tab.run("document.getElementById('nothing').hidden") is False
    choose(tab, "#filter-text", "value = ''")
    assert shown(tab) == 8


def test_one_limit_is_shown_at_a_time_until_every_limit_is_asked_for(tab: Tab, report: Path):
    tab.open(report)
    limits = (
        "[...new Set([...document.querySelectorAll('.asked:not([hidden])')]"
        ".map(e => e.dataset.limit))].join()"
    )
    assert tab.run(limits) == "20"
    choose(tab, "input[name=limit][value=none]", "checked = true")
    assert tab.run(limits) == "none"
    choose(tab, "input[name=limit][value='']", "checked = true")
    assert tab.run(limits) == "20,50,none"


def test_violations_only_hides_what_kept_its_limit(tab: Tab, report: Path):
    tab.open(report)
    choose(tab, "input[name=limit][value='50']", "checked = true")
    every = shown(tab)
    choose(tab, "#filter-over", "checked = true")
    expected = tab.run("document.querySelectorAll('.asked[data-limit=\"50\"][data-over]').length")
    assert 0 < shown(tab) == expected < every
    assert tab.run(
        "[...document.querySelectorAll('.asked:not([hidden])')]"
        ".every(e => e.querySelector('mark, .over'))"
    )


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_the_page_is_no_wider_than_its_window(tab: Tab, report: Path, hostile: Path, width: int):
    for page in (report, hostile):
        tab.open(page, width)
        assert tab.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(tab: Tab, report: Path, scheme: str):
    """Contrast of at least 4.5 by WCAG 2.2, for every element that holds text of its own."""
    tab.open(report, scheme=scheme)
    worst = tab.run(
        """(() => {
          const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
          const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
            const v = c[i] / 255;
            return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          }, 0);
          let worst = { ratio: 99 };
          for (const e of document.querySelectorAll("body *:not(svg *, script)")) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
            let behind = e;
            while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0)
              behind = behind.parentElement;
            const paper = getComputedStyle(behind || document.documentElement);
            const back = light(parse(paper.backgroundColor));
            const front = light(parse(getComputedStyle(e).color));
            const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
            if (ratio < worst.ratio) worst = { ratio, html: e.outerHTML.slice(0, 200) };
          }
          return worst;
        })()"""
    )
    assert worst["ratio"] >= 4.5, worst


def test_on_paper_every_answer_is_there_and_the_filter_is_not(tab: Tab, report: Path):
    tab.open(report)
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.getElementById('filter')).display") == "none"
    assert tab.run("getComputedStyle(document.querySelector('.question')).contentVisibility") == (
        "visible"
    )
    assert len(tab.call("Page.printToPDF")["data"]) > 10_000
    tab.call("Emulation.setEmulatedMedia", media="")
