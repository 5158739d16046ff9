"""What a model's header says about what it can do, asked before an engine loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.errors import ChatTemplateMissingError, ConfigurationError
from airflow_mullama.models.architectures import DECODERS
from airflow_mullama.models.gguf_header import GgufHeader

POOLING_NAMES: Mapping[int, str] = {1: "mean", 2: "cls", 3: "last"}
"""By llama.cpp's number, those that make a vector of a text. Besides, 0 is none and 4 the score of a reranker."""
RANK = 4


def check_generation_model(settings: Mapping[str, Any], header: GgufHeader, model: str) -> None:
    """Refuse a model that cannot write.

    Args:
        settings: the job's, with ``chat``, ``examples`` and ``conversations``.
        header: the model's.
        model: its name, for people.

    Raises:
        ConfigurationError: it only reads, or it is not known that llama.cpp writes with it.
        ChatTemplateMissingError: ``chat=True`` or several messages, and it carries no template.
    """
    if header.is_adapter:
        raise ConfigurationError(
            f"The model {model!r} is an adapter, which changes a model and is none: give the model that it was trained "
            f"on as model, and lora=[{{'path': {model!r}}}]."
        )
    if header.is_encoder:
        raise ConfigurationError(
            f"The model {model!r} ({header.architecture}) reads text and writes none: use it with "
            "MullamaEmbedOperator, or take a generative model."
        )
    if header.architecture not in DECODERS:
        raise ConfigurationError(
            f"The model {model!r} has the architecture {header.architecture!r}, with which llama.cpp is not known to "
            "write text: take a decoder-only model, or a newer airflow-mullama if the architecture is new."
        )
    if settings.get("chat") and header.chat_template is None:
        raise ChatTemplateMissingError(
            f"chat=True, and the model {model!r} carries no chat template; set chat=False or leave it out, or use a "
            "GGUF file with a template."
        )
    if header.chat_template is None:
        _refuse_messages(settings, model)


def _refuse_messages(settings: Mapping[str, Any], model: str) -> None:
    """Only a chat template can put several messages to a model."""
    argument = "examples" if settings.get("examples") else "messages_column"
    if settings.get("examples") or settings.get("conversations") == "any":
        raise ChatTemplateMissingError(
            f"{argument} is given, and the model {model!r} carries no chat template to put messages into; use a GGUF "
            "file with a template, or write everything into prompt_template."
        )


def check_embedding_model(settings: Mapping[str, Any], header: GgufHeader, model: str) -> None:
    """Refuse a model that does not embed, and a job whose pooling is unknown or that wants longer vectors than it has.

    Args:
        settings: the job's, with ``pooling`` and ``dimensions``.
        header: the model's.
        model: its name, for people.

    Raises:
        ConfigurationError: says what to set.
    """
    if not header.is_encoder and header.architecture not in DECODERS:
        raise ConfigurationError(
            f"The model {model!r} has the architecture {header.architecture!r}, with which llama.cpp is not known to "
            "embed text: take an embedding model, or a newer airflow-mullama if the architecture is new."
        )
    if not settings.get("pooling"):
        _check_declared_pooling(header.pooling_type or 0, model)
    dimensions = settings.get("dimensions")
    if dimensions and header.embedding_length and dimensions > header.embedding_length:
        raise ConfigurationError(
            f"dimensions is {dimensions} and the vectors of {model!r} have {header.embedding_length} numbers."
        )


def _check_declared_pooling(declared: int, model: str) -> None:
    if declared == RANK:
        raise ConfigurationError(
            f"The model {model!r} is a reranker: it scores pairs of texts and gives no vectors; take an embedding "
            "model."
        )
    if declared and declared not in POOLING_NAMES:
        raise ConfigurationError(
            f"The model {model!r} declares pooling {declared}, which is not known here; set pooling='mean', 'cls' or "
            "'last' (its makers' page says which)."
        )
    if not declared:
        raise ConfigurationError(
            f"The model {model!r} does not say how its token vectors become one; set pooling='mean', 'cls' or 'last' "
            "(its makers' page says which; 'last' for most generative models)."
        )


def row_context(asked: int | None, header: GgufHeader, default: int, notes: list[str]) -> int:
    """Tokens that one row may use.

    llama.cpp's server lets no row go beyond what its model was trained for, whatever it is told.

    Args:
        asked: by the user.
        header: the model's.
        default: where nothing is asked.
        notes: gets a sentence where the user asked for more than there is.
    """
    trained = header.context_length
    if asked is None:
        return min(default, trained or default)
    if trained is None or asked <= trained:
        return asked
    notes.append(f"n_ctx is {asked}, and the model was made for {trained} tokens: a row may use {trained}")
    return trained
