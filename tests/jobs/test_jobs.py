from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.errors import ConfigurationError, TemplateError
from airflow_mullama.jobs.classify import ClassifyJob
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.jobs.generate import GenerateJob


def generate(**changes: Any) -> GenerateJob:
    return GenerateJob(**{"model": "echo", "prompt_template": "{text}", **changes})


def embed(**changes: Any) -> EmbedJob:
    return EmbedJob(**{"model": "echo", "text_column": "text", **changes})


SHARED = [
    ("model", ""),
    ("model", None),
    ("engine", "vllm"),
    ("max_retries", -1),
    ("max_retries", 101),
    ("max_retries", 1.0),
    ("max_retries", True),
    ("row_timeout", 0),
    ("row_timeout", -1),
    ("row_timeout", "10"),
    ("load_timeout", 0),
    ("load_timeout", None),
    ("max_error_ratio", -0.1),
    ("max_error_ratio", 1.1),
    ("max_error_ratio", float("nan")),
    ("max_error_ratio", None),
    ("chunk_rows", 0),
    ("chunk_rows", 1_000_001),
    ("chunk_rows", "1000"),
    ("chunk_seconds", 0.5),
    ("chunk_seconds", "60"),
    ("if_exists", "append"),
    ("if_exists", None),
    ("output_prefix", None),
    ("output_prefix", 5),
    ("engine_options", [("n_ctx", 1)]),
]


@pytest.mark.parametrize("make", [generate, embed])
@pytest.mark.parametrize(("name", "value"), SHARED)
def test_an_argument_out_of_range_is_named_with_its_value(make: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(**{name: value})
    message = str(caught.value)
    assert message.startswith(name)
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", None),
        ("max_tokens", 1.5),
        ("chat", "yes"),
        ("system_prompt", 5),
        ("sampling", "greedy"),
    ],
)
def test_an_argument_of_generation_out_of_range_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pooling", "max"), ("dtype", "float64"), ("dimensions", 0), ("dimensions", 1.5), ("normalize", "yes")],
)
def test_an_argument_of_embedding_out_of_range_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        embed(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}")


@pytest.mark.parametrize("both", [{}, {"prompt_template": "{a}", "prompt_column": "a"}])
def test_exactly_one_of_template_and_column_is_given(both: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="either prompt_template or prompt_column"):
        GenerateJob(model="echo", **both)  # type: ignore[arg-type]


@pytest.mark.parametrize("both", [{}, {"text_template": "{a}", "text_column": "a"}])
def test_exactly_one_of_text_template_and_column_is_given(both: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="either text_template or text_column"):
        EmbedJob(model="echo", **both)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["{a!r}", "{a:>3}", "{}", "{0}", "{a[0]}", "{a"])
def test_a_bad_template_is_refused_when_the_job_is_made(template: str) -> None:
    with pytest.raises(TemplateError):
        generate(prompt_template=template)
    with pytest.raises(TemplateError):
        embed(text_column=None, text_template=template)


def test_a_column_is_taken_as_it_is_even_if_it_looks_like_a_placeholder() -> None:
    assert generate(prompt_template=None, prompt_column="{a!r}").template.columns == ("{a!r}",)


def test_sampling_may_be_a_dictionary_or_the_real_thing() -> None:
    assert generate(sampling={"seed": 3}).sampling == Sampling(seed=3) == generate(sampling=Sampling(seed=3)).sampling
    with pytest.raises(ConfigurationError, match=r"sampling\['top_p'\] is 2"):
        generate(sampling={"top_p": 2})


def test_engine_options_are_checked_against_the_engine() -> None:
    with pytest.raises(ConfigurationError, match=r"'n_gpu_layer'.*'echo' does not know; it knows: .*n_parallel"):
        generate(engine_options={"n_gpu_layer": -1})
    with pytest.raises(ConfigurationError, match=r"engine_options\['n_parallel'\] is 0; it must be a whole number"):
        generate(engine_options={"n_parallel": 0})


def test_a_job_does_not_change() -> None:
    options = {"n_parallel": 2}
    job = generate(engine_options=options)
    options["n_parallel"] = 99
    assert job.engine_options == {"n_parallel": 2}
    with pytest.raises(FrozenInstanceError):
        job.max_tokens = 5  # type: ignore[misc]


