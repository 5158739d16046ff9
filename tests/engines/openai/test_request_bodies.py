from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.engines.base import EngineSettings, Request
from airflow_mullama.engines.openai.request_bodies import (
    Extras,
    GenerationRequests,
    embedding_body,
    ignored_by_mullama,
    sampling_fields,
)
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.jobs.classify import ClassifyJob
from airflow_mullama.jobs.generate import GenerateJob

OPTIONS = {"endpoint": "http://127.0.0.1:1"}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PLAIN = Extras(schema=None, logprobs=False)


def requests_of(server: str = "other", job: type[GenerateJob] = GenerateJob, **arguments: Any) -> GenerationRequests:
    made = job(model="m", engine="openai", engine_options=OPTIONS, **arguments)
    settings = EngineSettings(task="generate", model="m", options=OPTIONS, settings=made.engine_settings())
    return GenerationRequests(settings, server)


def test_a_chat_request_has_messages_and_the_usual_fields_only() -> None:
    requests = requests_of(prompt_column="text", system_prompt="Be brief.", max_tokens=7)
    assert requests.path == "chat/completions"
    assert requests.body(Request(3, 1, "hello"), PLAIN) == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.95,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    }


def test_conversations_and_examples_are_messages() -> None:
    requests = requests_of(messages_column="chat", system_prompt="For {who}", examples=[("one", "two")])
    request = Request(3, 1, "For ACMEhiyes?go", turns=[("system", 8), ("user", 2), ("assistant", 4), ("user", 2)])
    assert [(message["role"], message["content"]) for message in requests.body(request, PLAIN)["messages"]] == [
        ("system", "For ACME"),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "hi"),
        ("assistant", "yes?"),
        ("user", "go"),
    ]


def test_a_plain_completion_has_one_text() -> None:
    requests = requests_of(prompt_column="text", system_prompt="Be brief.", chat=False)
    assert requests.path == "completions"
    assert requests.body(Request(3, 1, "hello"), PLAIN)["prompt"] == "Be brief.\n\nhello"
    requests = requests_of(prompt_column="text", system_prompt="For {who}", chat=False)
    request = Request(3, 1, "For ACMEhello", turns=[("system", 8), ("user", 5)])
    assert requests.body(request, PLAIN)["prompt"] == "For ACME\n\nhello"


@pytest.mark.parametrize(
    ("server", "fields"),
    [
        ("other", {"temperature": 0.0, "top_p": 0.95}),
        ("llamacpp", {"temperature": 0.0, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.0}),
        ("vllm", {"temperature": 0.0, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.0}),
        ("mullama", {"temperature": 0.0, "top_p": 0.0}),
    ],
)
def test_each_server_gets_what_it_knows(server: str, fields: dict[str, Any]) -> None:
    assert sampling_fields(Sampling(), 0.0, server) == fields


