"""Models on the Hugging Face Hub: fetched by its own client, into its own cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from airflow_mullama.errors import (
    ConfigurationError,
    DependencyMissingError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from airflow_mullama.models.names import HUB_FOLDER, HUB_PREFIX, split_names

log = logging.getLogger(__name__)


def hub_file(name: str) -> Path:
    """A GGUF file on the Hub, all its parts, fetched if need be.

    Args:
        name: ``hf://owner/repo/file.gguf``, or ``hf://owner/repo@revision/file.gguf``.
    """
    parts = name.removeprefix(HUB_PREFIX).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigurationError(f"The model {name!r} is not of the form hf://owner/repo/file.gguf.")
    owner, repository, file_name = parts
    repository, _, revision = repository.partition("@")
    with _client(name):
        from huggingface_hub import hf_hub_download

        folder, slash, last = file_name.rpartition("/")
        paths = [
            Path(hf_hub_download(f"{owner}/{repository}", folder + slash + part, revision=revision or None))
            for part in split_names(last)
        ]
    if not revision:
        _say_that_it_may_change(name, paths[0], f"hf://{owner}/{repository}", f"/{file_name}")
    return paths[0]


def hub_folder(name: str, wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
    """A repository on the Hub as a folder, fetched if need be.

    Args:
        name: ``owner/repo`` or ``owner/repo@revision``, with ``hf://`` before it or not.
        wanted: patterns of the files to fetch.
        unwanted: patterns of those among them that are left out.
    """
    match = HUB_FOLDER.fullmatch(name.removeprefix(HUB_PREFIX))
    assert match is not None
    with _client(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # in a task's log each step of one is an error
        path = Path(
            snapshot_download(
                match["repository"],
                revision=match["revision"],
                allow_patterns=list(wanted),
                ignore_patterns=list(unwanted),
            )
        )
    if not match["revision"]:
        _say_that_it_may_change(name, path / "config.json", name, "")
    return path


@contextmanager
def _client(name: str) -> Iterator[None]:
    """Makes our errors of those of the Hub's client.

    Raises:
        DependencyMissingError: it is not installed.
        ModelNotFoundError, ModelUnavailableError
    """
    try:
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise DependencyMissingError(
            f"The model {name!r} needs the package huggingface_hub: pip install 'airflow-mullama[huggingface]'."
        ) from error
    log.info("model %s: looking in the Hugging Face cache, else fetching it", name)
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise ModelUnavailableError(
            f"The model {name!r} is not in the Hugging Face cache and could not be fetched (offline mode, or no "
            "network): fetch it once with network, or copy the file here and give its path."
        ) from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"The model {name!r} is gated: accept its terms on its page and set HF_TOKEN to a token that may read it."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"The model {name!r} does not exist, or needs a token: check owner, repository and file name, or set "
            "HF_TOKEN."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelUnavailableError(f"The model {name!r} could not be fetched: {error}.") from error


_said_of: set[str] = set()


def _say_that_it_may_change(name: str, path: Path, repository: str, file: str) -> None:
    """Once in a process: who owns the repository decides what the name stands for."""
    if name in _said_of:
        return
    _said_of.add(name)
    folders = path.parts
    commit = folders[folders.index("snapshots") + 1] if "snapshots" in folders[:-2] else "<commit>"
    log.warning(
        "the model %s names no revision, so it is whatever its owner puts there; to keep this one write %s@%s%s, or "
        "give model_sha256",
        name,
        repository,
        commit,
        file,
    )
