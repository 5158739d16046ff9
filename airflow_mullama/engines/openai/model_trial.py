"""Whether a key may use a model, where the server keeps its list of models from the key, or has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mullama.engines.openai.checks import REFUSED, failure, unreachable
from airflow_mullama.engines.openai.http_client import Answer, Endpoint, HttpClient, TransportError

MOST_ANSWER_BYTES = 8 << 20
TRIAL_TEXT = "Say hello."


def try_model(client: HttpClient, endpoint: Endpoint, model: str, deadline: float) -> str:
    """Ask a model for one token, and if it does not give it, for an embedding: nobody said what it is for.

    Args:
        client: asks.
        endpoint: for people.
        model: the server's name for it.
        deadline: of :func:`time.monotonic`, for everything together.

    Returns:
        What it gives: ``generates`` or ``embeds``.

    Raises:
        MullamaError: it gives neither; the sentence is about the first request.
    """

    def post(path: str, body: Mapping[str, Any]) -> Answer:
        try:
            return client.post(path, {"model": model, **body}, MOST_ANSWER_BYTES, deadline)
        except TransportError as error:
            raise unreachable(endpoint, error) from None

    messages = [{"role": "user", "content": TRIAL_TEXT}]
    generation = post("chat/completions", {"messages": messages, "max_tokens": 1})
    if generation.status in REFUSED and b"max_completion_tokens" in generation.body:
        generation = post("chat/completions", {"messages": messages, "max_completion_tokens": 16})
    if generation.ok:
        return "generates"
    if generation.status != 401 and post("embeddings", {"input": TRIAL_TEXT}).ok:
        return "embeds"
    raise failure(endpoint, model, generation)
