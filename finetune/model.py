"""The base model in memory: 4-bit for training, exactly merged for answering, with proof that every
weight was loaded.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from dataset_builder.errors import InputError
from dataset_builder.template import Template, end_id, token_id
from finetune.base import BaseFiles
from finetune.foreign import NO_CODE, NO_PICKLES, adapter_of, reading, tensor_shapes
from finetune.oom import one_line
from finetune.preset import Base
from finetune.run import BaseModel
from finetune.scoring import HEAD, read_at_end

# The names that heads over words have in their files.
_WORD_HEADS = ("lm_head.", "embed_out.")


def pick_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def pick_precision(base: Base, device: torch.device) -> torch.dtype:
    """The dtype to compute in. `auto` is bf16; fp16 on a card older than Ampere; fp32 on a CPU
    without bf16 products.

    Compute capability is asked, not `is_bf16_supported`: a T4 answers that with True, by emulation.
    A processor with AVX2 alone multiplies in bf16 too, forty times slower than in float32.
    """
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if base.precision != "auto":
        return named[base.precision]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return torch.bfloat16


def load_tokenizer(files: BaseFiles, template: Template, directory: Path | None = None) -> Any:
    """The base's tokenizer (or the one stored in `directory`) with the template's end-of-text and a
    padding token.

    Padding goes right, as training wants it. Where the model has no padding token, end-of-text
    pads: labels come from the completion mask and never from the padding id, so end-of-text is
    still learnt.
    """
    with reading(f"the tokenizer of `{files.model}`"):
        tokenizer = AutoTokenizer.from_pretrained(str(directory or files.directory), **NO_CODE)
    if token_id(tokenizer, template.end) is None:
        end_id(template, tokenizer)  # raises with the reason
    tokenizer.eos_token = template.end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = template.end
    tokenizer.padding_side = "right"
    return tokenizer


@one_line("ran out while loading the base model")
def load_base(
    files: BaseFiles,
    base: Base,
    device: torch.device,
    *,
    quantized: bool | None = None,
    answers: bool = True,
) -> tuple[PreTrainedModel, BaseModel]:
    """The base model on `device`, in 4 bit as the preset says or as `quantized` does, and what was
    loaded of it. Where it is not to answer, it has a fresh head `score` that gives one number, in
    place of the one over words (finetune.scoring).

    On a CPU the 4-bit weights are unpacked once where memory allows: the same numbers, and no
    unpacking at every product, which takes a third of a step there.

    Raises InputError where a weight is missing from the files, is not the model's, or has another
    shape: a layer that starts from random numbers trains without complaint and means nothing.
    """
    precision = pick_precision(base, device)
    # Mismatched shapes are asked for, so that they are refused below by name and not in a report on
    # the screen.
    options: dict[str, Any] = {
        "dtype": precision,
        "device_map": {"": device},
        "ignore_mismatched_sizes": True,
    }
    if base.quantization == "nf4" if quantized is None else quantized:
        # The defaults are fp4 and float32 compute: say all of it.
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision,
        )
    kind: Any = AutoModelForCausalLM
    if not answers:
        kind, options["num_labels"] = AutoModelForSequenceClassification, 1
    with quiet_loading(), reading(f"base model `{files.model}`"):
        model, info = kind.from_pretrained(
            str(files.directory), output_loading_info=True, **options, **NO_PICKLES
        )
    record = _loaded(files, model, info)
    if not answers:
        record = _without_word_head(record)
        read_at_end(model)
    _refuse_partial(record)
    if (
        device.type == "cpu"
        and "quantization_config" in options
        and _fits_unpacked(record, precision)
    ):
        unpack_4bit(model, precision)
    return model, record


@one_line("ran out while merging the model")
def load_merged(
    files: BaseFiles,
    base: Base,
    adapter: Path | None,
    device: torch.device,
    *,
    answers: bool = True,
) -> PreTrainedModel:
    """The model that answers, or that gives answers a number: the base as training saw it (its NF4
    weights, unpacked), with the adapter merged in.

    Merged in float32 and then rounded once to the computing precision. Merging into 4-bit weights
    rounds them again, and merging into the original weights changes the base that the adapter was
    trained on. Without an adapter it is the base alone. In eval mode.
    """
    precision = pick_precision(base, device)
    if device.type == "cpu":
        # Packing a weight takes a CPU longer than all else; the models of one evaluation share it.
        model = copy.deepcopy(_unpacked_base(files, base, device, answers))
    else:
        model, _ = load_base(files, base, device, answers=answers)
        if base.quantization == "nf4":
            unpack_4bit(model, torch.float32 if adapter else precision)
    if adapter is not None:
        from peft import PeftModel

        model = model.to(torch.float32)
        model = _grown(model, adapter)
        with quiet_loading(), reading(f"{adapter}"):
            model = PeftModel.from_pretrained(
                model, adapter_of(adapter), autocast_adapter_dtype=False
            )
            model = model.merge_and_unload()
    head = None if answers else model.score.weight.detach().float()
    model = model.to(precision)
    if head is not None:
        model.score.weight = torch.nn.Parameter(head)  # whole, whatever the rest is rounded to
        read_at_end(model)  # a copy would read the model that it was made from
    model.eval()
    model.requires_grad_(False)
    return model


@lru_cache(maxsize=1)
def _unpacked_base(
    files: BaseFiles, base: Base, device: torch.device, answers: bool
) -> PreTrainedModel:
    model, _ = load_base(files, base, device, answers=answers)
    if base.quantization == "nf4":
        unpack_4bit(model, pick_precision(base, device))
    return model


def unpack_4bit(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace each 4-bit layer of `model` by a plain one that holds its dequantised weight in
    `dtype`, in place.
    """
    import bitsandbytes as bnb

    packed = [n for n, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    for name in packed:  # by name, so that each packed weight goes as soon as it is replaced
        layer = model.get_submodule(name)
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = torch.nn.Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        plain.weight = torch.nn.Parameter(
            weight.to(dtype).reshape(layer.out_features, layer.in_features)
        )
        if layer.bias is not None:
            plain.bias = torch.nn.Parameter(layer.bias.data.to(dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the packed weights took is for others on the card
    # Else transformers goes on believing that its weights are packed and refuses to cast or to save
    # them.
    for attribute in ("hf_quantizer", "quantization_method"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.is_loaded_in_4bit = False
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def grow_embeddings(model: PreTrainedModel, size: int) -> None:
    """Make room for `size` token ids; never shrinks: Phi-2 has 905 ids more than its tokenizer
    uses.
    """
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=True)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and load report: what matters of it is in `BaseModel`,
    and refused if bad.
    """
    from transformers.utils import logging

    was_on, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # Of the kernels that bitsandbytes could fetch for a CPU: a notice, not a problem.
            warnings.filterwarnings("ignore", message=".*kernels.*", module="bitsandbytes")
            # PEFT asks by the old name, which newer transformers answers with a notice each time.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if was_on:
            logging.enable_progress_bar()


def _fits_unpacked(record: BaseModel, precision: torch.dtype) -> bool:
    import psutil

    return record.parameters * precision.itemsize < psutil.virtual_memory().available / 2


def _grown(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`model` with the rows that the adapter's extra tokens need."""
    path = adapter / "tokenizer.json"
    if path.exists():
        grow_embeddings(model, len(AutoTokenizer.from_pretrained(str(adapter), **NO_CODE)))
    return model


def _loaded(files: BaseFiles, model: PreTrainedModel, info: dict[str, Any]) -> BaseModel:
    stored = set(tensor_shapes(files.directory))
    unexpected = sorted(info.get("unexpected_keys") or [])
    return BaseModel(
        model=files.model,
        revision=files.revision,
        digest=files.digest,
        parameters=_parameters(model),
        matched=len(stored - set(unexpected)),
        missing=sorted(info.get("missing_keys") or []),
        unexpected=unexpected,
        mismatched=sorted(str(key) for key in info.get("mismatched_keys") or []),
    )


def _without_word_head(record: BaseModel) -> BaseModel:
    """The record of a base with a fresh head `score` in place of the one over words, which is the
    one thing that it may lack and the other the one that may be left over.
    """
    of_words = [name for name in record.unexpected if name.startswith(_WORD_HEADS)]
    return msgspec.structs.replace(
        record,
        missing=[name for name in record.missing if name != HEAD],
        unexpected=[name for name in record.unexpected if name not in of_words],
        unused=of_words,
    )


def _parameters(model: PreTrainedModel) -> int:
    """The number of weights, counting a 4-bit one as one, and a tied one once."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def _refuse_partial(record: BaseModel) -> None:
    for word, names in (
        ("missing from its files", record.missing),
        ("not the model's", record.unexpected),
        ("of another shape", record.mismatched),
    ):
        if names:
            raise InputError(
                f"base model `{record.model}`: {len(names)} weights are {word},"
                f" among them `{names[0]}`",
                "the files do not belong to the model's configuration; fetch them again",
            )


def library_versions() -> dict[str, str]:
    """The versions that a run or an evaluation depends on."""
    from importlib import metadata

    names = (
        "torch",
        "transformers",
        "peft",
        "trl",
        "bitsandbytes",
        "accelerate",
        "datasets",
        "tokenizers",
    )
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return {"transformers": transformers.__version__, **found}


def describe_device(device: torch.device) -> dict[str, Any]:
    """What it ran on, for run.json and eval.json."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return {"type": "cpu", "threads": torch.get_num_threads()}
