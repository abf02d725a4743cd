"""`just bench train`: tokens a second of NF4 QLoRA, against TRL as its users run it.

    python -m bench.train MODEL [--preset NAME] [--rows VARIANT] [--only NAME …]
                                [--window SECONDS] [--ours SECONDS] [--tiny]

MODEL is a folder with a causal language model's files; `bench/random_phi2.py` writes Phi-2's and
SmolLM2's shapes. Rows are 256 random tokens, all of them trained, or with `--rows` a variant's own,
fitted and batched as the preset says: then only real tokens count, and the share of padding is
printed. Every contender runs in a process of its own for a window of steady steps, after its first
three; the time for 32,000 rows is extrapolated from that window. Last, treetune's first contender
starts once more, on the compilation cache of before. Ratios of one run are what counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.clock import Clock
from bench.rows import Rows, random_rows, real_rows

ROWS = 32_000
# Examples a second that no contender reaches, and some for the shortest window.
FASTEST, FEWEST = 1500, 2000


class Setting:
    """What all contenders of one run share."""

    def __init__(self, model: Path, preset: str, variant: str | None, window: float) -> None:
        import msgspec

        from finetune.base import ready_base
        from finetune.model import load_tokenizer, pick_device
        from finetune.plan import template_of
        from finetune.preset import load_preset

        replace = msgspec.structs.replace
        loaded = load_preset(preset)
        self.preset = replace(
            loaded,
            base=replace(loaded.base, model=str(model), revision=None),
            lora=replace(loaded.lora, targets=targets_of(model)),
        )
        self.model, self.device = model, pick_device()
        self.files = ready_base(self.preset.base)
        self.template = template_of(self.preset, self.files)
        self.tokenizer = load_tokenizer(self.files, self.template)
        examples = max(FEWEST, int(FASTEST * window))
        if variant is None:
            config = json.loads((model / "config.json").read_text())
            self.rows = self.random(config["vocab_size"] * 4 // 5, examples)
        else:
            self.rows = real_rows(variant, self.preset, self.tokenizer, self.template, examples)

    def random(self, vocabulary: int, examples: int) -> Rows:
        """The rows where no variant is named."""
        return random_rows(vocabulary, examples)


def packed_base(directory: Path, device: Any) -> Any:
    """The model of that folder in NF4, as TRL's documentation loads one for QLoRA."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(
        str(directory),
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )


