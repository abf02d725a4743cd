"""Direct preference optimisation: pairs, on top of a run's adapter, which is the reference too.

The adapter of that run is trained further, so the exported one is whole. What its answers were
worth at the start is computed once: no second model, no second adapter.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import launch
from finetune.adapter import adapter_config, settle, start_from
from finetune.arguments import arguments, refuse_changed_rows
from finetune.pairs import PairCollator, dataset_of_pairs
from finetune.route import Route, asked
from finetune.rows import lengths_of

if TYPE_CHECKING:
    from finetune.plan import Plan


def make_trainer(
    plan: "Plan",
    model: Any,
    device: Any,
    trackers: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
    route: Route | None = None,
) -> Any:
    """TRL's trainer over the planned pairs, at the parent's adapter, its reference not known yet.

    As `finetune.sft.make_trainer`. Raises RuntimeError where it changed the rows, or where the
    adapter is not the parent's.
    """
    from transformers import PrinterCallback
    from trl import DPOConfig

    from finetune.model import pick_precision
    from finetune.pair_trainer import PairTrainer
    from finetune.trainer import take_route

    assert plan.preset.dpo
    assert plan.parent_adapter
    route = route or asked(plan.preset)
    precision = pick_precision(plan.preset.base, device)
    trainer = PairTrainer(
        model=model,
        args=DPOConfig(
            **arguments(plan, device, precision, route, trackers),
            beta=plan.preset.dpo.beta,
            loss_type=["sigmoid"],
            disable_dropout=True,  # the base's own too: the reference was computed without
            remove_unused_columns=False,
        ),
        train_dataset=dataset_of_pairs(plan.rows, plan.order),
        data_collator=PairCollator(plan.tokenizer.pad_token_id),
        processing_class=plan.tokenizer,
        peft_config=adapter_config(plan, model),
    )
    trainer.remove_callback(PrinterCallback)
    settle(trainer.model)
    start_from(trainer.model, plan.parent_adapter)
    kept = trainer.train_dataset
    trained = sum(len(ids) for side in ("chosen_ids", "rejected_ids") for ids in kept[side])
    refuse_changed_rows(len(kept), trained, plan)
    trainer.validation = dataset_of_pairs(
        plan.validation_rows,
        range(launch.rank(), len(plan.validation_rows), launch.processes()),
        first=len(plan.rows),
    )
    take_route(trainer, plan.preset, device, precision, route, report)
    return trainer


def begin(
    trainer: Any, plan: "Plan", checkpoint: Path | None, batch: int, say: Callable[[str], None]
) -> None:
    """Give the trainer its reference: the one that `checkpoint` holds, else computed now."""
    from finetune.reference import REFERENCE, load, reference_of

    if checkpoint:
        trainer.data_collator.reference = load(checkpoint / REFERENCE)
        return
    pairs = [*plan.rows, *plan.validation_rows]
    places = sorted({*plan.order, *range(len(plan.rows), len(pairs))})
    say(f"computing what the start gives the answers of {len(places):,} pairs, once")
    trainer.data_collator.reference = reference_of(
        trainer,
        lambda some: dataset_of_pairs(pairs, some),
        [max(lengths_of(pair)) for pair in pairs],
        places,
        batch,
    )
