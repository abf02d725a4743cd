"""What previews cost beside the steps between them: the way before `finetune.decode`, and now.

    python -m bench.previews VARIANT PRESET [--steps 12] [--tiny]

Trains a few steps to time one, then asks the preset's questions of the half-trained model both
ways. The way before: transformers' own loop through the adapter and autocast, over weights unpacked
once, greedy answers only. Now: `finetune.decode` by the model's own layers, by few kernels a layer
(`QUICK`), and on a GPU by a recorded step (`RECORDS`); it says whether the three choose the same,
what share of a run each would take, and holds that against the promised 5 %.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from dataset_builder.template import stop_ids
from finetune import decode as decoding
from finetune import sft
from finetune.decode import Wanted
from finetune.model import load_base, pick_device, pick_precision
from finetune.plain import plain_copy
from finetune.plan import Plan, find_target, make_plan
from finetune.previews import allowed_tokens, answer, undisturbed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("preset")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tiny", action="store_true", help="three steps, to see it run")
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.steps = 3
    device = pick_device()
    plan = make_plan(find_target(chosen.variant, chosen.preset, 0))
    model, _ = load_base(plan.files, plan.preset.base, device)
    trainer = sft.make_trainer(plan, model, device)
    step = training_step(trainer, chosen.steps)
    precision = pick_precision(plan.preset.base, device)
    autocast = trainer.accelerator.autocast
    print(f"a training step                            {step:8.3f} s")

    def before() -> list[list[int]]:
        with undisturbed(trainer.model), unpacked(trainer.model), autocast():
            return generated(trainer.model, plan)

    def now() -> Any:
        with undisturbed(trainer.model):
            ask = (plan.template, plan.tokenizer, plan.questions, plan.preset.previews, 1)
            return answer(plain_copy(trainer.model, precision), *ask)

    places = {*range(0, plan.budget.steps, plan.preset.previews.steps), plan.budget.steps}
    modes = [("before, greedy only", before, {})]
    modes += [(f"now, {name}", now, switches) for name, switches in MODES.items()]
    for name, ask, switches in modes if device.type == "cuda" else modes[:-1]:
        with switched(**switches):
            try:
                first, again = timed(ask), min(timed(ask), timed(ask))
            except RuntimeError as error:
                print(f"a preview {name:30s} FAILED: {error}")
                continue
        share = (first + (len(places) - 1) * again) / (step * plan.budget.steps)
        print(
            f"a preview {name:30s} first {first:8.3f} s, then {again:8.3f} s ="
            f" {again / step:6.1f} steps; {len(places)} of them beside {plan.budget.steps}"
            f" steps: {share:.1%} ({'at most' if share <= 0.05 else 'MORE than'} 5 %)"
        )
    alone = timed(partial(plain_copy, trainer.model, precision))
    print(f"the plain copy alone                       {alone:8.3f} s")
    compare(trainer, plan, precision, before())


def training_step(trainer: Any, steps: int) -> float:
    """Seconds of one step, the first ones left out."""
    trainer.args.save_strategy = "no"
    trainer.args.max_steps = steps
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.began = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            seconds.append(clock() - self.began)

    trainer.add_callback(Clock())
    trainer.train()
    kept = sorted(seconds[len(seconds) // 3 :])
    return kept[len(kept) // 2]


def generated(model: Any, plan: Plan) -> list[list[int]]:
    """The way before: greedy answers by transformers' loop, in one batch."""
    ends = stop_ids(plan.template, plan.tokenizer)
    width = max(len(question.ids) for question in plan.questions)
    device = next(model.parameters()).device
    padded = [[ends[0]] * (width - len(q.ids)) + q.ids for q in plan.questions]
    mask = [[0] * (width - len(q.ids)) + [1] * len(q.ids) for q in plan.questions]
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=plan.preset.previews.tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
    return [ids[width:].tolist() for ids in output]


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The 4-bit layers dequantised once for the block, as previews did it before."""
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        layer.forward = partial(product, weight, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def product(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    bias = None if bias is None else bias.to(weight.dtype)
    return torch.nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def compare(trainer: Any, plan: Plan, precision: torch.dtype, before: list[list[int]]) -> None:
    """How far greedy answers agree: with the way before, and of each mode with the first."""
    ends = stop_ids(plan.template, plan.tokenizer)
    wanted = [Wanted(q.ids, allowed_tokens(q, plan.preset.previews)) for q in plan.questions]
    plain = plain_copy(trainer.model, precision)
    found = {}
    for name, switches in MODES.items():
        with switched(**switches):
            try:
                found[name] = decoding.decode(plain, wanted, ends)
            except RuntimeError as error:
                print(f"{name} FAILED: {error}")
    own = found["the model's own layers"]
    kind = str(precision).removeprefix("torch.")
    cut = [row[: len(each)] for row, each in zip(before, own, strict=True)]
    for name, answers in {**found, "the way before": cut}.items():
        places = [first_difference(*pair) for pair in zip(own, answers, strict=True)]
        print(
            f"greedy answers as by the model's own layers: {same(own, answers)} of {len(own)},"
            f" {name}; first token that differs ({kind}): {places}"
        )


# How a token is made, by what finetune.decode is told.
MODES: dict[str, dict[str, bool]] = {
    "the model's own layers": {"QUICK": False, "RECORDS": False},
    "few kernels": {"QUICK": True, "RECORDS": False},
    "few kernels, recorded": {"QUICK": True, "RECORDS": True},
}


@contextmanager
def switched(**switches: bool) -> Iterator[None]:
    """`finetune.decode` told so, for the block."""
    before = {name: getattr(decoding, name) for name in switches}
    for name, value in switches.items():
        setattr(decoding, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(decoding, name, value)


def same(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def first_difference(one: list[int], other: list[int]) -> int | None:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def timed(made: Callable[[], Any]) -> float:
    synchronize()
    began = clock()
    made()
    synchronize()
    return clock() - began


def clock() -> float:
    """Seconds: by the wall on a GPU; of the processor on a CPU, which others may share."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
