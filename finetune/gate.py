"""Whether a quality scorer may enter a verdict: it must rank a relevant human reply above what wins
trivially.

At each stated limit the best-ranked human reply must score above, in more than half of the held-out
prompts: the same reply cut at the limit (where it is longer than the limit at all), another
prompt's reply of about the same length, and one word. "More than half" means that the whole exact
95 % interval of the share (Clopper and Pearson) lies above one half; a tie is no win. Few prompts
cannot pass.

The base model's answer cut at the limit is tried too, and reported, and decides nothing: it is no
bad answer, and a scorer under that same model knows its own words again. Where it wins, the scorer
leans towards answers in the base's manner, and the reason says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from scipy import special

# The answers that a human reply must beat, in the order they are reported.
LIMITED = ("human_cut", "other_human", "one_word")
UNLIMITED = ("other_human", "one_word")

# Tried beside them, deciding nothing.
BESIDE = ("base_cut",)

# By answerer, prompt and limit: the score.
Values = Mapping[tuple[str, str, int | None], float]

LEVEL = 0.95  # of intervals


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a quality scorer ranks a relevant human reply above what wins trivially (rule 7)."""

    metric: str
    passed: bool
    # limit, over (human_cut, other_human, one_word, base_cut), share of prompts won, n, low (of its
    # interval), passed.
    wins: list[dict[str, Any]]
    reason: str  # one line for the reader


def gate(
    metric: str, values: Values, reply_words: Mapping[str, int], limits: Sequence[int]
) -> Gate:
    """The gate of `metric`, given its scores of the human replies and of the trivial answers beside
    them.

    `reply_words` has the words of each prompt's best human reply. Without a stated limit in the
    suite the gate is that of plain answers: over another prompt's reply and over one word.
    """
    if not reply_words:
        return Gate(
            metric=metric, passed=False, wins=[], reason="no held-out prompt has a human reply"
        )
    wins = [
        _wins(values, reply_words, limit, rival)
        for limit in (limits or (None,))
        for rival in ((*LIMITED, *BESIDE) if limit is not None else UNLIMITED)
    ]
    failed = [win for win in wins if not win["passed"] and win["over"] not in BESIDE]
    if not failed:
        reason = "the human reply scores above each trivial answer in more than half of the prompts"
        tried = [win for win in wins if win["over"] in BESIDE and win["n"]]
        lost = [win for win in tried if not win["passed"]]
        if lost:
            reason += f"; not so above {_NAMES['base_cut']}: it leans towards the base's manner"
        return Gate(metric=metric, passed=True, wins=wins, reason=reason)
    worst = min(failed, key=lambda win: (win["share"] or 0, win["n"]))
    place = "without a limit" if worst["limit"] is None else f"at {worst['limit']} words"
    name = _NAMES[worst["over"]]
    if not worst["n"]:
        reason = f"{place} no prompt has both a human reply and {name}"
    else:
        won = round(worst["share"] * worst["n"])
        reason = (
            f"{place} the human reply scores above {name} in only {won} of {worst['n']} prompts"
        )
        if worst["share"] > 0.5:
            reason = (
                f"{place} the human reply scores above {name} in {won} of {worst['n']} prompts, "
                "too few to say that it does in more than half"
            )
    return Gate(metric=metric, passed=False, wins=wins, reason=reason)


_NAMES = {
    "human_cut": "its own cut",
    "other_human": "another prompt's reply",
    "one_word": "one word",
    "base_cut": "the base model's answer cut at the limit",
}


def _wins(
    values: Values, reply_words: Mapping[str, int], limit: int | None, rival: str
) -> dict[str, Any]:
    """How often the human reply beats `rival` at `limit`: share, its interval's lower end, n, and
    whether that passes."""
    pairs = []
    for prompt_id, words in reply_words.items():
        if rival == "human_cut" and limit is not None and words <= limit:
            continue
        ours, theirs = (
            values.get(("human", prompt_id, limit)),
            values.get((rival, prompt_id, limit)),
        )
        if ours is not None and theirs is not None:
            pairs.append(ours > theirs)
    n, won = len(pairs), sum(pairs)
    low = least_share(won, n) if n else None
    return {
        "limit": limit,
        "over": rival,
        "share": won / n if n else None,
        "n": n,
        "low": low,
        "passed": low is not None and low > 0.5,
    }


def least_share(won: int, n: int) -> float:
    """The lower end of the exact 95 % interval of a share (Clopper and Pearson 1934).

    >>> round(least_share(40, 40), 3)
    0.912
    """
    return float(special.betaincinv(won, n - won + 1, (1 - LEVEL) / 2)) if won else 0.0
