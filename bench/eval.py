"""`just bench eval`: answered tokens a second of a model with a LoRA adapter, against its rivals.

    python -m bench.eval MODEL [--prompts 2000] [--tokens 128] [--window SECONDS]
                                [--only NAME …] [--tiny]

MODEL is a folder with a causal language model's files; `bench/random_phi2.py` writes Phi-2's
shapes, and an adapter of random numbers is made for it. Prompts are 24 to 72 random tokens, answers
greedy. Every contender runs in a process of its own: treetune answers all of them, as an evaluation
does, from the adapter merged into the unpacked 4-bit base; the others answer as many as begin
within the window, and their rate is taken from these. `lm-eval` is its hf backend at its default
batch of one, over the base in bf16 with the adapter beside it; `continuous` is transformers'
`generate_batch` and `generate-64` its loop over batches of 64, both over the merged model. Loading
is printed and not counted. Ratios of one run are what counts.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHORTEST, LONGEST = 24, 72  # tokens of a prompt


class Setting:
    """What all contenders of one run share."""

    def __init__(self, asked: argparse.Namespace) -> None:
        from bench.train import targets_of
        from dataset_builder.template import find_template
        from finetune.base import ready_base
        from finetune.model import load_tokenizer, pick_device
        from finetune.preset import Base

        self.base = Base(model=str(asked.model))
        self.files, self.device = ready_base(self.base), pick_device()
        self.template = find_template("instruct")
        self.tokenizer = load_tokenizer(self.files, self.template)
        self.targets = targets_of(asked.model)
        self.adapter, self.tokens, self.window = asked.adapter, asked.tokens, asked.window
        config = json.loads((asked.model / "config.json").read_text())
        chance = random.Random(0)
        vocabulary = config["vocab_size"] * 4 // 5
        self.prompts = [
            [chance.randrange(vocabulary) for _ in range(chance.randint(SHORTEST, LONGEST))]
            for _ in range(asked.prompts)
        ]

    def merged(self) -> Any:
        from finetune.model import load_merged

        return load_merged(self.files, self.base, self.adapter, self.device)


def write_adapter(one: Setting, out: Path) -> None:
    """An adapter as training leaves it, of random numbers: B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from finetune.model import load_base

    model, _ = load_base(one.files, one.base, one.device, quantized=False)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=list(one.targets)
    )
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(str(out))


def result(tokens: int, seconds: float, answered: int, loaded: float) -> dict[str, Any]:
    import torch

    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "answered": answered,
        "loading": loaded,
        "gigabytes": peak / 1e9,
    }


def treetune(one: Setting, *, records: bool, rows: int | None = None) -> dict[str, Any]:
    """As an evaluation answers: each batch stored as soon as it is there."""
    from evals.generate import Asked, Partial, generate
    from finetune import decode

    decode.RECORDS = records
    began = time.perf_counter()
    model = one.merged()
    loaded = time.perf_counter() - began
    asked = [Asked(str(n), tuple(ids), one.tokens) for n, ids in enumerate(one.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        partial = Partial(Path(folder) / "answers.jsonl", {})
        began = time.perf_counter()
        answers = generate(model, one.template, one.tokenizer, asked, partial, rows=rows)
        seconds = time.perf_counter() - began
    made = sum(answer.tokens for answer in answers.values())
    return result(made, seconds, len(answers), loaded)


def generate_loop(one: Setting, batch: int) -> dict[str, Any]:
    """transformers' own loop over batches of prompts of like length, padded left."""
    import torch

    began = time.perf_counter()
    model = one.merged()
    loaded = time.perf_counter() - began
    end = one.tokenizer.eos_token_id
    prompts = sorted(one.prompts, key=len)
    tokens = answered = 0
    began = time.perf_counter()
    while answered < len(prompts) and time.perf_counter() - began < one.window:
        picked = prompts[answered : answered + batch]
        width = max(map(len, picked))
        ids = torch.tensor([[end] * (width - len(p)) + p for p in picked], device=one.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in picked])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask.to(one.device),
                max_new_tokens=one.tokens,
                do_sample=False,
                pad_token_id=end,
                eos_token_id=end,
            )
        tokens += counted(out[:, width:].tolist(), end)
        answered += len(picked)
    return result(tokens, time.perf_counter() - began, answered, loaded)


def counted(answers: list[list[int]], end: int) -> int:
    """Tokens up to each answer's end, which counts."""
    return sum(ids.index(end) + 1 if end in ids else len(ids) for ids in answers)


