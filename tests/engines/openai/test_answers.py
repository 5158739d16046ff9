from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.engines.base import Embedding, Generation, NoAnswer
from airflow_mullama.engines.openai.answers import (
    is_too_long,
    read_embeddings,
    read_generation,
    row_error,
    server_words,
)
from airflow_mullama.engines.openai.http_client import Answer
from airflow_mullama.engines.reasoning import ReasoningTags
from airflow_mullama.rows import ErrorType, RowError

# Sentences of servers, as they stand in their sources.
LLAMA_CPP = "request (6004 tokens) exceeds the available context size (512 tokens), try increasing it"
VLLM = (
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens. Please reduce the length."
)
TGI = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens"
BATCH = "input (902 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
SHARED = "Context size has been exceeded."


def answer(value: Any, status: int = 200, **fields: Any) -> Answer:
    return Answer(status, value if isinstance(value, bytes) else json.dumps(value).encode(), **fields)


def failed(status: int, message: str = "no", **fields: Any) -> Answer:
    return answer({"error": {"message": message, "type": "t", "code": None}}, status, **fields)


@pytest.mark.parametrize(
    ("given_answer", "error_type"),
    [
        (failed(400, LLAMA_CPP), ErrorType.PROMPT_TOO_LONG),
        (answer({"object": "error", "message": VLLM, "code": 400}, 400), ErrorType.PROMPT_TOO_LONG),
        (failed(422, TGI), ErrorType.PROMPT_TOO_LONG),
        (answer({"error": {"message": "no", "code": "context_length_exceeded"}}, 400), ErrorType.PROMPT_TOO_LONG),
        (failed(500, BATCH), ErrorType.PROMPT_TOO_LONG),
        (failed(413, "body too big"), ErrorType.PROMPT_TOO_LONG),
        (failed(500, SHARED), ErrorType.HTTP_ERROR),
        (failed(400, "bad field"), ErrorType.REQUEST_REFUSED),
        (failed(422, "bad field"), ErrorType.REQUEST_REFUSED),
        (failed(401), ErrorType.HTTP_ERROR),
        (failed(404, "no model; its context length is 5"), ErrorType.HTTP_ERROR),
        (failed(429), ErrorType.RATE_LIMITED),
        (failed(500), ErrorType.HTTP_ERROR),
        (failed(502), ErrorType.HTTP_ERROR),
        (answer(b"", 302), ErrorType.HTTP_ERROR),
    ],
)
def test_an_error_answer_has_a_type(given_answer: Answer, error_type: ErrorType) -> None:
    assert row_error(given_answer).error_type is error_type


def test_only_what_may_pass_is_asked_again() -> None:
    assert ErrorType.HTTP_ERROR.retryable
    assert ErrorType.RATE_LIMITED.retryable
    assert not ErrorType.REQUEST_REFUSED.retryable


@pytest.mark.parametrize(
    ("given_answer", "words"),
    [
        (failed(400, "two\n lines"), "400: two lines"),
        (answer({"error": "a text"}, 500), "500: a text"),
        (answer({"detail": [{"msg": "bad"}]}, 422), "422: [{'msg': 'bad'}]"),
        (answer({"message": "from vLLM"}, 400), "400: from vLLM"),
        (answer(b"<html>Bad Gateway</html>", 502), "502: <html>Bad Gateway</html>"),
        (answer(b"", 500), "500: without a word"),
        (answer(b"\xff\xfe\x00", 500), "500: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\\x00"),
        (answer(b'{"error": "\\ud800"}', 500), "500: \\ud800"),
    ],
)
def test_the_servers_words_are_quoted(given_answer: Answer, words: str) -> None:
    assert server_words(given_answer) == words


def test_its_words_are_cut() -> None:
    assert len(server_words(failed(400, "x" * 10_000))) < 540


