"""Before the first row of an embedding: how long are the server's vectors, and in which forms does it give them?

Whether several texts at once are safe with it is tried for every engine alike
(:mod:`airflow_mullama.engines.embedding_trial`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airflow_mullama.engines.base import Embedding
from airflow_mullama.engines.openai.answers import read_embeddings
from airflow_mullama.engines.openai.checks import failure, post
from airflow_mullama.engines.openai.http_client import Answer, Endpoint, HttpClient
from airflow_mullama.engines.openai.request_bodies import embedding_body, most_embedding_bytes
from airflow_mullama.errors import ModelLoadError
from airflow_mullama.rows import RowError

TRIAL_TEXTS = ("The first text of a trial.", "Another one, about the weather.")
LEAST_COSINE = 0.999
REFUSALS = (400, 422)


@dataclass(frozen=True)
class EmbeddingTrial:
    """What a trial embedding found.

    Args:
        dimensions: length of the vectors.
        packed: whether to ask for ``encoding_format: base64``.
        lists: whether the server takes several texts at once.
        notes: for the task's log.
    """

    dimensions: int
    packed: bool
    lists: bool
    notes: tuple[str, ...]


def embedding_length(client: HttpClient, endpoint: Endpoint, model: str, server: str) -> int:
    """Length of the server's vectors, by that of a short text.

    Raises:
        MullamaError: the server does not embed.
    """
    texts = TRIAL_TEXTS[:1]
    return len(_vectors(endpoint, model, _ask(client, endpoint, model, server, texts), texts)[0].vector)


def try_embedding(client: HttpClient, endpoint: Endpoint, model: str, server: str) -> EmbeddingTrial:
    """Embed two short texts at once, else one; and again packed in base64, which must say the same.

    Raises:
        MullamaError: the server refuses, or gives no vectors of one length.
    """
    texts: Sequence[str] = TRIAL_TEXTS
    answer = _ask(client, endpoint, model, server, texts)
    if answer.status in REFUSALS:
        texts = TRIAL_TEXTS[:1]
        answer = _ask(client, endpoint, model, server, texts)
    plain = _vectors(endpoint, model, answer, texts)
    lengths = {len(embedding.vector) for embedding in plain}
    if len(lengths) > 1:
        raise ModelLoadError(
            f"The vectors of {model!r} at {endpoint} cannot be right: they are of different lengths "
            f"({', '.join(map(str, sorted(lengths)))}); use a model and server made for embeddings."
        )
    answer = _ask(client, endpoint, model, server, texts, packed=True)
    packed = read_embeddings(answer, len(texts)) if answer.ok else None
    same = isinstance(packed, list) and all(map(_agree, plain, packed))
    notes = []
    if answer.ok and not same:
        notes.append("the server's base64 vectors are not those that it writes as numbers: numbers are asked for")
    return EmbeddingTrial(lengths.pop(), same, len(texts) > 1, tuple(notes))


def _ask(
    client: HttpClient, endpoint: Endpoint, model: str, server: str, texts: Sequence[str], *, packed: bool = False
) -> Answer:
    body = embedding_body(model, texts, server, packed=packed)
    return post(client, endpoint, "embeddings", body, most_embedding_bytes(len(texts)))


def _vectors(endpoint: Endpoint, model: str, answer: Answer, texts: Sequence[str]) -> list[Embedding]:
    if not answer.ok:
        raise failure(endpoint, model, answer)
    embeddings = read_embeddings(answer, len(texts))
    if isinstance(embeddings, RowError):
        raise ModelLoadError(f"The server at {endpoint} answers, but not as it should: {embeddings.message}.")
    return embeddings


def _agree(plain: Embedding, packed: Embedding) -> bool:
    one, other = plain.vector.astype(np.float64), packed.vector.astype(np.float64)
    if one.shape != other.shape:
        return False
    # Their lengths, too: some servers normalise in one form only. What is not finite agrees with nothing.
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(one @ other >= LEAST_COSINE * scale and np.allclose(np.linalg.norm(one), np.linalg.norm(other), 1e-3))
