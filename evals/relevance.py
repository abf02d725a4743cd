"""How much likelier an answer is after its own question than after others, under one frozen model
that trained nothing.

Of each answer, its end-of-text included: the log-likelihood given its own question, minus the mean
of those given other questions of the suite, which a hash has drawn and which are the same for every
answer to that question. Questions stand without their limit, so that echoing the limit wins
nothing. What makes an answer easy to predict anywhere cancels out. An empty answer is scored too,
by its end-of-text alone: were it left out, saying nothing would cost nothing.

`relevance` is this per token of the answer, `relevance_total` the sum over its tokens, both in
nats. An answer tells of its question in its first words, and the rest follows from them: per token,
a short answer is ahead. Of 26 prompts of OASST1's English validation split under
SmolLM2-135M-Instruct, the best human reply scored per token below its own cut at 20 or 50 words in
42 of 48 cases and below `Yes.` in 11 of 25; by the sum it scored above its cuts in 46 of 48, above
`Yes.` in all. The gate (evals.gate) lets neither into a verdict untested. What a long answer gains
by the sum, it loses by breaking its limit: a comparison counts quality only where the limit was
kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dataset_builder.artifacts import hash_order
from dataset_builder.template import Template, encode_completions, encode_prompts
from evals.generate import window
from evals.prompts import Prompt
from evals.scorers import Relevance


@dataclass(frozen=True)
class _Sequence:
    """One answer after one question, as ids."""

    pair: tuple[str, str]  # prompt_id, answer
    is_own: bool
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


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
    unique = list(
        {(prompt.prompt_id, answer): (prompt, answer) for prompt, answer in pairs}.values()
    )
    asked = _encoded_prompts(template, tokenizer, [prompt for prompt, _ in unique], others)
    answers = encode_completions(
        template, tokenizer, ([{"role": "assistant", "content": a}] for _, a in unique)
    )
    sequences: list[_Sequence] = []
    found: dict[tuple[str, str], Relevance | None] = {}
    lengths = {}
    for (prompt, answer), ids in zip(unique, answers, strict=True):
        pair = (prompt.prompt_id, answer)
        read_after = [prompt, *others[prompt.prompt_id]]
        longest = max(len(asked[each.prompt_id]) for each in read_after)
        found[pair] = None
        lengths[pair] = len(ids)
        if len(read_after) > 1 and longest + len(ids) <= window(model.config):
            sequences += [
                _Sequence(pair, place == 0, asked[each.prompt_id], tuple(ids))
                for place, each in enumerate(read_after)
            ]
    own: dict[tuple[str, str], float] = {}
    others_sum: dict[tuple[str, str], list[float]] = {}
    done = 0
    for batch in _batches(
        sequences, 2_048 if next(model.parameters()).device.type == "cpu" else 16_384
    ):
        for sequence, value in zip(batch, log_likelihoods(model, batch), strict=True):
            if sequence.is_own:
                own[sequence.pair] = value
            else:
                others_sum.setdefault(sequence.pair, []).append(value)
        done += len(batch)
        report(done, len(sequences))
    for pair, value in own.items():
        total = value - sum(others_sum[pair]) / len(others_sum[pair])
        found[pair] = Relevance(total / lengths[pair], total)
    return found


def log_likelihoods(model: Any, batch: Sequence[Any]) -> list[float]:
    """The log-likelihood of each sequence's answer ids after its prompt ids, in nats; summed in
    float32.

    Padded on the left, so that every answer ends at the last place and only the places before
    answers need logits.
    """
    device = next(model.parameters()).device
    rows = [[*sequence.prompt_ids, *sequence.answer_ids] for sequence in batch]
    width = max(map(len, rows))
    keep = max(len(sequence.answer_ids) for sequence in batch) + 1
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=keep,
            use_cache=False,
        ).logits
        sums = []
        # Row by row, so that the vocabulary is never held in float32 for the whole batch.
        for row, sequence in enumerate(batch):
            n = len(sequence.answer_ids)
            scores = logits[row, -n - 1 : -1].float()
            chosen = scores.gather(1, ids[row, -n:, None]).squeeze(1)
            sums.append((chosen - scores.logsumexp(1)).sum())
        return torch.stack(sums).tolist()


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


def _batches(sequences: Sequence[_Sequence], tokens: int) -> list[list[_Sequence]]:
    """The sequences, longest first, in batches of about `tokens` tokens, padding counted."""
    batches: list[list[_Sequence]] = []
    width = 0
    for sequence in sorted(sequences, key=lambda s: -len(s.prompt_ids) - len(s.answer_ids)):
        if not batches or (len(batches[-1]) + 1) * width > tokens:
            batches.append([])
            width = len(sequence.prompt_ids) + len(sequence.answer_ids)
        batches[-1].append(sequence)
    return batches