def test_a_rate_limit_says_how_long_it_was_waited_for() -> None:
    message = row_error(failed(429, "slow down", retry_after=60.0, waited=12.4)).message
    assert message == "the server answers 429: slow down (after 12 s of waiting); it asks to wait 60 s"


class TestGeneration:
    def chat(self, message: Any, **fields: Any) -> Generation | NoAnswer | RowError:
        value = {"choices": [{"message": message, "finish_reason": "stop", **fields.pop("choice", {})}], **fields}
        return read_generation(answer(value), chat=True, max_tokens=10)

    def test_text_reason_and_counts_are_the_servers(self) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
        read = self.chat({"content": "hi"}, usage=usage, choice={"finish_reason": "length"})
        assert read == Generation("hi", "length", 3, 2, cached_tokens=1)

    @pytest.mark.parametrize(
        "usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": 2**40}, {"prompt_tokens": "3"}]
    )
    def test_counts_that_are_missing_or_absurd_are_null(self, usage: Any) -> None:
        assert self.chat({"content": "hi"}, usage=usage) == Generation("hi", "stop", None, None)

    @pytest.mark.parametrize("reason", ["stop", "eos", "eos_token", "stop_sequence", "end_turn"])
    def test_an_answer_that_is_known_to_be_whole_is_kept(self, reason: str) -> None:
        assert self.chat({"content": "hi"}, choice={"finish_reason": reason}) == Generation("hi", "stop", None, None)

    @pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
    def test_an_answer_that_was_cut_is_kept_and_says_so(self, reason: str) -> None:
        assert self.chat({"content": "hi"}, choice={"finish_reason": reason}) == Generation("hi", "length", None, None)

    @pytest.mark.parametrize(
        "reason", [None, "", "error", "abort", "insufficient_system_resource", "STOP it", "time_limit", 0, ["stop"], {}]
    )
    def test_an_answer_that_is_not_known_to_be_whole_is_an_error_that_quotes_the_reason(self, reason: Any) -> None:
        read = self.chat({"content": "half an ans"}, choice={"finish_reason": reason})
        assert isinstance(read, RowError)
        assert read.error_type is ErrorType.HTTP_ERROR
        assert str(reason) in read.message

    @pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT"])
    def test_an_answer_that_a_filter_stopped_is_final(self, reason: str) -> None:
        read = self.chat({"content": "half an ans"}, choice={"finish_reason": reason})
        assert isinstance(read, RowError)
        assert read.error_type is ErrorType.REQUEST_REFUSED
        assert reason in read.message

    @pytest.mark.parametrize(
        ("message", "reason", "words"),
        [
            ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "wants a tool called"),
            ({"content": "I look it up.", "tool_calls": [{"id": "1"}]}, "stop", "wants a tool called"),
            ({"content": None, "function_call": {"name": "f"}}, "function_call", "wants a tool called"),
            ({"content": None}, "stop", "no text (finish_reason stop)"),
            ({}, "stop", "no text (finish_reason stop)"),
            ({"content": ""}, "length", "no text (finish_reason length): raise max_tokens"),
            ({"content": None, "reasoning_content": "hm"}, "length", "cut while it still reasoned: raise max_tokens"),
            ({"content": "", "reasoning": "hm"}, "length", "cut while it still reasoned: raise max_tokens"),
            ({"content": "", "reasoning": "hm"}, "stop", "the model ended while it still reasoned"),
            ({"content": "<think>hm"}, "length", "cut while it still reasoned"),
        ],
    )
    def test_an_answer_without_a_text_is_none(self, message: Any, reason: str, words: str) -> None:
        read = self.chat(message, choice={"finish_reason": reason})
        error = read.error if isinstance(read, NoAnswer) else read
        assert isinstance(error, RowError)
        assert error.error_type is ErrorType.NO_ANSWER
        assert words in error.message
        if "hm" in str(message):
            assert isinstance(read, NoAnswer)
            assert read.generation.reasoning == "hm"

    @pytest.mark.parametrize(
        ("message", "reasoning", "response"),
        [
            ({"content": "yes", "reasoning_content": " hm\n"}, "hm", "yes"),  # DeepSeek, llama.cpp
            ({"content": "\n\nyes", "reasoning": "hm"}, "hm", "yes"),  # vLLM, OpenRouter
            ({"content": "<think>\nhm\n</think>\n\nyes"}, "hm", "yes"),
            ({"content": "hm\n</think>\n\nyes"}, "hm", "yes"),  # the prompt opened the block
            ({"content": "[THINK]hm[/THINK]yes"}, "hm", "yes"),
            ({"content": "Close it with </think>, always."}, None, "Close it with </think>, always."),
            ({"content": "yes", "reasoning_content": ""}, None, "yes"),
        ],
    )
    def test_reasoning_is_told_from_the_answer(self, message: Any, reasoning: str | None, response: str) -> None:
        usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}
        read = self.chat(message, usage=usage)
        assert read == Generation(response, "stop", None, 9, reasoning=reasoning, reasoning_tokens=4)

    def test_given_tags_are_those_that_count(self) -> None:
        tags = ReasoningTags.in_lines("<r>", "</r>")
        value = answer({"choices": [{"text": "<r>hm</r> yes", "finish_reason": "stop"}]})
        read = read_generation(value, chat=False, max_tokens=10, tags=tags)
        assert read == Generation("yes", "stop", None, None, reasoning="hm")

    def test_a_model_that_hides_what_it_thinks_is_counted(self) -> None:
        usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 9}}
        read = self.chat({"content": ""}, usage=usage, choice={"finish_reason": "length"})
        assert isinstance(read, NoAnswer)
        assert read.generation.reasoning_tokens == 9
        assert "cut after 9 tokens while it still reasoned" in read.error.message

    def test_a_model_may_answer_nothing(self) -> None:
        assert self.chat({"content": ""}) == Generation("", "stop", None, None)

    def test_a_lone_surrogate_becomes_a_replacement_character(self) -> None:
        read = read_generation(
            answer(b'{"choices": [{"text": "a\\ud83d", "finish_reason": "stop"}]}'), chat=False, max_tokens=10
        )
        assert isinstance(read, Generation)
        assert read.response == "a\N{REPLACEMENT CHARACTER}"

    def test_a_refusal_is_final(self) -> None:
        refused = self.chat({"content": None, "refusal": "I will not."})
        assert isinstance(refused, RowError)
        assert refused.error_type is ErrorType.REQUEST_REFUSED
        assert "I will not." in refused.message

    def test_a_server_that_always_says_stop_is_seen_through_by_its_count(self) -> None:
        value = answer({"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"completion_tokens": 10}})
        assert read_generation(value, chat=False, max_tokens=10) == Generation("x", "stop", None, 10)
        cut = read_generation(value, chat=False, max_tokens=10, always_says_stop=True)
        assert cut == Generation("x", "length", None, 10)

    @pytest.mark.parametrize(
        "value",
        [b"", b"{", b"[]", b"null", b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{"message": null}]}',
         b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": [{"message": {"content": ["a"]}}]}',
         b'{"choices": {"0": {}}}', b"[" * 100_000, b'\xff{"choices"'],
    )  # fmt: skip
    def test_anything_else_is_an_answer_that_cannot_be_used(self, value: bytes) -> None:
        read = read_generation(answer(value), chat=True, max_tokens=10)
        assert isinstance(read, RowError)
        assert read.error_type is ErrorType.HTTP_ERROR

    def test_what_is_no_answer_is_quoted(self) -> None:
        read = read_generation(answer({"detail": "the model sleeps"}), chat=True, max_tokens=10)
        assert isinstance(read, RowError)
        assert "the model sleeps" in read.message


