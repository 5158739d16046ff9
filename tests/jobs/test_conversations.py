from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import ClassifyJob, GenerateJob, run_partition
from airflow_mullama.errors import ConfigurationError, MissingColumnError, TemplateError, UnsupportedColumnError
from airflow_mullama.jobs.prompts import request_digest, row_spans_of, turns_of
from airflow_mullama.rows import RowError

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Where is it?"},
]


def job(**arguments: Any) -> GenerateJob:
    return GenerateJob(**{"model": "echo", **arguments})


def render(made: GenerateJob, **columns: Any) -> list[str | RowError]:
    return made.template.render(pa.RecordBatch.from_pydict(columns))


def test_a_system_prompt_with_placeholders_is_a_message_of_its_own() -> None:
    made = job(prompt_template="Ask: {text}", system_prompt="For {who}, as {{json}}")
    (request,) = render(made, text=["hello"], who=["ACME"])
    assert str(request) == "For ACME, as {json}Ask: hello"
    assert turns_of(request) == (("system", 19), ("user", 10))
    assert row_spans_of(request) == (4, 8, 24, 29)
    assert made.engine_settings()["system_prompt"] is None
    assert made.template.distinct_columns == ["who", "text"]


def test_one_without_is_the_jobs_as_before() -> None:
    made = job(prompt_column="text", system_prompt="As {{json}}")
    assert render(made, text=["hello"]) == ["hello"]
    assert made.engine_settings()["system_prompt"] == "As {json}"
    with pytest.raises(TemplateError):
        job(prompt_column="text", system_prompt="As {json:5}")


def test_a_row_whose_system_prompt_cannot_be_made_has_that_error() -> None:
    made = job(prompt_column="text", system_prompt="For {who}")
    (request,) = render(made, text=["hello"], who=pa.array([None], pa.string()))
    assert isinstance(request, RowError)
    assert request.message == "column 'who' is null"


def test_a_column_of_messages_is_a_conversation_with_the_jobs_system_prompt_before_it() -> None:
    made = job(messages_column="chat", system_prompt="For {who}")
    (request,) = render(made, chat=[TALK], who=["ACME"])
    assert turns_of(request) == (("system", 8), ("user", 5), ("assistant", 4), ("user", 12))
    assert row_spans_of(request) == (4, 8, 8, 13, 13, 17, 17, 29)


def test_requests_of_other_messages_are_others() -> None:
    made = job(messages_column="chat")
    one, other = render(made, chat=[TALK, [{"role": "user", "content": "HelloYes?Where is it?"}]])
    assert isinstance(one, str)
    assert isinstance(other, str)
    assert (str(one) == str(other), one == other, one == "HelloYes?Where is it?") == (True, False, False)
    assert request_digest(one) != request_digest(other)


@pytest.mark.parametrize("system_prompt", ["Be kind.", "For {who}"])
def test_two_system_prompts_are_that_rows_error(system_prompt: str) -> None:
    talk = [{"role": "system", "content": "Be rude."}, *TALK]
    request, sound = render(job(messages_column="chat", system_prompt=system_prompt), chat=[talk, TALK], who=["a", "b"])
    assert isinstance(request, RowError)
    assert "has a system message, and the job a system_prompt" in request.message
    assert isinstance(sound, str)


