"""What the tab says of statuses and error types: the codes and what is retryable come from the row contract."""

from __future__ import annotations

from typing import Any

from airflow_mullama.rows import ErrorType, Status

# A test holds these to the contract: one for each, and no others.
STATUS_WORDS = {
    Status.SUCCESS: "have a result",
    Status.FAILED: "have none",
    Status.INVALID_OUTPUT: "the answer breaks the output schema",
    Status.SKIPPED: "the input is null, so nothing was asked",
}
ERROR_WORDS = {
    ErrorType.NULL_INPUT: "The input is null: nothing was asked.",
    ErrorType.UNREADABLE_ROW: "The line or row of the input file is damaged.",
    ErrorType.ROW_TOO_LARGE: "The row's prompt is larger than what is held in memory.",
    ErrorType.RENDER_ERROR: "The prompt could not be made from the row.",
    ErrorType.UNREADABLE_IMAGE: "What stands for a picture is none that is read.",
    ErrorType.MISSING_IMAGE: "The file of a picture is not there, or was out of reach.",
    ErrorType.EMPTY_INPUT: "The text is empty.",
    ErrorType.PROMPT_TOO_LONG: "The prompt does not fit into the context.",
    ErrorType.ENGINE_ERROR: "The engine could not compute the row.",
    ErrorType.ENGINE_CRASH: "The row alone makes the engine crash.",
    ErrorType.TIMEOUT: "The row took longer than row_timeout.",
    ErrorType.INVALID_JSON: "The answer is not JSON.",
    ErrorType.SCHEMA_MISMATCH: "The answer is JSON that breaks the schema.",
    ErrorType.UNDECODABLE_TEXT: "The answer holds characters that could not be decoded.",
    ErrorType.NON_FINITE_EMBEDDING: "The vector holds NaN or infinity.",
    ErrorType.ZERO_EMBEDDING: "The vector is all zeros.",
    ErrorType.RATE_LIMITED: "The server asked for fewer requests.",
    ErrorType.HTTP_ERROR: "The server failed, or the way to it did.",
    ErrorType.REQUEST_REFUSED: "The server will never take this request.",
    ErrorType.NO_ANSWER: "The model stopped, or was cut, without a text.",
}


def row_contract() -> dict[str, Any]:
    """Statuses and error types for the page, as JSON."""
    return {
        "statuses": [{"name": status.value, "meaning": STATUS_WORDS[status]} for status in Status],
        "error_types": [
            {
                "name": error_type.value,
                "status": error_type.status.value,
                "retryable": error_type.retryable,
                "meaning": ERROR_WORDS[error_type],
            }
            for error_type in ErrorType
        ],
    }