def fingerprint(job: Any, input_identity: str = "input", model_sha256: str = "model") -> str:
    return job.fingerprint(input_identity=input_identity, model_sha256=model_sha256)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_template": "{text} "},
        {"prompt_template": "{{text}}"},
        {"prompt_template": None, "prompt_column": "other"},
        {"system_prompt": "Be brief."},
        {"chat": False},
        {"max_tokens": 255},
        {"sampling": {"seed": 1}},
        {"sampling": {"stop": ["x"]}},
        {"output_prefix": "tag_"},
        {"engine_options": {"n_ctx": 100}},
    ],
)
def test_whatever_decides_the_output_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(generate(**change)) != fingerprint(generate())


def test_input_model_and_task_change_the_fingerprint() -> None:
    first = fingerprint(generate())
    assert len({first, fingerprint(generate(), "other"), fingerprint(generate(), "input", "other")}) == 3
    assert fingerprint(embed(text_column=None, text_template="{text}")) != first


@pytest.mark.parametrize(
    "change",
    [
        {"engine_options": {"n_parallel": 9, "delay_s": 1.0, "faults": {"fail": [1]}}},
        {"chunk_rows": 7},
        {"chunk_seconds": 5.0},
        {"max_retries": 0},
        {"row_timeout": 5.0},
        {"load_timeout": 5.0},
        {"max_error_ratio": 1.0},
        {"if_exists": "overwrite"},
        {"engine": "echo"},
    ],
)
def test_what_does_not_decide_the_output_leaves_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(generate(**change)) == fingerprint(generate())


@pytest.mark.parametrize("change", [{"normalize": False}, {"dtype": "float16"}, {"dimensions": 4}, {"pooling": "cls"}])
def test_whatever_decides_a_vector_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(replace(embed(), **change)) != fingerprint(embed())


def test_dimensions_and_dtype_make_the_embedding_column() -> None:
    (field, *_) = embed(dimensions=4, dtype="float16").result_columns(8).fields
    assert field.type == pa.list_(pa.float16(), 4)
    assert embed().result_columns(8).fields[0].type == pa.list_(pa.float32(), 8)


def test_a_field_named_like_the_stages_own_column_is_refused() -> None:
    schema = {"type": "object", "properties": {"row": {"type": "integer"}}, "required": ["row"]}
    with pytest.raises(ConfigurationError, match="output_schema has the field 'row'"):
        GenerateJob(model="echo", prompt_template="{text}", output_schema=schema)


def classify(**changes: Any) -> ClassifyJob:
    return ClassifyJob(**{"model": "echo", "text_column": "text", "labels": ["bill", "parcel"], **changes})


@pytest.mark.parametrize("schema", [{"type": "object"}, pa.schema([("label", pa.string())])])
def test_a_schema_of_ones_own_cannot_be_given_beside_labels(schema: Any) -> None:
    with pytest.raises(TypeError, match="output_schema"):
        classify(output_schema=schema)


def test_either_a_column_is_classified_or_a_prompt_is_given() -> None:
    for changes in ({"prompt_template": "{text}"}, {"prompt_column": "text"}, {"text_column": None}):
        with pytest.raises(ConfigurationError, match="exactly one of the two"):
            classify(**changes)


@pytest.mark.parametrize(
    "job",
    [
        generate(sampling={"seed": 3}, output_schema={"type": "object", "properties": {"n": {"type": "integer"}}}),
        embed(dimensions=4),
        classify(),
        classify(text_column=None, prompt_template="{text}", max_tokens=7),
        generate(model="m", engine="openai", engine_options={"endpoint": "http://x", "api_key": "sk-1"}),
    ],
)
def test_a_job_with_another_chunk_size_is_otherwise_the_same(job: Any) -> None:
    changed = replace(job, chunk_rows=7)
    assert changed.chunk_rows == 7
    assert replace(changed, chunk_rows=job.chunk_rows) == job
    assert fingerprint(changed) == fingerprint(job)


def test_other_labels_make_another_prompt_schema_and_length_of_answers() -> None:
    longer = ["bill", "parcel that never came"]
    changed = replace(classify(), labels=longer)
    assert fingerprint(changed) == fingerprint(classify(labels=longer)) != fingerprint(classify())
    assert changed.schema == classify(labels=longer).schema
    assert changed.most_tokens > classify().most_tokens


SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize("given", ["", "0123", SHA256 + "0", "g" * 64, 64])
def test_what_is_no_sha256_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"model_sha256 is .*; it must be a SHA-256 in hexadecimal"):
        GenerateJob(model="m.gguf", engine="llamacpp", prompt_column="text", model_sha256=given)


def test_a_sha256_is_for_model_files_and_no_part_of_the_fingerprint() -> None:
    with pytest.raises(ConfigurationError, match="model_sha256 is for model files, and the engine 'openai' has none"):
        GenerateJob(
            model="m",
            engine="openai",
            engine_options={"endpoint": "http://127.0.0.1:1"},
            prompt_column="text",
            model_sha256=SHA256,
        )
    plain = GenerateJob(model="m.gguf", engine="llamacpp", prompt_column="text")
    checked = GenerateJob(model="m.gguf", engine="llamacpp", prompt_column="text", model_sha256=f" {SHA256.upper()}\n")
    assert checked.model_sha256 == SHA256
    assert checked.request_fingerprint(model_sha256=SHA256) == plain.request_fingerprint(model_sha256=SHA256)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reasoning": "on"}, "reasoning is 'on'"),
        ({"max_reasoning_tokens": 0}, "max_reasoning_tokens is 0"),
        ({"reasoning": "off", "max_reasoning_tokens": 9}, "reasoning='off' forbids it"),
        ({"reasoning_tags": "<think>"}, "reasoning_tags is '<think>'"),
        ({"reasoning_tags": ("<think>",)}, "two different texts"),
        ({"reasoning_tags": ("<t>", "<t>")}, "two different texts"),
        ({"reasoning_tags": ("<t>", "")}, "two different texts"),
        ({"chat_template_kwargs": "x"}, "must be a dictionary"),
        ({"chat_template_kwargs": {"a b": 1}}, "must be a dictionary"),
        ({"chat_template_kwargs": {"messages": []}}, "'messages', which the engine gives"),
        ({"chat_template_kwargs": {"x": {1, 2}}}, "what JSON can say"),
        ({"chat_template_kwargs": {"x": float("nan")}}, "what JSON can say"),
        ({"chat_template_kwargs": {"x": 1}, "chat": False}, "which chat=False does not use"),
        ({"chat_template_kwargs": {"thinking": True}, "reasoning": "off"}, "contradict each other"),
    ],
)
def test_what_cannot_be_said_of_reasoning_is_refused_by_name(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate(**arguments)
    assert words in str(caught.value)


def test_what_a_model_thinks_decides_columns_and_fingerprint() -> None:
    jobs = [
        generate(),
        generate(reasoning="discard"),
        generate(reasoning="off"),
        generate(reasoning_tags=["(", ")"]),
        generate(max_reasoning_tokens=9),
        generate(chat_template_kwargs={"reasoning_effort": "high"}),
    ]
    assert len({job.request_fingerprint(model_sha256="x") for job in jobs}) == len(jobs)
    with_columns = [{"reasoning", "reasoning_tokens"} <= {*job.added_column_names} for job in jobs]
    assert with_columns == [True, False, False, True, True, True]
    assert generate(chat_template_kwargs={}).request_fingerprint(model_sha256="x") == jobs[0].request_fingerprint(
        model_sha256="x"
    )


def test_a_field_of_a_schema_may_be_called_reasoning_where_no_column_is() -> None:
    schema = {"type": "object", "properties": {"reasoning": {"type": "string"}}, "required": ["reasoning"]}
    with pytest.raises(ConfigurationError, match=r"'reasoning'.*set reasoning='discard'"):
        generate(output_schema=schema)
    assert generate(output_schema=schema, reasoning="discard").added_column_names[-1] == "reasoning"


def test_a_label_comes_at_once_unless_the_job_says_how_long_to_think() -> None:
    job = ClassifyJob(model="echo", text_column="t", labels=["a", "b"])
    assert "reasoning" not in job.engine_settings()
    assert "reasoning" not in job.added_column_names
    with pytest.raises(ConfigurationError, match="max_reasoning_tokens=1024"):
        replace(job, reasoning="separate")
    thinking = ClassifyJob(
        model="echo", text_column="t", labels=["a", "b"], reasoning="separate", max_reasoning_tokens=9
    )
    assert thinking.added_column_names[-4:] == ("reasoning", "reasoning_tokens", "label", "confidence")
