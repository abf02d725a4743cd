"""How much likelier an answer is after its own question than after others, under one frozen model
that trained nothing.

Of each answer, its end-of-text included: the log-likelihood given its own question, minus the mean
of those given other questions of the suite, which a hash has drawn and which are the same for every
answer to that question. Questions stand without their limit, so that echoing the limit wins
nothing. What makes an answer easy to predict anywhere cancels out. An empty answer is scored too,
by its end-of-text alone: were it left out, saying nothing would cost nothing.

`relevance` is this per token of the answer, `relevance_total` the sum over its tokens, both in
nats. An answer tells of its question in its first words, and the rest follows from them: per token,
a short answer is ahead. Of 54 prompts of OASST1's English validation split under
SmolLM2-135M-Instruct, the best human reply scored per token below its own cut at 20 words in 50 of
52 cases and below `Yes.` in half; by the sum it scored above its cuts in nearly all. So by the sum
a shorter answer starts behind even where both keep the limit.

`relevance_controlled` hardly grows with length: the sum over the first tokens alone, which every
answer of more than a few words has, and from it taken off by how much the end of the answer comes
as a surprise (beyond what whole replies show), so that what breaks off is no equal of what is
whole. docs/experiments.md has what it was tried against: `python -m bench.relevance`.

The gate (finetune.gate) lets neither into a verdict untested. What a long answer gains
by the sum, it loses by breaking its limit: a comparison counts quality only where the limit was
kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from dataset_builder.artifacts import hash_order
from dataset_builder.template import Template, encode_completions, encode_prompts
from evals.generate import window
from evals.prompts import Prompt
from evals.scorers import Relevance

# The tokens that `relevance_controlled` reads: fewer than an answer of a dozen words has.
FIRST = 16
# How unlikely, in nats, the end of an answer may be before it costs anything: nine in ten of human
# replies end within this, and so do most that stop after their first sentence.
END = 8.0


def other_prompts(prompts: Sequence[Prompt], n: int) -> dict[str, list[Prompt]]:
    """By prompt_id, the n prompts of other trees that its answers are also read after, drawn by
    hash."""
    drawn = {}
    for prompt in prompts:
        others = [other for other in prompts if other.tree_id != prompt.tree_id]
        others.sort(key=lambda other: hash_order(f"relevance {prompt.prompt_id}", other.prompt_id))
        drawn[prompt.prompt_id] = others[:n]
    return drawn


def relevances(
    model: Any,
    template: Template,
    tokenizer: Any,
    pairs: Sequence[tuple[Prompt, str]],
    others: dict[str, list[Prompt]],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], Relevance | None]:
    """Each pair's relevance, by prompt_id and answer.

    None where the answer and one of its questions do not fit into the model's window together, or
    where the suite has no other prompt to compare with.
    """
    unique = list({(prompt.prompt_id, a): (prompt, a) for prompt, a in pairs}.values())
    asked = _encoded_prompts(template, tokenizer, [prompt for prompt, _ in unique], others)
    completions = ([{"role": "assistant", "content": answer}] for _, answer in unique)
    answers = encode_completions(template, tokenizer, completions)
    found: dict[tuple[str, str], Relevance | None] = {}
    # By question: the answers that are read after it, so that it is read once for all of them.
    read_after: dict[str, list[int]] = {}
    for place, ((prompt, answer), ids) in enumerate(zip(unique, answers, strict=True)):
        found[prompt.prompt_id, answer] = None
        after = [prompt, *others[prompt.prompt_id]]
        longest = max(len(asked[each.prompt_id]) for each in after)
        if len(after) > 1 and longest + len(ids) <= window(model.config):
            for each in after:
                read_after.setdefault(each.prompt_id, []).append(place)
    total = sum(map(len, read_after.values()))
    values: dict[tuple[int, str], Read] = {}
    for question, places in read_after.items():
        for batch in _batches(places, answers, asked[question], batch_tokens(model)):
            read = reads(model, asked[question], [answers[place] for place in batch])
            values |= {(place, question): value for place, value in zip(batch, read, strict=True)}
            report(len(values), total)
    for place, (prompt, answer) in enumerate(unique):
        own = values.get((place, prompt.prompt_id))
        if own is not None:
            rest = [values[place, other.prompt_id] for other in others[prompt.prompt_id]]
            gain = own.total - sum(each.total for each in rest) / len(rest)
            first = own.first - sum(each.first for each in rest) / len(rest)
            found[prompt.prompt_id, answer] = Relevance(
                gain / len(answers[place]), gain, first + min(0.0, own.end + END)
            )
    return found


class Read(NamedTuple):
    """The log-likelihood of one answer after one prompt, in nats."""

    total: float
    first: float  # of its first tokens, the end left out
    end: float  # of its last token: that it ends there


def log_likelihoods(
    model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[float]:
    """The log-likelihood of each answer's ids after the prompt's, in nats; summed in float32."""
    return [read.total for read in reads(model, prompt, answers)]


def reads(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[Read]:
    """Each answer's ids after the prompt's; summed in float32.

    The prompt is read once and its keys and values shared. Answers are padded on the right, where
    nothing that counts can see the padding.
    """
    device = next(model.parameters()).device
    width = max(map(len, answers))
    ids = torch.tensor([[*each, *[0] * (width - len(each))] for each in answers], device=device)
    seen = [[1] * (len(prompt) + len(each)) + [0] * (width - len(each)) for each in answers]
    with torch.inference_mode():
        first = model(torch.tensor([list(prompt)], device=device), logits_to_keep=1, use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(answers))
        logits = model(
            ids[:, :-1] if width > 1 else ids,
            attention_mask=torch.tensor(seen, device=device)[:, : len(prompt) + max(1, width - 1)],
            past_key_values=cache,
            use_cache=True,
        ).logits
        sums = []
        # Row by row, so that the vocabulary is never held in float32 for the whole batch.
        for row, each in enumerate(answers):
            n = len(each)
            scores = torch.cat([first.logits[0, -1:], logits[row, : n - 1]]).float()
            chosen = scores.gather(1, ids[row, :n, None]).squeeze(1)
            found = chosen - scores.logsumexp(1)
            sums.append(torch.stack([found.sum(), found[: min(FIRST, n - 1)].sum(), found[-1]]))
        return [Read(*each) for each in torch.stack(sums).tolist()]


def batch_tokens(model: Any) -> int:
    """How many tokens to read at once: what their keys, values and logits leave room for."""
    return 2_048 if next(model.parameters()).device.type == "cpu" else 16_384


def _encoded_prompts(
    template: Template, tokenizer: Any, prompts: Sequence[Prompt], others: dict[str, list[Prompt]]
) -> dict[str, tuple[int, ...]]:
    needed = {
        each.prompt_id: each for prompt in prompts for each in (prompt, *others[prompt.prompt_id])
    }
    encoded = encode_prompts(
        template, tokenizer, ([{"role": "user", "content": each.text}] for each in needed.values())
    )
    return {name: tuple(ids) for name, ids in zip(needed, encoded, strict=True)}


def _batches(
    places: Sequence[int], answers: Sequence[Sequence[int]], prompt: Sequence[int], tokens: int
) -> list[list[int]]:
    """The places in batches of about `tokens` tokens, padding counted, and the prompt for each."""
    batches: list[list[int]] = []
    width = 0
    for place in sorted(places, key=lambda each: -len(answers[each])):
        if not batches or (len(batches[-1]) + 1) * width > tokens:
            batches.append([])
            width = len(answers[place]) + len(prompt)
        batches[-1].append(place)
    return batches
