"""What a model's header says about what it can do, asked before an engine loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.errors import ChatTemplateMissingError, ConfigurationError
from airflow_mullama.models.gguf_header import GgufHeader


def check_generation_model(settings: Mapping[str, Any], header: GgufHeader, model: str) -> None:
    """Refuse a model that cannot write.

    Args:
        settings: the job's, with ``chat``.
        header: the model's.
        model: its name, for people.

    Raises:
        ConfigurationError: it only reads.
        ChatTemplateMissingError: ``chat=True``, and it carries no template.
    """
    if header.is_encoder:
        raise ConfigurationError(
            f"The model {model!r} ({header.architecture}) reads text and writes none: use it with "
            "MullamaEmbedOperator, or take a generative model."
        )
    if settings.get("chat") and header.chat_template is None:
        raise ChatTemplateMissingError(
            f"chat=True, and the model {model!r} carries no chat template; set chat=False or leave it out, or use a "
            "GGUF file with a template."
        )


def check_embedding_model(settings: Mapping[str, Any], header: GgufHeader, model: str) -> None:
    """Refuse a job whose pooling is unknown or that wants longer vectors than the model has.

    Args:
        settings: the job's, with ``pooling`` and ``dimensions``.
        header: the model's.
        model: its name, for people.

    Raises:
        ConfigurationError: says what to set.
    """
    if not settings.get("pooling") and not header.pooling_type:
        raise ConfigurationError(
            f"The model {model!r} does not say how its token vectors become one; set pooling='mean', 'cls' or 'last' "
            "(its makers' page says which; 'last' for most generative models)."
        )
    dimensions = settings.get("dimensions")
    if dimensions and header.embedding_length and dimensions > header.embedding_length:
        raise ConfigurationError(
            f"dimensions is {dimensions} and the vectors of {model!r} have {header.embedding_length} numbers."
        )
