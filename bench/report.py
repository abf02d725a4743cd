"""How large a report of 5,000 prompts and six runs is, and how soon it can be read in Chromium.

python -m bench.report [--prompts N] [--repeats N] [--case NAME]

Two comparisons: one limit asked (30,000 answers of the runs), and the suite's four limits and none
(150,000). The texts are real messages of shared/data, each used once as it is; where more are
needed its words are shuffled, which deflates worse than language does, so sizes err upwards.
"""

import argparse
import dataclasses
import gzip
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_builder.words import count_words
from reports.answers import Asked, Question, split_at_limit
from reports.findings import Findings, read_findings
from reports.html import write_report
from tests.browser import chromium
from tests.real import DATA
from tests.reports_fixture import PROMPTS as HANDMADE
from tests.reports_fixture import RECIPES, World, write_artifacts

RUNS = ("full", "capped", "concise_best", "rank0", "control_rows", "control_words")
CASES = {"one limit": (100,), "four limits and none": (20, 50, 100, 200, None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=CASES, help="only this one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in [given.case] if given.case else CASES:
            limits = CASES[name]
            page = Path(folder) / "report.html"
            findings = _findings(Path(folder) / name.replace(" ", "-"), given.prompts, limits)
            started = time.perf_counter()
            blocks = write_report(findings, page)
            print(
                json.dumps(
                    {
                        "case": name,
                        "prompts": given.prompts,
                        "runs": len(RUNS),
                        "answers": blocks.answers,
                        "texts_left_out": blocks.left_out,
                        "megabytes": round(page.stat().st_size / 1e6, 2),
                        "seconds_to_write": round(time.perf_counter() - started, 1),
                        "load": round(os.getloadavg()[0], 1),
                    }
                    | _opened(page, given.repeats)
                ),
                flush=True,
            )


def _opened(page: Path, repeats: int) -> dict[str, Any]:
    """Seconds from the start of the navigation: the best, the median and the worst; and of the
    processor, as a busy machine shares it.
    """
    seen: dict[str, list[float]] = {
        name: [] for name in ("first_row", "processor", "all_unpacked", "search", "filter")
    }
    for _ in range(repeats):
        with chromium() as tab:
            tab.call("Performance.enable", timeDomain="threadTicks")
            tab.open(page)
            tab.wait("document.documentElement.dataset.first !== undefined", 120)
            metrics = tab.call("Performance.getMetrics")["metrics"]
            spent = {each["name"]: each["value"] for each in metrics}
            seen["processor"].append(1e3 * spent["ThreadTime"])
            tab.wait("document.documentElement.dataset.ready !== undefined", 120)
            seen["first_row"].append(
                tab.run("performance.getEntriesByName('first-row')[0].startTime")
            )
            seen["all_unpacked"].append(
                tab.run("performance.getEntriesByName('unpacked')[0].startTime")
            )
            assert tab.run("document.querySelector('#detail .text').textContent.length") > 0
            for what, change in (
                ("search", "f.value = 'photosynthesis'"),
                ("filter", "f.value = ''; document.getElementById('filter-show').value = 'over'"),
            ):
                seen[what].append(
                    tab.run(
                        "new Promise(done => { const f = document.getElementById('filter-text');"
                        f"{change}; const began = performance.now();"
                        "f.parentElement.parentElement.dispatchEvent(new Event('input'));"
                        "requestAnimationFrame(() => setTimeout(() => "
                        "done(performance.now() - began))) })"
                    )
                )
    return {
        f"{what}_seconds": [
            round(each / 1e3, 2) for each in (min(all), statistics.median(all), max(all))
        ]
        for what, all in seen.items()
    }


def _findings(folder: Path, prompts: int, limits: tuple[int | None, ...]) -> Findings:
    recipes = {name: RECIPES.get(name, RECIPES["full"]) for name in RUNS}
    world = World(HANDMADE, limits, variants=RUNS, recipes=recipes)
    findings = read_findings(write_artifacts(folder, world))
    return dataclasses.replace(findings, questions=list(_questions(prompts, limits)))


def _questions(prompts: int, limits: tuple[int | None, ...]) -> Iterator[Question]:
    asked, texts = _texts(random.Random(0))
    for number in range(prompts):
        human = next(texts)
        yield Question(
            f"{number:08x}-7f1c-4c1e-9d55-{number * 7919:012x}",
            "held_out",
            "en",
            asked[number % len(asked)],
            {
                limit: Asked(
                    limit,
                    {name: [_answer(next(texts), limit, name, number)] for name in (*RUNS, "base")}
                    | {"human": [split_at_limit(human, limit)]},
                )
                for limit in limits
            },
        )


def _answer(text: str, limit: int | None, name: str, number: int) -> Any:
    chance = random.Random(f"{name} {number} {limit}")
    if limit is not None:  # about as long as was asked for, as a tuned model's answers are
        words = text.split(" ")
        text = " ".join(words[: max(1, round(limit * chance.uniform(0.5, 1.4)))])
    seed = None if name == "base" else 0
    return split_at_limit(text, limit, chance.random() < 0.9, seed, round(chance.uniform(-1, 5), 3))


def _texts(chance: random.Random) -> tuple[list[str], Iterator[str]]:
    """Prompts, and texts of at least 30 words without end: each as it is, then shuffled."""
    with gzip.open(DATA / "oasst" / "oasst1_en_train.texts.jsonl.gz", "rt") as file:
        messages = [
            each if isinstance(each, str) else each["text"] for each in map(json.loads, file)
        ]
    with gzip.open(DATA / "oasst" / "dolly_15k.trees.jsonl.gz", "rt") as file:
        messages += [json.loads(line)["prompt"]["replies"][0]["text"] for line in file]
    messages = list(dict.fromkeys(messages))
    asked = [text for text in messages if count_words(text) < 30 and "?" in text]
    long = [text for text in messages if count_words(text) >= 30]
    chance.shuffle(long)

    def endless() -> Iterator[str]:
        yield from long
        while True:
            for text in long:
                words = text.split(" ")
                chance.shuffle(words)
                yield " ".join(words)

    return asked, endless()


if __name__ == "__main__":
    main()
