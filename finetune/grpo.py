"""Group relative policy optimisation: prompts with word limits, on top of a run's adapter.

To each prompt a group of answers is drawn from the model as it is; what each is worth
(finetune.rewards) beyond the group's mean makes it likelier or less so.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dataset_builder.artifacts import hash_order
from dataset_builder.manifest import find_tables
from dataset_builder.tables import HELDOUT, read_table
from dataset_builder.template import encode_completions, encode_prompts
from dataset_builder.words import count_words, first_words
from finetune import launch
from finetune.adapter import adapter_config, settle, start_from
from finetune.arguments import arguments
from finetune.gate import Gate, gate
from finetune.rollout import Answerable, Question, others_of, qualities
from finetune.route import Route, asked

if TYPE_CHECKING:
    from finetune.plan import Plan

# Held-out prompts that the quality is tried on before the first step.
GATE_PROMPTS = 64
_ONE_WORD = "Yes."


def make_trainer(
    plan: "Plan",
    model: Any,
    device: Any,
    trackers: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
    route: Route | None = None,
) -> Any:
    """TRL's trainer over the planned prompts, at the parent's adapter, which is its start.

    As `finetune.sft.make_trainer`. Raises RuntimeError where it changed the rows, or where the
    adapter is not the parent's.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig

    from finetune.group_trainer import GroupTrainer
    from finetune.model import pick_precision
    from finetune.trainer import take_route

    settings = plan.preset.grpo
    assert settings
    assert plan.parent_adapter
    route = route or asked(plan.preset)
    precision = pick_precision(plan.preset.base, device)
    shared = arguments(plan, device, precision, route, trackers)
    del shared["max_length"]  # nothing of the length is left to it
    shared["per_device_train_batch_size"] *= settings.group
    trainer = GroupTrainer(
        model=model,
        reward_funcs=[_judged_elsewhere],
        args=GRPOConfig(
            **shared,
            num_generations=settings.group,
            max_completion_length=settings.tokens,
            beta=0.0,  # the start is kept here, not by it
            disable_dropout=True,  # the base's own too: ratios are held against no noise
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_dict({"place": list(range(len(plan.order)))}),
        processing_class=plan.tokenizer,
        peft_config=adapter_config(plan, model),
        plan=plan,
        precision=precision,
        report=report,
    )
    trainer.remove_callback(PrinterCallback)
    settle(trainer.model)
    start_from(trainer.model, plan.parent_adapter)
    trainer.remember_start()
    if len(trainer.train_dataset) != plan.budget.examples_seen:
        raise RuntimeError(
            f"the trainer holds {len(trainer.train_dataset)} rows, not {plan.budget.examples_seen}"
        )
    own = range(launch.rank(), len(plan.validation_rows), launch.processes())
    trainer.validation = Dataset.from_dict({"place": list(own)})
    take_route(trainer, plan.preset, device, precision, route, report)
    return trainer


def _judged_elsewhere(**named: Any) -> list[float]:
    """Stands where TRL wants a reward; answers are judged as they are made (finetune.rollout)."""
    raise RuntimeError("an answer was made by another way than a rollout")


def begin(
    trainer: Any, plan: "Plan", checkpoint: Path | None, batch: int, say: Callable[[str], None]
) -> None:
    """Try the quality on human replies, by the design's rule 7, and say how it did."""
    found = launch.of_first(lambda: quality_gate(trainer, plan))
    trainer.notes["quality_gate"] = msgspec.to_builtins(found)
    if not found.passed:
        say(
            f"the quality that rewards did not pass its gate on {plan.manifest.name}'s held-out"
            f" prompts: {found.reason}. Look at what the run says before you trust its reward"
        )


def quality_gate(trainer: Any, plan: "Plan") -> Gate:
    """Whether the quality ranks a relevant human reply above what wins trivially: its own cut at
    each of the prompts' limits, another prompt's reply of about its length, one word.
    """
    languages = plan.manifest.recipe.get("keep", {}).get("languages") or ["en"]
    table = read_table(find_tables(plan.manifest.tables) / "heldout.parquet", HELDOUT)
    held = [
        row
        for row in table.to_pylist()
        if row["split"] == "validation"
        and row["is_root"]
        and row["lang"] in languages
        and row["replies"]
    ]
    held.sort(key=lambda row: hash_order("gate", row["prompt_id"]))
    held = held[:GATE_PROMPTS]
    limits = sorted({row.limit for row in plan.rows if row.limit is not None})
    words = {row["prompt_id"]: count_words(row["replies"][0]["text"]) for row in held}
    answers = {
        (answerer, row["prompt_id"], limit): text
        for row in held
        for limit in limits or [None]
        for answerer, text in _rivals(row, held, words, limit).items()
    }
    asked = encode_prompts(
        plan.template,
        plan.tokenizer,
        ([{"role": "user", "content": row["question"]}] for row in held),
    )
    questions = dict(zip((row["prompt_id"] for row in held), asked, strict=True))
    texts = sorted({(prompt_id, text) for (_, prompt_id, _), text in answers.items()})
    encoded = encode_completions(
        plan.template, plan.tokenizer, ([{"role": "assistant", "content": t}] for _, t in texts)
    )
    room = plan.preset.length
    known = [
        Question(row["prompt_id"], row["tree_id"], questions[row["prompt_id"]]) for row in held
    ]
    others = {each.name: others_of(each.name, each.tree_id, known) for each in known}
    fitting = [
        (key, Answerable(questions[key[0]], others[key[0]], ids))
        for key, ids in zip(texts, encoded, strict=True)
        if max(map(len, (questions[key[0]], *others[key[0]]))) + len(ids) <= room
    ]
    with trainer.reading():
        made = qualities([each for _, each in fitting], trainer.likelihoods)
    values = dict(zip((key for key, _ in fitting), made, strict=True))
    scored = {
        (answerer, prompt_id, limit): values[prompt_id, text]
        for (answerer, prompt_id, limit), text in answers.items()
        if (prompt_id, text) in values
    }
    return gate("quality", scored, words, limits)


def _rivals(
    row: dict[str, Any], held: Sequence[dict[str, Any]], words: dict[str, int], limit: int | None
) -> dict[str, str]:
    """The human reply to a prompt, and what it must beat."""
    reply = row["replies"][0]["text"]
    found = {"human": reply, "one_word": _ONE_WORD}
    if limit is not None:
        found["human_cut"] = first_words(reply, limit)
    others = [each for each in held if each["tree_id"] != row["tree_id"]]
    if others:
        own = words[row["prompt_id"]]
        like = min(
            others, key=lambda each: (abs(words[each["prompt_id"]] - own), each["prompt_id"])
        )
        found["other_human"] = like["replies"][0]["text"]
    return found
