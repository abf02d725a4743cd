"""Built variants to a dataset repository of the Hub, in one commit: all of it or nothing."""

from collections.abc import Sequence
from pathlib import Path

from dataset_builder.artifacts import BUILDING, read_json
from dataset_builder.card import card_of_several
from dataset_builder.errors import InputError
from dataset_builder.manifest import Manifest

TOKEN_HINT = "type `hf auth login`, or set the variable HF_TOKEN"


def check_repository(repository: str) -> None:
    """Raises InputError where `repository` cannot be one, or this machine has no token for it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"no repository `{repository}`: {error}", "wanted OWNER/NAME") from error
    if "/" not in repository:
        raise InputError(f"no repository `{repository}`", "wanted OWNER/NAME")
    if not get_token():
        raise InputError(f"`--push {repository}` needs a token of the Hub", TOKEN_HINT)


def push(directories: Sequence[Path], repository: str) -> str:
    """The address of `repository`, once it holds the variants in `directories`.

    One variant stands at its root, several each in a folder of its name with a card over all. A new
    repository is private. Raises InputError where the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    # HTTPError is that of whichever client the installed version speaks through.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    check_repository(repository)
    manifests = [read_json(each / "manifest.json", Manifest) for each in directories]
    files = contents(directories, manifests)
    operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
    if len(directories) > 1:
        operations.append(CommitOperationAdd("README.md", card_of_several(manifests).encode()))
    names = ", ".join(f"{each.name} {each.digest[:12]}" for each in manifests)
    api = HfApi()
    try:
        made = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.create_commit(
            repository, operations, commit_message=f"Build {names}", repo_type="dataset"
        )
    except OfflineModeIsEnabled as error:
        raise InputError(
            f"{repository}: this machine is told to stay offline", "unset HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"{repository}: the Hub refused: {error}", TOKEN_HINT) from error
    except (HTTPError, ConnectionError) as error:
        raise InputError(
            f"{repository}: the Hub cannot be reached: {error}",
            "the variants are built; type the same again when it can",
        ) from error
    return str(made)


def contents(directories: Sequence[Path], manifests: Sequence[Manifest]) -> dict[str, Path]:
    """What is uploaded, by path in the repository."""
    several = len(directories) > 1
    found = {}
    for directory, manifest in zip(directories, manifests, strict=True):
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            path = file.relative_to(directory).as_posix()
            if path.startswith(BUILDING):
                continue  # what a kill left
            found[f"{manifest.name}/{path}" if several else path] = file
    return found
