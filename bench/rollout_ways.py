"""The contenders of `bench.rollouts`: TRL's trainer and treetune's, on one adapter and the same
prompts; what they find goes to `bench.parts.tell`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.clock import Steps
from bench.train import between_previews, packed_base, plan_of

WARM, TRL_WARM = 3, 1  # steps before the clock
RATE = 1e-5  # of learning, constant
_QUESTIONS = (
    "Why is the sky blue?",
    "What do bees make?",
    "How do I boil an egg?",
    "Which planet is closest to the sun?",
    "How long is a marathon?",
)
_LIMITS = (20, 50, 100)


class Setting:
    """What all contenders of one run share."""

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        import msgspec

        from bench.rows import real_rows
        from dataset_builder.fit import fit_prompts
        from finetune.base import ready_base
        from finetune.model import load_tokenizer, pick_device
        from finetune.plan import template_of
        from finetune.preset import load_preset

        replace, loaded = msgspec.structs.replace, load_preset(asked.preset)
        assert loaded.grpo
        self.grpo = loaded.grpo
        if asked.tiny:
            self.grpo = replace(loaded.grpo, tokens=24, group=4)
        is_packaged = str(asked.model).startswith("package:")
        self.preset = replace(
            loaded,
            base=replace(loaded.base, model=str(asked.model), revision=None),
            grpo=self.grpo,
            template=loaded.template if is_packaged else "auto",
            training=replace(
                loaded.training,
                batch=asked.batch,
                micro_batch=min(asked.batch, loaded.training.micro_batch),
                learning_rate=RATE,
                schedule="constant",
                warmup=0.0,
                gradient_checkpointing=False,
                checkpoint_steps=10**6 * self.grpo.rollout_steps,
            ),
        )
        self.device, self.out, self.steps, self.batch = pick_device(), out, asked.steps, asked.batch
        self.trl_steps = asked.trl_steps
        self.files = ready_base(self.preset.base)
        self.template = template_of(self.preset, self.files)
        self.tokenizer = load_tokenizer(self.files, self.template)
        examples = asked.batch * (WARM + 2 * max(asked.steps, *asked.rollout_steps) + 1)
        if asked.rows:
            self.rows = real_rows(asked.rows, self.preset, self.tokenizer, self.template, examples)
        else:
            from bench.rows import Rows
            from dataset_builder.wordings import state_limit

            rows = []
            for n in range(60):
                limit = _LIMITS[n % 3]
                text = state_limit(f"{n}. {_QUESTIONS[n % 5]}", limit, "at_most")
                prompt = [{"role": "user", "content": text}]
                rows.append(
                    {"example_id": f"{n}", "tree_id": f"{n}", "limit": limit, "prompt": prompt}
                )
            fitted, _ = fit_prompts(
                rows,
                self.template,
                self.tokenizer,
                self.preset.length,
                "drop",
                self.grpo.allowed,
                self.grpo.group,
            )
            self.rows = Rows(fitted, [n % len(fitted) for n in range(examples)])

    def config(self) -> Any:
        """The adapter of every contender."""
        from peft import LoraConfig

        lora = self.preset.lora
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
        )

    def start(self, model: Any) -> Path:
        """The folder of a fresh adapter, as a run that it goes on from would leave one."""
        import torch
        from peft import get_peft_model
        from peft.utils import get_peft_model_state_dict
        from safetensors.torch import save_file

        torch.manual_seed(0)
        made = get_peft_model(model, self.config())
        state = get_peft_model_state_dict(made, save_embedding_layers=False)
        save_file({k: v.contiguous().cpu() for k, v in state.items()}, self.out / _ADAPTER)
        made.unload()
        return self.out


_ADAPTER = "adapter_model.safetensors"


def trl(one: Setting, micro: int, **options: Any) -> None:
    """TRL's GRPOTrainer as its documentation shows it, an adapter on a 4-bit base; `micro` answers
    at once.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from dataset_builder.words import count_words
    from finetune.rewards import kept_limit

    def kept(completions: list[str], limit: list[int], **named: Any) -> list[float]:
        return [
            kept_limit(count_words(text), most, True)
            for text, most in zip(completions, limit, strict=True)
        ]

    rows = [one.rows.fitted[place] for place in one.rows.order]
    loaded = packed_base(one.files.directory, one.device)
    answers = one.batch * one.grpo.group
    trainer = GRPOTrainer(
        model=loaded,
        reward_funcs=[kept],
        args=GRPOConfig(
            output_dir=str(one.out),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=answers // micro,
            num_generations=one.grpo.group,
            max_completion_length=one.grpo.tokens,
            max_steps=100_000,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=one.device.type == "cpu",
            shuffle_dataset=False,
            **options,
        ),
        train_dataset=Dataset.from_dict(
            {
                "prompt": [one.tokenizer.decode(row.prompt_ids) for row in rows],
                "limit": [row.limit for row in rows],
            }
        ),
        processing_class=one.tokenizer,
        peft_config=one.config(),
    )
    # What TRL keeps to log of each step, every tenth of which it logs.
    lengths = trainer._metrics["train"]["completions/mean_length"]
    clock = Steps(
        TRL_WARM,
        one.trl_steps,
        1,
        lambda: {"tokens": sum(lengths[TRL_WARM:]) / max(1, len(lengths[TRL_WARM:]))},
    )
    trainer.add_callback(clock.callback())
    trainer.train()