def test_an_unknown_server_gets_what_the_user_changed() -> None:
    sampling = Sampling(top_k=0, repeat_penalty=1.1, stop=("a",), presence_penalty=0.5, frequency_penalty=-0.5)
    assert sampling_fields(sampling, 0.0, "other") == {
        "temperature": 0.0,
        "top_p": 0.95,
        "top_k": 0,
        "repeat_penalty": 1.1,
        "stop": ["a"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert sampling_fields(sampling, 0.0, "vllm")["top_k"] == -1


def test_the_mullama_daemon_samples_where_it_is_to() -> None:
    assert sampling_fields(Sampling(temperature=0.5), 0.5, "mullama") == {"temperature": 0.5, "top_p": 0.95}
    assert ignored_by_mullama(Sampling(top_k=1, seed=3)) == ["top_k", "seed"]
    assert ignored_by_mullama(Sampling()) == []


def test_a_temperature_brings_the_rows_own_seed() -> None:
    requests = requests_of(prompt_column="text", sampling={"temperature": 0.8, "seed": 5})
    seeds = [
        requests.body(Request(row, attempt, text), PLAIN)["seed"]
        for row, attempt, text in [(1, 1, "a"), (2, 1, "a"), (1, 2, "a"), (1, 1, "b")]
    ]
    assert seeds[0] == seeds[1]  # the row's number does not count
    assert len(set(seeds)) == 3
    assert "seed" not in requests_of(prompt_column="text").body(Request(1, 1, "a"), PLAIN)


def test_a_wrong_answer_is_asked_again_with_a_temperature_and_what_was_wrong() -> None:
    again = Request(0, 2, "hello", problem="$: no")
    told = requests_of(prompt_column="t", output_schema=SCHEMA, repair_prompt=True).body(again, PLAIN)
    untold = requests_of(prompt_column="t", output_schema=SCHEMA).body(again, PLAIN)
    assert told["temperature"] == untold["temperature"] == 0.7
    assert "$: no" in told["messages"][-1]["content"]
    assert untold["messages"][-1]["content"] == "hello"


def test_a_schema_goes_as_response_format() -> None:
    requests = requests_of(prompt_column="t", output_schema=SCHEMA)
    tried = list(requests.choices_of_extras())
    assert [extras.schema for extras in tried] == ["strict", "loose", None]
    formats = [requests.body(Request(0, 1, "x"), extras).get("response_format") for extras in tried]
    closed = {**SCHEMA, "additionalProperties": False}
    assert formats == [
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": closed, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": closed, "strict": False}},
        None,
    ]


def test_llama_cpp_gets_a_schema_it_can_hold_and_where_it_reads_it() -> None:
    chat = requests_of("llamacpp", prompt_column="t", output_schema=SCHEMA)
    plain = requests_of("llamacpp", prompt_column="t", output_schema=SCHEMA, chat=False)
    strict = Extras(schema="strict", logprobs=False)
    in_chat = chat.body(Request(0, 1, "x"), strict)["response_format"]["json_schema"]["schema"]
    assert in_chat == plain.body(Request(0, 1, "x"), strict)["json_schema"]
    assert "minimum" in in_chat["properties"]["n"]


def test_the_mullama_daemon_is_spared_schemas_and_probabilities() -> None:
    requests = requests_of("mullama", ClassifyJob, text_column="t", labels=["a", "b"])
    assert list(requests.choices_of_extras()) == [PLAIN]


def test_a_classification_asks_for_probabilities_if_the_server_has_them() -> None:
    requests = requests_of("other", ClassifyJob, text_column="t", labels=["a", "b"])
    tried = [(extras.schema, extras.logprobs) for extras in requests.choices_of_extras()]
    assert tried[:3] == [("strict", True), ("strict", False), ("loose", True)]
    body = requests.body(Request(0, 1, "x"), Extras(schema=None, logprobs=True))
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    plain = requests_of("vllm", ClassifyJob, text_column="t", labels=["a", "b"], chat=False)
    assert plain.body(Request(0, 1, "x"), Extras(schema=None, logprobs=True))["logprobs"] == 20


def test_a_trial_has_every_field_of_a_row_and_few_tokens() -> None:
    requests = requests_of("llamacpp", prompt_column="t", max_tokens=500, sampling={"temperature": 1.0, "stop": ["x"]})
    row, trial = requests.body(Request(0, 1, "x"), PLAIN), requests.trial(PLAIN, 1)
    assert row.keys() == trial.keys()
    assert (row["max_tokens"], trial["max_tokens"]) == (500, 1)
    other = requests.without_refused(PLAIN, "use max_completion_tokens instead")
    assert other is not None
    renamed = requests.trial(other, 1)
    assert "max_tokens" not in renamed
    assert renamed["max_completion_tokens"] == 1


def test_texts_to_embed_are_a_list() -> None:
    assert embedding_body("m", ["a", "b"], "other", packed=False) == {"model": "m", "input": ["a", "b"]}
    assert embedding_body("m", ["a"], "llamacpp", packed=True) == {
        "model": "m",
        "input": ["a"],
        "encoding_format": "base64",
        "embd_normalize": -1,
    }
