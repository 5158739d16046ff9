"""What the tab says of statuses and error types: the codes and what is retryable come from the row contract."""

from __future__ import annotations

from typing import Any

from airflow_mullama.rows import ErrorType, Status

# A test holds these to the contract: one for each, and none besides.
STATUS_WORDS = {
    Status.SUCCESS: "have a result",
    Status.FAILED: "have none",
    Status.INVALID_OUTPUT: "the answer breaks the output schema",
    Status.SKIPPED: "the input is null, so nothing was asked",
}
ERROR_WORDS = {
    ErrorType.NULL_INPUT: "The input is null: nothing was asked.",
    ErrorType.RENDER_ERROR: "The prompt could not be made from the row.",
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
    ErrorType.REQUEST_REFUSED: "The server wants this request in no case.",
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
