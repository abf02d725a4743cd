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

from collections.abc import Callable, Iterator, Sequence
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
# Tokens whose scores over the vocabulary are held in float32 at once.
FLOAT_TOKENS = 2_048

Ids = tuple[int, ...]


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
    answers = [tuple(ids) for ids in encode_completions(template, tokenizer, completions)]
    found: dict[tuple[str, str], Relevance | None] = {}
    keys: list[tuple[int, str]] = []  # of what is read: the answer's place, and the question
    for place, ((prompt, answer), ids) in enumerate(zip(unique, answers, strict=True)):
        found[prompt.prompt_id, answer] = None
        after = [prompt, *others[prompt.prompt_id]]
        longest = max(len(asked[each.prompt_id]) for each in after)
        if len(after) > 1 and longest + len(ids) <= window(model.config):
            keys += [(place, each.prompt_id) for each in after]
    wanted = [(asked[question], answers[place]) for place, question in keys]
    values = dict(zip(keys, reads(model, wanted, report), strict=True))
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


def reads(
    model: Any,
    pairs: Sequence[tuple[Ids, Ids]],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Read]:
    """Of each pair of token ids, the second read after the first: an answer after its prompt. In
    the order given; summed in float32.
    """
    found: dict[int, Read] = {}
    for batch in _batches(pairs, batch_tokens(model), together(model)):
        read = _read(model, [pairs[place] for place in batch])
        found |= dict(zip(batch, read, strict=True))
        report(len(found), len(pairs))
    return [found[place] for place in range(len(pairs))]


def _read(model: Any, pairs: Sequence[tuple[Ids, Ids]]) -> list[Read]:
    """One batch of them.

    Each prompt is read once, and its keys and values go to all answers after it. Prompts are padded
    on the left and masked; answers on the right, where nothing that counts can see the padding.
    """
    device = next(model.parameters()).device
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    answers = [answer for _, answer in pairs]
    width, most = max(map(len, prompts)), max(map(len, answers))
    blank = [[0] * (width - len(each)) for each in prompts]
    tails = [[0] * (most - len(each)) for each in answers]

    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(values, device=device)

    taken = tensor([row_of[prompt] for prompt, _ in pairs])
    lengths = tensor([len(each) for each in prompts])
    ids = tensor([[*each, *tail] for each, tail in zip(answers, tails, strict=True)])
    seen = tensor([[*none, *[1] * len(each)] for none, each in zip(blank, prompts, strict=True)])
    own = tensor([[1] * len(each) + tail for each, tail in zip(answers, tails, strict=True)])
    going_on = max(1, most - 1)  # the last token of the longest is looked at by nothing
    with torch.inference_mode():
        first = model(
            tensor([[*none, *each] for none, each in zip(blank, prompts, strict=True)]),
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=True,
        )
        cache = first.past_key_values
        cache.batch_select_indices(taken)
        logits = model(
            ids[:, :going_on],
            attention_mask=torch.cat([seen[taken], own[:, :going_on]], dim=1),
            position_ids=lengths[taken, None] + torch.arange(going_on, device=device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        begun = first.logits[taken, -1:]
        chosen = []
        # A few rows at a time, so that the vocabulary is never held in float32 for the whole batch.
        rows = max(1, FLOAT_TOKENS // most)
        for start in range(0, len(pairs), rows):
            part = slice(start, start + rows)
            scores = torch.cat([begun[part], logits[part, : most - 1]], dim=1).float()
            chosen.append(scores.gather(2, ids[part, :, None]).squeeze(2) - scores.logsumexp(2))
        found = torch.cat(chosen) * own
        places = torch.arange(most, device=device)
        ends = own.sum(1, keepdim=True) - 1
        early = found * ((places < FIRST) & (places < ends))
        sums = torch.cat(
            [found.sum(1, keepdim=True), early.sum(1, keepdim=True), found.gather(1, ends)], dim=1
        )
        return [Read(*each) for each in sums.tolist()]


def batch_tokens(model: Any) -> int:
    """How many tokens to read at once: what their keys, values and logits leave room for."""
    return 2_048 if next(model.parameters()).device.type == "cpu" else 16_384


def together(model: Any) -> int:
    """The answers after how many prompts may share a batch: a processor is bound by arithmetic, and
    reads each prompt once; a GPU by launching kernels, and reads a little padding with it."""
    return 1 if next(model.parameters()).device.type == "cpu" else 64


def _encoded_prompts(
    template: Template, tokenizer: Any, prompts: Sequence[Prompt], others: dict[str, list[Prompt]]
) -> dict[str, Ids]:
    needed = {
        each.prompt_id: each for prompt in prompts for each in (prompt, *others[prompt.prompt_id])
    }
    encoded = encode_prompts(
        template, tokenizer, ([{"role": "user", "content": each.text}] for each in needed.values())
    )
    return {name: tuple(ids) for name, ids in zip(needed, encoded, strict=True)}


def _batches(pairs: Sequence[tuple[Ids, Ids]], tokens: int, together: int) -> Iterator[list[int]]:
    """The places of pairs in batches of about `tokens` tokens, padding counted, in which at most
    `together` prompts stand, of about one length.
    """
    after: dict[Ids, list[int]] = {}
    for place, (prompt, _) in enumerate(pairs):
        after.setdefault(prompt, []).append(place)
    prompts = sorted(after, key=lambda prompt: -len(prompt))
    for start in range(0, len(prompts), together):
        some = prompts[start : start + together]
        places = [place for prompt in some for place in after[prompt]]
        places.sort(key=lambda place: -len(pairs[place][1]))
        while places:
            rows = max(1, tokens // (len(some[0]) + len(pairs[places[0]][1])))
            yield places[:rows]
            places = places[rows:]
