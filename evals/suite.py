"""What a suite may say: which prompts, which word limits, which scorers."""

from pathlib import Path

import msgspec

from dataset_builder.errors import InputError
from dataset_builder.settings import load_settings, settings_names
from dataset_builder.wordings import WORDINGS

SUITES = Path(__file__).parent / "suites"


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A suite as its TOML file says it."""

    title: str
    held_out: bool = True  # ask the roots of held-out test trees
    languages: tuple[str, ...] = ("en",)  # of held-out roots; empty means all
    max_prompts: int | None = None  # of held-out roots: the first n by hash
    prompt_files: tuple[str, ...] = ()  # JSON Lines: a string, or an object with `prompt`, a line
    limits: tuple[int, ...]  # words, ascending
    no_limit: bool = True  # ask without a limit too
    wordings: tuple[str, ...] = ("lift",)  # names of dataset_builder.wordings; each prompt gets one, by hash
    tokens_per_word: int = 3  # allowed per requested word, plus `spare_tokens`
    spare_tokens: int = 64
    unlimited_tokens: int = 512  # allowed where no limit is stated
    scorers: tuple[str, ...]  # names of evals.scorers
    relevance_others: int = 4  # other prompts an answer's relevance is measured against


def load_suite(name: str) -> Suite:
    """The suite of that name or at that path. Raises InputError where it is unknown or does not make sense."""
    suite = load_settings(name, SUITES, "suite", Suite)
    unknown = sorted(set(suite.wordings) - set(WORDINGS))
    if unknown:
        raise InputError(f"suite `{name}`: unknown wording `{unknown[0]}`", f"known wordings: {', '.join(WORDINGS)}")
    if not suite.limits and not suite.no_limit:
        raise InputError(f"suite `{name}` asks nothing", "give it `limits` or `no_limit = true`")
    return suite


def suite_names() -> list[str]:
    """The suites that ship."""
    return settings_names(SUITES)
