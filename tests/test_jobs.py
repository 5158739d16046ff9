from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import ConfigurationError, TemplateError
from airflow_mullama.jobs import EmbedJob, GenerateJob
from airflow_mullama.sampling import Sampling


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
    ("max_error_ratio", -0.1),
    ("max_error_ratio", 1.1),
    ("max_error_ratio", float("nan")),
    ("max_error_ratio", None),
    ("chunk_rows", 0),
    ("chunk_rows", 1_000_001),
    ("chunk_rows", "1000"),
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
        {"max_retries": 0},
        {"row_timeout": 5.0},
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
