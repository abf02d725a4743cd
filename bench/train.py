"""`just bench train`: tokens a second of Phi-2 NF4 QLoRA, against TRL as its users run it.

    python -m bench.train MODEL [--only NAME …] [--window SECONDS] [--ours SECONDS]

MODEL is a folder with a causal language model's files; `bench/random_phi2.py` writes Phi-2's
shapes. Rows are 256 random tokens, all of them trained, the same for everybody. Every contender
runs in a process of its own for a window of steady steps, after its first three; the time for
32,000 rows is extrapolated from that window. Ratios of one run are what counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROWS, LENGTH = 32_000, 256
WARM = 3  # steps before the window: compilation, the allocator, the first reads


class Clock:
    """A trainer callback that stops it when the window is over."""

    def __init__(self, window: float, examples: int) -> None:
        self.window, self.examples = window, examples
        self.created = time.perf_counter()
        self.steps, self.began, self.ended, self.first = 0, 0.0, 0.0, 0.0

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        clock = self

        class Timed(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                step = state.global_step
                is_over = step > WARM and time.perf_counter() - clock.began > clock.window
                # Between the two ends nothing waits for the card, so that it never waits for us.
                if torch.cuda.is_available() and (step in (1, WARM) or is_over):
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if step == 1:
                    clock.first = now - clock.created
                if step == WARM:
                    clock.began = now
                if is_over:
                    clock.steps, clock.ended = step - WARM, now
                    control.should_training_stop = True

        return Timed()

    def result(self) -> dict[str, Any]:
        import torch

        seconds = self.ended - self.began
        rate = self.steps * self.examples * LENGTH / seconds
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {
            "tokens_per_second": rate,
            "window": seconds,
            "steps": self.steps,
            "first_step": self.first,
            "gigabytes": peak / 1e9,
        }


def rows(count: int, vocabulary: int) -> list[list[int]]:
    """Random token rows, the same for every contender."""
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn: list[list[int]] = torch.randint(
        0, vocabulary, (count, LENGTH), generator=generator
    ).tolist()
    return drawn


def trl(model: Path, window: float, batch: int, accumulation: int, **options: Any) -> dict:
    """TRL's SFTTrainer as its documentation shows QLoRA."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    clock = Clock(window, batch * accumulation)
    loaded = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16,
        device_map={"": 0},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    drawn = rows(4096, loaded.config.vocab_size - 1000)
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=loaded,
            args=SFTConfig(
                output_dir=out,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=100_000,
                max_length=LENGTH,
                learning_rate=2e-4,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **options,
            ),
            train_dataset=Dataset.from_dict({"input_ids": drawn}),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=16,
                lora_alpha=32,
                lora_dropout=0.05,
                target_modules="all-linear",
            ),
        )
        trainer.add_callback(clock.callback())
        trainer.train()
    return clock.result()


def treetune(model: Path, window: float, batch: int, micro: int, dropout: float = 0.05) -> dict:
    """treetune's own trainer, as a run makes it."""
    import msgspec

    from dataset_builder.fit import FittedRow
    from dataset_builder.template import find_template
    from finetune.base import ready_base
    from finetune.model import load_base, load_tokenizer, pick_device
    from finetune.preset import load_preset
    from finetune.rows import budget_of
    from finetune.sft import make_trainer

    clock = Clock(window, batch)
    preset = load_preset("phi2-oasst1-qlora")
    replace = msgspec.structs.replace
    preset = replace(
        preset,
        base=replace(preset.base, model=str(model), revision=None),
        lora=replace(preset.lora, dropout=dropout, targets=targets_of(model)),
        training=replace(
            preset.training,
            batch=batch,
            micro_batch=micro,
            gradient_checkpointing=False,
            checkpoint_steps=10**6,
        ),
    )
    files = ready_base(preset.base)
    template = find_template(preset.template)
    tokenizer = load_tokenizer(files, template)
    device = pick_device()
    loaded, _ = load_base(files, preset.base, device)
    drawn = rows(4096, loaded.config.vocab_size - 1000)
    fitted = [FittedRow(str(n), ids[:1], ids[1:]) for n, ids in enumerate(drawn)]
    order = list(range(4096)) * (100_000 * batch // 4096 // 20)
    order = order[: len(order) // batch * batch]
    with tempfile.TemporaryDirectory() as out:
        plan: Any = SimpleNamespace(
            preset=preset,
            name="bench",
            preset_name="bench",
            extra_ids=[],
            tokenizer=tokenizer,
            template=template,
            rows=fitted,
            order=order,
            budget=budget_of(fitted, order, batch),
            seed=0,
            unfinished=Path(out),
        )
        trainer = make_trainer(plan, loaded, device, report=print)
        trainer.add_callback(clock.callback())
        trainer.train()
    return clock.result()


def targets_of(model: Path) -> tuple[str, ...]:
    """The projections of attention and MLP of the model in that folder."""
    kind = json.loads((model / "config.json").read_text())["model_type"]
    if kind == "phi":
        return "q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"
    return "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"


CONTENDERS: dict[str, Any] = {
    "trl-defaults": lambda model, window: trl(model, window, 4, 4),
    "trl-best": lambda model, window: trl(model, window, 32, 1, gradient_checkpointing=False),
    "treetune": lambda model, window: treetune(model, window, 64, 64),
    "treetune-16": lambda model, window: treetune(model, window, 16, 16),
    "treetune-32": lambda model, window: treetune(model, window, 32, 32),
    "treetune-no-dropout": lambda model, window: treetune(model, window, 64, 64, 0.0),
}


def peak() -> float:
    """The card's measured bf16 matrix peak, FLOP/s: products of 8,192 cubed, random values."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(30):
        a @ b
    torch.cuda.synchronize()
    return 30 * 2 * 8192**3 / (time.perf_counter() - began)


def parameters(model: Path) -> int:
    """The number of weights without the embeddings, which multiply nothing: 4N FLOP a token."""
    total = 0
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and "embed_tokens" not in name:
                count = 1
                for size in tensor["shape"]:
                    count *= size
                total += count
    return total


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench train", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--window", type=float, default=60.0, help="seconds of steady steps")
    parser.add_argument("--ours", type=float, help="the same for treetune's own, shorter ones")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(CONTENDERS[arguments.one](arguments.model, arguments.window)))
        return
    best, weights = peak(), parameters(arguments.model)
    print(f"matrix peak {best / 1e12:.0f} TFLOP/s, {weights:,} weights that multiply")
    first = None
    for name in arguments.only:
        command = [sys.executable, "-m", "bench.train", str(arguments.model), "--one", name]
        own = arguments.ours if name.startswith("treetune") else None
        command += ["--window", str(own or arguments.window)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:20} failed: {done.stderr.strip()[-1500:]}", flush=True)
            continue
        one = json.loads(done.stdout.splitlines()[-1])
        rate = one["tokens_per_second"]
        first = first or rate
        print(
            f"{name:20} {rate:9,.0f} tokens/s {rate / first:6.1f}x"
            f" {4 * weights * rate / best:6.1%} of peak"
            f" {ROWS * LENGTH / rate:7.0f} s for {ROWS:,} rows, {one['gigabytes']:5.1f} GB,"
            f" first step after {one['first_step']:.0f} s,"
            f" {one['steps']} steps in {one['window']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
