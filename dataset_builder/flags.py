"""What to look at twice in a row, as a column: another language than the one declared, personal
data, a chat template's control tokens. A flag drops nothing.

The patterns would rather miss than cry wolf: numbers are checked by their check digits, and what
is reserved for examples is none.
"""

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builder.bounds import counts_of, pieces
from dataset_builder.compiled import processors
from dataset_builder.languages import SECOND_LOOK, are_others, other_languages

LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS = "language", "personal_data", "control_tokens"
FLAGS = (LANGUAGE, PERSONAL_DATA, CONTROL_TOKENS)

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

# What was found of texts, and of texts and declared languages, by their digest: a reply stands in
# many variants of one build.
_SAID: dict[bytes, bool] = {}
_OTHERS: dict[bytes, bool] = {}
REMEMBERED = 2**20

# What another process was asked, and so many at least are worth starting one.
_ASKED: list[Future[dict[bytes, bool]]] = []
LEAST = 4000


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


# Most texts have few digits and no sign that a token begins with: of a flag, what says it, and how
# many of which signs a text needs.
_SIGNS = (
    (PERSONAL_DATA, has_personal_data, b"@", 1),
    (PERSONAL_DATA, has_personal_data, b"0123456789", 4),
    (CONTROL_TOKENS, has_control_tokens, b"<[#", 1),
)


def _text_flags(texts: pa.Array) -> dict[str, np.ndarray]:
    """Which of `texts` carry a flag that the text alone decides."""
    found = {flag: np.zeros(len(texts), bool) for flag in (PERSONAL_DATA, CONTROL_TOKENS)}
    start = 0
    for piece in pieces(texts):
        counts = counts_of(piece, [signs for _, _, signs, _ in _SIGNS])
        for kind, (flag, is_so, _, least) in enumerate(_SIGNS):
            for place in np.flatnonzero(counts[:, kind] >= least).tolist():
                if not found[flag][start + place]:
                    text = piece[place].as_py()
                    key = _key(text, flag)
                    if key not in _SAID:
                        _remember(_SAID, {key: is_so(text)})
                    found[flag][start + place] = _SAID[key]
        start += len(piece)
    return found


def look_ahead(heads: Sequence[str], langs: Sequence[str | None]) -> None:
    """Asks for the languages of replies, of which `heads` are the first SECOND_LOOK characters,
    before anybody wants to know them: another process finds them while this one goes on.
    """
    pairs = {_key(*pair): pair for pair in zip(heads, langs, strict=True)}
    new = {key: pair for key, pair in pairs.items() if key not in _OTHERS}
    if len(new) < LEAST or len(new) > REMEMBERED or processors() < 2:
        return

    asked: Future[dict[bytes, bool]] = Future()

    def ask() -> None:
        try:
            asked.set_result(dict(zip(new, are_others(list(new.values())), strict=True)))
        except Exception as error:  # noqa: BLE001  who waits for the answer must go on
            asked.set_exception(OSError(str(error)))

    _ASKED.append(asked)
    # No executor's, which whoever ends would wait for.
    Thread(target=ask, daemon=True).start()


def _are_other(
    texts: pa.DictionaryArray, langs: pa.Array | pa.ChunkedArray, rows: np.ndarray
) -> np.ndarray:
    """Which of `texts` are in another language than their row's of `langs` (`rows` says whose)."""
    while _ASKED:
        # Where there was no answer, it is found here.
        with suppress(OSError):
            _remember(_OTHERS, _ASKED.pop().result())
    heads = pc.utf8_slice_codeunits(texts.dictionary, 0, SECOND_LOOK).to_pylist()
    declared = langs.to_pylist()
    pairs = [
        (heads[place], declared[row])
        for place, row in zip(texts.indices.to_pylist(), rows.tolist(), strict=True)
    ]
    keys = [_key(*pair) for pair in pairs]
    new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in _OTHERS}
    others = other_languages([head for head, _ in new.values()], [lang for _, lang in new.values()])
    found = dict(zip(new, (each is not None for each in others), strict=True))
    answers = [found[key] if key in found else _OTHERS[key] for key in keys]
    _remember(_OTHERS, found)
    return np.array(answers, bool)


def _key(text: str, of: str | None) -> bytes:
    return hashlib.blake2b(f"{of}\0{text}".encode(), digest_size=16).digest()


def _remember(memory: dict[bytes, bool], found: dict[bytes, bool]) -> None:
    if len(memory) + len(found) > REMEMBERED:
        memory.clear()
    memory.update(found)


def _counts(flags: Iterable[list[str] | None]) -> dict[str, int]:
    found = Counter(flag for each in flags for flag in each or ())
    return {flag: found[flag] for flag in FLAGS}


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
