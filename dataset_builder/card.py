"""The README of a variant: a dataset card that the Hub and `datasets` understand, written from the
manifest alone.
"""

import json
import shlex
from pathlib import Path

from huggingface_hub import DatasetCardData
from jinja2 import Environment, StrictUndefined

from dataset_builder import hub
from dataset_builder.manifest import Manifest
from dataset_builder.words import CONCISE_WORDS

TEMPLATE = Path(__file__).parent / "card.md"

SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def card(manifest: Manifest) -> str:
    """The card of the variant that `manifest` describes, YAML block first."""
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    is_open_assistant = all(file.name.startswith("OpenAssistant/") for file in manifest.sources)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        manifest=manifest,
        metadata=_metadata(manifest, "apache-2.0" if is_open_assistant else None),
        recipe=json.dumps(manifest.recipe, indent=2, ensure_ascii=False),
        concise_words=CONCISE_WORDS,
        is_open_assistant=is_open_assistant,
        command=build_command(manifest),
    )


def build_command(manifest: Manifest) -> str:
    """What to type to build the variant again."""
    names = dict.fromkeys(hub.from_hub(file.name) or file.name for file in manifest.sources)
    is_default = [file.name for file in manifest.sources] == [hub.NAME]
    sources = [] if is_default else [part for name in names for part in ("--source", name)]
    arguments = [manifest.name, *sources, "--held-out", f"{manifest.held_out:g}"]
    return f"just build-data {shlex.join(arguments)}"


def _metadata(manifest: Manifest, licence: str | None) -> str:
    rows = manifest.splits["train"].rows + manifest.splits["validation"].rows
    languages = manifest.recipe["keep"].get("languages")
    files = [
        {"split": split, "path": f"{split}.parquet"}
        for split in manifest.splits
        if manifest.splits[split].rows
    ]
    data = DatasetCardData(
        pretty_name=manifest.title,
        license=licence or "unknown",
        language=sorted(languages) if languages else None,
        task_categories=["text-generation"],
        size_categories=next((size for bound, size in SIZES if rows < bound), "n>1M"),
        tags=["conversational", "open-assistant", "treetune"],
        configs=[{"config_name": manifest.name, "default": True, "data_files": files}],
    )
    return data.to_yaml()
