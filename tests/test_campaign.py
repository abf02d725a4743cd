"""Campaigns: what is counted, what is kept after a kill, and what the count allows to say."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import isclose
from pathlib import Path

import pytest
from scipy.stats import binomtest

from dataset_builder.errors import InputError
from tests.campaign import Attempt, Campaign, Outcome, attack, read_journal, tally, upper_bound
from tests.campaigns.__main__ import load, names


@pytest.mark.parametrize(("failed", "tried"), [(0, 1), (0, 50), (1, 50), (7, 40), (40, 40)])
def test_the_bound_is_the_exact_one(failed: int, tried: int):
    # Two-sided at 90 % has 5 % on either side.
    exact = binomtest(failed, tried).proportion_ci(0.9, method="exact")
    assert isclose(upper_bound(failed, tried), exact.high)


def test_without_a_failure_the_bound_is_nearly_three_by_the_count():
    assert 2.98 / 1000 < upper_bound(0, 1000) < 3 / 1000
    assert upper_bound(0, 0) == 1


def campaign(fails: int | None = None, attempts: int | None = None) -> Campaign:
    """Every attempt leaves a file; one fails."""

    @contextmanager
    def prepare(shared: Path) -> Iterator[Attempt]:
        (shared / "made").write_text("once")

        def attempt(seed: int, folder: Path) -> Outcome:
            (folder / "left").write_text((shared / "made").read_text())
            assert seed != fails, "broken"
            return Outcome(tried=2, note=f"note {seed}")

        yield attempt

    return Campaign("R0", "a promise", "blows", 10, prepare, attempts)


def test_a_campaign_ends_with_its_attempts_and_keeps_what_failed(tmp_path: Path):
    entries = list(attack(campaign(fails=1, attempts=4), tmp_path, 60))
    assert [entry.seed for entry in entries] == [0, 1, 2, 3]
    assert [(entry.tried, entry.failed) for entry in entries] == [(2, 0), (1, 1), (2, 0), (2, 0)]
    assert "AssertionError: broken" in entries[1].note
    assert read_journal(tmp_path / "journal.jsonl") == entries
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed-1", "journal.jsonl"]
    assert (tmp_path / "failed-1" / "left").read_text() == "once"
    assert str(tally(entries)) == "1 of 7 failed, rate below 52.1 % at 95 %"


def test_a_killed_campaign_goes_on_where_it_was(tmp_path: Path):
    going = attack(campaign(attempts=5), tmp_path, 60)
    first = [next(going), next(going)]
    going.close()
    journal = tmp_path / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"seed":2,"tri')  # as a kill leaves it
    assert read_journal(journal) == first

    rest = list(attack(campaign(attempts=5), tmp_path, 60))
    assert [entry.seed for entry in rest] == [2, 3, 4]
    assert read_journal(journal) == [*first, *rest]
    assert not list(attack(campaign(attempts=5), tmp_path, 60))


def test_what_was_spent_before_a_kill_counts(tmp_path: Path):
    (tmp_path / "journal.jsonl").write_text(
        '{"seed":0,"tried":1,"failed":0,"note":"","seconds":9.5,"ended":"2026-01-01T00:00:00"}\n'
    )
    assert not list(attack(campaign(), tmp_path, 9))
    assert len(list(attack(campaign(attempts=2), tmp_path, 10))) == 1


def test_every_campaign_loads():
    assert "builds" in names()
    # Each promise has one, but for that of the border, which is fuzzed part by part, and that of
    # bytes: the same when made, noticed when changed.
    codes = Counter(load(name).code for name in names())
    assert {code: n for code, n in codes.items() if n > 1} == {
        "R5": sum(name.startswith("fuzz_") for name in names()),
        "R8": 2,
    }
    with pytest.raises(InputError, match="unknown campaign `bilds`") as error:
        load("bilds")
    assert error.value.hint == "did you mean `builds`?"