class TestConfidence:
    def confidence(self, text: str, logprobs: Any) -> float | None:
        value = answer({"choices": [{"text": text, "finish_reason": "stop", "logprobs": logprobs}]})
        read = read_generation(value, chat=False, max_tokens=10, labels={"field": "label", "all": ["spam", "ham"]})
        assert isinstance(read, Generation)
        return read.confidence

    def tokens(self) -> list[tuple[str, float, dict[str, float]]]:
        likely = {"spam": math.log(0.6), "ham": math.log(0.2), "eggs": math.log(0.2)}
        return [('{"label":"', 0.0, {}), ("spam", math.log(0.6), likely), ('"}', 0.0, {})]

    def test_it_is_read_from_both_shapes_of_probabilities(self) -> None:
        parallel = {
            "tokens": [token for token, _, _ in self.tokens()],
            "token_logprobs": [logprob for _, logprob, _ in self.tokens()],
            "top_logprobs": [top or None for _, _, top in self.tokens()],
        }
        content = [
            {"token": token, "logprob": logprob, "top_logprobs": [{"token": a, "logprob": b} for a, b in top.items()]}
            for token, logprob, top in self.tokens()
        ]
        for logprobs in (parallel, {"content": content}):
            assert self.confidence('{"label":"spam"}', logprobs) == pytest.approx(0.75)

    @pytest.mark.parametrize("logprobs", [None, {}, [], {"content": [5]}, {"tokens": ["a"]}, {"content": None}, "x"])
    def test_without_sound_probabilities_it_is_null(self, logprobs: Any) -> None:
        assert self.confidence('{"label":"spam"}', logprobs) is None

    def test_a_label_that_was_not_told_counts_as_much_as_it_may(self) -> None:
        def told(*likely: tuple[str, float]) -> float | None:
            content = [
                {"token": '{"label":"', "logprob": 0.0},
                {
                    "token": "spam",
                    "logprob": math.log(likely[0][1]),
                    "top_logprobs": [{"token": text, "logprob": math.log(value)} for text, value in likely],
                },
                {"token": '"}', "logprob": 0.0},
            ]
            return self.confidence('{"label":"spam"}', {"content": content})

        assert told(("spam", 0.9), ("eggs", 0.0999)) == pytest.approx(1.0, abs=1e-3)
        assert told(("spam", 0.9), ("eggs", 0.05)) is None
        assert told(("spam", 0.5), ("eggs", 0.4999), ("ham", 1e-5)) == pytest.approx(1.0, abs=1e-3)
        assert told(("spam", 0.5)) is None

    @pytest.mark.parametrize(
        ("labels", "tokens", "confidence"),
        [
            # One is the beginning of another: the quote decides.
            (["bill", "billing"], [("bill", {"bill": 1.0}), ('"}', {'"}': 0.3, "ing": 0.6, '"': 0.1})], 0.4),
            # The same, with the quote before the label in one token, and a token that has a whole label.
            (["bill", "billing"], [('"bill', {'"bill': 0.5, '"billing': 0.5}), ('"}', {'"}': 1.0})], 0.5),
            # A first token that both have.
            (["refund", "return"], [("re", {"re": 1.0}), ("fund", {"fund": 0.6, "turn": 0.2, "x": 0.2})], 0.75),
            # Another way to begin the same label counts for it; one that both may have leaves it open.
            (["refund", "other"], [("ref", {"ref": 0.5, "r": 0.25, "other": 0.25}), ("und", {}), ('"}', {})], 0.75),
            (["refund", "return"], [("re", {"re": 0.5, "r": 0.5}), ("fund", {"fund": 0.5, "turn": 0.5})], None),
        ],
    )  # fmt: skip
    def test_it_is_right_for_labels_that_begin_alike(
        self, labels: list[str], tokens: list[tuple[str, dict[str, float]]], confidence: float | None
    ) -> None:
        opening = '{"label":' if tokens[0][0].startswith('"') else '{"label":"'
        content = [{"token": opening, "logprob": 0.0, "top_logprobs": []}]
        for token, likely in tokens:
            top = [{"token": text, "logprob": math.log(value)} for text, value in likely.items()]
            content.append({"token": token, "logprob": math.log(likely.get(token, 1.0)), "top_logprobs": top})
        text = "".join(token["token"] for token in content)
        if not text.endswith('"}'):
            content.append({"token": '"}', "logprob": 0.0, "top_logprobs": []})
            text += '"}'
        value = answer({"choices": [{"text": text, "finish_reason": "stop", "logprobs": {"content": content}}]})
        read = read_generation(value, chat=False, max_tokens=10, labels={"field": "label", "all": labels})
        assert isinstance(read, Generation)
        assert read.confidence == (None if confidence is None else pytest.approx(confidence, abs=1e-6))

    def test_tokens_that_do_not_spell_the_answer_say_nothing(self) -> None:
        content = [{"token": f" {token}", "logprob": logprob} for token, logprob, _ in self.tokens()]
        assert self.confidence('{"label":"spam"}', {"content": content}) is None


