"""A variant's figures as Markdown: the same in its card and in that of a model tuned on it."""

from dataset_builder.manifest import Manifest
from dataset_builder.words import CONCISE_WORDS


def splits_table(manifest: Manifest) -> str:
    """Rows, words, concise replies and stated limits, a line per split."""
    words = "words in chosen replies" if manifest.form == "pairs" else "words in replies"
    concise = f"replies of at most {CONCISE_WORDS} words"
    lines = [
        f"| split | rows | {words} | {concise} | prompts that state a limit |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, split in manifest.splits.items():
        counts = (split.rows, split.words, split.concise, split.limits_stated)
        lines.append(f"| {name} | {' | '.join(f'{n:,}' for n in counts)} |")
    return "\n".join(lines)


def funnel_table(manifest: Manifest) -> str:
    """All threads, how many fell by the first rule they failed, and those kept; by split."""
    lines = ["| | train | validation |", "|---|---:|---:|"]
    for name, n in manifest.funnel.items():
        other = manifest.validation_funnel.get(name)
        lines.append(f"| {name} | {n:,} | {'' if other is None else f'{other:,}'} |")
    return "\n".join(lines)
