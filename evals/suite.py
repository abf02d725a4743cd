"""What a suite may say: which prompts, which word limits, which scorers."""

import difflib
import math
from pathlib import Path

import msgspec

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_names
from dataset_builder.wordings import OTHER, WORDINGS, unit
from evals.scorers import METRICS

SUITES = Path(__file__).parent / "suites"

# Words that one of what a limit counts is given room for.
ROOM = {"words": 1, "sentences": 25, "paragraphs": 100}


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A suite as its TOML file says it."""

    title: str
    held_out: bool = True  # ask the roots of held-out test trees
    languages: tuple[str, ...] = ("en",)  # of held-out roots; empty means all
    max_prompts: int | None = None  # of held-out roots: the first n by hash
    prompt_files: tuple[str, ...] = ()  # JSON Lines: a string, or an object with `prompt`, a line
    limits: tuple[int, ...] = ()  # words, ascending
    # Prompt files state their own numbers: IFEval's rows, and `limit` beside a `prompt`.
    own_limits: bool = False
    no_limit: bool = True  # ask without a limit too
    wordings: tuple[str, ...] = (
        "lift",
    )  # names of dataset_builder.wordings; each prompt gets one of each family, by hash
    every_wording: bool = False  # each prompt in all of them instead
    samples: int = 1  # answers to each question
    temperature: float = 0.0  # 0: greedy; else answers are drawn
    seed: int = 0  # of the drawing
    tokens_per_word: int = 3  # allowed per requested word, plus `spare_tokens`
    spare_tokens: int = 64
    unlimited_tokens: int = 512  # allowed where no limit is stated
    scorers: tuple[str, ...]  # names of evals.scorers
    # How much worse is still no worse, by metric, in its own unit: violation = 0.03 is 3 points.
    margins: dict[str, float] = {}
    # For the scorer `reward`: a run of the method `reward`, or a directory that holds a model.
    reward_model: str | None = None
    judge_model: str | None = None  # its name at the address given with `--judge`, for `judge`
    relevance_others: int = 4  # other prompts an answer's relevance is measured against

    def allowed(self, limit: int | None, wording: str | None = None) -> int:
        """The tokens an answer may have: enough to break the limit, not enough to run on for
        ever."""
        return (
            self.unlimited_tokens
            if limit is None
            else self.tokens_per_word * limit * ROOM[unit(wording)] + self.spare_tokens
        )


def load_suite(name: str, reward: str | None = None) -> Suite:
    """The suite of that name or at that path, scored by the reward model `reward` too where one is
    given. Raises InputError where it is unknown or does not make sense."""
    suite = load_settings(name, SUITES, "suite", Suite)
    if reward is not None:
        scorers = tuple(dict.fromkeys((*suite.scorers, "reward")))
        suite = msgspec.structs.replace(suite, scorers=scorers, reward_model=reward)
    _refuse_unknown(name, "wording", suite.wordings, [*WORDINGS, *OTHER])
    _refuse_unknown(name, "scorer", suite.scorers, list(METRICS))
    if not suite.limits and not suite.no_limit and not suite.own_limits:
        raise InputError(f"suite `{name}` asks nothing", "give it `limits` or `no_limit = true`")
    if suite.own_limits and (suite.limits or suite.no_limit or suite.held_out):
        raise InputError(
            f"suite `{name}`: with `own_limits` prompts are asked as they stand",
            "take out `limits`, and set `no_limit = false` and `held_out = false`",
        )
    for scorer, key in (("reward", "reward_model"), ("judge", "judge_model")):
        if scorer in suite.scorers and getattr(suite, key) is None:
            raise InputError(
                f"suite `{name}`: scorer `{scorer}` has no model", f"name it in `{key}`"
            )
    if suite.samples > 1 and not suite.temperature:
        raise InputError(
            f"suite `{name}`: {suite.samples} greedy answers to a question are one answer",
            "set `temperature` above 0, or `samples = 1`",
        )
    if list(suite.limits) != sorted(set(suite.limits)) or min(suite.limits, default=1) < 1:
        raise InputError(
            f"suite `{name}`: `limits` must be ascending numbers of words from 1, "
            f"found {list(suite.limits)}"
        )
    if suite.limits and not suite.wordings:
        raise InputError(
            f"suite `{name}` has limits and no wording to state them in",
            f"known wordings: {', '.join([*WORDINGS, *OTHER])}",
        )
    for key, least in (
        ("max_prompts", 1),
        ("tokens_per_word", 1),
        ("spare_tokens", 0),
        ("unlimited_tokens", 1),
        ("relevance_others", 1),
        ("samples", 1),
        ("temperature", 0),
        ("seed", 0),
    ):
        value = getattr(suite, key)
        if value is not None and not least <= value < math.inf:
            raise InputError(f"suite `{name}`: `{key}` must be at least {least}, found {value}")
    # Only here: what margins are of is a comparison's business, which reads suites too.
    from evals.margins import refuse_margins

    refuse_margins(suite.margins, f"suite `{name}`")
    return suite


def suite_label(name: str) -> str:
    """The name that results carry: a shipped suite's own, or a file's without its ending."""
    return Path(name).stem if name.endswith(".toml") else name


def suite_names() -> list[str]:
    """The suites that ship."""
    return settings_names(SUITES)


def _refuse_unknown(suite: str, kind: str, named: tuple[str, ...], known: list[str]) -> None:
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known {kind}s: {', '.join(known)}"
            raise InputError(f"suite `{suite}`: unknown {kind} `{name}`", hint)
