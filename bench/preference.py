"""`just bench preference`: DPO of adapters on an NF4 base, against TRL as its users run it.

    python -m bench.preference MODEL [--preset NAME] [--rows VARIANT] [--only NAME …]
                                     [--window SECONDS] [--seconds SECONDS] [--batch N] [--tiny]

MODEL is `package:NAME` or a folder with a causal language model's files (`bench/random_phi2.py`,
`bench.tiny`). Every contender goes on from one and the same adapter, sees the same pairs in the
same order, in the same batches at the same rate of learning, in a process of its own: a window of
steady steps after the first three. Pairs are random, of 256 tokens a side, or with `--rows` a
variant's of the form `pairs`, fitted as the preset says. Tokens are real ones, of both sequences,
once a step, whoever computes them twice. Where the reference is computed beforehand, `each once` is
the ratio with that pass counted in, for a run that sees each pair once. The losses of the first ten
steps must agree.

treetune comes first, then TRL's defaults, so that what was promised has its figure early. A part
takes at most `--seconds` (150), its start among them: its window ends with them. What a part found
is printed as it ends, with every ratio that can be said by then, and goes to
`$OUT/preference.jsonl`.

On a GPU host (bench/gpu_host.sh), about 4 minutes on one H100 for SmolLM2's shapes, 7 for Phi-2's,
of which the first two parts take a half:

    python3 -m bench.preference MODEL --preset smollm2-dpo --window 30
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.clock import Clock
from bench.parts import Part, keep, run_part, tell
from bench.rows import Rows, random_pairs
from bench.train import Setting, between_previews, packed_base, plan_of, targets_of

COMPARED = 10  # steps whose mean loss is compared; TRL logs the first and every tenth
# Seconds that a part leaves of what it may take, to end by itself.
SPARE = 10.0
RATE = 1e-4  # of learning, constant: the losses of ten steps should move
# How far the mean loss may be from TRL's, of 0.69 at the start: the noise of bf16.
TOLERANCE = 0.02


class Pairs(Setting):
    """What all contenders of one run share."""

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        self.count = asked.pairs
        window = min(asked.window, asked.seconds)
        super().__init__(model_folder(asked.model), asked.preset, asked.rows, window)
        self.window, self.batch, self.out = asked.window, asked.batch, out
        self.seconds = asked.seconds - SPARE

    def random(self, vocabulary: int, examples: int) -> Rows:
        return random_pairs(vocabulary, examples, self.count)

    def clock(self, losses: dict[int, float], beside: dict[str, Any]) -> Clock:
        """Tells what was found so far, the losses and what stands `beside` them with it."""
        return Clock(
            self.window,
            self.batch,
            self.rows,
            fewest=COMPARED,
            seconds=self.seconds,
            tell=lambda found: tell(found | compared(losses) | beside),
        )

    def config(self) -> Any:
        from peft import LoraConfig

        lora = self.preset.lora
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=list(targets_of(self.model)),
        )

    def start(self, model: Any) -> Path:
        """The folder of an adapter that does something, equal for all."""
        import torch
        from safetensors.torch import save_file

        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in targets_of(self.model):
                sizes = {
                    "A": (self.preset.lora.r, module.in_features),
                    "B": (module.out_features, self.preset.lora.r),
                }
                for part, shape in sizes.items():
                    drawn = torch.randn(shape, generator=generator) / shape[1] ** 0.5
                    drawn *= 0.05 if part == "B" else 1
                    tensors[f"base_model.model.{name}.lora_{part}.weight"] = drawn
        save_file(tensors, self.out / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config().save_pretrained(self.out)
        return self.out


def model_folder(name: str) -> Path:
    """The folder of a model's files, made ready where `name` is a package's."""
    if not name.startswith("package:"):
        return Path(name)
    from finetune.base import ready_base
    from finetune.preset import Base

    return ready_base(Base(model=name)).directory


def listening(losses: dict[int, float]) -> Any:
    """A callback that keeps the loss that is logged at each step."""
    from transformers import TrainerCallback

    class Listening(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                losses[state.global_step] = float(logs["loss"])

    return Listening()


def compared(losses: dict[int, float]) -> dict[str, Any]:
    """The loss of the first step and the mean of those that are compared; None where a part ended
    before. A trainer that logs every tenth step logs their mean since the last that it logged.
    """
    first, tenth = losses.get(1), losses.get(COMPARED)
    if first is None or tenth is None:
        return {"first_loss": first, "loss": None}
    if 2 in losses:
        return {"first_loss": first, "loss": sum(losses[n + 1] for n in range(COMPARED)) / COMPARED}
    return {"first_loss": first, "loss": (first + tenth * (COMPARED - 1)) / COMPARED}


def trl(one: Pairs, micro: int, **options: Any) -> dict[str, Any]:
    """TRL's DPOTrainer as its documentation shows it: an adapter that was trained before, TRL's own
    copy of it the reference.
    """
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    from finetune.pairs import dataset_of_pairs

    class Unprepared(DPOTrainer):
        """Takes pairs that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
            return dataset

    losses: dict[int, float] = {}
    beside: dict[str, Any] = {}
    clock = one.clock(losses, beside)
    loaded = packed_base(one.model, one.device)
    adapted = PeftModel.from_pretrained(loaded, str(one.start(loaded)), is_trainable=True)
    # The first pass over the pairs, in whole batches, as an epoch that comes again.
    distinct = len(set(one.rows.order)) // one.batch * one.batch
    epoch = one.rows.order[: distinct or len(one.rows.order)]
    began = time.perf_counter()
    trainer = Unprepared(
        model=adapted,
        args=DPOConfig(
            output_dir=str(one.out),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=one.batch // micro,
            max_steps=100_000,
            max_length=one.preset.length,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=one.preset.dpo.beta,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=one.device.type == "cpu",
            train_sampling_strategy="sequential",
            logging_first_step=True,
            **options,
        ),
        train_dataset=dataset_of_pairs(one.rows.fitted, epoch),
        processing_class=one.tokenizer,
    )
    made = time.perf_counter() - began
    beside["reference"] = made / len(epoch) if options.get("precompute_ref_log_probs") else 0.0
    # First what hears of a step's loss, then what tells of it.
    trainer.add_callback(listening(losses))
    trainer.add_callback(clock.callback())
    trainer.train()
    return clock.result() | compared(losses) | beside


