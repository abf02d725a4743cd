"""What models and data sets wrote reaches no terminal but as text: over two hundred payloads in
every slot of every text that a command of `reports` prints.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced
from rich.console import Console

from dataset_builder.command_line import run
from dataset_builder.errors import InputError
from dataset_builder.figures import json_text
from dataset_builder.printable import printable
from reports.__main__ import app
from reports.findings import ArmFindings, Findings, read_findings
from reports.listing import listing
from reports.machine import comparison_record
from reports.markdown import comparison_markdown
from reports.terminal import comparison_report
from tests.golden import drawn
from tests.hostile_terminal import PAYLOADS
from tests.reports_fixture import write_artifacts

# So wide that no cell is folded, and a payload stays in one piece.
WIDTH = 1500
PARTS = 20


def controls(text: str) -> set[str]:
    """All in `text` that a terminal could obey, the end of a line aside."""
    return {
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and character not in "\n\u200c\u200d"
    }


def label_of(part: list[str]) -> str:
    return " ".join(f"arm {payload}" for payload in part)


def test_there_are_two_hundred_payloads_and_none_is_harmless_by_itself():
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 200
    console = Console(width=WIDTH, force_terminal=True)
    obeyed = 0
    for payload in PAYLOADS:
        try:
            with console.capture() as capture:
                console.print(payload, end="")
        except Exception:  # noqa: BLE001  Rich refuses some markup in its own ways
            obeyed += 1
            continue
        obeyed += bool(controls(capture.get())) or capture.get() != payload
    assert obeyed >= 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return read_findings(write_artifacts(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def hostile(demo: Findings) -> Findings:
    """Every payload in every slot that holds others' text but those of `hostile_arms`."""
    first, second = demo.arms
    label = f"arm {PAYLOADS[0]}"
    comparison = replaced(
        demo.comparison,
        suite=PAYLOADS[-1],
        warnings=[f"warning {payload}" for payload in PAYLOADS],
        gates=[
            replaced(demo.comparison.gates[0], passed=place == 0, reason=f"reason {payload}")
            for place, payload in enumerate(PAYLOADS)
        ],
        differing={
            f"key {payload}": {first.label: f"value {payload}", label: [payload]}
            for payload in PAYLOADS
        },
    )
    effects = [replace(row, verdict=PAYLOADS[30]) if row.verdict else row for row in demo.effects]
    renamed = replace(second, arm=replaced(second.arm, label=label))
    return Findings(demo.directory, comparison, effects, [first, renamed], demo.questions)


@pytest.fixture(scope="module")
def hostile_arms(demo: Findings) -> Findings:
    """Every payload in the name of an arm, its variant and preset, and in its funnel: many to an
    arm.
    """
    first, second = demo.arms
    parts = [PAYLOADS[place::PARTS] for place in range(PARTS)]

    def renamed(part: list[str]) -> ArmFindings:
        run = second.runs[0]
        payload = "".join(part)
        funnel = {"threads": 402, **{f"rule {each}": 1 for each in part}, "kept": 204}
        manifest = replaced(run.manifest, name=payload, title=payload, funnel=funnel)
        return replace(
            second,
            arm=replaced(second.arm, label=label_of(part)),
            runs=[replaced(run, variant=payload, preset_name=payload, manifest=manifest)],
        )

    labels = [label_of(part) for part in parts]
    comparison = replaced(
        demo.comparison,
        differing={},
        notes={
            "sentences": {label: f"Cannot tell `{label}`: so it is." for label in labels},
            "verdicts": dict.fromkeys(labels, "cannot tell"),
        },
    )
    arms = [first, *map(renamed, parts)]
    return Findings(demo.directory, comparison, demo.effects, arms, demo.questions)


SLOTS = ("warning", "reason", "key", "value")
ARM_SLOTS = ("arm", "rule")


def plain_text(findings: Findings) -> str:
    return drawn(comparison_report(findings), WIDTH)


def coloured_text(findings: Findings) -> str:
    console = Console(width=WIDTH, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(comparison_report(findings))
    text = capture.get()
    assert "\x1b[1m" in text
    # Colours are ours; a link would be more than a colour.
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("text_of", [plain_text, coloured_text])
def test_no_payload_leaves_a_control_byte_and_all_are_readable(
    hostile: Findings, hostile_arms: Findings, text_of: Callable[[Findings], str]
):
    for findings, slots in ((hostile, SLOTS), (hostile_arms, ARM_SLOTS)):
        text = text_of(findings)
        assert controls(text) == set()
        squeezed = " ".join(text.split())
        missing = [
            (slot, payload)
            for payload in PAYLOADS
            for slot in slots
            # Markup that was obeyed would be gone.
            if " ".join(f"{slot} {printable(payload)}".split()) not in squeezed
        ]
        assert missing == []


def test_json_has_neither_a_control_byte_nor_a_character_beyond_ascii(
    hostile: Findings, hostile_arms: Findings
):
    for findings in (hostile, hostile_arms):
        text = json_text(comparison_record(findings))
        assert controls(text) == set()
        assert text.isascii()
    labels = [arm["label"] for arm in json.loads(text)["arms"][1:]]
    assert labels == [label_of(PAYLOADS[place::PARTS]) for place in range(PARTS)]


def test_markdown_has_no_control_byte(hostile: Findings, hostile_arms: Findings):
    for findings in (hostile, hostile_arms):
        assert controls(comparison_markdown(findings)) == set()


def test_a_listing_shows_hostile_names_as_text(tmp_path: Path):
    directory = write_artifacts(tmp_path)
    manifest = next(tmp_path.glob("variants/*/manifest.json"))
    read = json.loads(manifest.read_text(encoding="utf-8"))
    payloads = [each for each in PAYLOADS if not any("\ud800" <= c <= "\udfff" for c in each)]
    for place, payload in enumerate(payloads):
        copy = manifest.parents[1] / f"copy{place}"
        copy.mkdir()
        text = json.dumps({**read, "name": f"name {payload}"})
        (copy / "manifest.json").write_text(text, encoding="utf-8")
    comparison = json.loads((directory / "comparison.json").read_text(encoding="utf-8"))
    text = json.dumps({**comparison, "name": "".join(payloads), "created": payloads[0]})
    (directory / "comparison.json").write_text(text, encoding="utf-8")
    text = drawn(listing(tmp_path), WIDTH)
    assert controls(text) == set()
    squeezed = " ".join(text.split())
    for payload in payloads:
        assert " ".join(f"name {printable(payload)}".split()) in squeezed


def test_errors_and_hints_show_hostile_text_as_text(capsys: pytest.CaptureFixture[str]):
    def fails(*_: object, **__: object) -> None:
        raise InputError("".join(PAYLOADS), "".join(PAYLOADS))

    with pytest.raises(SystemExit) as caught:
        run(fails)  # type: ignore[arg-type]
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert controls(said.replace("\t", "")) == set()


def test_wrong_arguments_are_quoted_as_text(capsys: pytest.CaptureFixture[str]):
    for payload in PAYLOADS[::20]:
        with pytest.raises(SystemExit):
            run(app, ["export", payload, "out.csv"])
        with pytest.raises(SystemExit):
            run(app, ["export", f"--{payload}"])
    assert controls(capsys.readouterr().err.replace("\t", "")) == set()
