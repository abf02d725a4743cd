"""How much of an answer only says its question again: the share of its words that stand in it.

    python -m bench.echo [SUITE]      of every evaluation under $ARTIFACTS of a suite of that name

Relevance, of evaluations and of rewards alike, is won by a question's own words: this is what to
look at beside it where a policy was rewarded for it. Means over answers, by limit; runs of four
words beside single ones, which tell copying from talking about. Words are those of
dataset_builder.words, in lower case.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builder.artifacts import artifacts_root, in_place
from dataset_builder.words import runs_of

RUNS = (1, 4)  # words


def echo(answer: str, question: str, n: int) -> float | None:
    """The share of the answer's runs of `n` words that stand in the question; None where it has
    fewer words.

    >>> echo("Bees make honey.", "What do bees make?", 1)
    0.6666666666666666
    >>> echo("Yes.", "What do bees make?", 4)
    """
    runs = runs_of(answer, n)
    if not runs:
        return None
    asked = set(runs_of(question, n))
    return sum(run in asked for run in runs) / len(runs)


def table(generations: Path) -> Iterator[tuple[int | None, list[float]]]:
    """Each limit, and the mean of `echo` for each of RUNS over the answers at it."""
    rows = pq.read_table(generations).to_pylist()
    limits = sorted({row["limit"] for row in rows}, key=lambda limit: (limit is None, limit))
    for limit in limits:
        means = []
        for n in RUNS:
            found = [echo(row["answer"], row["prompt"], n) for row in rows if row["limit"] == limit]
            known = [each for each in found if each is not None]
            means.append(sum(known) / len(known) if known else 0.0)
        yield limit, means


def main(suite: str) -> None:
    root = artifacts_root()
    for path in in_place(root, f"*/**/evals/{suite}-*/generations.parquet"):
        said = [
            f"{limit or 'none'}: " + ", ".join(f"{mean:.0%}" for mean in means)
            for limit, means in table(path)
        ]
        print(path.parents[2].relative_to(root), "  ".join(said), sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["word_limit"])
