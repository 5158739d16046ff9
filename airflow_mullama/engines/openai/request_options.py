"""What a user may add to each request to a server: a query, headers, and fields of the body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_mullama.errors import ConfigurationError

# What the client writes itself, and what ends or frames a message.
OWN_HEADERS = frozenset(
    {"accept", "connection", "content-length", "content-type", "host", "transfer-encoding", "upgrade", "user-agent"}
)
# What jobs decide.
OWN_FIELDS = frozenset(
    {
        "model", "messages", "prompt", "input", "stream", "n", "max_tokens", "max_completion_tokens", "temperature",
        "top_p", "top_k", "min_p", "stop", "seed", "presence_penalty", "frequency_penalty", "repeat_penalty",
        "repetition_penalty", "response_format", "json_schema", "logprobs", "top_logprobs", "encoding_format",
    }
)  # fmt: skip
# Names of query parameters whose values are keys.
_KEY_NAME = re.compile(r"key|token|secret|sig|password|code", re.IGNORECASE)

# Names of fields of a body, such as those that gateways pass on; max_tokens is none.
_KEY_FIELD = re.compile(r"(^|_|-)(api.?key|secret|password|credentials?|token)$", re.IGNORECASE)


def _check_texts(option: str, value: object, names: str) -> None:
    sound = isinstance(value, Mapping) and all(
        isinstance(name, str)
        and re.fullmatch(names, name)
        and isinstance(text, str)
        and re.fullmatch(r"[ -~]+", text)
        and text == text.strip()
        for name, text in value.items()
    )
    if not sound:
        # Values may be keys, and names may be values by mistake.
        raise ConfigurationError(
            f"engine_options[{option!r}] is not what it must be (it is not shown here): a dictionary of names and "
            "texts, all of them ASCII characters, without white space around them."
        )


def check_query(value: object) -> None:
    """Refuse what is no query, such as ``{"api-version": "2024-10-21"}``; it is not quoted."""
    _check_texts("query", value, r"[!-~]+")


def check_headers(value: object) -> None:
    """Refuse what are no headers, such as ``{"api-key": ...}``; their values are not quoted."""
    _check_texts("headers", value, r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
    assert isinstance(value, Mapping)
    if own := sorted(name for name in value if name.lower() in OWN_HEADERS):
        raise ConfigurationError(
            f"engine_options['headers'] has {own[0]!r}, which the client writes itself; leave it out."
        )


def check_extra_body(value: object) -> None:
    """Refuse what are no further fields of a request, such as ``{"reasoning_effort": "low"}``."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(
            f"engine_options['extra_body'] is {value!r}; it must be a dictionary of further fields of each request, "
            'such as {"reasoning_effort": "low"}.'
        )
    if own := sorted(OWN_FIELDS & value.keys()):
        raise ConfigurationError(
            f"engine_options['extra_body'] has {own[0]!r}, which the job decides: give it as the job's own argument "
            "(max_tokens, sampling, output_schema, ...)."
        )
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"engine_options['extra_body'] cannot be written as JSON: {error}.") from None


def secrets_in(options: Mapping[str, Any]) -> list[str]:
    """The keys among the options of the engine, wherever they stand: nothing may show them."""
    headers, query = options.get("headers"), options.get("query")
    values = [options.get("api_key"), *_keys_in_body(options.get("extra_body"))]
    if isinstance(headers, Mapping):
        for text in headers.values():
            # A server may quote what stands behind "Bearer" alone.
            values += [text, text.partition(" ")[2]] if isinstance(text, str) else []
    if isinstance(query, Mapping):
        values += [text for name, text in query.items() if _KEY_NAME.search(str(name))]
    return [value for value in values if isinstance(value, str) and value.strip()]


def _keys_in_body(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for name, field in value.items():
            if isinstance(field, str) and _KEY_FIELD.search(str(name)):
                yield field
            else:
                yield from _keys_in_body(field)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _keys_in_body(item)
