"""`just bench preference`: DPO of adapters on an NF4 base, against TRL as its users run it.

    python -m bench.preference MODEL [--preset NAME] [--rows VARIANT] [--only NAME …]
                                     [--window SECONDS] [--batch N] [--tiny]

MODEL is a folder with a causal language model's files (`bench/random_phi2.py`, `bench.tiny`). Every
contender goes on from one and the same adapter, sees the same pairs in the same order, in the same
batches at the same rate of learning, in a process of its own: a window of steady steps after the
first three. Pairs are random, of 256 tokens a side, or with `--rows` a variant's of the form
`pairs`, fitted as the preset says. Tokens are real ones, of both sequences, once a step, whoever
computes them twice. Where the reference is computed beforehand, `each once` is the ratio with that
pass counted in, for a run that sees each pair once. The losses of the first ten steps must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rows import Rows, random_pairs
from bench.train import Clock, Setting, between_previews, packed_base, plan_of, targets_of

COMPARED = 10  # steps whose mean loss is compared; TRL logs every tenth
RATE = 1e-4  # of learning, constant: the losses of ten steps should move
# How far the mean loss may be from TRL's, of 0.69 at the start: the noise of bf16.
TOLERANCE = 0.02


class Pairs(Setting):
    """What all contenders of one run share."""

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        self.count = asked.pairs
        super().__init__(asked.model, asked.preset, asked.rows, asked.window)
        self.window, self.batch, self.out = asked.window, asked.batch, out

    def random(self, vocabulary: int, examples: int) -> Rows:
        return random_pairs(vocabulary, examples, self.count)

    def clock(self) -> Clock:
        return Clock(self.window, self.batch, self.rows, fewest=COMPARED)

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


def listening(losses: list[float]) -> Any:
    """A callback that keeps what is logged."""
    from transformers import TrainerCallback

    class Listening(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    return Listening()


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

    clock, losses = one.clock(), []
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
            **options,
        ),
        train_dataset=dataset_of_pairs(one.rows.fitted, epoch),
        processing_class=one.tokenizer,
    )
    made = time.perf_counter() - began
    trainer.add_callback(clock.callback())
    trainer.add_callback(listening(losses))
    trainer.train()
    reference = made / len(epoch) if options.get("precompute_ref_log_probs") else 0.0
    return clock.result() | {"loss": losses[0], "reference": reference}


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
    clock, losses = one.clock(), []
    loaded, _ = load_base(one.files, preset.base, one.device)
    plan = plan_of(one, preset, one.batch, one.out, parent_adapter=one.start(loaded))
    trainer = dpo.make_trainer(plan, loaded, one.device, report=print)
    trainer.pauses = between_previews
    began = time.perf_counter()
    dpo.begin(trainer, plan, None, micro, lambda line: None)
    reference = (time.perf_counter() - began) / len(set(plan.order))
    trainer.add_callback(clock.callback())
    trainer.add_callback(listening(losses))
    trainer.train()
    mean = sum(losses[:COMPARED]) / COMPARED
    return clock.result() | {"loss": mean, "reference": reference, "fast": trainer.is_fast}


CONTENDERS: dict[str, Any] = {
    # TRL's own micro-batch is 8: the reference computed at every step, activations recomputed.
    "trl-defaults": lambda one: trl(one, min(8, one.batch)),
    "trl-best": lambda one: trl(
        one, one.batch, gradient_checkpointing=False, precompute_ref_log_probs=True
    ),
    "treetune": lambda one: treetune(one, one.batch),
    "treetune-usual": lambda one: treetune(one, one.batch, fast=False),
}


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench preference", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--preset", default="phi2-dpo", help="for LoRA, beta, length, template")
    parser.add_argument("--rows", help="a built variant of pairs, in place of random ones")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--window", type=float, default=60.0, help="seconds of steady steps")
    parser.add_argument("--batch", type=int, default=16, help="pairs an optimizer step")
    parser.add_argument("--pairs", type=int, default=512, help="random pairs that come again")
    parser.add_argument("--tiny", action="store_true", help="two contenders, a second each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.window, asked.batch, asked.pairs = 1.0, 4, 8
        asked.only = ["trl-defaults", "treetune"]
    if asked.one:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(CONTENDERS[asked.one](Pairs(asked, Path(out)))))
        return
    sys.exit(0 if table(asked) else 1)


def table(asked: argparse.Namespace) -> bool:
    """A line for each contender against the first; whether all of them ran and their losses
    agree.
    """
    first: dict[str, Any] | None = None
    is_well = True
    for name in asked.only:
        one = contend(asked, name)
        if one is None:
            is_well = False
            continue
        first = first or one
        ratio = one["examples_per_second"] / first["examples_per_second"]
        once = seconds_a_pair(first) / seconds_a_pair(one)
        apart = abs(one["loss"] - first["loss"])
        is_well &= apart <= TOLERANCE
        print(
            f"{name:16} {one['tokens_per_second']:9,.0f} tokens/s {ratio:6.1f}x"
            f" (each once {once:.1f}x), {one['examples_per_second']:6.1f} pairs/s,"
            f" loss of {COMPARED} steps {one['loss']:.4f}"
            f" ({'agrees' if apart <= TOLERANCE else 'DIFFERS'}, {apart:.4f} apart),"
            f" {one['gigabytes']:5.1f} GB, first step after {one['first_step']:.0f} s,"
            f" {one['steps']} steps in {one['window']:.0f} s",
            flush=True,
        )
    return is_well


def seconds_a_pair(one: dict[str, Any]) -> float:
    """Of a run that sees each pair once, its reference with it."""
    return 1 / float(one["examples_per_second"]) + float(one["reference"])


def contend(asked: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """What a contender did in a process of its own; None where it failed, which is printed."""
    command = [sys.executable, "-m", "bench.preference", str(asked.model), "--one", name]
    command += ["--window", str(asked.window), "--preset", asked.preset]
    command += ["--batch", str(asked.batch), "--pairs", str(asked.pairs)]
    command += ["--rows", asked.rows] if asked.rows else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:16} failed: {done.stderr.strip()[-1500:]}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
