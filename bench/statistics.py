"""`just bench statistics`: whether the intervals, tests and verdicts hold what they promise.

Thousands of comparisons with a known truth, through evals.statistics itself, with the trees of real
files. Per kind of comparison: how often arms that are alike are told apart (wanted: 5 %), how often
the interval holds the truth (95 %), how often a difference as large as the smallest that is printed
as detectable is found (80 %), and how often an arm that is worse by the margin is called no worse
(5 %).
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.simulate import Design, comparisons, true_difference, with_difference
from dataset_builder.export import read_export
from evals.statistics import NOT_SHOWN, Difference, no_worse, paired

DATA = Path(__file__).parents[2] / "shared" / "data" / "oasst"
REAL = ("oasst1_en_validation.messages.jsonl", "laion_en_100.trees.jsonl")
BUNDLED = Path("dataset_builder/sample/forest.trees.jsonl")


def sizes_of(paths: Sequence[Path]) -> tuple[int, ...]:
    """How many prompts each tree of the files has, largest first; of deleted ones none."""
    prompts: Counter[str] = Counter()
    seen = set()
    for path in paths:
        for each in read_export(path).messages:
            message = each.message
            if message.role == "prompter" and message.message_id not in seen:
                seen.add(message.message_id)
                prompts[each.tree_id or message.message_id] += 1
    return tuple(sorted(prompts.values(), reverse=True))


@dataclass(frozen=True)
class Found:
    """What came of many comparisons of one kind."""

    truth: float
    rows: list[Difference]

    def share_found(self) -> float:
        """How often the interval leaves out zero and p is below 5 %: as a verdict reads them."""
        return float(np.mean([(r.low > 0 or r.high < 0) and r.p < 0.05 for r in self.rows]))

    def share_excluding_zero(self) -> float:
        return float(np.mean([r.low > 0 or r.high < 0 for r in self.rows]))

    def share_covered(self) -> float:
        return float(np.mean([r.low <= self.truth <= r.high for r in self.rows]))

    def mean_detectable(self) -> float:
        return float(np.mean([r.detectable for r in self.rows]))

    def share_no_worse(self, margin: float) -> float:
        said = [no_worse(r.low_90, r.high_90, margin, -1) for r in self.rows]
        return float(np.mean([word != NOT_SHOWN for word in said]))


def simulate(design: Design, n: int, random: np.random.Generator) -> Found:
    """n comparisons of a kind through `paired`; of runs, where each arm has one seed."""
    trees = np.repeat(np.arange(len(design.sizes)), design.sizes).astype(str).tolist()
    rows = [
        paired(arm, baseline, trees, is_share=True)
        for baseline, arm in comparisons(design, n, random)
    ]
    # Where all answers agree there is no interval to be right or wrong.
    return Found(true_difference(design), [row for row in rows if row.low is not None])


def line(name: str, design: Design, n: int, random: np.random.Generator) -> str:
    """One row of the table: the kind as it is without an effect, then with the smallest that it
    prints as detectable."""
    alike = simulate(design, n, random)
    shown = alike.mean_detectable()
    apart = simulate(with_difference(design, shown), n, random)
    return (
        f"| {name} | {100 * alike.share_found():.1f} % | {100 * alike.share_covered():.1f} % "
        f"| {100 * apart.share_covered():.1f} % | {100 * shown:.1f} "
        f"| {100 * apart.share_found():.0f} % | {100 * apart.share_no_worse(apart.truth):.1f} % |"
    )


def kinds(roots: tuple[int, ...], prompts: tuple[int, ...]) -> dict[str, Design]:
    """The kinds of comparison, those that are promised first."""
    found = {}
    for place, sizes in (("roots", roots), ("all prompts", prompts)):
        for points in (0.0, 2.0, 4.0):
            found[f"{place}, 3 and 3 seeds, {points:.0f} points"] = Design(
                sizes, seed_points=(points, points)
            )
    for points in (0.0, 2.0, 4.0):
        found[f"roots, 3 and 5 seeds, {points:.0f} points"] = Design(
            roots, seeds=(3, 5), seed_points=(points, points)
        )
    five = Design(roots, seeds=(5, 5), seed_points=(2.0, 2.0))
    found["roots, 5 and 5 seeds, 2 points"] = five
    for points in (0.0, 4.0):
        found[f"roots, 3 and 3 seeds, {points:.0f} points, effect differs by tree"] = Design(
            roots, seed_points=(points, points), by_tree=1.0
        )
    few = tuple([1] * 28)
    found["28 roots, 3 and 3 seeds, 2 points"] = Design(few, seed_points=(2.0, 2.0))
    found["roots, 3 and 3 seeds, 0 and 4 points"] = Design(roots, seed_points=(0.0, 4.0))
    found["roots, 3 and 5 seeds, 4 and 0 points"] = replace(
        found["roots, 3 and 5 seeds, 0 points"], seed_points=(4.0, 0.0)
    )
    found["roots, two runs, one limit (McNemar)"] = Design(roots, seeds=(1, 1), limits=(0.0,))
    found["roots, two runs, four limits"] = Design(roots, seeds=(1, 1))
    found["all prompts, two runs, four limits"] = Design(prompts, seeds=(1, 1))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="just bench statistics", description=__doc__)
    parser.add_argument("--comparisons", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, nargs="+", help="exports whose trees are taken")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    arguments = parser.parse_args()
    real = [DATA / name for name in REAL if (DATA / name).is_file()]
    sources = arguments.source or real or [BUNDLED]
    prompts = sizes_of(sources)
    roots = tuple([1] * len(prompts))
    print(f"trees of {', '.join(path.name for path in sources)}: ", end="")
    print(f"{len(roots)} roots; {sum(prompts)} prompts, at most {max(prompts)} of a tree")
    print(f"{arguments.comparisons} comparisons of each kind, alike and apart; ", end="")
    error = 100 * (0.05 * 0.95 / arguments.comparisons) ** 0.5
    print(f"the standard error of 5 % of them is {error:.1f} points\n")
    print(
        "| kind | false alarms | held, alike | held, apart | detectable, points | found | ", end=""
    )
    print("worse by the margin, called no worse |\n|---|---|---|---|---|---|---|", flush=True)
    began = time.perf_counter()
    for name, design in kinds(roots, prompts).items():
        if arguments.only in name:
            random = np.random.default_rng([arguments.seed, *name.encode()])
            print(line(name, design, arguments.comparisons, random), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
