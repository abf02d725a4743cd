"""A reward model: the base with a fresh adapter and a fresh head that gives an answer one number,
trained on which of two replies people ranked higher.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finetune import launch
from finetune.adapter import adapter_config, settle
from finetune.arguments import arguments, refuse_changed_rows
from finetune.held_pairs import FILE, pair_figures, told_apart, write_scored
from finetune.pairs import PairCollator, dataset_of_pairs
from finetune.route import Route, asked

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
    """TRL's trainer over the planned pairs, at a fresh adapter and a fresh head of the run's seed.

    As `finetune.sft.make_trainer`.
    """
    from transformers import PrinterCallback
    from trl import RewardConfig

    from finetune.model import pick_precision
    from finetune.reward_trainer import ScoringTrainer
    from finetune.scoring import draw_head
    from finetune.trainer import take_route

    route = route or asked(plan.preset)
    precision = pick_precision(plan.preset.base, device)
    options = plan.preset.reward
    draw_head(model, plan.seed)
    trainer = ScoringTrainer(
        model=model,
        args=RewardConfig(
            **arguments(plan, device, precision, route, trackers),
            center_rewards_coefficient=options.center_rewards_coefficient if options else None,
            disable_dropout=False,  # the preset says how much, as in supervised tuning
            remove_unused_columns=False,
        ),
        train_dataset=dataset_of_pairs(plan.rows, plan.order),
        data_collator=PairCollator(plan.tokenizer.pad_token_id),
        processing_class=plan.tokenizer,
        peft_config=adapter_config(plan, model),
    )
    trainer.remove_callback(PrinterCallback)
    settle(trainer.model)
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


def finish(trainer: Any, plan: "Plan", folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write what the held-out pairs were scored, and say what that shows; the notes of run.json.

    After the validation loss was taken, which reads every pair.
    """
    by_place = {place: each for part in launch.of_all(trainer.held) for place, each in part.items()}
    if not launch.is_first():
        return {}
    first = len(plan.rows)
    rewards = [by_place[first + place] for place in range(len(plan.held_pairs))]
    figures = pair_figures(write_scored(plan.held_pairs, rewards, folder / FILE))
    say(f"held-out pairs, of {figures.trees:,} trees:")
    for name, each in told_apart(figures).items():
        say(f"  {name}: {each}")
    return {"held_out_pairs": msgspec.to_builtins(figures)}
