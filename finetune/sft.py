"""QLoRA supervised fine-tuning: TRL's trainer over token rows in their final order.

What it would do in silence is settled before it starts, so that it neither cuts, drops, shuffles
nor renders anything, and afterwards it is asked whether it kept the rows.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from finetune import launch
from finetune.adapter import adapter_config, settle
from finetune.arguments import arguments, refuse_changed_rows
from finetune.route import Route, asked
from finetune.rows import IGNORED, dataset_of

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
    """TRL's trainer over the planned rows, with its own reports off but those to `trackers`.

    It computes as `route` says, as the preset does without one; `report` gets a line where the fast
    path cannot be taken.

    Raises RuntimeError where it changed the rows.
    """
    from transformers import PrinterCallback
    from trl import SFTConfig

    from finetune.model import pick_precision
    from finetune.trainer import PackedTrainer, take_route

    route = route or asked(plan.preset)
    precision = pick_precision(plan.preset.base, device)
    trainer = PackedTrainer(
        model=model,
        args=SFTConfig(
            **arguments(plan, device, precision, route, trackers),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=dataset_of(plan.rows, plan.order),
        processing_class=plan.tokenizer,
        peft_config=adapter_config(plan, model),
    )
    trainer.remove_callback(PrinterCallback)
    settle(trainer.model)
    kept = trainer.train_dataset
    labels = kept.with_format("arrow")[:]["labels"].combine_chunks().flatten()
    refuse_changed_rows(len(kept), pc.sum(pc.not_equal(labels, IGNORED)).as_py(), plan)
    held = plan.validation_rows
    own = range(launch.rank(), len(held), launch.processes())
    trainer.validation = dataset_of(held, own)
    take_route(trainer, plan.preset, device, precision, route, report)
    return trainer