def treetune(one: Pairs, micro: int, *, fast: bool = True) -> dict[str, Any]:
    """treetune's own trainer, as a run makes it, without checkpoints or previews."""
    import msgspec

    from finetune import dpo
    from finetune.model import load_base

    replace, preset = msgspec.structs.replace, one.preset
    preset = replace(
        preset,
        lora=replace(preset.lora, dropout=0.0),
        training=replace(
            preset.training,
            batch=one.batch,
            micro_batch=micro,
            learning_rate=RATE,
            schedule="constant",
            warmup=0.0,
            gradient_checkpointing=False,
            checkpoint_steps=10**6,
            fast=fast,
        ),
    )
    losses: dict[int, float] = {}
    beside: dict[str, Any] = {}
    clock = one.clock(losses, beside)
    loaded, _ = load_base(one.files, preset.base, one.device)
    plan = plan_of(one, preset, one.batch, one.out, parent_adapter=one.start(loaded))
    trainer = dpo.make_trainer(plan, loaded, one.device, report=print)
    trainer.pauses = between_previews
    began = time.perf_counter()
    dpo.begin(trainer, plan, None, micro, lambda line: None)
    beside["reference"] = (time.perf_counter() - began) / len(set(plan.order))
    beside["fast"] = trainer.is_fast
    trainer.add_callback(listening(losses))
    trainer.add_callback(clock.callback())
    trainer.train()
    return clock.result() | compared(losses) | beside


