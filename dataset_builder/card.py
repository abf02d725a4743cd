"""The README of a variant: a dataset card that the Hub and `datasets` understand, written from the
manifest alone.
"""

import json
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from huggingface_hub import DatasetCardData
from jinja2 import Environment, StrictUndefined, Template

from dataset_builder import hub
from dataset_builder.card_figures import funnel_table, splits_table
from dataset_builder.manifest import Manifest
from dataset_builder.recipe_file import recipe_files

TEMPLATE = Path(__file__).parent / "card.md"

TAGS = ["conversational", "open-assistant", "treetune"]

SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def card(manifest: Manifest) -> str:
    """The card of the variant that `manifest` describes, YAML block first."""
    is_open_assistant = _is_open_assistant(manifest)
    return _template().render(
        manifest=manifest,
        metadata=metadata(manifest).to_yaml(),
        recipe=json.dumps(manifest.recipe, indent=2, ensure_ascii=False),
        splits=splits_table(manifest),
        funnel=funnel_table(manifest),
        is_open_assistant=is_open_assistant,
        command=build_command(manifest),
        recipe_files=recipe_files(manifest.name, manifest.recipe),
    )


@cache
def _template() -> Template:
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def build_command(manifest: Manifest) -> str:
    """What to type to build the variant again."""
    names = dict.fromkeys(hub.from_hub(file.name) or file.name for file in manifest.sources)
    is_default = [file.name for file in manifest.sources] == [hub.NAME]
    sources = [] if is_default else [part for name in names for part in ("--source", name)]
    files = recipe_files(manifest.name, manifest.recipe)
    name = next(iter(files), manifest.name)
    short = f"{manifest.held_out:g}"
    held_out = short if float(short) == manifest.held_out else repr(manifest.held_out)
    arguments = [name, *sources, "--held-out", held_out]
    if met := manifest.notes.get("contamination"):
        arguments += ["--decontaminate", *(file["name"] for file in met["files"])]
        arguments += [] if met["dropped"] else ["--report-contamination"]
    return f"just build-data {shlex.join(arguments)}"


def metadata(manifest: Manifest) -> DatasetCardData:
    """What the Hub reads of the variant's card."""
    licence = "apache-2.0" if _is_open_assistant(manifest) else "unknown"
    rows = manifest.splits["train"].rows + manifest.splits["validation"].rows
    # Of the whole conversation where the recipe says so, else of its first message.
    keep = manifest.recipe["keep"]
    languages = keep.get("languages") or keep.get("root_languages")
    files = [
        {"split": split, "path": f"{split}.parquet"}
        for split in manifest.splits
        if manifest.splits[split].rows
    ]
    return DatasetCardData(
        pretty_name=manifest.title,
        license=licence,
        # The Hub takes ISO 639 codes here: pt for pt-BR.
        language=sorted({lang.partition("-")[0].lower() for lang in languages or []}) or None,
        task_categories=["text-generation"],
        size_categories=next((size for bound, size in SIZES if rows < bound), "n>1M"),
        tags=TAGS,
        configs=[
            {
                "config_name": manifest.name,
                # `datasets` keys its cache by the directory's last name and this block alone:
                # without the digest another build could be given the rows of this one.
                "description": f"build {manifest.digest}",
                "default": True,
                "data_files": files,
            }
        ],
    )


def _is_open_assistant(manifest: Manifest) -> bool:
    return all(file.name.startswith("OpenAssistant/") for file in manifest.sources)


def card_of_several(manifests: Sequence[Manifest]) -> str:
    """The card over variants that stand in one repository, each in a folder of its name; a config
    is a variant.
    """
    parts = [metadata(each).to_dict() for each in manifests]
    configs = []
    for place, (manifest, part) in enumerate(zip(manifests, parts, strict=True)):
        config = {**part["configs"][0], "default": place == 0}
        files = [
            {**file, "path": f"{manifest.name}/{file['path']}"} for file in config["data_files"]
        ]
        configs.append({**config, "data_files": files})
    licences = {part["license"] for part in parts}
    languages = [part.get("language") for part in parts]
    data = DatasetCardData(
        pretty_name=", ".join(each.name for each in manifests),
        license=licences.pop() if len(licences) == 1 else "unknown",
        language=sorted({lang for each in languages for lang in each or []}) or None,
        task_categories=["text-generation"],
        tags=TAGS,
        configs=configs,
    )
    head = f"---\n{data.to_yaml()}\n---\n"
    lines = [f"- [{each.name}]({each.name}/README.md): {each.title}" for each in manifests]
    told = "Variants of Open Assistant conversations, built by treetune:"
    return "\n".join([head, told, "", *lines, ""])
