"""How numbers are written for people: shares as percentages, differences with a sign, intervals,
units.

Shares are 0 to 1 everywhere else; percentages exist only in reports.
"""

from dataclasses import dataclass

from dataset_builder.printable import printable
from finetune.gate import Gate

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"  # a number that does not exist

# Answerers that are no arm: always in the table, since they show what a metric is worth. In this
# order.
TRIVIAL = {
    "base": "base model",
    "human": "human reply",
    "one_word": "one word",
    "base_cut": "base, cut at limit",
}


@dataclass(frozen=True)
class Metric:
    """How one metric is shown."""

    name: str
    title: str
    about: str  # what is counted and which way is good
    unit: str  # of a difference
    scale: float = 1.0  # a stored value times this is the shown one
    decimals: int = 0
    suffix: str = ""  # after a shown value
    is_more_better: bool = False


_RELEVANCE = "how much the prompt explains an answer that keeps its limit; higher is better"

# In the order they are shown.
METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "violation",
            "Violations",
            "answers with more words than the limit, or none; lower is better",
            "points",
            scale=100,
            suffix=" %",
        ),
        Metric(
            "relevance_controlled",
            "Relevance, whatever the length",
            _RELEVANCE,
            "nats",
            decimals=1,
            is_more_better=True,
        ),
        Metric("relevance_total", "Relevance", _RELEVANCE, "nats", decimals=1, is_more_better=True),
        Metric(
            "relevance", "Relevance per token", _RELEVANCE, "nats", decimals=2, is_more_better=True
        ),
        Metric(
            "reward",
            "Reward",
            "what the reward model gives an answer that keeps its limit; higher is better",
            "reward",
            decimals=2,
            is_more_better=True,
        ),
        Metric(
            "combined",
            "Wins",
            "against the baseline's answers, a violation being a loss; higher is better",
            "points",
            scale=100,
            suffix=" %",
            is_more_better=True,
        ),
        Metric(
            "overshoot",
            "Overshoot",
            "words past the limit, on average; lower is better",
            "words",
            decimals=1,
        ),
    )
}


def task_metric(name: str, way: int) -> Metric:
    """How a metric that a task of lm-evaluation-harness names is shown; `way` is -1 where less is
    better, 1 where more is, 0 neither.

    >>> task_metric("acc", 1).about
    "the mean over the task's samples; higher is better"
    """
    better = {-1: "; lower is better", 1: "; higher is better"}.get(way, "")
    about = f"the mean over the task's samples{better}"
    title = printable(name)
    return Metric(name, title, about, title, decimals=3, is_more_better=way > 0)


def percent(share: float | None) -> str:
    """A share as whole per cent.

    >>> percent(0.376)
    '38 %'
    """
    return NOTHING if share is None else f"{_number(100 * share, 0)} %"


def count(number: float | None) -> str:
    """A count with commas between thousands; halves, which medians have, stay.

    >>> count(18432)
    '18,432'
    """
    if number is None:
        return NOTHING
    return f"{number:,.1f}" if number % 1 else f"{int(number):,}"


def value(metric: Metric, number: float | None) -> str:
    """A stored value of the metric as it is shown."""
    return (
        NOTHING
        if number is None
        else f"{_number(number * metric.scale, metric.decimals)}{metric.suffix}"
    )


def difference(metric: Metric, number: float | None) -> str:
    """A difference of the metric with its sign, without its unit."""
    return NOTHING if number is None else _signed(number * metric.scale, metric.decimals)


def interval(metric: Metric, low: float | None, high: float | None) -> str:
    """An interval of differences; a dash where it cannot be had."""
    if low is None or high is None:
        return NOTHING
    return f"{difference(metric, low)} to {difference(metric, high)}"


def range_of(metric: Metric, low: float | None, high: float | None) -> str:
    """An interval in the fewest characters; a dash where it cannot be had.

    >>> range_of(METRICS["violation"], 0.05, 0.24)
    '+5…+24'
    """
    if low is None or high is None:
        return NOTHING
    return f"{difference(metric, low)}…{difference(metric, high)}"


def limit_name(limit: int | None) -> str:
    """How a limit is called.

    >>> limit_name(50), limit_name(None)
    ('50 words', 'no limit')
    """
    return "no limit" if limit is None else f"{limit} words"


def setting(found: object) -> str:
    """A recipe's or preset's value, as TOML would say it; a dash where the key is absent."""
    if found is None:
        return NOTHING
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, str):
        return found
    if isinstance(found, list | tuple):
        return f"[{', '.join(setting(item) for item in found)}]"
    if isinstance(found, dict):
        return ", ".join(f"{key} = {setting(item)}" for key, item in found.items())
    return str(found)


def gate_note(gate: Gate) -> str:
    """What a quality scorer's gate says, in one line."""
    if gate.passed:
        return f"{gate.metric}: gate passed: {gate.reason}"
    return f"{gate.metric}: gate failed, so it is in no verdict: {gate.reason}"


def _number(number: float, decimals: int) -> str:
    text = f"{abs(number):,.{decimals}f}"
    # What rounds to zero has no sign.
    return f"{MINUS}{text}" if number < 0 and text.strip("0.,") else text


def _signed(number: float, decimals: int) -> str:
    text = _number(number, decimals)
    return text if text.startswith(MINUS) or not text.strip("0.,") else f"+{text}"
