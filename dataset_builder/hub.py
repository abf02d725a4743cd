"""Open Assistant's own export, from the Hub at a pinned revision, where no source is named."""

from pathlib import Path

from dataset_builder.errors import InputError

REPOSITORY = "OpenAssistant/oasst1"
REVISION = "fdf72ae0827c1cda404aff25b6603abec9e3399b"
FILE = "2023-04-12_oasst_ready.trees.jsonl.gz"

# How the source is called in manifests.
NAME = f"{REPOSITORY}@{REVISION}/{FILE}"


def download() -> Path:
    """The export on this disk, fetched once. Raises InputError where it is not here and the Hub
    cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(REPOSITORY, FILE, revision=REVISION, repo_type="dataset"))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise InputError(
            f"{REPOSITORY} is not on this disk and the Hub cannot be reached",
            "name a file you have: `--source FILE`; "
            "dataset_builder/sample/forest.trees.jsonl comes with treetune",
        ) from error
