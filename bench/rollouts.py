"""`just bench rollouts`: a GRPO step of adapters on an NF4 base, against TRL as its users run it.

    python -m bench.rollouts MODEL [--preset NAME] [--rows VARIANT] [--only NAME …]
                                   [--steps N] [--batch N] [--tiny]

MODEL is `package:NAME` or a folder with a causal language model's files. Every contender begins
from the same fresh adapter and sees the same prompts in the same order, as many answers to each and
as many prompts a step, at the same rate of learning, in a process of its own: the seconds of N
steps after the first three. TRL's reward is the words alone; treetune's is the one that ships, its
quality with it, and its share of a step that is generation is said. Prompts are a variant's of the
form `prompts`, or made up.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.train import between_previews, packed_base, plan_of

WARM = 3  # steps before the clock
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
        self.files = ready_base(self.preset.base)
        self.template = template_of(self.preset, self.files)
        self.tokenizer = load_tokenizer(self.files, self.template)
        examples = asked.batch * (WARM + asked.steps + 1)
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


class Steps:
    """The seconds of the steps after the first ones."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began, self.ended, self.done = steps, 0.0, 0.0, 0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        steps = self

        class Timed(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step in (WARM, WARM + steps.steps):
                    if torch.cuda.is_available():
                        torch.cuda.synchronize()
                    steps.began, steps.ended = steps.ended, time.perf_counter()
                control.should_training_stop |= state.global_step == WARM + steps.steps

        return Timed()

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self.ended - self.began) / self.steps


def trl(one: Setting, micro: int, **options: Any) -> dict[str, Any]:
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
    clock, told = Steps(one.steps), listening()
    trainer.add_callback(clock.callback())
    trainer.add_callback(told)
    trainer.train()
    lengths = [each["completions/mean_length"] for each in told.logs if "reward" in each]
    return {"seconds": clock.seconds, "tokens": sum(lengths) / max(1, len(lengths))}


def treetune(one: Setting, **grpo: Any) -> dict[str, Any]:
    """treetune's own trainer, as a run makes it, without checkpoints or previews."""
    import msgspec

    from finetune import grpo as method
    from finetune.model import load_base

    preset = msgspec.structs.replace(
        one.preset, grpo=msgspec.structs.replace(one.preset.grpo, **grpo)
    )
    loaded, _ = load_base(one.files, preset.base, one.device)
    plan = plan_of(one, preset, one.batch, one.out, parent_adapter=one.start(loaded))
    trainer = method.make_trainer(plan, loaded, one.device, report=print)
    trainer.pauses = between_previews
    clock, generating = Steps(one.steps), Generating(trainer)
    trainer.add_callback(generating.callback())
    trainer.add_callback(clock.callback())
    trainer.train()
    counts = [trainer.counted(step) for step in range(WARM + 1, WARM + one.steps + 1)]
    answers = one.batch * one.grpo.group * one.steps
    return {
        "seconds": clock.seconds,
        "tokens": sum(trained for _, trained in counts) / answers,
        "generation": generating.seconds / (clock.seconds * one.steps),
        "fast": trainer.is_fast,
    }


class Generating:
    """What answers took between the clock's two ends."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.before = trainer, 0.0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        one = self

        class Noted(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == WARM:
                    one.before = one.trainer.generating

        return Noted()

    @property
    def seconds(self) -> float:
        """Of all steps that were timed."""
        return float(self.trainer.generating - self.before)


def listening() -> Any:
    """A callback that keeps what is logged."""
    from transformers import TrainerCallback

    class Listening(TrainerCallback):
        def __init__(self) -> None:
            self.logs: list[dict[str, Any]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            self.logs.append(dict(logs))

    return Listening()


CONTENDERS: dict[str, Any] = {
    # TRL's own micro-batch is 8 answers; its step generates for all of them at once.
    "trl-defaults": lambda one: trl(one, min(8, one.batch * one.grpo.group)),
    "trl-best": lambda one: trl(one, one.batch * one.grpo.group, gradient_checkpointing=False),
    # One rollout a step, as TRL; as the preset says; and more steps of one rollout.
    "treetune-1": lambda one: treetune(one, rollout_steps=1),
    "treetune": treetune,
    "treetune-4": lambda one: treetune(one, rollout_steps=4),
}


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench rollouts", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--preset", default="smollm2-grpo")
    parser.add_argument("--rows", help="a built variant of prompts, in place of made-up ones")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="that are timed; of a multiple of 4 every contender's are whole rollouts",
    )
    parser.add_argument("--batch", type=int, default=16, help="prompts an optimizer step")
    parser.add_argument("--tiny", action="store_true", help="two contenders, two steps each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.steps, asked.batch, asked.only = 2, 2, ["trl-defaults", "treetune-1"]
    if asked.one:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(CONTENDERS[asked.one](Setting(asked, Path(out)))))
        return
    sys.exit(0 if table(asked) else 1)


def table(asked: argparse.Namespace) -> bool:
    """A line for each contender against the first; whether all of them ran."""
    first: dict[str, Any] | None = None
    is_well = True
    for name in asked.only:
        one = contend(asked, name)
        if one is None:
            is_well = False
            continue
        first = first or one
        share = f", {one['generation']:.0%} of it generation" if "generation" in one else ""
        ratio = first["seconds"] / one["seconds"]
        print(
            f"{name:14} {one['seconds']:7.2f} s a step{share}; {ratio:.1f}x;"
            f" answers of {one['tokens']:.0f} tokens",
            flush=True,
        )
    return is_well


def contend(asked: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """What a contender did in a process of its own; None where it failed, which is printed."""
    command = [sys.executable, "-m", "bench.rollouts", asked.model, "--one", name]
    command += ["--preset", asked.preset, "--steps", str(asked.steps), "--batch", str(asked.batch)]
    command += ["--rows", asked.rows] if asked.rows else []
    command += ["--tiny"] if asked.tiny else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:14} failed: {done.stderr.strip()[-1500:]}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
