"""Do our loss curves agree with TRL's, on real rows? Same rows, order and seed.

    python -m bench.curves VARIANT [PRESET] [--steps 100] [--fast-off] [--tiny]

Two seeds each of treetune's trainer and of TRL's SFTTrainer at its defaults (layers eager, batches
padded, adapters as TRL casts them, checkpointing on), each in a process of its own. All four see
the same rows in the same order, that of seed 0; the seed draws the adapter's first weights and the
dropout. So what two seeds differ by is noise, and no difference of data is in it.

The criterion, written before the first run on a card. The steps after the first tenth are cut into
ten windows, and each curve is the mean loss of its windows.
  1. Between implementations: the root mean square of ours less TRL's at the same seed, over windows
     and both seeds, is at most that between the two seeds of one implementation.
  2. Bias: ours less TRL's, the mean over windows and seeds, is at most that noise too.
Both hold: "agrees". The first ten per cent are left out because equal first weights make the same
seed's curves equal there whatever is wrong later; their largest difference is printed beside.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

SEEDS = (0, 1)
WAYS = ("treetune", "trl")
WINDOWS = 10


def windows(losses: Sequence[float]) -> list[float]:
    """The mean loss of each window of the steps after the first tenth."""
    kept = losses[len(losses) // 10 :]
    count = min(WINDOWS, len(kept))
    bounds = [round(n * len(kept) / count) for n in range(count + 1)]
    return [sum(kept[a:b]) / (b - a) for a, b in pairwise(bounds)]


def verdict(curves: dict[tuple[str, int], Sequence[float]]) -> dict[str, Any]:
    """The criterion's numbers for four curves by (way, seed), and whether it holds."""
    means = {key: windows(losses) for key, losses in curves.items()}
    apart = [
        ours - theirs
        for seed in SEEDS
        for ours, theirs in zip(means["treetune", seed], means["trl", seed], strict=True)
    ]
    noise = [
        one - other
        for way in WAYS
        for one, other in zip(means[way, SEEDS[0]], means[way, SEEDS[1]], strict=True)
    ]
    between, seeds = _root_mean_square(apart), _root_mean_square(noise)
    bias = sum(apart) / len(apart)
    early = max(1, len(curves["trl", 0]) // 10)
    first = max(
        abs(ours - theirs)
        for seed in SEEDS
        for ours, theirs in zip(
            curves["treetune", seed][:early], curves["trl", seed][:early], strict=True
        )
    )
    return {
        "agrees": between <= seeds and abs(bias) <= seeds,
        "between_implementations": between,
        "between_seeds": seeds,
        "bias": bias,
        "largest_difference_in_the_first_tenth": first,
    }


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def losses_of(way: str, seed: int, variant: str, preset: str, steps: int, fast: bool) -> dict:
    """The losses of `steps` steps, and the seconds they took."""
    import msgspec

    from finetune.model import load_base, pick_device
    from finetune.plan import find_target, make_plan
    from finetune.rows import budget_of

    plan = make_plan(find_target(variant, preset, 0))
    training = plan.preset.training
    order = plan.order[: steps * training.batch]
    plan = dataclasses.replace(
        plan,
        seed=seed,
        order=order,
        budget=budget_of(plan.rows, order, training.batch),
        preset=msgspec.structs.replace(
            plan.preset, training=msgspec.structs.replace(training, fast=fast)
        ),
    )
    device = pick_device()
    model, _ = load_base(plan.files, plan.preset.base, device)
    with tempfile.TemporaryDirectory() as out:
        trainer = (
            _ours(plan, model, device) if way == "treetune" else _theirs(plan, model, device, out)
        )
        trainer.args.save_strategy = "no"
        began = time.perf_counter()
        trainer.train()
    seconds = time.perf_counter() - began
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    is_fast = bool(getattr(trainer, "is_fast", False))
    return {"losses": losses, "seconds": seconds, "is_fast": is_fast}


def _ours(plan: Any, model: Any, device: Any) -> Any:
    from finetune.route import preflight
    from finetune.sft import make_trainer

    return make_trainer(plan, model, device, report=print, route=preflight(plan, device))


def _theirs(plan: Any, model: Any, device: Any, out: str) -> Any:
    """TRL's trainer with its own defaults, but for what the preset says is learnt and how fast."""
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from finetune.model import pick_precision
    from finetune.rows import dataset_of
    from finetune.targets import projections

    training, lora = plan.preset.training, plan.preset.lora
    precision = pick_precision(plan.preset.base, device)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=out,
            seed=plan.seed,
            max_steps=plan.budget.steps,
            per_device_train_batch_size=training.micro_batch,
            gradient_accumulation_steps=training.batch // training.micro_batch,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.schedule,
            warmup_steps=math.ceil(training.warmup * plan.budget.steps),
            max_grad_norm=training.max_grad_norm,
            bf16=precision == torch.bfloat16,
            fp16=precision == torch.float16,
            use_cpu=device.type == "cpu",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset_of(plan.rows, plan.order),
        processing_class=plan.tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=projections(model, lora.targets, plan.preset_name),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    """Print each run's last losses, then the criterion."""
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description=__doc__)
    parser.add_argument("variant")
    parser.add_argument("preset", nargs="?", default="smollm2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--fast-off", action="store_true", help="ours on the usual path")
    parser.add_argument("--tiny", action="store_true", help="six steps, to see it run")
    parser.add_argument("--out", type=Path, help="where the curves go, as JSON")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    steps = 6 if asked.tiny else asked.steps
    if asked.one:
        way, seed = asked.one
        fast = not asked.fast_off
        found = losses_of(way, int(seed), asked.variant, asked.preset, steps, fast)
        print(json.dumps(found))
        return
    curves: dict[tuple[str, int], list[float]] = {}
    for seed in SEEDS:
        for way in WAYS:
            command = [sys.executable, "-m", "bench.curves", asked.variant, asked.preset]
            command += ["--steps", str(steps), "--one", way, str(seed)]
            command += ["--fast-off"] if asked.fast_off else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{way}, seed {seed}, failed: {done.stderr.strip()[-1500:]}")
                sys.exit(1)
            found = json.loads(done.stdout.splitlines()[-1])
            curves[way, seed] = found["losses"]
            last = found["losses"][-max(1, steps // 10) :]
            path = "the fast path" if found["is_fast"] else "eager layers"
            print(
                f"{way:9} seed {seed}: loss {found['losses'][0]:.4f} at first,"
                f" {sum(last) / len(last):.4f} over the last {len(last)} steps;"
                f" {found['seconds']:.0f} s for {steps} steps, {path}",
                flush=True,
            )
            if asked.out:
                named = {f"{way} {seed}": losses for (way, seed), losses in curves.items()}
                asked.out.write_text(json.dumps(named))
    print(json.dumps(verdict(curves)))


if __name__ == "__main__":
    main()