class TestEmbeddings:
    def test_vectors_come_packed_or_as_numbers_and_in_any_order(self) -> None:
        one, two = np.array([0.1, -2.0], "<f4"), np.array([3.0, 4.5], "<f4")
        packed = [base64.b64encode(vector.tobytes()).decode() for vector in (one, two)]
        read = read_embeddings(
            answer({"data": [{"index": 1, "embedding": packed[1]}, {"index": 0, "embedding": [0.1, -2.0]}]}), 2
        )
        assert not isinstance(read, RowError)
        np.testing.assert_array_equal([embedding.vector for embedding in read], [one, two])

    def test_only_a_text_alone_has_a_count(self) -> None:
        value = {"data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 7}}
        (alone,) = read_embeddings(answer(value), 1)  # type: ignore[misc]
        assert isinstance(alone, Embedding)
        assert alone.prompt_tokens == 7
        both = read_embeddings(answer({**value, "data": value["data"] * 2}), 2)
        assert [embedding.prompt_tokens for embedding in both] == [None, None]  # type: ignore[union-attr]

    def test_null_and_nan_reach_the_check_of_vectors(self) -> None:
        read = read_embeddings(answer(b'{"data": [{"embedding": [null, NaN, 1e99]}]}'), 1)
        assert not isinstance(read, RowError)
        assert not np.isfinite(read[0].vector).any()

    @pytest.mark.parametrize(
        "data",
        [None, [], [{"embedding": []}], [{"embedding": "%%%"}], [{"embedding": "AAA="}], [{"embedding": ["x"]}],
         [{"embedding": [[1.0]]}], [{"embedding": [1.0], "index": 5}], [{"embedding": [1.0], "index": [0]}],
         [{}], [5], {"0": 1}],
    )  # fmt: skip
    def test_anything_else_is_an_answer_that_cannot_be_used(self, data: Any) -> None:
        read = read_embeddings(answer({"data": data}), 1)
        assert isinstance(read, RowError)
        assert read.error_type is ErrorType.HTTP_ERROR


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "text", "data", "embedding", "index", "error", "logprobs",
                         "usage", "prompt_tokens", "tokens", "top_logprobs", "finish_reason", "token", "logprob"]),
        inner,
    ),
)  # fmt: skip


@given(value=JSON, status=st.sampled_from([200, 302, 400, 401, 413, 422, 429, 500, 503]), chat=st.booleans())
def test_nothing_a_server_says_raises(value: Any, status: int, chat: bool) -> None:
    said = answer(value, status)
    labels = {"field": "label", "all": ["a", "b"]}
    assert isinstance(read_generation(said, chat=chat, max_tokens=5, labels=labels), (Generation, RowError))
    embeddings = read_embeddings(said, 1)
    assert isinstance(embeddings, RowError) or len(embeddings) == 1
    row_error(said).message.encode()
    assert is_too_long(said) in (True, False)
