"""What a reward model says of an answer to its prompt: one number, higher is better.

The model is any of transformers' for sequence classification with one label, from a directory of
safetensors with its tokenizer and chat template; pickled weights are never loaded. A suite names it
(`reward_model`). Its numbers enter a verdict only through the gate.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataset_builder.errors import InputError
from evals.prompts import Prompt

ROWS = 16


def rewards(
    directory: Path,
    pairs: Sequence[tuple[Prompt, str]],
    device: Any = "cpu",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], float | None]:
    """Each answer's reward, by prompt_id and answer; None where prompt and answer do not fit into
    the model's window.

    Raises InputError where the directory holds no such model.
    """
    import torch

    model, tokenizer = _loaded(directory, device)
    unique = {(prompt.prompt_id, answer): prompt.text for prompt, answer in pairs}
    room = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
    encoded = {
        key: tokenizer.apply_chat_template(
            [{"role": "user", "content": text}, {"role": "assistant", "content": key[1]}],
            tokenize=True,
            return_dict=False,
        )
        for key, text in unique.items()
    }
    found: dict[tuple[str, str], float | None] = dict.fromkeys(encoded)
    fitting = sorted((key for key, ids in encoded.items() if len(ids) <= room), key=repr)
    fitting.sort(key=lambda key: -len(encoded[key]))
    for start in range(0, len(fitting), ROWS):
        batch = fitting[start : start + ROWS]
        width = max(len(encoded[key]) for key in batch)
        pad = model.config.pad_token_id
        ids = [encoded[key] + [pad] * (width - len(encoded[key])) for key in batch]
        seen = [[1] * len(encoded[key]) + [0] * (width - len(encoded[key])) for key in batch]
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(seen, device=device),
            )
        found |= dict(zip(batch, output.logits[:, 0].float().tolist(), strict=True))
        report(start + len(batch), len(fitting))
    return found


def read_reward_model(directory: Path) -> Any:
    """The tokenizer of the reward model in `directory`, its weights not yet read.

    Raises InputError where the directory holds no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    where = f"reward model `{directory}`"
    if not (directory / "config.json").is_file():
        raise InputError(f"{where}: no config.json there", "give a directory that holds a model")
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"{where}: it has no safetensors", "pickled weights are not loaded")
    try:
        labels = AutoConfig.from_pretrained(str(directory)).num_labels
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
    except (OSError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{where}: cannot be read: {said}", "give what `save_pretrained` wrote"
        ) from error
    if labels != 1:
        raise InputError(f"{where}: {labels} labels", "a reward is one number")
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: its tokenizer has no chat template", "add `chat_template.jinja` to it"
        )
    return tokenizer


def _loaded(directory: Path, device: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    where = f"reward model `{directory}`"
    tokenizer = read_reward_model(directory)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        str(directory), use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"]:
        raise InputError(
            f"{where}: weights are missing: {', '.join(sorted(info['missing_keys'])[:3])}",
            "it is a model of another kind",
        )
    if model.config.pad_token_id is None:
        # The last token that is no padding is what such a model reads the reward off.
        model.config.pad_token_id = tokenizer.pad_token_id
    if model.config.pad_token_id is None:
        raise InputError(f"{where}: it has no padding token", "set `pad_token_id` in config.json")
    return model.to(device).eval(), tokenizer
