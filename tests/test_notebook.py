"""Comparisons and variants show themselves in a notebook; hostile text in them shows as text."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced
from rich.console import Console

from dataset_builder.errors import InputError
from dataset_builder.printable import printable
from reports.findings import Findings
from reports.notebook import comparison_html, load_comparison, load_variant
from reports.notebook import variant_html as html_of_variant
from tests.browser import Tab
from tests.hostile import MARKUP
from tests.hostile_terminal import PAYLOADS
from tests.reports_fixture import write_artifacts

HOSTILE = [*MARKUP, *PAYLOADS]

# All that a fragment is made of: nothing that runs, loads, links or styles the notebook.
TAGS = {
    *("div", "p", "strong", "small", "br", "details", "summary", "ul", "li", "code", "pre"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}


class Seen(HTMLParser):
    """What a fragment holds, as a parser of its own understands it."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: set[str] = set()
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.styles |= {value or "" for name, value in attrs if name == "style"}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    write_artifacts(folder)
    return folder


@pytest.fixture(autouse=True)
def artifacts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACTS", str(root))


def hostile_findings(findings: Findings) -> Findings:
    """Every payload in every slot; names of arms hold all of them, so that there are few."""
    first, second = findings.arms
    label = "arm " + " ".join(HOSTILE)
    run = second.runs[0]
    funnel = {"threads": 402, **{f"rule {each}": 1 for each in HOSTILE}, "kept": 204}
    manifest = replaced(run.manifest, funnel=funnel)
    renamed = replace(
        second,
        arm=replaced(second.arm, label=label),
        runs=[replaced(run, manifest=manifest)],
    )
    comparison = replaced(
        findings.comparison,
        suite=label,
        created=label,
        warnings=[f"warning {each}" for each in HOSTILE],
        gates=[replaced(findings.comparison.gates[0], reason=f"gate {each}") for each in HOSTILE],
        differing={f"key {each}": {label: [each], first.label: each} for each in HOSTILE},
        notes={"sentences": {each: f"Cannot tell `{each}`: {each}" for each in HOSTILE}},
    )
    return Findings(findings.directory, comparison, findings.effects, [first, renamed], [])


def test_a_comparison_shows_its_verdict_and_numbers(root: Path):
    shown = load_comparison("demo")
    seen = Seen(shown._repr_html_())
    assert seen.text.split("Violations")[0].split()[:4] == [
        "Cannot",
        "tell",
        "concise_best",
        "from",
    ]
    assert seen.tags <= TAGS
    for name in ("full", "concise_best", "base model", "one word", "Words given", "Warnings"):
        assert name in seen.text
    assert shown.differences.num_rows == len(shown.findings.effects)
    assert shown.answers.num_rows == 3 * (8 * 3 + 6)
    assert eval(repr(shown), {"load_comparison": load_comparison}) == shown
    console = Console(width=80)
    with console.capture() as capture:
        console.print(shown)
    assert "Cannot tell" in capture.get()


def test_a_variant_shows_what_it_kept(root: Path):
    shown = load_variant("concise_best")
    seen = Seen(shown._repr_html_())
    assert seen.tags <= TAGS
    assert "The best-ranked reply among those of at most 100 words" in seen.text
    for name, n in shown.manifest.funnel.items():
        assert re.search(rf"{name}\s*{n}", seen.text)
    assert repr(shown).startswith("load_variant('")


@pytest.mark.parametrize("load", [load_comparison, load_variant])
def test_what_is_not_there_is_refused(load):
    with pytest.raises(InputError, match=r"no .* `nothing`"):
        load("nothing")


def fragments() -> list[str]:
    findings = hostile_findings(load_comparison("demo").findings)
    manifest = load_variant("full").manifest
    manifest = replaced(
        manifest,
        name="".join(HOSTILE),
        title="".join(HOSTILE),
        form="".join(HOSTILE),
        recipe={f"recipe {each}": each for each in HOSTILE},
        funnel={f"rule {each}": 1 for each in HOSTILE},
        sources=[replaced(manifest.sources[0], name=f"source {each}") for each in HOSTILE],
    )
    return [comparison_html(findings), html_of_variant(manifest)]


def test_hostile_text_is_text_to_a_parser():
    for fragment in fragments():
        seen = Seen(fragment)
        assert seen.tags <= TAGS
        assert seen.attributes <= {"class", "scope", "style"}
        assert {style.split(":")[0] for style in seen.styles} == {"text-align"}
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", fragment)
        text = " ".join(seen.text.split())
        for each in HOSTILE:
            assert " ".join(f"rule {printable(each)}".split()) in text


@pytest.mark.browser
def test_a_browser_runs_and_requests_nothing_of_a_fragment(tab: Tab, tmp_path: Path):
    page = tmp_path / "notebook.html"
    # As a notebook does: no policy, all scripts allowed, the markup assigned.
    body = "".join(f"<div>{fragment}</div>" for fragment in fragments())
    text = f"<!doctype html><meta charset=utf-8><title>quiet</title>{body}"
    page.write_text(text, encoding="utf-8")
    tab.open(page)
    assert tab.run("document.title") == "quiet"
    assert tab.run("document.querySelectorAll('script, img, iframe, link, style, a').length") == 0
    tab.run("document.body.innerHTML = document.body.innerHTML")
    assert tab.run("document.title") == "quiet"
    assert tab.complaints == []
    assert [each for each in tab.requests if each != page.as_uri()] == []
