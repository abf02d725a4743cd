"""Which trees are held out: decided by the root's text alone, before any recipe is read.

Equal prompts stand in several trees, so the text is hashed and not the id: all of them land on one
side.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from dataset_builder.artifacts import hash_share

# Changing one of them changes every split that was ever made.
SALT = "held-out"
HALVES_SALT = "validation or test"

_LOWER = bytes(range(256)).lower()
_NEITHER = bytes(code for code in range(128) if not chr(code).isalnum())


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
        return text.encode().translate(_LOWER, _NEITHER).decode()  # the same, fifty times as fast
    # `\w` is what str.isalnum accepts, and the underscore.
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def side(root_text: str, held_out: float) -> str:
    """train, validation or test: the side of every tree that begins with `root_text`."""
    # Hashed once more: hash_share puts a NUL between salt and key, and a text may be long.
    key = hashlib.sha256(normalised(root_text).encode()).hexdigest()
    if hash_share(SALT, key) >= held_out:
        return "train"
    return "validation" if hash_share(HALVES_SALT, key) < 0.5 else "test"


def split_trees(roots: Iterable[dict[str, Any]], held_out: float) -> pa.Table:
    """(tree_id, split), one row for each of `roots` (tree_id, text)."""
    rows = [{"tree_id": root["tree_id"], "split": side(root["text"], held_out)} for root in roots]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("tree_id", pa.string()), ("split", pa.string())])
    )
