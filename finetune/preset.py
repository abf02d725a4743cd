"""What a preset may say: base model, template, length, method, budget, hyper-parameters."""

import math
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_names
from finetune.methods import METHODS

PRESETS = Path(__file__).parent / "presets"

# `gradient_checkpointing` that the estimate of memory decides (finetune.route).
AUTO: Final = "auto"

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that is tuned."""

    model: str  # a Hub id, a directory, or `package:NAME`: weights that came with a Python package
    revision: str | None = None  # a commit, required for a Hub id
    quantization: Literal["nf4", "none"] = "nf4"  # nf4 with double quantisation
    # auto: bf16; fp16 on a card older than Ampere; fp32 on a CPU without bf16 products
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The adapter."""

    r: Count = 16
    alpha: Count = 32
    dropout: Share = 0.05
    # Names of projections, or all: every linear projection of attention and MLP, never the head.
    targets: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | Literal["all-linear"] = (
        "all-linear"
    )


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The budget and how it is spent."""

    examples: Count  # seen in all; the variant repeats or ends as needed
    batch: Count  # examples per optimizer step
    micro_batch: Count  # examples per forward pass; divides `batch`
    learning_rate: Positive = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03  # share of the steps
    weight_decay: float = 0.0
    max_grad_norm: Positive = 1.0
    gradient_checkpointing: bool | Literal["auto"] = AUTO  # auto: only where memory wants it
    fast: bool = True  # packed rows and fused layers where the card and the model allow it
    checkpoint_steps: Count = 100
    log_steps: Count = 10


class Dpo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What direct preference optimisation alone reads."""

    # How dear it is to leave the start: the loss is -log sigmoid of `beta` times the difference
    # between chosen and rejected in log-probability gained over the start.
    beta: Positive


class Reward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the training of a reward model alone reads."""

    # Of the squared sum of a pair's two rewards, added to its loss: only differences are learnt
    # otherwise, and rewards may drift (Eisenstein and others 2023, arXiv 2312.09244).
    center_rewards_coefficient: NotNegative = 0.0


class Grpo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What group relative policy optimisation alone reads."""

    group: Annotated[int, msgspec.Meta(ge=2)] = 8  # answers drawn to each prompt
    # The tokens that an answer may have: so many to each word of its limit and some to spare, and
    # never more than `tokens`. What is cut there is worth nothing.
    tokens: Count
    tokens_per_word: Positive = 2.0
    spare_tokens: Annotated[int, msgspec.Meta(ge=0)] = 32
    beta: NotNegative = 0.0  # the price of a nat of divergence from the start, per token
    clip: Share = 0.2  # how far a token's ratio to the policy that drew it may pay
    rollout_steps: Count = 1  # optimizer steps that are made of one rollout's answers

    def allowed(self, limit: int | None) -> int:
        """The tokens that an answer within `limit` words may have."""
        if limit is None:
            return self.tokens
        return min(self.tokens, math.ceil(self.tokens_per_word * limit) + self.spare_tokens)


class Previews(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sample answers while it trains."""

    steps: Count = 100  # optimizer steps between two; also before the first step and after the last
    prompts: Annotated[int, msgspec.Meta(ge=0)] = 4  # held-out validation prompts; 0: no previews
    # A reward model reads nothing below: its `prompts` are held-out pairs.
    limits: tuple[Count, ...] = (50,)  # words; each prompt is also asked without a limit
    tokens: Count = 200  # at most, per answer; fewer where a limit needs fewer
    temperature: NotNegative = 0.7  # of a second answer to each that is drawn; 0: none is


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preset as its TOML file says it."""

    title: str
    method: Literal["sft", "dpo", "reward", "grpo"] = "sft"
    # A name of dataset_builder.template, or auto: the tokenizer's chat template, `instruct` where
    # it has none.
    template: str = "auto"
    length: Annotated[int, msgspec.Meta(ge=2)]  # tokens: prompt and answer together
    overflow: Literal["drop", "last_turns", "cut", "cut_keep_end", "refuse"] = "drop"
    extra_tokens: tuple[str, ...] = ()  # added to the tokenizer and trained
    base: Base
    lora: Lora = Lora()
    training: Training
    previews: Previews = Previews()
    # Each of the method of its name, and of no other. Absent keys are not stored, so that presets
    # of before keep their digests.
    dpo: Dpo | msgspec.UnsetType = msgspec.UNSET
    reward: Reward | msgspec.UnsetType = msgspec.UNSET
    grpo: Grpo | msgspec.UnsetType = msgspec.UNSET


def load_preset(name: str) -> Preset:
    """The preset of that name or at that path.

    Raises InputError where it is unknown or does not make sense.
    """
    preset = load_settings(name, PRESETS, "preset", Preset)
    if preset.training.batch % preset.training.micro_batch:
        raise InputError(
            f"preset `{name}`: batch {preset.training.batch} is no multiple of"
            f" micro_batch {preset.training.micro_batch}",
            "change one of them: a step is made of whole micro-batches",
        )
    _check_method(preset, name)
    return preset


def _check_method(preset: Preset, name: str) -> None:
    """Raise InputError where what the method needs is absent, or something stands that it would
    not read.
    """
    for method, hint in _SECTIONS.items():
        section = getattr(preset, method)
        if section is not msgspec.UNSET and preset.method != method:
            raise InputError(
                f"preset `{name}`: the method `{preset.method}` does not read `[{method}]`",
                f'take that section out, or set `method = "{method}"`',
            )
        if section is msgspec.UNSET and preset.method == method and hint:
            raise InputError(
                f"preset `{name}`: the method `{method}` wants a section `[{method}]`",
                f"add it with {hint}",
            )
    if preset.method == "reward" and preset.extra_tokens:
        raise InputError(
            f"preset `{name}`: the method `reward` trains no `extra_tokens`",
            "take them out: a token of a policy is text to who reads its answers",
        )
    if METHODS[preset.method].starts_from_run and preset.lora.dropout:
        raise InputError(
            f"preset `{name}`: the method `{preset.method}` compares a model with its start, and"
            f" dropout of {preset.lora.dropout} would be in the difference",
            "set `dropout = 0.0` in `[lora]`",
        )
    if preset.grpo:
        _check_rollouts(preset, preset.grpo, name)


def _check_rollouts(preset: Preset, grpo: Grpo, name: str) -> None:
    """Raise InputError where a resumed run would have to answer with a policy that is gone, or no
    answer has room.
    """
    every = preset.training.checkpoint_steps
    if every % grpo.rollout_steps:
        raise InputError(
            f"preset `{name}`: checkpoints every {every} steps would fall between the"
            f" {grpo.rollout_steps} steps of a rollout",
            "make `checkpoint_steps` a multiple of `rollout_steps`",
        )
    if grpo.tokens >= preset.length:
        raise InputError(
            f"preset `{name}`: answers of {grpo.tokens} tokens leave a prompt no room in"
            f" {preset.length}",
            "raise `length`, or lower `tokens` in [grpo]",
        )


# The methods' own sections, and what one that must stand is to be begun with.
_SECTIONS = {
    "dpo": "`beta = 0.1`, or another number above 0",
    "reward": "",
    "grpo": "`tokens = 256`, or as many as an answer may have",
}


def preset_names() -> list[str]:
    """The presets that ship."""
    return settings_names(PRESETS)
