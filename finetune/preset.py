"""What a preset may say: base model, template, length, method, budget, hyper-parameters."""

from pathlib import Path
from typing import Literal

import msgspec

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_names

PRESETS = Path(__file__).parent / "presets"


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that is tuned."""

    model: str  # a Hub id, a directory, or `package:NAME`: weights that came with a Python package
    revision: str | None = None  # a commit, required for a Hub id
    quantization: Literal["nf4", "none"] = "nf4"  # nf4 with double quantisation
    # auto: bf16; fp16 on a card older than Ampere; fp32 on a CPU without bf16 products
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The adapter."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...]  # every projection of attention and MLP, by name


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The budget and how it is spent."""

    examples: int  # seen in all; the variant repeats or ends as needed
    batch: int  # examples per optimizer step
    micro_batch: int  # examples per forward pass; divides `batch`
    learning_rate: float = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = True
    checkpoint_steps: int = 100
    log_steps: int = 10


class Previews(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sample answers while it trains."""

    steps: int = 100  # optimizer steps between two; also before the first step and after the last
    prompts: int = 4  # held-out validation prompts
    limits: tuple[int, ...] = (50,)  # words; each prompt is also asked without a limit
    tokens: int = 200  # at most, per answer


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preset as its TOML file says it."""

    title: str
    method: Literal["sft"] = "sft"
    template: str  # a name of dataset_builder.template
    length: int  # tokens: prompt and answer together
    overflow: Literal["drop", "last_turns", "cut", "cut_keep_end", "refuse"] = "drop"
    extra_tokens: tuple[str, ...] = ()  # added to the tokenizer and trained
    base: Base
    lora: Lora
    training: Training
    previews: Previews = Previews()


def load_preset(name: str) -> Preset:
    """The preset of that name or at that path.

    Raises InputError where it is unknown or does not make sense.
    """
    preset = load_settings(name, PRESETS, "preset", Preset)
    if preset.training.batch % preset.training.micro_batch:
        raise InputError(
            f"preset `{name}`: batch {preset.training.batch} is no multiple of"
            f" micro_batch {preset.training.micro_batch}"
        )
    return preset


def preset_names() -> list[str]:
    """The presets that ship."""
    return settings_names(PRESETS)
