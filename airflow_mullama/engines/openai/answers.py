"""What the engine ``openai`` makes of answers. Nothing a server says raises here: a bad answer is a typed error."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_mullama.engines.base import Embedding, Generation, NoAnswer
from airflow_mullama.engines.log_probabilities import LogProbabilities
from airflow_mullama.engines.openai.error_bodies import error_in
from airflow_mullama.engines.openai.http_client import TOO_MANY_REQUESTS, Answer
from airflow_mullama.engines.openai.label_shares import label_confidence
from airflow_mullama.engines.reasoning import ReasoningTags, Thought, guess_tags, split_reasoning, without_answer
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.rows import ErrorType, RowError

MOST_WORDS = 500
MOST_INT32 = 2**31 - 1
PAYLOAD_TOO_LARGE = 413
REFUSED_FOR_EVERYBODY = (401, 402, 403, 404, 405, 407, 408, 409, 425)
"""The 4xx statuses that say nothing about the row: keys and accounts, paths and models, clashes."""

# How servers say that an answer is whole, and that it was cut: OpenAI, text-generation-inference, Together, Anthropic,
# watsonx, Mistral. Whatever else they say is not known to be good.
WHOLE = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})
CUT = frozenset({"length", "max_tokens", "model_length"})
TOOLS = frozenset({"tool_calls", "function_call", "tool_use"})
FILTERED = re.compile(r"filter|safety|refusal|recitation|blocklist|prohibited|spii|moderation", re.IGNORECASE)

# Codes, types and sentences of OpenAI, llama.cpp, vLLM, SGLang, text-generation-inference, mullama.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size_error|context[ _](length|size|window)|maximum model length|"
    r"max_model_len|too many tokens|prompt is too long|too large to process|max_new_tokens|max_total_tokens",
    re.IGNORECASE,
)
# llama.cpp's 500 for a text beyond its physical batch. Its other 500, "Context size has been exceeded", hits every
# request in flight, whoever is to blame, and may pass.
_TOO_LONG_500 = "too large to process"


# Answers of the mullama daemon (0.3.0) that stay the same however often it is asked, though they say that it failed.
_OF_MULLAMA = (
    ("Tokenization failed: Invalid text", ErrorType.RENDER_ERROR, "the text holds a NUL character"),
    (
        "Decode failed with code: 1",
        ErrorType.PROMPT_TOO_LONG,
        "the request does not fit into the daemon's context",
    ),
)


def server_words(answer: Answer) -> str:
    """What an error answer says, in one line: ``400: message``."""
    return f"{answer.status}{' in an answer 200' if answer.told_in_body else ''}: {_words(answer)}"


def _words(answer: Answer) -> str:
    value = answer.json()
    said: Any = None
    if isinstance(value, Mapping):
        error = error_in(value)
        said = error.get("message") if isinstance(error, Mapping) else error
        said = said or error or value.get("message") or value.get("detail") or value
    if said is None:
        said = answer.body.decode("utf-8", "replace")
    return " ".join(printable(str(said), MOST_WORDS).split()) or "without a word"


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
    """The typed error of a row whose answer is not a success."""
    words = server_words(answer)
    for said, error_type, meaning in _OF_MULLAMA:
        if answer.status >= 500 and said in words:
            return RowError(error_type, f"{meaning}: the server answers {words}")
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
    answer: Answer,
    *,
    chat: bool,
    max_tokens: int,
    always_says_stop: bool = False,
    labels: Any = None,
    logprobs: bool = False,
    tags: ReasoningTags | None = None,
) -> Generation | NoAnswer | RowError:
    """The generated text of a successful answer, and what was thought before it.

    Args:
        answer: of ``/chat/completions`` or ``/completions``.
        chat: which of the two.
        max_tokens: that were asked for.
        always_says_stop: the server calls cut answers finished too.
        labels: of a classification: ``field`` and ``all``.
        logprobs: say how likely its tokens were.
        tags: of the model's reasoning, where the user gives them; a server that takes it out itself needs none.
    """
    value = answer.json()
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return _unusable(f"it is no JSON object with choices ({_words(answer)})")
    choice = choices[0]
    holder: Any = choice.get("message") if chat else choice
    if not isinstance(holder, Mapping):
        return _unusable(f"its choice has no message ({_words(answer)})")
    reason, text = choice.get("finish_reason"), holder.get("content" if chat else "text")
    problem = _problem_of_end(str(reason), holder)
    if problem is not None:
        return problem
    if not isinstance(text, str | None):
        return _unusable(f"its text is no text ({_words(answer)})")
    said, completion_tokens = _said(text or "", holder, tags), _count(value, "completion_tokens")
    cut = str(reason) in CUT or (always_says_stop and completion_tokens is not None and completion_tokens >= max_tokens)
    generation = Generation(
        response=said.answer or "",
        finish_reason="length" if cut else "stop",
        prompt_tokens=_count(value, "prompt_tokens"),
        completion_tokens=completion_tokens,
        cached_tokens=_detail(value, "prompt_tokens_details", "cached_tokens"),
        confidence=None if labels is None else _confidence(said.answer or "", labels, choice.get("logprobs")),
        log_probabilities=_log_probabilities(said.answer or "", choice.get("logprobs")) if logprobs else None,
        reasoning=said.reasoning,
        reasoning_tokens=_detail(value, "completion_tokens_details", "reasoning_tokens"),
    )
    remedy = "raise max_tokens"
    if said.answer is None or (not text and generation.reasoning_tokens):
        return without_answer(generation, cut=cut, remedy=f"{remedy}, which is for both")
    if text is None or (not text and cut):
        words = f"the answer has no text (finish_reason {reason}){f': {remedy}' if cut else ''}"
        return NoAnswer(generation, RowError(ErrorType.NO_ANSWER, words))
    return generation


def _said(text: str, holder: Mapping[str, Any], tags: ReasoningTags | None) -> Thought:
    """What the model thought, where vLLM, llama.cpp, DeepSeek and OpenRouter put it, and its answer.

    A server that takes nothing out leaves the block in the text.
    """
    apart = holder.get("reasoning_content") or holder.get("reasoning")
    if isinstance(apart, str) and apart.strip():
        return Thought(readable(apart).strip(), readable(text).lstrip() if text else None)
    return split_reasoning(readable(text), tags or guess_tags(text))


def _problem_of_end(reason: str, holder: Mapping[str, Any]) -> RowError | None:
    """Why an answer that ended so is not one to keep; ``None`` if it is."""
    said = printable(reason, MOST_WORDS)
    if refusal := holder.get("refusal"):
        return RowError(ErrorType.REQUEST_REFUSED, f"the model refused: {printable(str(refusal), MOST_WORDS)}")
    if FILTERED.search(reason):
        return RowError(ErrorType.REQUEST_REFUSED, f"the server's filter stopped the answer (finish_reason {said})")
    if reason in TOOLS or holder.get("tool_calls") or holder.get("function_call"):
        return RowError(
            ErrorType.NO_ANSWER, f"the model wants a tool called instead of answering (finish_reason {said})"
        )
    if reason not in WHOLE | CUT:
        return RowError(
            ErrorType.HTTP_ERROR, f"it is not known that the answer is whole: the server's finish_reason is {said}"
        )
    return None


def _detail(value: Mapping[str, Any], of: str, name: str) -> int | None:
    usage = value.get("usage")
    return _count({"usage": usage.get(of) if isinstance(usage, Mapping) else None}, name)


def _count(value: Mapping[str, Any], name: str) -> int | None:
    usage = value.get("usage")
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_INT32 else None


def _confidence(text: str, labels: Mapping[str, Any], logprobs: object) -> float | None:
    try:
        tokens = _answer_tokens(text, logprobs)
        return label_confidence(text, labels["field"], labels["all"], tokens) if tokens else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _log_probabilities(text: str, logprobs: object) -> LogProbabilities | None:
    try:
        tokens = _tokens(logprobs)
        return LogProbabilities.of(_answer_tokens(text, logprobs) or tokens)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _answer_tokens(text: str, logprobs: object) -> Sequence[Mapping[str, Any]]:
    """Those that spell the answer; none where they do not, so that places in one say nothing of the other.

    Some servers list those of the reasoning too, which is before the answer.
    """
    tokens = _tokens(logprobs)
    spelled = "".join(token["token"] for token in tokens)
    begin = 0 if spelled.startswith(text) else spelled.rfind(text)
    begins = list(itertools.accumulate((len(token["token"]) for token in tokens), initial=0))
    return tokens[begins.index(begin) :] if begin in begins else ()


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
    if not isinstance(data, list):
        return _unusable(f"it is no JSON object with vectors ({_words(answer)})")
    if len(data) != count:
        return _unusable(f"it has {len(data)} vectors for {count} texts")
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
