"""Foreign text made safe to show in a terminal.

A reply may hold escape sequences, carriage returns or bidirectional overrides, and Rich passes most
of them through.
"""

import unicodedata


def printable(text: str) -> str:
    r"""`text` with control and formatting characters shown as escapes; newlines and tabs stay.

    Zero-width joiners stay too: they belong to emoji and to Indic scripts.

    >>> printable("plain \x1b[31mred")
    'plain \\x1b[31mred'
    """
    # Nearly every text is plain, and the interpreter says so a hundred times sooner.
    if text.replace("\n", " ").replace("\t", " ").isprintable():
        return text
    return text.translate(_SHOWN)


class _Shown(dict[int, str]):
    """What stands for each character, by its code: found when it is first met, and kept. Of all
    1.1 million that Unicode could have that would be 150 MB; texts have some thousands.
    """

    def __missing__(self, code: int) -> str:
        shown = character = chr(code)
        if _is_control(character):
            shown = character.encode("unicode_escape").decode("ascii")
        self[code] = shown
        return shown


_SHOWN = _Shown()


def _is_control(character: str) -> bool:
    if character in "\n\t\u200c\u200d":
        return False
    # Zl and Zp are line and paragraph separators, Cs a lone surrogate, which no terminal can
    # encode.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
