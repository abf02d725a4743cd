"""Which trees are held out: decided by the root's text alone, before any recipe is read.

Equal prompts stand in several trees, so the text is hashed and not the id: all of them land on one
side.
"""

import hashlib
import re
import unicodedata

from dataset_builder.artifacts import hash_share

# Changing one of them changes every split that was ever made.
SALT = "held-out"
HALVES_SALT = "validation or test"

# What a fold makes of ASCII signs, and which of them it drops.
FOLDED = bytes(range(256)).lower()
NEITHER = bytes(code for code in range(128) if not chr(code).isalnum())


def normalised(text: str) -> str:
    """`text` case-folded, with letters and digits only; the text itself where it has none of them.

    >>> normalised("What IS a tree?")
    'whatisatree'
    """
    return letters_and_digits(text) or text


def letters_and_digits(text: str) -> str:
    """`text` case-folded, with letters and digits only; empty where it has none of them.

    >>> letters_and_digits("...")
    ''
    """
    if text.isascii():
        return text.encode().translate(FOLDED, NEITHER).decode()  # the same, fifty times as fast
    # `\w` is what str.isalnum accepts, and the underscore.
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def side(root_text: str, held_out: float) -> str:
    """train, validation or test: the side of every tree that begins with `root_text`."""
    # Hashed once more: hash_share puts a NUL between salt and key, and a text may be long.
    key = hashlib.sha256(normalised(root_text).encode()).hexdigest()
    if hash_share(SALT, key) >= held_out:
        return "train"
    return "validation" if hash_share(HALVES_SALT, key) < 0.5 else "test"
