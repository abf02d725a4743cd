"""Messages as a model reads them: the one renderer, for every template.

Only the template writes control tokens. What people wrote is encoded with special tokens split into
plain text, and what still came out as a control token (one that is not marked special, one that a
normaliser formed, a piece of the vocabulary that spells it) is cut in two and encoded again; so a
message holding `<|im_end|>` ends nothing, by id and not by how it is spelt. Unmarked structure
cannot be masked so: a message with a line `Output:` looks like a turn of the `instruct` template,
whose marks are plain text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple

from dataset_builder.errors import InputError

Message = dict[str, str]  # role and content

# How what people wrote is encoded.
_AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}


@dataclass(frozen=True)
class Template:
    """How a conversation is written: what stands before and after each role's content."""

    name: str
    system: tuple[str, str] | None  # None: the model knows no such role
    user: tuple[str, str]
    assistant: tuple[str, str]  # of an earlier turn
    invitation: str  # the end of a prompt, after which the answer begins
    lead: str  # the answer's first characters, trained with it
    end: str  # the end-of-text token, the last one trained
    specials: tuple[str, ...]  # every control token that the parts above hold
    stops: tuple[str, ...] = ()  # texts that end a generated answer too
    also_end: tuple[str, ...] = ()  # other tokens that end a generated answer
    default_system: str | None = None  # said where a conversation names no system message
    begin: str = ""  # before the first message


_CHATML = Template(
    name="chatml",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    invitation="<|im_start|>assistant\n",
    lead="",
    end="<|im_end|>",
    specials=("<|im_start|>", "<|im_end|>"),
    also_end=("<|endoftext|>",),
)

_SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

TEMPLATES = {
    "chatml": _CHATML,
    # SmolLM2's own chat template speaks this line where no system message is given.
    "smollm2": Template(
        **{
            **vars(_CHATML),
            "name": "smollm2",
            "default_system": _SMOLLM2_SYSTEM,
        }
    ),
    # The form of Phi-2's model card. The space stands on the answer, so that no token spans the
    # border.
    "instruct": Template(
        name="instruct",
        system=("", "\n"),
        user=("Instruct: ", "\n"),
        assistant=("Output: ", "\n"),
        invitation="Output:",
        lead=" ",
        end="<|endoftext|>",
        specials=("<|endoftext|>",),
        stops=("\nInstruct:", "\nOutput:"),
    ),
    # As the chat templates that the models publish, without the dates that some of them insert.
    "llama3": Template(
        name="llama3",
        begin="<|begin_of_text|>",
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        invitation="<|start_header_id|>assistant<|end_header_id|>\n\n",
        lead="",
        end="<|eot_id|>",
        specials=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        also_end=("<|end_of_text|>",),
    ),
    "gemma": Template(
        name="gemma",
        begin="<bos>",
        system=None,
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        invitation="<start_of_turn>model\n",
        lead="",
        end="<end_of_turn>",
        specials=("<bos>", "<start_of_turn>", "<end_of_turn>"),
        also_end=("<eos>",),
    ),
}


class AnswerLength(NamedTuple):
    """Where a generated answer ends."""

    tokens: int
    is_stopped: bool  # by itself


