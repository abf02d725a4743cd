"""Extra tokens: the tokenizer extended, the model given room, the rows trained, nothing shrunk.

A Phi-2 has 905 ids more than its tokenizer uses, so resizing its embedding to the tokenizer's
length would cut it; and its head has a bias, which PEFT forgets when single rows of the head are
trained (peft#3649). So: single rows of the embedding, and where the head is another matrix, the
whole head beside them, or the new tokens could be read and hardly written.
"""

from collections.abc import Sequence
from typing import Any

import torch

from dataset_builder.errors import InputError


def extend_tokenizer(tokenizer: Any, extra: Sequence[str]) -> list[int]:
    """The ids of the `extra` tokens, which the tokenizer has afterwards.

    Raises InputError for one that it had already.

    They are plain tokens, not control tokens: wherever a message holds one, it is one id.
    """
    known = tokenizer.get_vocab()
    for token in extra:
        if token in known:
            raise InputError(
                f"extra token `{token}` is in the base's tokenizer already, as id {known[token]}",
                "take it out of `extra_tokens`",
            )
    tokenizer.add_tokens(list(extra))
    return [tokenizer.convert_tokens_to_ids(token) for token in extra]


def prepare_rows(model: Any, ids: Sequence[int]) -> None:
    """Make room in `model` for the token ids, and begin their rows at the mean of the others."""
    from finetune.model import grow_embeddings

    if not ids:
        return
    grow_embeddings(model, max(ids) + 1)
    head = model.get_output_embeddings()
    weights = [model.get_input_embeddings().weight]
    if not is_tied(model):
        weights += [head.weight] + ([head.bias] if head.bias is not None else [])
    first = min(ids)
    with torch.no_grad():
        for weight in weights:
            weight[list(ids)] = weight[:first].float().mean(dim=0).to(weight.dtype)


def repair_tied_head(model: Any) -> None:
    """Give the head that PEFT wrapped around single rows the bias it has, None: TRL asks for it."""
    head = model.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None


def is_tied(model: Any) -> bool:
    """Whether the head is the embedding."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def lora_options(model: Any, ids: Sequence[int]) -> dict[str, Any]:
    """What LoraConfig must be told so that the rows of these token ids are trained."""
    if not ids:
        return {}
    if is_tied(model) and model.get_output_embeddings().bias is not None:
        raise InputError(
            "`extra_tokens` on a base whose head is its embedding and has a bias",
            "PEFT would drop that bias; take `extra_tokens` out of the preset",
        )
    embedding = _name_of(model, model.get_input_embeddings())
    options: dict[str, Any] = {"trainable_token_indices": {embedding: list(ids)}}
    if not is_tied(model):
        options["modules_to_save"] = [_name_of(model, model.get_output_embeddings())]
    return options


def _name_of(model: Any, wanted: Any) -> str:
    """The last part of the module's name: `embed_tokens` in most models, `embed_in` in others."""
    (name,) = [name for name, module in model.named_modules() if module is wanted]
    return str(name.rpartition(".")[2])
