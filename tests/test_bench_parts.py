"""Parts of a measurement: what one has found outlives whatever cuts it off."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from bench import preference, rollouts
from bench.parts import Part, keep, run_part

TELLS = "from bench.parts import tell; tell({'n': 1}); tell({'n': 2}); "


def ran(code: str, seconds: float = 60.0) -> Part:
    return run_part("part", ["-c", TELLS + code], seconds)


def test_what_a_part_told_outlives_its_failure_and_its_time_limit():
    whole, failed = ran("print('and talks')"), ran("raise ValueError('no such thing')")
    slow = ran("import time; time.sleep(60)", seconds=3.0)
    assert (whole.found, whole.trouble) == ({"n": 2}, "")
    assert failed.found == {"n": 2}
    assert "exit code 1" in failed.trouble
    assert "no such thing" in failed.trouble
    assert (slow.found, slow.trouble) == ({"n": 2}, "cut off after 3 s")
    assert run_part("part", ["-c", "pass"], 60.0).trouble == "told nothing"


def test_a_line_is_kept_of_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    keep("some", Part("a", {"seconds": 2.0}, "", 31.0), model="m")
    keep("some", Part("b", {}, "cut off after 5 s", 5.0), model="m")
    first, second = map(json.loads, (tmp_path / "some.jsonl").read_text().splitlines())
    assert first == {"part": "a", "model": "m", "trouble": "", "took": 31.0, "seconds": 2.0}
    assert (second["part"], second["trouble"]) == ("b", "cut off after 5 s")


def pairs_part(name: str, rate: float, loss: float | None, trouble: str = "") -> Part:
    found = {"tokens_per_second": rate * 512, "examples_per_second": rate, "reference": 0.0}
    found |= {"first_loss": 0.6931, "loss": loss, "gigabytes": 1.0, "first_step": 9.0}
    return Part(name, found | {"steps": 20, "window": 30.0}, trouble, 60.0)


def test_a_ratio_of_preference_is_said_as_soon_as_both_sides_are_known():
    ours, theirs = pairs_part("treetune", 60.0, 0.6), pairs_part("trl-defaults", 10.0, 0.61)
    assert not any("against" in line for line in preference.lines_of(ours, [ours]))
    lines = preference.lines_of(theirs, [ours, theirs])
    assert "agrees, 0.0100 apart" in lines[0]
    assert lines[-1] == "treetune against trl-defaults: 6.0x (each once 6.0x)"
    lost = Part("treetune", {}, "cut off after 9 s", 9.0)
    assert preference.lines_of(lost, [lost]) == ["treetune         cut off after 9 s"]
    cut = pairs_part("trl-best", 20.0, None, "cut off after 9 s")
    lines = preference.lines_of(cut, [lost, ours, cut])
    assert "losses not compared" in lines[0]
    assert "cut off" in lines[1]
    assert lines[2].startswith("treetune against trl-best: 3.0x")


def test_losses_of_ten_steps_are_one_mean_however_they_are_logged():
    each = preference.compared({n + 1: float(n) for n in range(12)})
    tenth = preference.compared({1: 0.0, 10: 5.0})  # TRL's way: the first, and the mean of nine
    assert each == tenth == {"first_loss": 0.0, "loss": 4.5}
    assert preference.compared({1: 0.7}) == {"first_loss": 0.7, "loss": None}


def test_each_way_of_making_batches_is_tried_once_and_treetunes_come_first():
    asked = Namespace(
        preset="smollm2-grpo",
        tiny=False,
        only=["trl-defaults", "treetune"],
        batch=16,  # of 16 answers each: 256 a step
        rollout_steps=[1, 4, 8],
        answers=[2048, 512],
    )
    names = [each.name for each in rollouts.parts_of(asked)]
    assert names == [
        "treetune 1 x 512",
        "treetune 4 x 512",
        "treetune 4 x 2048",
        "treetune 8 x 512",
        "treetune 8 x 2048",
        "trl-defaults",
    ]
