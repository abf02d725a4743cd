"""Who says what is not read off an answer alone: the frozen base model, a reward model, a judge.

Several processes share out what models read; the judge is asked by the first alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dataset_builder.errors import InputError
from dataset_builder.tables import read_table
from evals.judge import Judge as Address
from evals.judge import grades, refuse_no_address
from evals.plan import Planned, Watcher
from evals.prompts import Prompt
from evals.reward import find_reward_model, has_trained, rewards
from evals.scorers import FROZEN
from evals.scoring import Judge, Scorer
from evals.suite import Suite
from evals.tables import SCORES
from finetune import launch

Pairs = Sequence[tuple[Prompt, str]]


def check_sources(suite: Suite, name: str, address: str | None, watcher: Watcher) -> None:
    """Look at who is asked before anything slow.

    Raises InputError where the suite's reward model is none, or a judge's address was given that is
    none or that no scorer asks.
    """
    if "reward" in suite.scorers:
        find_reward_model(suite.reward_model or "")
    if address is not None:
        refuse_no_address(address)
        if "judge" not in suite.scorers:
            raise InputError(
                f"suite `{name}` has no scorer `judge`: nothing would be asked of {address}",
                "add `judge` to its `scorers`, and name its model in `judge_model`",
            )
    elif "judge" in suite.scorers:
        watcher.say("no judge is asked: `--judge ADDRESS` names one; what was said before stands")


def frozen_judge(each: Planned, model: Any, watcher: Watcher) -> Judge:
    """What measures relevance under the frozen model."""
    from evals.relevance import other_prompts, relevances
    from finetune.model import load_tokenizer

    others = other_prompts(each.prompts, each.suite.relevance_others)

    def judge(pairs: Pairs) -> dict:
        return relevances(
            model,
            each.template,
            load_tokenizer(each.files, each.template),
            pairs,
            others,
            lambda done, total: watcher.progress(f"{each.short} relevance", done, total),
        )

    return lambda pairs: _by_all(judge, pairs)


def _by_all(ask: Callable[[Pairs], dict], pairs: Pairs) -> dict:
    """What `ask` says of all pairs, a prompt's all asked by the same process."""
    own = set(launch.own_share(list(dict.fromkeys(prompt.prompt_id for prompt, _ in pairs))))
    said = ask([pair for pair in pairs if pair[0].prompt_id in own])
    return {key: value for part in launch.of_all(said) for key, value in part.items()}


def others(each: Planned, device: Any, watcher: Watcher, address: str | None) -> dict[str, Scorer]:
    """The scorers that ask other models, by metric. The judge is asked only at an address that was
    given; without one, what it has said before stands."""
    suite = each.suite
    found: dict[str, Scorer] = {}

    def reward(pairs: Pairs) -> dict:
        return rewards(
            find_reward_model(suite.reward_model or ""),
            pairs,
            device,
            lambda done, total: watcher.progress(f"{each.short} rewards", done, total),
        )

    def judge(pairs: Pairs) -> dict:
        return launch.of_first(
            lambda: grades(
                Address(address or "", suite.judge_model or ""),
                pairs,
                address is not None,
                lambda done, total: watcher.progress(f"{each.short} judged", done, total),
            )
        )

    if "reward" in suite.scorers:
        found["reward"] = lambda pairs: _by_all(reward, pairs)
    if "judge" in suite.scorers:
        found["judge"] = judge
    return found


def rewarded(each: Planned) -> dict[str, Any]:
    """What eval.json notes of the reward model that scores, and whether it trained the run that it
    scores; nothing where none does.
    """
    if "reward" not in each.suite.scorers:
        return {}
    found = find_reward_model(each.suite.reward_model or "")
    is_own = each.run is not None and has_trained(found, each.run)
    return {"reward": {"model": found.name, "digest": found.digest, "trained_the_run": is_own}}


def unmade(each: Planned) -> list[str]:
    """The metrics of the frozen model that the suite names and the evaluation has not, or all of
    them where the answers are not even there."""
    wanted = [name for name in each.suite.scorers if name in FROZEN]
    if not each.is_done:
        return wanted
    try:
        stored = set(read_table(each.directory / "scores.parquet", SCORES)["metric"].to_pylist())
    except InputError:  # damaged: made anew
        return wanted
    return [name for name in wanted if name not in stored]