def trl(one: Setting, window: float, batch: int, accumulation: int, **options: Any) -> dict:
    """TRL's SFTTrainer as its documentation shows QLoRA."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from finetune.rows import dataset_of

    clock = Clock(window, batch * accumulation, one.rows)
    loaded = packed_base(one.model, one.device)
    lora = one.preset.lora
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=loaded,
            args=SFTConfig(
                output_dir=out,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=100_000,
                max_length=one.preset.length,
                learning_rate=2e-4,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=one.device.type == "cpu",
                # Token ids in the order that all contenders take.
                dataset_kwargs={"skip_prepare_dataset": True},
                train_sampling_strategy="sequential",
                **options,
            ),
            train_dataset=dataset_of(one.rows.fitted, one.rows.order),
            processing_class=one.tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules="all-linear",
            ),
        )
        trainer.add_callback(clock.callback())
        trainer.train()
    return clock.result()


def treetune(
    one: Setting,
    window: float,
    batch: int,
    micro: int,
    dropout: float | None = None,
    *,
    residual: bool = True,
    clock: Any = None,
) -> dict:
    """treetune's own trainer, as a run makes it, without checkpoints or previews.

    `dropout` of the adapters in place of the preset's; without `residual` none of the model's own.
    `clock` watches the steps, a `Clock` without one.
    """
    import msgspec
    import torch

    from finetune.model import load_base
    from finetune.sft import make_trainer

    replace, preset = msgspec.structs.replace, one.preset
    preset = replace(
        preset,
        lora=replace(preset.lora, dropout=preset.lora.dropout if dropout is None else dropout),
        training=replace(
            preset.training,
            batch=batch,
            micro_batch=micro,
            gradient_checkpointing=False,
            checkpoint_steps=10**6,
        ),
    )
    clock = clock or Clock(window, batch, one.rows)
    loaded, _ = load_base(one.files, preset.base, one.device)
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout) and not residual:
            module.p = 0.0
    with tempfile.TemporaryDirectory() as out:
        plan = plan_of(one, preset, batch, Path(out))
        trainer = make_trainer(plan, loaded, one.device, report=print)
        trainer.pauses = between_previews
        trainer.add_callback(clock.callback())
        trainer.train()
    return clock.result() | {f"waste_{k}": v for k, v in one.rows.waste(micro).items()}


def plan_of(one: Any, preset: Any, batch: int, out: Path, **more: Any) -> Any:
    """What a trainer is made from, of the rows, template and tokenizer that `one` holds."""
    from finetune.rows import budget_of

    order = one.rows.order[: len(one.rows.order) // batch * batch]
    return SimpleNamespace(
        preset=preset,
        name="bench",
        preset_name="bench",
        extra_ids=[],
        tokenizer=one.tokenizer,
        template=one.template,
        rows=one.rows.fitted,
        order=order,
        validation_rows=[],
        budget=budget_of(one.rows.fitted, order, batch),
        seed=0,
        unfinished=out,
        **more,
    )


def between_previews(state: Any, control: Any) -> bool:
    """No pause, so that a step is told of as late as in a run between two previews."""
    return False


def targets_of(model: Path) -> tuple[str, ...]:
    """The projections of attention and MLP of the model in that folder."""
    kind = json.loads((model / "config.json").read_text())["model_type"]
    if kind == "phi":
        return "q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"
    return "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"


CONTENDERS: dict[str, Any] = {
    # Batches of 16 as `phi2-oasst1-qlora` has them, and of 32 as `smollm2`; TRL's own size is 8.
    "trl-defaults": lambda one, window: trl(one, window, 4, 4),
    "trl-defaults-8": lambda one, window: trl(one, window, 8, 4),
    "trl-best": lambda one, window: trl(one, window, 32, 1, gradient_checkpointing=False),
    "treetune": lambda one, window: treetune(one, window, 64, 64),
    "treetune-16": lambda one, window: treetune(one, window, 16, 16),
    "treetune-32": lambda one, window: treetune(one, window, 32, 32),
    "treetune-no-dropout": lambda one, window: treetune(one, window, 64, 64, 0.0),
    # As the figures of the goal were measured: none in the residual stream either.
    "treetune-plain": lambda one, window: treetune(one, window, 64, 64, 0.0, residual=False),
}


def parameters(model: Path) -> int:
    """The number of weights without the embeddings, which multiply nothing: 4N FLOP a token.

    A tied embedding is the head, and counts.
    """
    total, embedding = 0, 0
    is_untied = False
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            count = 1
            for size in tensor["shape"]:
                count *= size
            is_untied |= name.startswith("lm_head")
            if "embed_tokens" in name:
                embedding += count
            else:
                total += count
    return total if is_untied else total + embedding


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench train", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--preset", default="phi2-oasst1-qlora", help="for LoRA, length, template")
    parser.add_argument("--rows", help="a built variant, in place of random rows")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--window", type=float, default=60.0, help="seconds of steady steps")
    parser.add_argument("--ours", type=float, help="the same for treetune's own, shorter ones")
    parser.add_argument("--cold", action="store_true", help="without the second start at the end")
    parser.add_argument("--tiny", action="store_true", help="two contenders, a second each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.window, asked.ours, asked.only = 1.0, None, ["trl-defaults", "treetune-16"]
    if asked.one:
        setting = Setting(asked.model, asked.preset, asked.rows, asked.window)
        print(json.dumps(CONTENDERS[asked.one](setting, asked.window)))
        return
    table(asked)


def table(asked: argparse.Namespace) -> None:
    """A line for each contender, and one for the second start of treetune's first."""
    best, weights = measured_peak(), parameters(asked.model)
    print(f"matrix peak {best / 1e12:.3g} TFLOP/s, {weights:,} weights that multiply", flush=True)
    first = None
    for name in asked.only:
        own = asked.ours if name.startswith("treetune") else None
        one = contend(asked, name, own or asked.window)
        if one is None:
            continue
        rate = one["tokens_per_second"]
        first = first or rate
        waste = f", padding {one['waste_packed']:.1%}" if "waste_packed" in one else ""
        waste += f" (padded {one['waste_padded']:.1%})" if asked.rows and waste else ""
        print(
            f"{name:20} {rate:9,.0f} tokens/s {rate / first:6.1f}x"
            f" {4 * weights * rate / best:6.1%} of peak"
            f" {ROWS / one['examples_per_second']:7.0f} s for {ROWS:,} rows,"
            f" {one['gigabytes']:5.1f} GB, first step after {one['first_step']:.0f} s,"
            f" {one['steps']} steps in {one['window']:.0f} s{waste}",
            flush=True,
        )
    ours = next((name for name in asked.only if name.startswith("treetune")), None)
    again = contend(asked, ours, 0.1) if ours and not asked.cold else None
    if again:
        print(f"{ours}, a warm start: first step after {again['first_step']:.1f} s", flush=True)


def contend(asked: argparse.Namespace, name: str, window: float) -> dict[str, Any] | None:
    """What a contender did in a process of its own; None where it failed, which is printed."""
    command = [sys.executable, "-m", "bench.train", str(asked.model), "--one", name]
    command += ["--window", str(window), "--preset", asked.preset]
    command += ["--rows", asked.rows] if asked.rows else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:20} failed: {done.stderr.strip()[-1500:]}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured_peak() -> float:
    """The bf16 matrix peak of the device at hand, FLOP/s."""
    import torch

    from finetune.model import pick_device
    from finetune.peak import matmul_peak

    return matmul_peak(pick_device(), torch.bfloat16)


if __name__ == "__main__":
    main()