def continuous(one: Setting) -> dict[str, Any]:
    """transformers' continuous batching with its own settings."""
    from transformers import GenerationConfig

    began = time.perf_counter()
    model = one.merged()
    config = GenerationConfig(
        max_new_tokens=one.tokens,
        do_sample=False,
        eos_token_id=one.tokenizer.eos_token_id,
        pad_token_id=one.tokenizer.pad_token_id,
    )
    # A short first round: what it records and allocates once is loading.
    model.generate_batch(inputs=one.prompts[:64], generation_config=config)
    loaded = time.perf_counter() - began
    tokens = answered = 0
    part = max(1, len(one.prompts) // 4)
    began = time.perf_counter()
    while answered < len(one.prompts) and time.perf_counter() - began < one.window:
        picked = one.prompts[answered : answered + part]
        found = model.generate_batch(inputs=picked, generation_config=config)
        wrong = [each.error for each in found.values() if each.error]
        if wrong or len(found) < len(picked):
            raise RuntimeError(f"{len(found)} answers to {len(picked)} prompts: {wrong[:1]}")
        tokens += sum(len(each.generated_tokens) for each in found.values())
        answered += len(picked)
    return result(tokens, time.perf_counter() - began, answered, loaded)


def lm_eval_hf(one: Setting) -> dict[str, Any]:
    """lm-evaluation-harness' hf backend: `--model hf --model_args pretrained=…,peft=…`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    made: list[int] = []

    class Counting(HFLM):
        def _model_generate(self, context: Any, **options: Any) -> Any:
            out = super()._model_generate(context, **options)
            made.append(counted(out[:, context.shape[1] :].tolist(), self.tokenizer.eos_token_id))
            return out

    began = time.perf_counter()
    backend = Counting(
        pretrained=str(one.files.directory), peft=str(one.adapter), device=str(one.device)
    )
    loaded = time.perf_counter() - began
    options = {"until": [], "max_gen_toks": one.tokens, "do_sample": False}
    texts = [one.tokenizer.decode(ids) for ids in one.prompts]
    answered, part = 0, 1
    began = time.perf_counter()
    while answered < len(texts) and time.perf_counter() - began < one.window:
        picked = [
            Instance("generate_until", {}, (text, dict(options)), answered + n)
            for n, text in enumerate(texts[answered : answered + part])
        ]
        backend.generate_until(picked, disable_tqdm=True)
        answered += len(picked)
    return result(sum(made), time.perf_counter() - began, answered, loaded)


CONTENDERS: dict[str, Any] = {
    "treetune": lambda one: treetune(one, records=True),
    "treetune-128": lambda one: treetune(one, records=True, rows=128),
    "treetune-launched": lambda one: treetune(one, records=False),
    "continuous": continuous,
    "generate-64": lambda one: generate_loop(one, 64),
    "lm-eval": lm_eval_hf,
}


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(prog="just bench eval", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--window", type=float, default=45.0, help="seconds of the others")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--tiny", action="store_true", help="24 prompts, 8 tokens, a second each")
    parser.add_argument("--adapter", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tiny:
        asked.prompts, asked.tokens, asked.window = 24, 8, 1.0
    if asked.one == "adapter":
        write_adapter(Setting(asked), asked.adapter)
    elif asked.one:
        print(json.dumps(CONTENDERS[asked.one](Setting(asked))))
    else:
        table(asked)


def table(asked: argparse.Namespace) -> None:
    """A line for each contender; the ratio is treetune's rate to its own."""
    print(f"{asked.prompts:,} prompts, answers of at most {asked.tokens} tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        contend(asked, "adapter", adapter)
        ours = None
        for name in asked.only:
            one = contend(asked, name, adapter)
            if one is None:
                continue
            rate = one["tokens_per_second"]
            ours = ours or rate
            print(
                f"{name:14} {rate:9,.0f} tokens/s, treetune {ours / rate:6.1f}x;"
                f" {one['answered']:,} prompts in {one['seconds']:.1f} s,"
                f" loaded in {one['loading']:.0f} s, {one['gigabytes']:.1f} GB",
                flush=True,
            )


def contend(asked: argparse.Namespace, name: str, adapter: Path) -> dict[str, Any] | None:
    """What a contender did in a process of its own; None where it failed, which is printed."""
    command = [sys.executable, "-m", "bench.eval", str(asked.model), "--one", name]
    command += ["--adapter", str(adapter), "--window", str(asked.window)]
    command += ["--prompts", str(asked.prompts), "--tokens", str(asked.tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:14} failed: {done.stderr.strip()[-1500:]}", flush=True)
        return None
    if name == "adapter":
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