def treetune(
    one: Setting, rollout_steps: int, at_once: int, *, whole: bool = False, keeps: bool = False
) -> None:
    """treetune's own trainer, as a run makes it, without checkpoints or previews; answers are made
    `at_once`, in batches that go on `whole` or not, and what the allocator has is kept or not.
    """
    import msgspec

    from finetune import decode, rollout, slots
    from finetune import grpo as method
    from finetune.model import load_base

    replace = msgspec.structs.replace
    preset = replace(
        one.preset,
        grpo=replace(one.preset.grpo, rollout_steps=rollout_steps),
        training=replace(one.preset.training, checkpoint_steps=10**6 * rollout_steps),
    )
    rollout.ROWS = at_once
    decode.EMPTIES = not keeps
    if whole:
        decode.DROPS = decode.SHARES = False
        slots.STRIDE = 0
    loaded, _ = load_base(one.files, preset.base, one.device)
    plan = plan_of(one, preset, one.batch, one.out, parent_adapter=one.start(loaded))
    trainer = method.make_trainer(plan, loaded, one.device, report=print)
    trainer.pauses = between_previews
    batches: list[dict[str, float]] = []
    watched = {"rolling": 0.0}
    before: dict[str, float] = {}

    def found() -> dict[str, Any]:
        spent = {"generation": trainer.generating, "rolling": watched["rolling"]}
        if not before:
            before.update(spent)
            batches.clear()
            return {}
        seconds = clock.ended - clock.began
        counts = [trainer.counted(WARM + 1 + n) for n in range(clock.done)]
        return {
            "tokens": sum(trained for _, trained in counts)
            / (one.batch * one.grpo.group * clock.done),
            "generation": (spent["generation"] - before["generation"]) / seconds,
            # With answers judged and what the loss is held against read.
            "rolling": (spent["rolling"] - before["rolling"]) / seconds,
            "fast": trainer.is_fast,
            "gigabytes": gigabytes(),
            "batches": batches,
        }

    clock = Steps(WARM, one.steps, rollout_steps, found)
    trainer.add_callback(clock.callback())
    with watching(trainer, watched, batches):
        trainer.train()


@contextmanager
def watching(trainer: Any, spent: dict[str, float], batches: list[dict[str, float]]) -> Iterator:
    """Adds up what rollouts take, and notes each batch of answers: how many, and their tokens."""
    from finetune import rollout

    roll, decode = trainer._roll, rollout.decode

    def rolled(first: int) -> Any:
        began = time.perf_counter()
        made = roll(first)
        wait()
        spent["rolling"] += time.perf_counter() - began
        return made

    def decoded(model: Any, wanted: Sequence[Any], *rest: Any, **named: Any) -> Any:
        wait()
        began = time.perf_counter()
        made = decode(model, wanted, *rest, **named)
        lengths = [len(ids) for ids in made]
        batches.append(
            {
                "answers": len(made),
                "prompt": max(len(each.ids) for each in wanted),
                "longest": max(lengths),
                "mean": round(sum(lengths) / len(lengths), 1),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        return made

    trainer._roll, rollout.decode = rolled, decoded
    try:
        yield
    finally:
        rollout.decode = decode


def wait() -> None:
    """Until the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gigabytes() -> float:
    """The most that torch had allocated."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


# Each is asked with the setting, the steps of a rollout and how many answers are made at once.
CONTENDERS: dict[str, Any] = {
    "treetune": treetune,
    "treetune-whole": partial(treetune, whole=True),
    "treetune-keeps": partial(treetune, keeps=True),
    # TRL's own micro-batch is 8 answers; its step generates for all of them at once.
    "trl-defaults": lambda one, *_: trl(one, min(8, one.batch * one.grpo.group)),
    "trl-best": lambda one, *_: trl(one, one.batch * one.grpo.group, gradient_checkpointing=False),
}
