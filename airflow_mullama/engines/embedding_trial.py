"""Before the first row: does a text get the same vector among others as alone?

Engines have ways of working on several texts at once that are wrong for some models, and say nothing of it. So three
texts of different lengths are embedded alone and together. An engine that does not give them the same vectors is
started again such that it works on one text at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.base import Embedding, Engine, EngineSettings, Outcome, Request
from airflow_mullama.errors import EndpointUnavailableError, ModelLoadError, MullamaError
from airflow_mullama.rows import ErrorType, RowError

TRIAL_TEXTS = (
    "Yes.",
    "A parcel that never came.",
    "An invoice, paid twice; nobody has answered for three weeks, and the bank asks for a receipt.",
)
# What batches of another shape, or a smaller type, change in a vector is far less.
LEAST_COSINE = 0.999
TRIED = "three texts have the same vectors alone and together"


def start_embedding_engine(start: Callable[[EngineSettings], Engine], settings: EngineSettings) -> Engine:
    """Start an engine and try it; if several texts at once are not safe with it, start it for one at a time.

    Args:
        start: starts the engine.
        settings: what it is started with.

    Raises:
        ModelLoadError: it gives no sound vectors.
        MullamaError: it does not start.
    """
    engine = start(settings)
    # The first token's vector is the same for every text, where a model reads from left to right: as it was asked for.
    must_differ = settings.settings.get("pooling") != "cls"
    problem = _problem_of_several_at_once(engine, must_differ)
    if problem is None:
        engine.info = replace(engine.info, trial=TRIED)
        return engine
    engine.close()
    engine = start(replace(settings, one_at_a_time=True))
    if still := _problem_of_several_at_once(engine, must_differ):
        raise ModelLoadError(
            f"The engine {engine.info.engine!r} gives no sound vectors with {settings.model!r}: in a trial, {still}, "
            "one text at a time too; take another model or engine."
        )
    note = f"in a trial, {problem}; so the engine works on one text at a time"
    engine.info = replace(engine.info, notes=(*engine.info.notes, note), trial="each text is embedded alone")
    return engine


def _problem_of_several_at_once(engine: Engine, must_differ: bool) -> str | None:
    """What is wrong with vectors of texts that were embedded together, as the end of a sentence.

    Raises:
        MullamaError: those of texts that were embedded alone are wrong already.
    """
    requests = [
        request
        for request in engine.prepare([Request(-2 - place, 1, text) for place, text in enumerate(TRIAL_TEXTS)])
        if isinstance(request, Request)  # a small context may hold the short ones only
    ]
    alone = [_vector(engine, engine.run([request])[0]) for request in requests]
    if must_differ:
        _check_differences(engine, alone)
    together = _together(engine, requests)
    for outcome in together:
        if not isinstance(outcome, Embedding):
            return f"texts fail together and not alone ({getattr(outcome, 'message', outcome)})"
    pairs = zip(alone, together, strict=True)
    cosines = [_cosine(vector, outcome.vector) for vector, outcome in pairs if isinstance(outcome, Embedding)]
    if min(cosines) < LEAST_COSINE:
        return f"a text has another vector among others than alone (cosine {min(cosines):.3f})"
    return None


def _vector(engine: Engine, outcome: Outcome) -> npt.NDArray[np.float64]:
    if isinstance(outcome, RowError):
        raise _failure(engine, outcome)
    assert isinstance(outcome, Embedding)
    vector = outcome.vector.astype(np.float64)
    if not np.isfinite(vector).all() or not vector.any():
        raise ModelLoadError(
            f"The vectors of the engine {engine.info.engine!r} cannot be right: they hold NaN or infinity, or only "
            "zeros; take a model that is made for embeddings."
        )
    return vector


def _failure(engine: Engine, error: RowError) -> MullamaError:
    sentence = f"The engine {engine.info.engine!r} gives no vector of a short text: {error.message}."
    unanswered = error.error_type in (ErrorType.HTTP_ERROR, ErrorType.RATE_LIMITED)
    return EndpointUnavailableError(sentence) if unanswered else ModelLoadError(sentence)


def _check_differences(engine: Engine, vectors: Sequence[npt.NDArray[np.float64]]) -> None:
    if any(np.array_equal(one, other) for one, other in itertools.combinations(vectors, 2)):
        raise ModelLoadError(
            f"The vectors of the engine {engine.info.engine!r} cannot be right: different texts have the same one; "
            "take a model that is made for embeddings."
        )


def _together(engine: Engine, requests: Sequence[Request]) -> list[Outcome]:
    """As rows reach the engine when there are many: in one call, or in several at once."""
    if engine.rows_per_call >= len(requests):
        return engine.run(requests)
    with ThreadPoolExecutor(min(engine.info.calls, len(requests))) as threads:
        return [outcomes[0] for outcomes in threads.map(lambda request: engine.run([request]), requests)]


def _cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float32]) -> float:
    if one.shape != other.shape:
        return 0.0
    product = float(one @ other.astype(np.float64))
    # A vector of zeros or NaN is like none.
    return product / length if (length := float(np.linalg.norm(one) * np.linalg.norm(other))) > 0 else 0.0
