"""How likely the model that answers finds human replies: read off the model, not off its answers.

`human_likelihood` is the log-likelihood of the best-ranked reply after its own prompt, without a
limit, per token with the end-of-text, in nats: a diagnostic. `prefers_better` is 1 where the model
finds the best-ranked reply likelier per token than the next of another rank, as a preference model
should; per token, since better replies are longer. Both are one number a prompt, and stay with the
answers in `likelihoods.parquet`, so that scoring again needs no model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from dataset_builder.tables import Table
from dataset_builder.template import Template, encode_completions, encode_prompts
from evals.prompts import Prompt
from evals.scorers import LIKELIHOODS

# A prompt's replies that are read: the best and the next of another rank.
READ = 2

LIKELIHOOD_TABLE = Table(
    "likelihoods",
    pa.schema(
        [
            ("prompt_id", pa.string()),
            ("tree_id", pa.string()),
            ("place", pa.int32()),  # 0 is the best-ranked reply, 1 the next of another rank
            ("tokens", pa.int32()),  # of the reply, the end of text counted
            ("log_likelihood", pa.float64()),  # summed over its tokens, in nats
        ]
    ),
    ("prompt_id", "place"),
)


def replies_of(prompt: Prompt) -> list[str]:
    """The best reply, and the next one that was ranked below it."""
    ranks = prompt.ranks or (None,) * len(prompt.replies)
    ranked = [
        text
        for text, rank in zip(prompt.replies, ranks, strict=True)
        if rank is not None and ranks[0] is not None and rank > ranks[0]
    ]
    return [*prompt.replies[:1], *ranked[: READ - 1]]


def likelihoods(
    model: Any,
    template: Template,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Rows of `likelihoods`; a prompt without a human reply, or one that does not fit into the
    model's window with its reply, has none."""
    from evals.generate import window
    from evals.relevance import reads

    replied = [prompt for prompt in prompts if prompt.replies]
    asked = encode_prompts(
        template, tokenizer, ([{"role": "user", "content": each.text}] for each in replied)
    )
    rows, pairs = [], []
    for prompt, ids in zip(replied, asked, strict=True):
        answers = encode_completions(
            template,
            tokenizer,
            ([{"role": "assistant", "content": text}] for text in replies_of(prompt)),
        )
        for place, answer in enumerate(answers):
            if len(ids) + len(answer) <= window(model.config):
                pairs.append((tuple(ids), tuple(answer)))
                rows.append(
                    {
                        "prompt_id": prompt.prompt_id,
                        "tree_id": prompt.tree_id,
                        "place": place,
                        "tokens": len(answer),
                    }
                )
    found = reads(model, pairs, report)
    return [row | {"log_likelihood": read.total} for row, read in zip(rows, found, strict=True)]


def likelihood_scores(
    rows: Sequence[dict[str, Any]], scorers: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of `scores`: without a limit, one a prompt and metric."""
    per_token: dict[str, dict[int, float]] = {}
    trees = {}
    for row in rows:
        found = per_token.setdefault(row["prompt_id"], {})
        found[row["place"]] = row["log_likelihood"] / row["tokens"]
        trees[row["prompt_id"]] = row["tree_id"]
    scores = []
    for prompt_id, found in per_token.items():
        values = {
            "human_likelihood": found.get(0),
            "prefers_better": float(found[0] > found[1]) if {0, 1} <= found.keys() else None,
        }
        scores += [
            {
                "answerer": "run",
                "prompt_id": prompt_id,
                "tree_id": trees[prompt_id],
                "limit": None,
                "wording": None,
                "sample": 0,
                "metric": metric,
                "value": values[metric],
            }
            for metric in LIKELIHOODS
            if metric in scorers and values[metric] is not None
        ]
    return scores
