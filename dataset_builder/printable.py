"""Foreign text made safe to show in a terminal.

A reply may hold escape sequences, carriage returns or bidirectional overrides, and Rich passes most
of them through.
"""

import re
import unicodedata

# What is not plain ASCII is looked at one by one.
_DOUBTFUL = re.compile(r"[^ -~\n\t]")


def printable(text: str) -> str:
    r"""`text` with control and formatting characters shown as escapes; newlines and tabs stay.

    Zero-width joiners stay too: they belong to emoji and to Indic scripts.

    >>> printable("plain \x1b[31mred")
    'plain \\x1b[31mred'
    """
    # Nearly every text is plain, and the interpreter says so a hundred times sooner.
    if text.replace("\n", " ").replace("\t", " ").isprintable():
        return text
    return _DOUBTFUL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return (
        character.encode("unicode_escape").decode("ascii") if _is_control(character) else character
    )


def _is_control(character: str) -> bool:
    if character in "\n\t\u200c\u200d":
        return False
    # Zl and Zp are line and paragraph separators, Cs a lone surrogate, which no terminal can
    # encode.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
