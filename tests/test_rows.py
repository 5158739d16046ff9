from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mullama.errors import ColumnClashError
from airflow_mullama.rows import (
    RETRYABLE_ERROR_TYPES,
    STATUS_OF_ERROR_TYPE,
    ErrorType,
    Status,
    embedding_columns,
    generation_columns,
    refuse_column_clash,
)


def test_generation_adds_the_columns_of_the_contract_in_order() -> None:
    assert [(field.name, field.type) for field in generation_columns().schema] == [
        ("response", pa.string()),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
    ]


def test_what_a_model_thought_stands_before_the_typed_columns() -> None:
    columns = generation_columns((pa.field("label", pa.string()),), reasoning=True)
    assert columns.schema.names[-3:] == ["reasoning", "reasoning_tokens", "label"]
    assert columns.named_by_user == ("label",)


def test_embedding_adds_the_columns_of_the_contract_in_order() -> None:
    assert [(field.name, field.type) for field in embedding_columns(384, pa.float32()).schema] == [
        ("embedding", pa.list_(pa.float32(), 384)),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int32()),
    ]


def test_statuses_and_error_types_are_the_documented_codes() -> None:
    assert {status.value for status in Status} == {"success", "failed", "invalid_output", "skipped"}
    documented = {
        "null_input", "render_error", "prompt_too_long", "engine_error", "engine_crash", "timeout", "invalid_json",
        "schema_mismatch", "undecodable_text", "non_finite_embedding", "zero_embedding", "rate_limited", "http_error",
        "request_refused",
    }  # fmt: skip
    assert documented <= {error_type.value for error_type in ErrorType}


def test_every_error_type_has_one_status_and_null_input_alone_is_skipped() -> None:
    assert STATUS_OF_ERROR_TYPE.keys() == {error_type.value for error_type in ErrorType}
    by_status = {
        status: {name for name, of in STATUS_OF_ERROR_TYPE.items() if of == status} for status in ("skipped", "success")
    }
    assert by_status == {"skipped": {"null_input"}, "success": set()}
    invalid = {name for name, of in STATUS_OF_ERROR_TYPE.items() if of == "invalid_output"}
    assert invalid == {"invalid_json", "schema_mismatch"}


@pytest.mark.parametrize("error_type", ["null_input", "render_error", "prompt_too_long", "engine_crash"])
def test_what_the_rows_own_text_decides_is_not_asked_again(error_type: str) -> None:
    assert not ErrorType(error_type).retryable
    assert error_type not in RETRYABLE_ERROR_TYPES


@pytest.mark.parametrize("error_type", ["engine_error", "timeout", "rate_limited", "http_error"])
def test_what_the_engine_or_network_decides_is_asked_again(error_type: str) -> None:
    assert ErrorType(error_type).retryable
    assert error_type in RETRYABLE_ERROR_TYPES


def test_a_clash_names_every_column_and_the_remedy() -> None:
    with pytest.raises(ColumnClashError, match=r"'response', 'error'.*output_prefix"):
        refuse_column_clash(["id", "response", "error"], ("response", "status", "error"), "")


def test_names_that_only_differ_in_case_clash_as_query_engines_tell_none_apart() -> None:
    with pytest.raises(ColumnClashError, match=r"'Status'.*differ in case; set output_prefix"):
        refuse_column_clash(["id", "Status"], ("response", "status"), "")


def test_a_prefix_ends_a_clash_and_can_make_another() -> None:
    refuse_column_clash(["response"], ("response",), "tag_")
    with pytest.raises(ColumnClashError, match=r"'tag_response'.*now 'tag_'"):
        refuse_column_clash(["response", "tag_response"], ("response",), "tag_")
