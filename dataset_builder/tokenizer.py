"""The tokenizer of a model, from this disk or the Hub; without torch."""

import re
from datetime import date
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from dataset_builder.errors import InputError

# A chat template may ask for the day and write it into every conversation. It is told this one, so
# that the same rows give the same text tomorrow, and two runs the same prompts; it is the day that
# Llama's templates fall back on.
DAY = date(2024, 7, 26)

# A chat template is a stranger's program: beside refusing, it dies of what programs die of.
TEMPLATE_FAULTS = (
    TemplateError,
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)

_HUB, _COMMIT = re.compile(r"[\w.-]+/[\w.-]+"), re.compile("[0-9a-f]{40}")

_ASKS = re.compile(r"strftime_now\s*\(")
_ASKS_PLAINLY = re.compile(r"strftime_now\s*\(\s*(['\"])(.*?)\1\s*\)")


def asks_for_the_day(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template writes the day on which it is used."""
    return _ASKS.search(tokenizer.get_chat_template()) is not None


def chat_template(tokenizer: Any) -> str:
    """The tokenizer's chat template, with DAY where it asks for the day.

    Raises InputError where it computes how the day is to be written. The tokenizer has a template.
    """
    # transformers gives a template no function of ours, so the call itself is replaced.
    told = _ASKS_PLAINLY.sub(
        lambda found: f"{found[1]}{DAY.strftime(found[2])}{found[1]}", tokenizer.get_chat_template()
    )
    if _ASKS.search(told):
        raise InputError(
            "the tokenizer's chat template writes the day, and how it does changes",
            "choose a template that ships",
        )
    return told


def open_tokenizer(name: str) -> Any:
    """The tokenizer in a directory or a `tokenizer.json`, or of a model on the Hub at a commit,
    OWNER/NAME@COMMIT.

    Raises InputError where there is none, no commit is named or the Hub cannot be reached.
    """
    from huggingface_hub.errors import HFValidationError
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(name)
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        if path.exists():
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, _, commit = name.partition("@")
        if _HUB.fullmatch(model) and not _COMMIT.fullmatch(commit):
            raise InputError(
                f"the tokenizer `{name}` is named without its commit",
                f"`{model}@COMMIT`: 40 hexadecimal digits, or a directory on this disk",
            )
        return AutoTokenizer.from_pretrained(
            model, revision=commit or None, trust_remote_code=False
        )
    except (OSError, ValueError, HFValidationError) as error:
        raise InputError(
            f"no tokenizer `{name}` on this disk, and none was had from the Hub",
            "name a directory that holds `tokenizer.json`, or OWNER/NAME@COMMIT while online",
        ) from error
