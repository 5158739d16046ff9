"""Counting the tokens of texts to embed, where documents are cut: by a ``tokenizer.json``, or by asking.

The OpenAI protocol has no such question; llama-server and vLLM answer one beside it, ``/tokenize``. A count that is
only a guess would make chunks that the server refuses, so that any other server needs the model's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_mullama.engines.base import CannotCountError
from airflow_mullama.engines.openai.answers import row_error, server_words
from airflow_mullama.engines.openai.http_client import MOST_LIST_BYTES, Answer, Endpoint
from airflow_mullama.engines.tokenizer_file import load_tokenizer
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError

Post = Callable[[str, Mapping[str, Any], int], "Answer | RowError"]
TRIAL_TEXT = "How many tokens has this?"


class TokenCounts:
    """Counts tokens as the server's model reads them.

    Args:
        tokenizer: path of the model's ``tokenizer.json``, if there is one: then nothing is asked.
        post: asks the server: a path, a body, and how many bytes the answer may have.
        endpoint: for people, and for where it has ``/tokenize``.
        server: what it is.
        model: its name there.

    Raises:
        ConfigurationError: neither is there.
        DependencyMissingError, ModelLoadError: the tokenizer cannot be used.
    """

    def __init__(self, tokenizer: str | None, post: Post, endpoint: Endpoint, server: str, model: str) -> None:
        self._tokenizer = load_tokenizer(tokenizer)
        self._post = post
        self._path = endpoint.path.removesuffix("/v1") + "/tokenize"
        self._is_vllm = server == "vllm"
        self._model = model
        if self._tokenizer is not None:
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        elif server not in ("llamacpp", "vllm"):
            raise ConfigurationError(f"{_cannot(endpoint)}, as only llama-server and vLLM do; {REMEDY}.")
        else:
            self._try(endpoint)

    def _try(self, endpoint: Endpoint) -> None:
        answer = self._post(self._path, self._body(TRIAL_TEXT), MOST_LIST_BYTES)
        if isinstance(answer, RowError) or not answer.ok or not _count(answer):
            words = answer.message if isinstance(answer, RowError) else server_words(answer)
            raise ConfigurationError(f"{_cannot(endpoint)} at {self._path} ({words}); {REMEDY}.")

    def of(self, text: str) -> int:
        """The tokens of a text, those around it included.

        Raises:
            CannotCountError: the server does not say.
        """
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text).ids)
        answer = self._post(self._path, self._body(text), MOST_LIST_BYTES)
        if isinstance(answer, RowError):
            raise CannotCountError(answer)
        if not answer.ok:
            raise CannotCountError(row_error(answer))
        if (count := _count(answer)) is None:
            raise CannotCountError(RowError(ErrorType.HTTP_ERROR, f"{self._path} gives no list of tokens"))
        return count

    def _body(self, text: str) -> dict[str, Any]:
        if self._is_vllm:
            return {"model": self._model, "prompt": text, "add_special_tokens": True}
        return {"content": text, "add_special": True, "parse_special": True}


REMEDY = "give engine_options['tokenizer'], the path of the model's tokenizer.json, and the tokens are counted here"


def _cannot(endpoint: Endpoint) -> str:
    return f"chunking counts the model's tokens, and the server at {endpoint} does not tell how many a text has"


def _count(answer: Answer) -> int | None:
    value = answer.json()
    tokens = value.get("tokens") if isinstance(value, Mapping) else None
    return len(tokens) if isinstance(tokens, list) else None