def find_template(name: str) -> Template:
    """The template of that name. Raises InputError with the known ones."""
    if name not in TEMPLATES:
        raise InputError(f"unknown template `{name}`", f"known templates: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def text(template: Template, messages: Sequence[Message]) -> str:
    """The whole conversation as text, for people and for files; ends with end-of-text where an
    answer ends it.
    """
    *before, last = messages
    if last["role"] != "assistant":
        return "".join(part for part, _ in _prompt_parts(template, messages))
    prompt = "".join(part for part, _ in _prompt_parts(template, before))
    return prompt + template.lead + last["content"] + template.end


def prompt_ids(template: Template, tokenizer: Any, prompt: Sequence[Message]) -> list[int]:
    """The prompt's token ids, up to where the answer begins."""
    return encode_prompts(template, tokenizer, [prompt])[0]


def completion_ids(template: Template, tokenizer: Any, completion: Sequence[Message]) -> list[int]:
    """The answer's token ids; the last is the end-of-text id."""
    return encode_completions(template, tokenizer, [completion])[0]


def encode_prompts(
    template: Template, tokenizer: Any, prompts: Iterable[Sequence[Message]]
) -> list[list[int]]:
    """`prompt_ids` of many prompts, in one pass over the tokenizer."""
    return _encode(tokenizer, template, [_prompt_parts(template, prompt) for prompt in prompts])


def encode_completions(
    template: Template, tokenizer: Any, completions: Iterable[Sequence[Message]]
) -> list[list[int]]:
    """`completion_ids` of many answers, in one pass over the tokenizer."""
    rows = [
        [(template.lead, True), (answer["content"], False), (template.end, True)]
        for (answer,) in completions
    ]
    return _encode(tokenizer, template, rows)


def end_id(template: Template, tokenizer: Any) -> int:
    """The end-of-text token's id. Raises InputError where the tokenizer has no such token."""
    return _special_id(tokenizer, template.end, template)


def stop_ids(template: Template, tokenizer: Any) -> list[int]:
    """Every token id that ends a generated answer; the end-of-text id first."""
    also = (token_id(tokenizer, token) for token in template.also_end)
    return [end_id(template, tokenizer), *(found for found in also if found is not None)]


def token_id(tokenizer: Any, token: str) -> int | None:
    """The id of one token of the vocabulary; None where there is no such token."""
    # Not get_vocab, which copies the whole vocabulary: 40 ms for 50,000 tokens.
    found = tokenizer.convert_tokens_to_ids(token)
    # An unknown token's id is the one that stands for all of them.
    if found is None or tokenizer.convert_ids_to_tokens(found) != token:
        return None
    return int(found)


def answer_text(template: Template, tokenizer: Any, ids: Sequence[int]) -> str:
    """A generated answer as text: up to end-of-text or a stop text, without surrounding white
    space.
    """
    stops = set(stop_ids(template, tokenizer))
    kept = list(ids)
    for place, token in enumerate(kept):
        if token in stops:
            kept = kept[:place]
            break
    answer = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for stop in template.stops:
        answer = answer.partition(stop)[0]
    return answer.strip()


def holds_stop(template: Template, tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether generated ids hold a stop text."""
    if not template.stops:
        return False
    answer = tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return any(stop in answer for stop in template.stops)


def answer_length(template: Template, tokenizer: Any, ids: Sequence[int]) -> AnswerLength:
    """How many of the generated ids are the answer's, its end counted, and whether it ended by
    itself: ids may run past the end, since a batch goes on until its last answer has ended."""
    ends = set(stop_ids(template, tokenizer))
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    is_stopped = length > 0 and ids[length - 1] in ends
    if holds_stop(template, tokenizer, ids[:length]):
        low, high = 0, length  # the shortest beginning that holds a stop text
        while high - low > 1:
            middle = (low + high) // 2
            if holds_stop(template, tokenizer, ids[:middle]):
                high = middle
            else:
                low = middle
        length, is_stopped = high, True
    return AnswerLength(length, is_stopped)


def _prompt_parts(template: Template, prompt: Sequence[Message]) -> list[tuple[str, bool]]:
    """The prompt in parts: its text, and whether the template wrote it."""
    parts: list[tuple[str, bool]] = [(template.begin, True)]
    messages = list(prompt)
    if template.default_system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": template.default_system})
    marks = {
        "system": template.system,
        "user": template.user,
        "assistant": template.assistant,
    }
    for message in messages:
        around = marks.get(message["role"])
        if around is None:
            known = ", ".join(role for role, mark in marks.items() if mark)
            raise InputError(
                f"a message has the role `{message['role']}`, which template"
                f" `{template.name}` does not know",
                f"its roles: {known}",
            )
        before, after = around
        parts += [(before, True), (message["content"], False), (after, True)]
    return [*parts, (template.invitation, True)]


def _encode(
    tokenizer: Any, template: Template, rows: Sequence[Sequence[tuple[str, bool]]]
) -> list[list[int]]:
    """Each row's parts as ids: control tokens where the template wrote them, everything else as
    plain text.

    Neighbouring plain parts are encoded as one text, so that the ids are those of the whole
    conversation.
    """
    ids = {special: _special_id(tokenizer, special, template) for special in template.specials}
    split = [_runs(template, row) for row in rows]
    plain = [run for run, is_special in chain.from_iterable(split) if not is_special]
    controls = _control_ids(template, tokenizer)
    # One call for all rows; a tokenizer refuses an empty batch.
    found = tokenizer(plain, **_AS_TEXT)["input_ids"] if plain else []
    encoded = iter(
        each if controls.isdisjoint(each) else _harmless(tokenizer, text, controls)
        for text, each in zip(plain, found, strict=True)
    )
    return [
        list(
            chain.from_iterable(
                [ids[run]] if is_special else next(encoded) for run, is_special in row
            )
        )
        for row in split
    ]


def _control_ids(template: Template, tokenizer: Any) -> set[int]:
    """The ids that no message may hold: the template's own, and all that the tokenizer calls
    special but the one for what it does not know.
    """
    own = {token_id(tokenizer, token) for token in (*template.specials, *template.also_end)}
    marked = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    marked |= set(tokenizer.all_special_ids)
    return {number for number in own | (marked - {tokenizer.unk_token_id}) if number is not None}


def _harmless(tokenizer: Any, text: str, controls: set[int]) -> list[int]:
    """`text` as ids without a control token: whatever spells one is cut in its middle, and the
    pieces are encoded apart.

    Raises InputError where a single character is read as a control token.
    """
    pieces = [text]
    while True:
        encoded = tokenizer(pieces, return_offsets_mapping=True, **_AS_TEXT)
        cut: list[str] = []
        for piece, ids, spans in zip(
            pieces, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            bad = [span for token, span in zip(ids, spans, strict=True) if token in controls]
            for start, end in bad:
                if end - start < 2:
                    raise InputError(
                        f"the tokenizer reads the character `{piece[start:end]}` of a message as a"
                        " control token",
                        "drop the rows that hold it",
                    )
            places = [0, *sorted({(start + end) // 2 for start, end in bad}), len(piece)]
            cut += [piece[a:b] for a, b in pairwise(places)]
        if len(cut) == len(pieces):
            return list(chain.from_iterable(encoded["input_ids"]))
        pieces = cut


def _runs(template: Template, parts: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The row as stretches: one control token (True), or plain text as long as it goes (False)."""
    runs: list[tuple[str, bool]] = []
    for part, is_template in parts:
        for piece, is_special in _pieces(template, part) if is_template else [(part, False)]:
            if runs and not is_special and not runs[-1][1]:
                runs[-1] = (runs[-1][0] + piece, False)
            elif piece:
                runs.append((piece, is_special))
    return runs


def _pieces(template: Template, part: str) -> list[tuple[str, bool]]:
    """A part of the template's own, split at its control tokens."""
    pieces = [(part, False)]
    for special in template.specials:
        pieces = [
            piece
            for text, is_special in pieces
            for piece in ([(text, True)] if is_special else _split_at(text, special))
        ]
    return [(text, is_special) for text, is_special in pieces if text]


def _split_at(text: str, special: str) -> list[tuple[str, bool]]:
    between = [[(piece, False)] for piece in text.split(special)]
    return [piece for group in between for piece in ((special, True), *group)][1:]


def _special_id(tokenizer: Any, special: str, template: Template) -> int:
    found = token_id(tokenizer, special)
    if found is None:
        raise InputError(
            f"the tokenizer has no token `{special}`, which template `{template.name}` needs",
            "choose the template the model was made with, or name the token in `extra_tokens`",
        )
    return found
