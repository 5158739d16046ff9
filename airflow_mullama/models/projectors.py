"""Projectors (``mmproj``): found like models, hashed, and looked at before they are loaded."""

from __future__ import annotations

from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.gguf_header import read_gguf_header
from airflow_mullama.models.resolve import Projector, locate_model
from airflow_mullama.storage.filesystems import Resolver, resolve_location

# What llama.cpp's converter writes into every projector (gguf-py, ``Keys.Clip`` and ``MODEL_ARCH.MMPROJ``).
ARCHITECTURE, HAS_VISION_ENCODER = "clip", "clip.has_vision_encoder"


def resolve_projector(name: str, resolver: Resolver = resolve_location) -> Projector:
    """Find (or fetch), hash and check a job's projector.

    Args:
        name: as for a model.
        resolver: opens object-store URLs.

    Raises:
        ModelNotFoundError, ModelUnavailableError, ModelUnreadableError: as for a model.
        ConfigurationError: it is no projector, or none for pictures.
    """
    try:
        path, _ = locate_model(name, resolver)
        header = read_gguf_header(path)
    except MullamaError as error:
        raise type(error)(f"mmproj: {error}") from error
    if header.architecture != ARCHITECTURE:
        raise ConfigurationError(
            f"mmproj {name!r} is no projector but a model ({header.architecture!r}): give the file that is published "
            "beside the model as mmproj-….gguf."
        )
    if not header.metadata.get(HAS_VISION_ENCODER):
        raise ConfigurationError(f"mmproj {name!r} has no encoder for pictures: take the one for pictures.")
    return Projector(name, str(path), file_sha256(path))
