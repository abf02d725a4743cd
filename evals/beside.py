"""What stands beside an arm: the control drawn for it, and in how many rows its variant is another
than the baseline's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataset_builder.artifacts import artifacts_root
from dataset_builder.diff import train_kinds
from evals.arms import LoadedArm
from finetune.run import Run


def controlled(arms: Sequence[LoadedArm]) -> Iterator[tuple[LoadedArm, LoadedArm]]:
    """Each arm that a control was drawn for, and that control; of several arms of the variant, one
    under the control's preset where that is there.
    """
    for control in arms:
        said = control.runs[0].manifest.recipe.get("control") if control.runs else None
        targets = [arm for arm in arms if arm.runs and said and _recipe(arm) == said.get("recipe")]
        same = [arm for arm in targets if _preset(arm) == _preset(control)]
        for target in (same or targets)[:1]:
            yield target, control


def matched_in(control: LoadedArm) -> str:
    """What a control matches its target in: rows or words."""
    matched: str = control.runs[0].manifest.recipe["control"]["match"]
    return matched


def overlap(arm: LoadedArm, baseline: LoadedArm) -> dict[str, Any] | None:
    """In how many training rows the arm's variant and the baseline's differ; None of what was not
    trained here. Where that cannot be said, `reason` tells why.
    """
    if not arm.runs or not baseline.runs:
        return None
    ours, theirs = arm.runs[0], baseline.runs[0]
    found: dict[str, Any] = {
        "arm": arm.label,
        "baseline": baseline.label,
        "rows": ours.manifest.splits["train"].rows,
        "baseline_rows": theirs.manifest.splits["train"].rows,
    }
    if ours.manifest.form != theirs.manifest.form:
        return found | {"reason": f"{ours.manifest.form}, not {theirs.manifest.form}"}
    place, other = _train(ours), _train(theirs)
    if not (place.is_file() and other.is_file()):
        return found | {"reason": "a variant is not on this machine"}
    kinds = train_kinds(other, place, ours.manifest.form)
    return found | {
        "same": kinds.same,
        "rewritten": kinds.rewritten,
        "only_arm": kinds.only_b + kinds.other_reply_b,
        "only_baseline": kinds.only_a + kinds.other_reply_a,
    }


def _train(run: Run) -> Path:
    build = f"{run.manifest.name}-{run.manifest.digest[:12]}"
    return artifacts_root() / "variants" / build / "train.parquet"


def _recipe(arm: LoadedArm) -> dict[str, Any]:
    return arm.runs[0].manifest.recipe


def _preset(arm: LoadedArm) -> str:
    return arm.runs[0].preset_digest
