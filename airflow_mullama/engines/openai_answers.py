"""What the engine ``openai`` makes of answers. Nothing a server says raises here: a bad answer is a typed error."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.base import Embedding, Generation
from airflow_mullama.engines.label_confidence import label_confidence
from airflow_mullama.engines.openai_http import TOO_MANY_REQUESTS, Answer
from airflow_mullama.rows import ErrorType, RowError

MOST_WORDS = 500
MOST_INT32 = 2**31 - 1
PAYLOAD_TOO_LARGE = 413
REFUSED_FOR_EVERYBODY = (401, 403, 404, 405, 407, 408, 409, 425)
"""Of the statuses 4xx those that say nothing of the row: keys, paths and models, clashes."""

# Codes, types and sentences of OpenAI, llama.cpp, vLLM, SGLang, text-generation-inference, mullama.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size_error|context[ _](length|size|window)|maximum model length|"
    r"max_model_len|too many tokens|prompt is too long|too large to process|max_new_tokens|max_total_tokens",
    re.IGNORECASE,
)
# llama.cpp's 500 for a text beyond its physical batch. Its other 500, "Context size has been exceeded", hits every
# request in flight, whoever is to blame, and may pass.
_TOO_LONG_500 = "too large to process"


def server_words(answer: Answer) -> str:
    """What an error answer says, in one line: ``400: message``."""
    value = answer.json()
    said: Any = None
    if isinstance(value, Mapping):
        error = value.get("error")
        said = error.get("message") if isinstance(error, Mapping) else error
        said = said or value.get("message") or value.get("detail") or value
    if said is None:
        said = answer.body[: 4 * MOST_WORDS].decode("utf-8", "replace")
    words = " ".join(readable(str(said)).split())
    return f"{answer.status}: {words[:MOST_WORDS] or 'without a word'}"


def readable(text: str) -> str:
    """The text without lone surrogates, which JSON can say and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_too_long(answer: Answer) -> bool:
    """Whether an error answer says that the request does not fit into the model's context."""
    words = answer.body[:8192].decode("utf-8", "replace")
    if answer.status == PAYLOAD_TOO_LARGE:
        return True
    if answer.status >= 500:
        return _TOO_LONG_500 in words
    return answer.status not in REFUSED_FOR_EVERYBODY and _TOO_LONG.search(words) is not None


def row_error(answer: Answer) -> RowError:
    """The typed error of a row whose answer is no success."""
    words = server_words(answer)
    if answer.status == TOO_MANY_REQUESTS:
        waited = f" (after {answer.waited:.0f} s of waiting)" if answer.waited else ""
        asked = f"; it asks to wait {answer.retry_after:.0f} s" if answer.retry_after else ""
        return RowError(ErrorType.RATE_LIMITED, f"the server answers {words}{waited}{asked}")
    if is_too_long(answer):
        return RowError(ErrorType.PROMPT_TOO_LONG, f"the server answers {words}")
    if 400 <= answer.status < 500 and answer.status not in REFUSED_FOR_EVERYBODY:
        return RowError(ErrorType.REQUEST_REFUSED, f"the server answers {words}")
    return RowError(ErrorType.HTTP_ERROR, f"the server answers {words}")


def _unusable(what: str) -> RowError:
    return RowError(ErrorType.HTTP_ERROR, f"the server's answer cannot be used: {what}")


def read_generation(
    answer: Answer, *, chat: bool, max_tokens: int, always_says_stop: bool = False, labels: Any = None
) -> Generation | RowError:
    """The generated text of a successful answer.

    Args:
        answer: of ``/chat/completions`` or ``/completions``.
        chat: which of the two.
        max_tokens: that were asked for.
        always_says_stop: the server calls cut answers finished too.
        labels: of a classification: ``field`` and ``all``.
    """
    value = answer.json()
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return _unusable("it is no JSON object with choices")
    choice = choices[0]
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        return RowError(ErrorType.REQUEST_REFUSED, "the server's content filter stopped the answer")
    holder: Any = choice.get("message") if chat else choice
    if not isinstance(holder, Mapping):
        return _unusable("its choice has no message")
    if chat and holder.get("refusal"):
        return RowError(
            ErrorType.REQUEST_REFUSED, f"the model refused: {readable(str(holder['refusal']))[:MOST_WORDS]}"
        )
    text = holder.get("content" if chat else "text")
    if text is None:
        text = ""  # every token went into reasoning
    if not isinstance(text, str):
        return _unusable("its text is no text")
    prompt_tokens, completion_tokens = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    cut = reason == "length" or (always_says_stop and completion_tokens is not None and completion_tokens >= max_tokens)
    return Generation(
        response=readable(text),
        finish_reason="length" if cut else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=_cached_tokens(value),
        confidence=None if labels is None else _confidence(text, labels, choice.get("logprobs")),
    )


def _cached_tokens(value: Mapping[str, Any]) -> int | None:
    usage = value.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    return _count({"usage": details}, "cached_tokens")


def _count(value: Mapping[str, Any], name: str) -> int | None:
    usage = value.get("usage")
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_INT32 else None


def _confidence(text: str, labels: Mapping[str, Any], logprobs: object) -> float | None:
    try:
        tokens = _tokens(logprobs)
        if not tokens or not "".join(token["token"] for token in tokens).startswith(text):
            return None  # they do not spell the answer, so that places in one say nothing of the other
        return label_confidence(text, labels["field"], labels["all"], tokens)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _tokens(logprobs: object) -> Sequence[Mapping[str, Any]]:
    """Tokens as chat completions give them; plain completions of most servers have them in parallel lists."""
    if not isinstance(logprobs, Mapping):
        return ()
    if isinstance(content := logprobs.get("content"), list):
        return content
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return [
        {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [{"token": other, "logprob": value} for other, value in (top or {}).items()],
        }
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def read_embeddings(answer: Answer, count: int) -> list[Embedding] | RowError:
    """The vectors of a successful answer, in the order of the texts.

    A server counts the tokens of all texts together, so only a text that was sent alone has a count.
    """
    value = answer.json()
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, list) or len(data) != count:
        return _unusable(f"it is no JSON object with {count} vector{'s' * (count != 1)}")
    prompt_tokens = _count(value, "prompt_tokens") if count == 1 else None
    by_index: dict[int | None, Embedding] = {}
    for place, item in enumerate(data):
        vector = _vector(item.get("embedding")) if isinstance(item, Mapping) else None
        if vector is None:
            return _unusable("what should be a vector is none")
        index = item.get("index", place)
        by_index[index if isinstance(index, int) else None] = Embedding(vector, prompt_tokens)
    if by_index.keys() != set(range(count)):
        return _unusable("its vectors are not numbered from 0 on")
    return [by_index[place] for place in range(count)]


def _vector(value: object) -> npt.NDArray[np.float32] | None:
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), "<f4")
        elif isinstance(value, list):
            with np.errstate(over="ignore"):
                vector = np.array(value, np.float32)
        else:
            return None
    except (ValueError, TypeError, OverflowError, binascii.Error):
        return None
    return vector if vector.ndim == 1 and len(vector) else None
