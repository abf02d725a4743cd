"""Small tokenizers of the kinds that causal models come with, each with the template it is for.

All trained in the test on a few sentences: what matters is how each kind treats control tokens,
white space and normalisation, and that is in its parts, not in its vocabulary.
"""

import json
from functools import cache
from typing import NamedTuple

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from dataset_builder.template import TEMPLATES, Template
from tests.tiny import ANSWERS, QUESTIONS

TEXTS = [*QUESTIONS, *ANSWERS, "Instruct: Output: system user assistant model [INST] [/INST]"]

BRACKETS = Template(
    name="brackets",  # Llama 2 and Mistral: the marks are plain text, the end is a control token
    begin="<s>",
    system=None,
    user=("[INST] ", " [/INST]"),
    assistant=(" ", "</s>"),
    invitation="",
    lead=" ",
    end="</s>",
    specials=("<s>", "</s>"),
)
MARKED_BRACKETS = Template(
    **{**vars(BRACKETS), "specials": ("<s>", "</s>", "[INST]", "[/INST]"), "name": "marked"}
)
PIPES = Template(
    name="pipes",  # Phi 3: every role is a control token of its own
    system=("<|system|>\n", "<|end|>\n"),
    user=("<|user|>\n", "<|end|>\n"),
    assistant=("<|assistant|>\n", "<|end|>\n"),
    invitation="<|assistant|>\n",
    lead="",
    end="<|end|>",
    specials=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    also_end=("<|endoftext|>",),
)
PLAIN = Template(
    name="plain",  # T5 and its like: no marks but the end
    system=("", "\n"),
    user=("question: ", "\n"),
    assistant=("answer: ", "\n"),
    invitation="answer:",
    lead=" ",
    end="</s>",
    specials=("</s>",),
)


class Family(NamedTuple):
    """A tokenizer, its template, and whether any text comes back from it as it went in.

    One that puts a space before all it is given does not: it puts one before each part.
    """

    tokenizer: PreTrainedTokenizerFast
    template: Template
    is_exact: bool


def wrapped(inner: Tokenizer, template: Template, *, special: bool, **options) -> Family:
    normalized = options.pop("normalized", False)
    is_exact = options.pop("is_exact", False)
    tokens = dict.fromkeys(
        [*filter(None, [template.begin]), *template.specials, *template.also_end]
    )
    made = [AddedToken(token, special=special, normalized=normalized) for token in tokens]
    if special:
        inner.add_special_tokens(made)
    else:
        inner.add_tokens(made)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, **options)
    return Family(wrapped, template, is_exact)


def byte_level(normalizer=None, *, ignore_merges: bool = False) -> Tokenizer:
    """Byte-level BPE, as GPT-2, Qwen, SmolLM2 and Llama 3 have it."""
    inner = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner


def _pieces(normalizer) -> Tokenizer:
    """BPE over text whose spaces are `▁`, unknown characters as bytes: Llama 2, Mistral, Gemma."""
    inner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    inner.normalizer = normalizer
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", *fallback], show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    # The bytes were special to the trainer alone: text that spells `<0x41>` is text.
    merges = json.loads(inner.to_str())["model"]["merges"]
    made = Tokenizer(
        models.BPE(
            vocab=inner.get_vocab(),
            merges=[tuple(pair) for pair in merges],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    made.normalizer, made.decoder = inner.normalizer, inner.decoder
    return made


def _unigram() -> Tokenizer:
    """Unigram over NFKC text, its end-of-text a piece of the vocabulary like any other: T5."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("</s>|"),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner


def _prefixed():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


MAKERS = {
    "qwen": lambda: wrapped(
        byte_level(normalizers.NFC()), TEMPLATES["chatml"], special=True, is_exact=True
    ),
    "llama3": lambda: wrapped(
        byte_level(ignore_merges=True), TEMPLATES["llama3"], special=True, is_exact=True
    ),
    "mistral": lambda: wrapped(_pieces(_prefixed()), BRACKETS, special=True, unk_token="<unk>"),
    "mistral, marks added": lambda: wrapped(
        _pieces(_prefixed()), MARKED_BRACKETS, special=False, unk_token="<unk>"
    ),
    "gemma": lambda: wrapped(
        _pieces(normalizers.Replace(" ", "▁")),
        TEMPLATES["gemma"],
        special=True,
        unk_token="<unk>",
        is_exact=True,
    ),
    "phi2": lambda: wrapped(byte_level(), TEMPLATES["instruct"], special=True, is_exact=True),
    "phi3": lambda: wrapped(_pieces(_prefixed()), PIPES, special=False, unk_token="<unk>"),
    "t5": lambda: wrapped(
        _unigram(), PLAIN, special=True, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    ),
    "smollm2": lambda: wrapped(byte_level(), TEMPLATES["smollm2"], special=True, is_exact=True),
    # Control tokens that are looked for in what the normaliser left: in any width and case.
    "normalised": lambda: wrapped(
        byte_level(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
        TEMPLATES["chatml"],
        special=False,
        normalized=True,
    ),
    # A normaliser that drops what cannot be seen, so that a torn token grows together.
    "invisible dropped": lambda: wrapped(
        byte_level(normalizers.Replace("\u200b", "")),
        TEMPLATES["chatml"],
        special=False,
        normalized=True,
    ),
}


@cache
def family(name: str) -> Family:
    """The family of that name, made once."""
    return MAKERS[name]()