CONTENDERS: dict[str, Any] = {
    "treetune": lambda one: treetune(one, one.batch),
    # TRL's own micro-batch is 8: the reference computed at every step, activations recomputed.
    "trl-defaults": lambda one: trl(one, min(8, one.batch)),
    "trl-best": lambda one: trl(
        one, one.batch, gradient_checkpointing=False, precompute_ref_log_probs=True
    ),
    "treetune-usual": lambda one: treetune(one, one.batch, fast=False),
}


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(
        prog="just bench preference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    parser.add_argument("--preset", default="phi2-dpo", help="for LoRA, beta, length, template")
    parser.add_argument("--rows", help="a built variant of pairs, in place of random ones")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--window", type=float, default=60.0, help="seconds of steady steps")
    parser.add_argument("--seconds", type=float, default=150.0, help="that a part may take")
    parser.add_argument("--batch", type=int, default=16, help="pairs an optimizer step")
    parser.add_argument("--pairs", type=int, default=512, help="random pairs that come again")
    parser.add_argument("--tiny", action="store_true", help="two contenders, a second each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.window, asked.batch, asked.pairs = 1.0, 4, 8
        asked.only = ["treetune", "trl-defaults"]
    if asked.one:
        with tempfile.TemporaryDirectory() as out:
            tell(CONTENDERS[asked.one](Pairs(asked, Path(out))))
        return
    sys.exit(0 if table(asked) else 1)


def table(asked: argparse.Namespace) -> bool:
    """Lines for each part as it ends; whether all are whole and their losses agree."""
    parts: list[Part] = []
    is_well = True
    for name in asked.only:
        part = run_part(name, arguments_of(asked, name), asked.seconds)
        keep("preference", part, model=asked.model, preset=asked.preset, batch=asked.batch)
        parts.append(part)
        for line in lines_of(part, parts):
            print(line, flush=True)
        is_well &= not part.trouble and agrees(part.found, first_of(parts).found) is not False
    return is_well


def arguments_of(asked: argparse.Namespace, name: str) -> list[str]:
    """Of the process that one part is."""
    arguments = ["-m", "bench.preference", asked.model, "--one", name, "--preset", asked.preset]
    arguments += ["--window", str(asked.window), "--seconds", str(asked.seconds)]
    arguments += ["--batch", str(asked.batch), "--pairs", str(asked.pairs)]
    return arguments + (["--rows", asked.rows] if asked.rows else [])


def lines_of(part: Part, parts: Sequence[Part]) -> list[str]:
    """What is said of a part, and the ratios that it is the last to be in."""
    lines = []
    if part.found:
        lines.append(_line(part, first_of(parts)))
    if part.trouble:
        what = "; its line above is of what it had done by then" if part.found else ""
        lines.append(f"{part.name:16} {part.trouble}{what}")
    ours = [each for each in parts if each.name.startswith("treetune") and each.found]
    theirs = [each for each in parts if each.name.startswith("trl") and each.found]
    for one in ours:
        for other in theirs:
            if part not in (one, other):
                continue
            ratio = one.found["examples_per_second"] / other.found["examples_per_second"]
            once = seconds_a_pair(other.found) / seconds_a_pair(one.found)
            lines.append(f"{one.name} against {other.name}: {ratio:.1f}x (each once {once:.1f}x)")
    return lines


def _line(part: Part, first: Part) -> str:
    one = part.found
    losses = "losses not compared"
    if (found := agrees(one, first.found)) is not None:
        losses = f"loss {one['first_loss']:.4f} at first, {one['loss']:.4f} over {COMPARED} steps"
        if part is not first:
            apart = abs(one["loss"] - first.found["loss"])
            losses += f" ({'agrees' if found else 'DIFFERS'}, {apart:.4f} apart)"
    return (
        f"{part.name:16} {one['tokens_per_second']:9,.0f} tokens/s,"
        f" {one['examples_per_second']:6.1f} pairs/s, {losses},"
        f" {one['gigabytes']:5.1f} GB, first step after {one['first_step']:.0f} s,"
        f" {one['steps']} steps in {one['window']:.0f} s"
    )


def first_of(parts: Sequence[Part]) -> Part:
    """The first part that has losses, whose the others' are held against."""
    return next((each for each in parts if each.found.get("loss") is not None), parts[0])


def agrees(one: dict[str, Any], first: dict[str, Any]) -> bool | None:
    """Whether the losses of the first steps do; None where one of them has none."""
    losses = [each.get("loss") for each in (one, first)]
    if None in losses:
        return None
    return abs(losses[0] - losses[1]) <= TOLERANCE


def seconds_a_pair(one: dict[str, Any]) -> float:
    """Of a run that sees each pair once, its reference with it."""
    return 1 / float(one["examples_per_second"]) + float(one["reference"])


if __name__ == "__main__":
    main()
