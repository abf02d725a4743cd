"""What people said of a reply: Open Assistant's labels, each the mean of their answers, 0 to 1, and
thresholds on them.
"""

from statistics import median
from typing import Annotated

import msgspec
import polars as pl

Mean = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Labels(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A bound on the mean of each label that is named; these are all that Open Assistant asks."""

    # Yes or no: 0.5 is half of those asked.
    spam: Mean | None = None
    fails_task: Mean | None = None
    # Flags that a person may set.
    lang_mismatch: Mean | None = None
    pii: Mean | None = None
    not_appropriate: Mean | None = None
    hate_speech: Mean | None = None
    sexual_content: Mean | None = None
    moral_judgement: Mean | None = None
    political_content: Mean | None = None
    # Scales of five steps.
    quality: Mean | None = None
    toxicity: Mean | None = None
    humor: Mean | None = None
    helpfulness: Mean | None = None
    creativity: Mean | None = None
    violence: Mean | None = None


def bounds(labels: Labels) -> dict[str, float]:
    """The bounds that were given, by label, in the order of the fields."""
    found = {name: getattr(labels, name) for name in labels.__struct_fields__}
    return {name: bound for name, bound in found.items() if bound is not None}


def label_rules(least: Labels, most: Labels) -> dict[str, pl.Expr]:
    """What a reply's labels satisfy, by rule name (`min_labels.quality`); over the table `threads`.

    A label that nobody gave has no mean and fails either bound: what nobody was asked is not known
    to be good, nor to be harmless. Of a label that stands twice every mean keeps the bound.
    """
    rules = {
        f"min_labels.{name}": label_means(name).list.min() >= bound
        for name, bound in bounds(least).items()
    }
    return rules | {
        f"max_labels.{name}": label_means(name).list.max() <= bound
        for name, bound in bounds(most).items()
    }


def label_means(name: str) -> pl.Expr:
    """The means of the label `name` on each reply, as a list: none where nobody gave it."""
    each = pl.element()
    means = each.struct.field("value").filter(each.struct.field("name") == name)
    # A NaN is above every bound to Polars.
    return pl.col("labels").list.eval(means.fill_nan(None).drop_nulls())


def label_hint(rule: str, threads: pl.DataFrame) -> str:
    """What to say to someone whose threshold `rule` (`min_labels.quality`) dropped the last of
    `threads`.
    """
    label = rule.partition(".")[2]
    means = threads.select(label_means(label).explode().alias("mean"))["mean"].drop_nulls()
    if means.is_empty():
        return f"leave `{rule}` out: no reply of the sources has the label `{label}`"
    middle = median(means.to_list())
    return f"`{rule}` may be too strict; the median reply with the label has {middle:.2f}"
