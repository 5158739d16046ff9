"""Errors that a server tells in the body of an answer whose HTTP status is 200, as gateways do.

OpenRouter writes an ``error`` with the code of what failed behind it, beside the choices or in the first of them
(https://openrouter.ai/docs/api-reference/errors); vLLM of 2023 and LiteLLM write ``"object": "error"``; others a
sentence. Whatever of this is there, the answer is not known to be good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# What the words of codes and types stand for, the first that is found; a code that is a number says so itself.
_STATUS_OF_WORDS = (
    (429, r"rate.?limit|too.?many.?requests|resource.?exhausted|throttl"),
    (503, r"overloaded|unavailable|capacity"),
    (402, r"quota|billing|credit|payment"),
    (401, r"auth|permission|api.?key|forbidden"),
    (404, r"not.?found"),
    (400, r"context.?length|invalid|bad.?request|unprocessable|validation"),
)
UNKNOWN = 500


def status_in_body(body: bytes) -> int | None:
    """The status that an answer's body tells; ``None`` if it tells of no error.

    Args:
        body: of an answer with the HTTP status 200.
    """
    if b'"error"' not in body:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None  # nothing that could be taken for an answer
    error = error_in(value)
    return None if error is None else _status_of(error)


def error_in(value: Any) -> Any:
    """The error in a body: a dictionary or a text; ``None`` if there is none."""
    if not isinstance(value, Mapping):
        return None
    if value.get("object") == "error":
        return value
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return value.get("error") or (first.get("error") if isinstance(first, Mapping) else None) or None


def _status_of(error: Any) -> int:
    told = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, Mapping) else [error]
    texts = [str(word) for word in told if word is not None]
    for code in texts:
        if re.fullmatch(r"[45][0-9][0-9]", code):
            return int(code)
    words = " ".join(texts)
    for status, pattern in _STATUS_OF_WORDS:
        if re.search(pattern, words, re.IGNORECASE):
            return status
    return UNKNOWN
