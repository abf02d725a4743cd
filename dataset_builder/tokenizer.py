"""The tokenizer of a model, from this disk or the Hub; without torch."""

from pathlib import Path
from typing import Any

from dataset_builder.errors import InputError


def open_tokenizer(name: str) -> Any:
    """The tokenizer in a directory or a `tokenizer.json`, or of a model on the Hub.

    Raises InputError where there is none or the Hub cannot be reached.
    """
    from huggingface_hub.errors import HFValidationError
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(name)
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, HFValidationError) as error:
        raise InputError(
            f"no tokenizer `{name}` on this disk, and none was had from the Hub",
            "name a directory that holds `tokenizer.json`, or a model of the Hub while online",
        ) from error
