"""What a reward model says of an answer to its prompt: one number, higher is better.

The model is a run of the method `reward`, or any of transformers' for sequence classification with
one label, from a directory of safetensors with its tokenizer and chat template; pickled weights are
never loaded. A suite names it (`reward_model`), or the command (`--reward`). Its numbers enter a
verdict only through the gate, and never one on a run that it trained.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dataset_builder.artifacts import file_digest
from dataset_builder.errors import InputError
from dataset_builder.settings import parse_settings
from dataset_builder.template import encode_completions, encode_prompts
from evals.prompts import Prompt
from finetune.base import context_of, ready_base
from finetune.chat import template_of
from finetune.foreign import NO_CODE, NO_PICKLES, reading, weights_of
from finetune.methods import METHODS
from finetune.parent import refuse_other_base
from finetune.preset import Preset
from finetune.run import Run, find_runs, load_run, refuse_changed_adapter

ROWS = 16
UNBOUNDED = 2**31


@dataclass(frozen=True)
class RewardModel:
    """A reward model that is there and whole, its weights not yet read."""

    name: str  # of the run, or the directory
    digest: str  # sha256 of the run's adapter, or over the directory's weights
    directory: Path
    run: Run | None


class Scorer(NamedTuple):
    """A reward model ready to be asked."""

    model: Any
    encode: Callable[[Sequence[tuple[str, str]]], list[list[int]]]  # of prompts and answers
    padding_id: int
    room: int  # tokens of a prompt with its answer


def find_reward_model(name: str | Path) -> RewardModel:
    """The reward model that `name` means: a run, or a directory that holds a model.

    Raises InputError where there is none, it is of another kind, or its weights are not those it
    was trained to.
    """
    if Path(name).is_dir() and not (Path(name) / "run.json").is_file():
        directory = Path(name)
        read_reward_model(directory)
        whole = hashlib.sha256()
        for path in sorted(directory.glob("*.safetensors")):
            whole.update(file_digest(path).encode())
        return RewardModel(str(name), whole.hexdigest(), directory, None)
    found = find_runs(str(name))
    if len(found) > 1:
        listed = "\n      ".join(f"{path.parent.name}/{path.name}" for path in found)
        raise InputError(
            f"reward model `{name}` means {len(found)} seeds, and one scores",
            f"choose one:\n      {listed}",
        )
    run = load_run(found[0])
    if METHODS[run.method].answers:
        raise InputError(
            f"reward model `{run.name}` is a run of the method `{run.method}`, which answers",
            "name a run of the method `reward`; `just list` shows what there is",
        )
    refuse_changed_adapter(found[0], run)
    refuse_no_head(found[0] / "adapter", run)
    return RewardModel(run.name, run.adapter_sha256, found[0], run)


def refuse_no_head(adapter: Path, run: Run) -> None:
    """Raise InputError where the adapter in that folder holds no head, or one that holds no
    numbers: PEFT would take a fresh one without a word.
    """
    from safetensors import safe_open

    from finetune.scoring import HEAD, STORED

    path = adapter / "adapter_model.safetensors"
    with reading(f"{path}"), safe_open(path, "pt") as tensors:
        names = set(tensors.keys())
        head = tensors.get_tensor(STORED) if STORED in names else None
    if head is None:
        said = f"no `{HEAD}`, the head that gives a number"
    elif head.dim() != 2 or len(head) != 1:
        said = f"a head of the shape {tuple(head.shape)}, and one number is wanted"
    elif not head.isfinite().all():
        said = "a head of which some weights are no numbers"
    else:
        return
    raise InputError(f"reward model `{run.name}`: its adapter holds {said}", "train it again")


def has_trained(reward: RewardModel, run: Run) -> bool:
    """Whether the run's record names the reward model: it was trained on what that one rewards."""
    record = msgspec.json.encode(run)
    is_named = reward.run is not None and msgspec.json.encode(reward.name) in record
    return is_named or reward.digest.encode() in record


def rewards(
    reward: RewardModel,
    pairs: Sequence[tuple[Prompt, str]],
    device: Any = "cpu",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], float | None]:
    """Each answer's reward, by prompt_id and answer; None where prompt and answer do not fit into
    the model's window.

    Raises InputError where the model is not the kind it says, or its base is not here.
    """
    from finetune.scoring import rewards_of

    scorer = _of_run(reward, device) if reward.run else _of_directory(reward.directory, device)
    unique = {(prompt.prompt_id, answer): prompt.text for prompt, answer in pairs}
    encoded = dict(
        zip(unique, scorer.encode([(text, key[1]) for key, text in unique.items()]), strict=True)
    )
    found: dict[tuple[str, str], float | None] = dict.fromkeys(encoded)
    fitting = sorted((key for key, ids in encoded.items() if len(ids) <= scorer.room), key=repr)
    fitting.sort(key=lambda key: -len(encoded[key]))
    for start in range(0, len(fitting), ROWS):
        batch = fitting[start : start + ROWS]
        ids = [encoded[key] for key in batch]
        given = rewards_of(scorer.model, ids, scorer.padding_id, "the reward of one answer")
        found |= dict(zip(batch, given, strict=True))
        report(start + len(batch), len(fitting))
    return found


def _of_run(reward: RewardModel, device: Any) -> Scorer:
    """The run's model, its adapter merged as in the models that answer, and its template."""
    import torch

    from finetune.model import load_merged, load_tokenizer

    run = reward.run
    assert run
    preset = parse_settings(run.preset, Preset, f"{reward.directory / 'run.json'}: preset")
    files = ready_base(preset.base)
    refuse_other_base(run, files, preset)
    template = template_of(preset, files)
    adapter = reward.directory / "adapter"
    tokenizer = load_tokenizer(files, template, adapter)

    def encode(texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        prompts = encode_prompts(
            template, tokenizer, ([{"role": "user", "content": prompt}] for prompt, _ in texts)
        )
        answers = encode_completions(
            template, tokenizer, ([{"role": "assistant", "content": said}] for _, said in texts)
        )
        return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]

    model = load_merged(files, preset.base, adapter, torch.device(device), answers=False)
    return Scorer(model, encode, tokenizer.pad_token_id, context_of(files) or UNBOUNDED)


def read_reward_model(directory: Path) -> Any:
    """The tokenizer of the reward model in `directory`, its weights not yet read.

    Raises InputError where the directory holds no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    where = f"reward model `{directory}`"
    if not (directory / "config.json").is_file():
        raise InputError(f"{where}: no config.json there", "give a directory that holds a model")
    weights_of(directory, where)
    with reading(where):
        labels = AutoConfig.from_pretrained(str(directory), **NO_CODE).num_labels
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), **NO_CODE)
    if labels != 1:
        raise InputError(f"{where}: {labels} labels", "a reward is one number")
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: its tokenizer has no chat template", "add `chat_template.jinja` to it"
        )
    return tokenizer


def _of_directory(directory: Path, device: Any) -> Scorer:
    from transformers import AutoModelForSequenceClassification

    where = f"reward model `{directory}`"
    tokenizer = read_reward_model(directory)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        str(directory), output_loading_info=True, **NO_PICKLES
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

    def encode(texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        return [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
                tokenize=True,
                return_dict=False,
            )
            for prompt, answer in texts
        ]

    room = int(getattr(model.config, "max_position_embeddings", None) or UNBOUNDED)
    return Scorer(model.to(device).eval(), encode, model.config.pad_token_id, room)
