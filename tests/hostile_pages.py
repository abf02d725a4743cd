"""Reports whose every text would run, load or break out of its place, opened in a real browser."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace as replaced

from reports.answers import Asked as Answers
from reports.answers import Question, split_at_limit
from reports.findings import Findings, read_findings
from tests.browser import Tab
from tests.hostile import TERMINAL
from tests.payloads import PAYLOADS
from tests.reports_fixture import Asked, World, write_artifacts

READY = "document.documentElement.dataset.ready !== undefined"

HOSTILE = [*PAYLOADS, *(payload for payload in TERMINAL if "\ud800" not in payload)]


def hostile_findings(folder: Path, payloads: Sequence[str] = HOSTILE) -> Findings:
    """A comparison whose every name, number's name and sentence holds every payload."""
    every = " ".join(payloads)
    world = World(
        [Asked("Why?", "Because.", ("It is so.",))],
        (1, None),
        recipes={
            name: {"title": every, "keep": {every: every if name == "full" else 1}}
            for name in ("full", "concise_best")
        },
        warnings=(*payloads, every),
    )
    directory = write_artifacts(folder, world, lambda asked, *_: asked.answers[0])
    findings = read_findings(directory)
    labels = {"full": f"full {every}", "concise_best": f"best {every}", "base": "base"}
    arms = [
        dataclasses.replace(
            arm,
            arm=replaced(arm.arm, label=labels[arm.label], arm=every),
            runs=[
                replaced(run, manifest=replaced(run.manifest, funnel={every: 3, "kept": 2}))
                for run in arm.runs
            ],
        )
        for arm in findings.arms
    ]
    comparison = replaced(
        findings.comparison,
        name=every,
        suite=every,
        suite_digest=every,
        created=every,
        sentence=every,
        arms=[arm.arm for arm in arms],
        gates=[replaced(gate, reason=every) for gate in findings.comparison.gates],
        trivial=[row | {"answerer": every} for row in findings.comparison.trivial],
        slopes=[{"arm": every, "seed": 0, "slope": 0.5, "low": 0.4, "high": 0.6}],
        differing={every: dict.fromkeys(labels.values(), every)},
        notes={
            "sentences": {labels["concise_best"]: f"{every}: {every}"},
            "verdicts": {labels["concise_best"]: every},
            "headline": ["violation", "relevance"],
        },
    )
    effects = [
        dataclasses.replace(
            row,
            arm=labels[row.arm],
            baseline=labels[row.baseline],
            verdict=every,
            equivalence=every,
            margin=1.0,
        )
        for row in findings.effects
    ]
    questions = hostile_questions([every], [*labels.values(), "human"])
    return Findings(findings.directory, comparison, effects, arms, questions)


def hostile_answers(folder: Path, payloads: Sequence[str] = HOSTILE) -> Findings:
    """A comparison with plain names and a prompt per payload, which everybody answers with it."""
    findings = read_findings(write_artifacts(folder, World([], (1, None))))
    questions = hostile_questions(payloads, ["full", "concise_best", "base", "human"])
    return dataclasses.replace(findings, questions=questions)


def hostile_questions(payloads: Sequence[str], answerers: list[str]) -> list[Question]:
    return [
        Question(
            f"{payload} id",
            f"{payload} origin",
            f"{payload} language",
            payload,
            {
                limit: Answers(
                    limit,
                    {
                        name: [split_at_limit(f"{number} {payload}", limit)]
                        for number, name in enumerate(answerers)
                    },
                )
                for limit in (1, None)
            },
        )
        for payload in payloads
    ]


def opened(tab: Tab, page: Path, width: int = 1280, scheme: str = "light", link: str = "") -> None:
    """Open the page and wait until all of it is unpacked."""
    tab.open(page, width, scheme, link)
    tab.wait(READY)


# What a page is made of, and what no part of it may carry.
FOREIGN = """(() => {
  const known = new Set(`html head meta title style body header p b h1 span code div ul li dl dt dd
    time nav a main section h2 h3 h4 table caption thead tbody tr th td small details summary figure
    figcaption svg symbol use rect circle path line text g article output label input fieldset
    legend select option button mark noscript dialog kbd wbr footer template script`.split(/\\s+/));
  return [...document.querySelectorAll("*")].flatMap((e) => [
    ...(known.has(e.localName) ? [] : [e.localName]),
    ...[...e.attributes].map((a) => a.name).filter((name) => /^(on|src|action|form)/.test(name)),
  ]).join();
})()"""

# Whatever waits for an event gets it.
PROVOKE = """(elements) => elements.forEach((e) => {
  for (const kind of ["mouseover", "focus", "toggle", "load", "error", "begin", "beforeprint"])
    e.dispatchEvent(new Event(kind));
})"""


def attack_names(tab: Tab, page: Path) -> None:
    """Opens a page of `hostile_findings` and has whatever waits for an event get it."""
    opened(tab, page)
    title = tab.run("document.title")
    tab.run(f"({PROVOKE})(document.querySelectorAll('body *'))")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run(FOREIGN) == ""
    assert tab.run("document.title") == title
    assert "OWNED" in title  # the name of the comparison, as text
    assert_untouched(tab, page)
    tab.run("dispatchEvent(new Event('afterprint'))")


def attack_answers(tab: Tab, page: Path, payloads: Sequence[str]) -> None:
    """Opens a page of `hostile_answers` to these payloads, and reads every prompt."""
    opened(tab, page, link="#q1-1")
    # Every prompt is read, with the mark past its limit of one word.
    read = tab.run(
        f"""(async () => {{
          const detail = document.getElementById("detail");
          // A low list: what is tested here is what is read.
          Object.assign(document.getElementById("list").style, {{ flex: "none", height: "4rem" }});
          // The address names a prompt by its number; to change it takes longer than all else here.
          history.replaceState = () => {{}};
          let read = "";
          for (let prompt = 0; prompt < {len(payloads)}; prompt += 1) {{
            read += detail.textContent;
            ({PROVOKE})(detail.querySelectorAll(".text, .id, h3, mark"));
            if (prompt % 40 === 0) await new Promise(requestAnimationFrame);
            document.getElementById("after").click();
          }}
          return read;
        }})()"""
    )
    for number, payload in enumerate(payloads):
        if payload.replace("\n", " ").replace("\t", " ").isprintable():
            for said in (*(f"{answerer} {payload}" for answerer in range(4)), f"{payload} id"):
                assert said in read, number
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tab.wait(f"document.querySelectorAll('#paper .question').length === {min(200, len(payloads))}")
    assert tab.run(FOREIGN) == ""
    assert tab.run("document.title") == "demo · treetune"
    assert_untouched(tab, page)


def assert_untouched(tab: Tab, page: Path) -> None:
    """One script ran, ours, and nothing was asked for."""
    assert tab.run("document.scripts.length") == 1
    assert tab.requests == [page.as_uri()]
    assert tab.complaints == []
    assert tab.run("getComputedStyle(document.body).display") == "block"
    assert tab.run("Object.keys(Object.prototype).length") == 0