def test_what_the_input_lacks_is_known_before_the_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chat": [1]}), tmp_path / "in.parquet")
    for made, error in (
        (job(messages_column="chat"), UnsupportedColumnError),
        (job(messages_column="talk"), MissingColumnError),
        (job(messages_column="chat", system_prompt="{who}"), MissingColumnError),
    ):
        with pytest.raises(error):
            run_partition(made, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"messages_column": "chat", "prompt_column": "text"}, "exactly one of the three"),
        ({"messages_column": "chat", "chat": False}, "messages_column is given and chat=False"),
        ({"prompt_column": "text", "chat": False, "examples": [("a", "b")]}, "examples is given and chat=False"),
        ({"prompt_column": "text", "examples": []}, "it must be a list of pairs"),
        (
            {"prompt_column": "text", "examples": [("a", "b", "c")]},
            r"examples\[0\] is \('a', 'b', 'c'\); it must be a pair",
        ),
        ({"prompt_column": "text", "examples": ["ab"]}, r"examples\[0\] is 'ab'; it must be a pair"),
        ({"prompt_column": "text", "examples": [("a", 1)]}, r"answers 1; without an output_schema it must be a text"),
        ({"prompt_template": "hi", "examples": [("a", "b")]}, "need a prompt with a {column}"),
        ({"prompt_template": "{a} {b}", "examples": [("x", "y")]}, r"give a value for each, as \{'a': …, 'b': …\}"),
        ({"prompt_template": "{a}", "examples": [({"b": 1}, "y")]}, r"give a value for each, as \{'a': …\}"),
        ({"prompt_template": "{a}", "examples": [(None, "y")]}, "which cannot be written as text"),
        ({"messages_column": "chat", "examples": [({"a": 1}, "y")]}, "with messages_column it must be a text"),
        (
            {"prompt_column": "text", "output_schema": SCHEMA, "examples": [("a", {"n": "x"})]},
            r"examples\[0\] answers '.*', which breaks output_schema",
        ),
    ],
)
def test_what_cannot_be_put_to_a_model_is_refused_with_the_job(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        job(**arguments)


def test_an_examples_input_stands_where_the_rows_text_stands() -> None:
    made = job(prompt_template="Count {a} in {b}.", output_schema=SCHEMA, examples=[({"a": "x", "b": 1.5}, {"n": 2})])
    assert made.engine_settings()["examples"] == [["Count x in 1.5.", '{"n": 2}']]
    assert job(prompt_column="text", examples=[("a", "b")]).engine_settings()["examples"] == [["a", "b"]]


def test_an_example_of_a_classification_has_its_label() -> None:
    made = ClassifyJob(model="echo", labels=["red", "green"], text_column="text", examples=[("grass", "green")])
    ((question, answer),) = made.engine_settings()["examples"]
    assert "Text: grass\n" in question
    assert json.loads(answer) == {"label": "green"}
    with pytest.raises(ConfigurationError, match="which is none of the labels: red, green"):
        ClassifyJob(model="echo", labels=["red", "green"], text_column="text", examples=[("sea", "blue")])


def test_examples_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "examples.json").write_text('[["a", "b"]]')
    made = job(prompt_column="text", examples=tmp_path / "examples.json")
    assert made == job(prompt_column="text", examples=[["a", "b"]])


def test_each_of_them_counts_in_the_fingerprint_and_none_where_it_is_not_used() -> None:
    jobs = [
        job(prompt_column="text"),
        job(prompt_column="text", examples=[("a", "b")]),
        job(prompt_column="text", examples=[("a", "c")]),
        job(prompt_column="text", system_prompt="For {who}"),
        job(prompt_column="text", system_prompt="For {id}"),
        job(messages_column="text"),
        job(messages_column="text", system_prompt="For {who}"),
        job(messages_column="text", system_prompt="For you"),
    ]
    assert len({made.request_fingerprint(model_sha256="0") for made in jobs}) == len(jobs)
    assert not {"examples", "conversations"} & jobs[0].engine_settings().keys()


def test_conversations_are_asked_once_and_reused_when_the_input_changes(tmp_path: Path) -> None:
    def run(*talks: list[dict[str, str]]) -> Any:
        pq.write_table(pa.table({"chat": talks}), tmp_path / "in.parquet")
        return run_partition(
            job(messages_column="chat"), tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[]
        )

    manifest = run(TALK, TALK[:1], TALK)
    assert (manifest.computed_rows, manifest.deduplicated_rows) == (2, 1)
    responses = pq.read_table(tmp_path / "out.parquet")["response"].to_pylist()
    whole = "user: Hello\nassistant: Yes?\nuser: Where is it?"
    assert responses == [whole, "user: Hello", whole]
    manifest = run(TALK[2:], TALK, TALK[:1])
    assert (manifest.computed_rows, manifest.reused_rows) == (1, 2)
