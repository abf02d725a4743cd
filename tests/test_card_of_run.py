"""A run's model card gets what evaluations and comparisons say of it, and keeps its own words."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from msgspec.structs import replace as replaced

from dataset_builder.artifacts import read_json, write_json
from dataset_builder.card import card as dataset_card
from dataset_builder.card_figures import funnel_table, splits_table
from dataset_builder.errors import InputError
from dataset_builder.fit import Fit
from evals.arms import load_answers
from evals.tables import Comparison
from finetune.card import model_card
from finetune.run import load_run
from reports.__main__ import app
from reports.card import BEGIN, END, SUITES
from tests.hostile import MARKUP
from tests.hostile_terminal import PAYLOADS
from tests.reports_fixture import PROMPTS, World, write_artifacts

WRITTEN = """---
library_name: peft
license: mit
model-index:
- name: mine
  results:
  - task:
      type: text-generation
    dataset:
      name: Somebody's
      type: somebody/suite
    metrics:
    - type: accuracy
      value: 0.5
---

# My words

They stay.

## Limits

These too.
"""


def call(*arguments: str) -> None:
    app(list(arguments), result_action="return_value")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was evaluated and compared, with a card."""
    write_artifacts(tmp_path, World(PROMPTS, (20, 50, None), seeds=2))
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    directory = next(tmp_path.glob("runs/*/concise_best-*-s0"))
    (directory / "adapter").mkdir()
    (directory / "adapter" / "README.md").write_text(WRITTEN, encoding="utf-8")
    return directory


def test_the_figures_go_into_the_card_and_its_own_words_stay(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    call("card", str(run))
    path = run / "adapter" / "README.md"
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    for words in ("# My words\n\nThey stay.\n", "\n## Limits\n\nThese too.\n", "license: mit\n"):
        assert words in text
    assert text.index("They stay") < text.index(BEGIN) < text.index(END) < text.index("## Limits")
    assert "| Violations | 20 words | 50 words | no limit |" in text
    for name in ("this model", "base model", "human reply", "one word", "base, cut at limit"):
        assert f"| {name} |" in text
    assert "* `demo`: **Cannot tell `concise_best` from `full`.**" in text


def test_refreshing_again_changes_nothing(run: Path):
    path = run / "adapter" / "README.md"
    call("card", str(run))
    once = path.read_text(encoding="utf-8")
    call("card", str(run))
    assert path.read_text(encoding="utf-8") == once


def test_the_model_index_holds_each_score_and_leaves_others_alone(run: Path):
    call("card", str(run))
    found = ModelCard.load(run / "adapter" / "README.md").data.eval_results
    assert found is not None
    assert [each.dataset_type for each in found if not each.dataset_type.startswith(SUITES)] == [
        "somebody/suite"
    ]
    ours = {
        each.metric_type: each.metric_value
        for each in found
        if each.dataset_type != "somebody/suite"
    }
    (evaluation,) = run.glob("evals/*")
    values = load_answers(evaluation)["run"].values
    for limit in (20, 50):
        broken = [value for (_, at), value in values["violation"].items() if at == limit]
        assert ours[f"violation_{limit}"] == pytest.approx(sum(broken) / len(broken), abs=1e-4)
    assert {name.rpartition("_")[0] for name in ours} == {"violation", "overshoot", "relevance"}


def test_a_scorer_whose_gate_failed_is_in_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_artifacts(tmp_path, World(PROMPTS, (20,), relevance_passed=False))
    monkeypatch.setenv("ARTIFACTS", str(tmp_path))
    run = next(tmp_path.glob("runs/*/full-*"))
    card = tmp_path / "card.md"
    card.write_text("No metadata yet.\n", encoding="utf-8")
    call("card", str(run), "--file", str(card))
    text = card.read_text(encoding="utf-8")
    assert "No metadata yet." in text
    assert "Relevance" not in text
    assert "model-index" in text


def test_hostile_text_of_a_comparison_is_text_in_a_card(run: Path):
    path = next(run.parents[2].glob("comparisons/*/comparison.json"))
    comparison = read_json(path, Comparison)
    payloads = [each for each in [*MARKUP, *PAYLOADS] if not re.search("[\ud800-\udfff]", each)]
    for place, payload in enumerate(payloads):
        said = f"Cannot tell `concise_best` from `{payload}`: {payload}"
        other = path.parents[1] / f"other{place}"
        other.mkdir()
        notes = {"sentences": {"concise_best": said}}
        write_json(replaced(comparison, name=payload, notes=notes), other / "comparison.json")
    call("card", str(run))
    text = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    section = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", section)
    lines = [line for line in section.splitlines() if line.startswith("* ")]
    assert len(lines) == len(payloads) + 1
    for line in lines:
        assert line.count("`") % 2 == 0
        outside = " ".join(line.split("`")[::2])
        # Whatever could open markup has lost its edge.
        assert re.search(r"(?<!\\)[<\[|]", outside) is None


def test_a_run_without_an_evaluation_or_a_card_is_refused(run: Path):
    with pytest.raises(InputError, match="cannot be read"):
        call("card", str(run), "--file", str(run / "none.md"))
    with pytest.raises(InputError, match="of one run, and 2 were named"):
        call("card", "full", "--file", "x.md")
    with pytest.raises(InputError, match="no run is named"):
        call("card")
    (evaluation,) = run.glob("evals/*/eval.json")
    evaluation.unlink()
    with pytest.raises(InputError, match="was not evaluated"):
        call("card", str(run))


def test_the_cards_of_a_variant_and_of_a_model_hold_the_same_figures(run: Path):
    record = load_run(run)
    preset = {
        "template": "chatml",
        "base": {"quantization": "nf4"},
        "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": "all"},
        "training": {"batch": 8, "learning_rate": 1e-4, "schedule": "cosine"},
    }
    model = model_card(
        replaced(record, preset=preset, device={"type": "cpu"}), read_json(run / "fit.json", Fit)
    )
    data = dataset_card(record.manifest)
    for figures in (splits_table(record.manifest), funnel_table(record.manifest)):
        assert f"\n{figures}\n" in model
        assert f"\n{figures}\n" in data
