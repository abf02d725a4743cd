"""The page in a real browser, offline."""

from pathlib import Path

import pytest

from reports import blocks
from reports.findings import read_findings
from reports.html import write_report
from tests.browser import Tab
from tests.hostile_pages import (
    HOSTILE,
    attack_answers,
    attack_names,
    hostile_answers,
    hostile_findings,
    opened,
)
from tests.reports_fixture import PROMPTS, World, write_artifacts

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_report(read_findings(write_artifacts(folder)), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms of three seeds, two languages, several blocks."""
    folder = tmp_path_factory.mktemp("wide")
    prompts = [
        type(asked)(
            f"{asked.prompt} ({n})", asked.human, asked.answers, lang="de" if n == 3 else "en"
        )
        for n in range(4)
        for asked in PROMPTS
    ]
    world = World(prompts, (20, None), variants=("full", "capped", "concise_best"), seeds=3)
    findings = read_findings(write_artifacts(folder, world))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "PER_BLOCK", 10)
        write_report(findings, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_report(hostile_findings(folder), folder / "report.html")
    return folder / "report.html"


def count(tab: Tab) -> str:
    return tab.run("document.getElementById('filter-count').textContent")


def reading(tab: Tab) -> int:
    """The number of the prompt that is read."""
    return int(tab.run("document.querySelector('#detail .number').firstChild.data"))


def listed(tab: Tab) -> list[int]:
    """The numbers of the prompts in the list, from the top."""
    return tab.run("[...document.querySelectorAll('.row .number')].map(e => +e.textContent)")


def choose(tab: Tab, selector: str, change: str) -> None:
    """Change an element of the filter as a person would, and let the page know."""
    tab.run(
        f"(e => {{ e.{change}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector({selector!r}))"
    )


def test_the_page_asks_for_nothing_and_complains_of_nothing(tab: Tab, report: Path):
    opened(tab, report)
    assert tab.requests == [report.as_uri()]
    assert tab.complaints == []
    assert tab.run("document.title") == "demo · treetune"


def test_no_name_or_sentence_runs_or_asks_for_anything(tab: Tab, hostile: Path):
    attack_names(tab, hostile)


def test_no_prompt_or_answer_runs_or_asks_for_anything(tab: Tab, tmp_path: Path):
    write_report(hostile_answers(tmp_path), tmp_path / "report.html")
    attack_answers(tab, tmp_path / "report.html", HOSTILE)


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
    opened(tab, report)
    assert count(tab) == "8 of 8 prompts"
    choose(tab, "#filter-text", "value = 'BASIL'")
    assert count(tab) == "1 of 8 prompts"
    assert listed(tab) == [2]
    assert reading(tab) == 2
    assert tab.run("CSS.highlights.get('found').size") > 0
    choose(tab, "#filter-text", "value = 'no such words'")
    assert count(tab) == "0 of 8 prompts"
    assert tab.run("document.getElementById('nothing').hidden") is False
    choose(tab, "#filter-text", "value = ''")
    assert count(tab) == "8 of 8 prompts"


def test_what_stands_in_a_later_block_is_found_too(tab: Tab, wide: Path):
    opened(tab, wide)
    assert tab.run("document.getElementById('viewer').dataset.blocks") == "4"
    choose(
        tab, "#filter-text", "value = 'bakery run by two retired physicists? (3)'.replace('?', '.')"
    )
    assert listed(tab) == [32]


def test_one_limit_is_shown_at_a_time_until_every_limit_is_asked_for(tab: Tab, report: Path):
    opened(tab, report)
    limits = "[...document.querySelectorAll('#detail .asked')].map(e => e.dataset.limit).join()"
    assert tab.run(limits) == "20"
    choose(tab, "input[name=limit][value='2']", "checked = true")
    assert tab.run(limits) == "none"
    choose(tab, "input[name=limit][value=all]", "checked = true")
    assert tab.run(limits) == "20,50,none"


def test_violations_are_those_that_the_marks_show(tab: Tab, report: Path):
    opened(tab, report)
    choose(tab, "#filter-show", "value = 'over'")
    over = listed(tab)
    choose(tab, "#filter-show", "value = ''")
    arms = "[...document.querySelectorAll('#detail .answer')].slice(0, 2)"
    seen = []
    for number in range(1, 9):
        tab.run(f"document.querySelectorAll('.row')[{number - 1}].click()")
        if tab.run(f"{arms}.some(e => e.querySelector('.counts .over'))"):
            seen.append(number)
            assert tab.run(f"{arms}.some(e => e.querySelector('mark'))")
    assert over == seen
    assert 0 < len(seen) < 8


def test_a_changed_verdict_is_won_or_lost(tab: Tab, report: Path):
    opened(tab, report)
    found = {}
    for kind in ("changed", "won:1", "lost:1"):
        choose(tab, "#filter-show", f"value = '{kind}'")
        found[kind] = set(listed(tab))
    assert found["changed"] == found["won:1"] | found["lost:1"]
    assert not found["won:1"] & found["lost:1"]
    assert found["changed"]


def test_sorting_puts_the_largest_first(tab: Tab, report: Path):
    opened(tab, report)
    words = """[...document.querySelectorAll('.row')].map(row => [...row.querySelectorAll('.chip')]
      .map(chip => parseInt(chip.textContent.split(': ')[1])))"""
    choose(tab, "#filter-sort", "value = 'difference'")
    apart = [abs(row[1] - row[0]) for row in tab.run(words)]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > apart[-1]
    choose(tab, "#filter-sort", "value = 'excess'")
    over = [max(0, max(row[:2]) - 20) for row in tab.run(words)]
    assert over == sorted(over, reverse=True)
    assert over[0] > 0
    choose(tab, "#filter-least", f"value = '{over[0]}'")
    assert len(listed(tab)) == over.count(over[0])


def test_a_language_is_chosen(tab: Tab, wide: Path):
    opened(tab, wide)
    choose(tab, "#filter-lang", "value = 'de'")
    assert count(tab) == "8 of 32 prompts"


def test_seeds_stand_below_each_other_and_count_as_one_arm(tab: Tab, wide: Path):
    opened(tab, wide)
    names = "[...document.querySelectorAll('#detail .who b')].map(e => e.textContent).join()"
    assert tab.run(names) == "full,capped,concise_best,base model,human reply"
    assert tab.run("document.querySelectorAll('#detail .answer:first-child details').length") == 2


def test_keys_move_through_prompts_and_limits(tab: Tab, report: Path):
    opened(tab, report)
    assert reading(tab) == 1
    for key, number in (("j", 2), ("j", 3), ("k", 2)):
        tab.press(key)
        assert reading(tab) == number
    tab.run("document.getElementById('list').focus()")
    for key, number in (
        ("ArrowDown", 3),
        ("End", 8),
        ("ArrowDown", 8),
        ("Home", 1),
        ("ArrowUp", 1),
    ):
        tab.press(key)
        assert reading(tab) == number
        chosen = (
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
        )
        assert tab.run(f"{chosen}.ariaSelected") == "true"
    tab.press("]")
    assert tab.run("document.querySelector('#detail .asked').dataset.limit") == "50"
    tab.press("[")
    assert tab.run("document.querySelector('#detail .asked').dataset.limit") == "20"
    tab.press("/")
    tab.press("j")
    assert tab.run("document.activeElement.id + document.activeElement.value") == "filter-textj"
    tab.press("Escape")
    assert tab.run("document.activeElement.id") == "list"
    tab.press("?")
    assert tab.run("document.getElementById('keys').open") is True
    tab.press("Escape")
    assert tab.run("document.getElementById('keys').open") is False


def test_a_link_leads_to_its_prompt_and_limit(tab: Tab, wide: Path):
    opened(tab, wide, link="#q31-none")
    assert reading(tab) == 31
    assert tab.run("document.querySelector('#detail .asked').dataset.limit") == "none"
    assert 31 in listed(tab)
    assert tab.run("Math.abs(document.getElementById('viewer').getBoundingClientRect().top) < 300")
    tab.press("k")
    assert tab.run("location.hash") == "#q30-none"
    # A filter gives way to a link that it would hide.
    choose(tab, "#filter-text", "value = '(0)'")
    tab.run("location.hash = '#q32-20'")
    tab.wait("document.querySelector('#detail .number').firstChild.data === '32'")
    assert tab.run("document.getElementById('filter-text').value") == ""


def test_only_rows_in_sight_are_made(tab: Tab, wide: Path):
    opened(tab, wide)
    assert len(listed(tab)) < 32
    tab.run("document.getElementById('list').scrollTop = 1e6")
    tab.wait("[...document.querySelectorAll('.row .number')].pop().textContent === '32'")


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_the_page_is_no_wider_than_its_window(tab: Tab, report: Path, hostile: Path, width: int):
    for page in (report, hostile) if width in (1280, 390) else (report,):
        opened(tab, page, width)
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_no_column_of_the_table_is_out_of_sight_on_a_desktop(tab: Tab, tmp_path: Path):
    """The last one decides, and a reader does not look for what is to be scrolled to."""
    world = World(PROMPTS, (20, 50, 100, 200, None))
    write_report(read_findings(write_artifacts(tmp_path, world)), tmp_path / "report.html")
    opened(tab, tmp_path / "report.html", 1024)
    table = "document.querySelector('.scroll:has(.numbers)')"
    assert tab.run(f"{table}.scrollWidth - {table}.clientWidth") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edges_of_controls_and_what_a_field_asks_for_can_be_seen(
    tab: Tab, report: Path, scheme: str
):
    """By WCAG 2.2: at least 3 for an edge, 4.5 for a placeholder."""
    opened(tab, report, scheme=scheme)
    edge, placeholder = tab.run(
        """(() => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = (text) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
            const v = parse(text)[i] / 255;
            return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          }, 0.05);
          const ratio = (a, b) => Math.max(a, b) / Math.min(a, b);
          const all = [...document.querySelectorAll(".viewer button, input[type=search], select")];
          const back = (e) => light(getComputedStyle(e).backgroundColor);
          const search = document.getElementById("filter-text");
          return [
            Math.min(...all.map((e) => ratio(light(getComputedStyle(e).borderTopColor), back(e)))),
            ratio(light(getComputedStyle(search, "::placeholder").color), back(search)),
          ];
        })()"""
    )
    assert edge >= 3
    assert placeholder >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(tab: Tab, report: Path, scheme: str):
    """Contrast of at least 4.5 by WCAG 2.2, for every element that holds text of its own."""
    opened(tab, report, scheme=scheme)
    worst = tab.run(
        """(() => {
          const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
          const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
            const v = c[i] / 255;
            return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          }, 0);
          let worst = { ratio: 99 };
          for (const e of document.querySelectorAll("body *:not(svg *, script, noscript)")) {
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


def test_light_and_dark_can_be_chosen(tab: Tab, report: Path):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    opened(tab, report, scheme="dark")
    dark = tab.run(paper)
    tab.run("document.getElementById('theme').click()")
    light = tab.run(paper)
    tab.run("document.getElementById('theme').click()")
    assert tab.run(paper) == dark != light
    opened(tab, report, scheme="light")
    assert tab.run(paper) == light


def test_every_control_has_a_name_and_every_role_what_it_needs(tab: Tab, report: Path):
    opened(tab, report)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "link", "searchbox", "combobox", "radio", "spinbutton", "listbox", "option"}
    found = [node for node in nodes if node.get("role", {}).get("value") in named]
    assert {node["role"]["value"] for node in found} >= named - {"spinbutton"}
    for node in found:
        if not node.get("ignored"):
            assert node.get("name", {}).get("value"), node


def test_on_paper_every_answer_is_there_and_the_viewer_is_not(tab: Tab, report: Path):
    opened(tab, report)
    choose(tab, "#filter-text", "value = 'a'")
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("getComputedStyle(document.getElementById('viewer')).display") == "none"
    assert tab.run("document.querySelectorAll('#paper .question').length") == 8
    assert (
        tab.run("document.querySelectorAll('#paper .answer').length") == 30
    )  # two have no human's
    assert "8 prompts of the 8" in tab.run("document.getElementById('paper').textContent")
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert tab.run("document.getElementById('paper').childElementCount") == 0
    assert len(tab.call("Page.printToPDF")["data"]) > 10_000
    tab.call("Emulation.setEmulatedMedia", media="")


def test_without_script_the_page_says_where_the_answers_are(tab: Tab, report: Path):
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.call("Page.navigate", url=report.as_uri())
        tab.wait("document.querySelector('noscript p')?.checkVisibility()")
        said = tab.run("document.querySelector('noscript p').textContent")
        assert "8 prompts with 90 answers" in said
        assert "generations.parquet" in said
        assert tab.run("document.getElementById('viewer').checkVisibility()") is False
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
