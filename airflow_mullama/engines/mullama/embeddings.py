"""Vectors out of the mullama bindings: right, or refused.

``EmbeddingGenerator`` of mullama 0.1.0 asks llama.cpp for mean pooling and then reads a buffer that llama.cpp fills
only without pooling: zeros, or what was left there. ``Context(embeddings=True)`` reads the same buffer, which is sound
where the model declares no pooling: then it holds the vectors of the last call's tokens, and the first of them can be
had. So each way of making a vector is tried with texts whose answer can be judged, before the first row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.model_checks import POOLING_NAMES
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader

Vector = npt.NDArray[np.float32]
Tokenize = Callable[[str], list[int]]

# The bindings evaluate 512 tokens at once, which cannot be changed: an encoder aborts the process on a longer text, and
# a pooled vector would be that of the text's last part.
EVALUATED_AT_ONCE = 512
# Two vectors of one text differ by rounding at most.
SAME = 1e-3
TRIAL_TEXTS = (
    "A parcel that never came.",
    "An invoice, paid twice; nobody has answered for three weeks, and the bank asks for a receipt.",
    "Thank you!",
)
REMEDY = "use engine='llamacpp', which pools as the model declares"


class Embedder(Protocol):
    """A way to make a vector.

    Attributes:
        name: for people.
        limit: tokens a text may have.
    """

    name: str
    limit: int

    def embed(self, text: str, tokens: list[int]) -> Vector:
        """The raw vector, ``float32[n_embd]``; raises what the bindings raise."""
        ...


class GeneratedMean:
    """``EmbeddingGenerator``, for builds in which it is sound. It pools by mean and takes text only."""

    name = "mullama.EmbeddingGenerator"

    def __init__(self, mullama: Any, model: Any, n_ctx: int) -> None:
        self.limit = min(n_ctx, EVALUATED_AT_ONCE)
        self._generator = mullama.EmbeddingGenerator(model, n_ctx=self.limit, normalize=False)

    def embed(self, text: str, tokens: list[int]) -> Vector:
        return np.asarray(self._generator.embed(text), np.float32)


class _InContext:
    def __init__(self, context: Any, limit: int) -> None:
        self._context = context
        self.limit = limit

    def _vector_of_first(self, tokens: Sequence[int]) -> Vector:
        """Evaluate tokens after those before them; the vector of their first."""
        self._context.decode(list(tokens))
        vector = self._context.get_embeddings()
        if vector is None:
            raise RuntimeError("the context gave no vector")
        return np.array(vector, np.float32)  # a copy: the buffer is used again


class LastToken(_InContext):
    """Last-token pooling on a generative model: the last token is evaluated apart, so that its vector is the first."""

    name = "last-token pooling through mullama.Context"

    def embed(self, text: str, tokens: list[int]) -> Vector:
        self._context.clear_cache()
        if len(tokens) > 1:
            self._context.decode(tokens[:-1])
        return self._vector_of_first(tokens[-1:])


class MeanOfTokens(_InContext):
    """Mean pooling on a generative model: each token is evaluated apart. Slow, and right."""

    name = "mean pooling through mullama.Context, token by token"

    def embed(self, text: str, tokens: list[int]) -> Vector:
        self._context.clear_cache()
        total = np.zeros(1, np.float64)
        for token in tokens:
            total = total + self._vector_of_first([token])
        return (total / len(tokens)).astype(np.float32)


class FirstToken(_InContext):
    """CLS pooling on an encoder that declares none."""

    name = "CLS pooling through mullama.Context"

    def embed(self, text: str, tokens: list[int]) -> Vector:
        self._context.clear_cache()
        return self._vector_of_first(tokens)


def check_pooling(header: GgufHeader, pooling: str | None, model: str) -> None:
    """Refuse what no way of the bindings can do, before the model is loaded.

    Args:
        header: the model's.
        pooling: what the job asks for; ``None`` for the model's own.
        model: its name, for people.

    Raises:
        ConfigurationError: says to use another engine.
    """
    declared = header.pooling_type or 0
    wanted = pooling or POOLING_NAMES.get(declared, f"type {declared}")
    if wanted == "mean":
        return  # whether EmbeddingGenerator is sound shows when it is tried
    if declared:
        reason = f"it declares pooling {POOLING_NAMES.get(declared, declared)!r}, and mullama then reads no such vector"
    elif wanted != ("cls" if header.is_encoder else "last"):
        reason = f"mullama cannot pool a model of its kind ({header.architecture}) by {wanted!r}"
    else:
        return
    raise ConfigurationError(f"The engine 'mullama' cannot embed with {model!r}: {reason}; {REMEDY}.")


def choose_embedder(
    mullama: Any, model: Any, header: GgufHeader, pooling: str | None, *, n_ctx: int, n_batch: int, n_threads: int
) -> Embedder:
    """The first way that gives right vectors in this build with this model.

    Args:
        mullama: the module.
        model: loaded.
        header: the model's.
        pooling: what the job asks for; ``None`` for the model's own.
        n_ctx, n_batch, n_threads: for a context.

    Raises:
        ModelLoadError: there is none; it says what was tried.
    """
    declared = header.pooling_type or 0
    wanted = pooling or POOLING_NAMES[declared]

    def context() -> Any:
        # An encoder takes a text whole: it must not be cut into batches.
        batch = max(n_batch, n_ctx) if header.is_encoder else n_batch
        return mullama.Context(model, n_ctx=n_ctx, n_batch=batch, n_threads=n_threads, embeddings=True)

    def tokenize(text: str) -> list[int]:
        return list(model.tokenize(text, True, False))

    failures: list[str] = []
    by_tokens = MeanOfTokens(context(), n_ctx) if wanted == "mean" and not declared and not header.is_encoder else None
    candidates: list[Embedder] = []
    if wanted == "mean":
        candidates.append(GeneratedMean(mullama, model, n_ctx))
        if by_tokens is not None:
            candidates.append(by_tokens)
    elif wanted == "last" and not declared and not header.is_encoder:
        candidates.append(LastToken(context(), n_ctx))
    elif wanted == "cls" and not declared and header.is_encoder:
        candidates.append(FirstToken(context(), min(n_ctx, EVALUATED_AT_ONCE)))
    for embedder in candidates:
        problem = try_out(embedder, tokenize, None if embedder is by_tokens else by_tokens)
        if problem is None:
            return embedder
        failures.append(f"{embedder.name}: {problem}")
    raise ModelLoadError(
        f"The installed mullama gives no sound vectors with this model and pooling {wanted!r} "
        f"({'; '.join(failures) or 'there is no way to try'}); {REMEDY}."
    )


def try_out(embedder: Embedder, tokenize: Tokenize, reference: Embedder | None = None) -> str | None:
    """Embed a few texts and judge the vectors.

    Args:
        embedder: the way to try.
        tokenize: text to token ids.
        reference: another way that must give the same vectors, if there is one.

    Returns:
        What is wrong with them, or ``None``.
    """
    first, second, third = TRIAL_TEXTS
    vectors: dict[str, Vector] = {}
    for text in (first, second, first, third, second, first):
        try:
            vector = embedder.embed(text, tokenize(text))
        except (RuntimeError, ValueError) as error:
            return f"it fails ({error})"
        if not np.isfinite(vector).all():
            return "it gives NaN or infinity"
        if not vector.any():
            return "it gives zeros"
        if not _same(vectors.setdefault(text, vector), vector):
            return "it gives the same text different vectors"
    if _same(vectors[first], vectors[second]) or _same(vectors[first], vectors[third]):
        return "it gives different texts the same vector"
    if reference is not None:
        for text, vector in vectors.items():
            if not _same(reference.embed(text, tokenize(text)), vector):
                return "its vectors are not the mean of the text's token vectors"
    return None


def _same(one: Vector, other: Vector) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= SAME * np.abs(one).max())
