from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.writer import A_PROGRAM, Writer


@pytest.mark.parametrize(
    ("writer", "words"),
    [
        (Writer("nightly", "tag"), "task 'tag' of DAG 'nightly'"),
        (Writer("nightly", "tag", 3), "task 'tag' (map index 3) of DAG 'nightly'"),
        (Writer(command="airflow-mullama embed"), "the command 'airflow-mullama embed'"),
        (A_PROGRAM, "a Python program"),
    ],
)
def test_a_writer_is_named_and_survives_json(writer: Writer, words: str) -> None:
    assert str(writer) == words
    assert Writer.from_json({**writer.to_json(), "later": [1]}) == writer


def test_the_map_index_does_not_tell_writers_apart() -> None:
    assert Writer("nightly", "tag", 3).is_same_as(Writer("nightly", "tag", 5))
    assert not Writer("nightly", "tag").is_same_as(Writer("nightly", "other"))
    assert not Writer("nightly", "tag").is_same_as(Writer("hourly", "tag"))
    assert not Writer(command="airflow-mullama embed").is_same_as(A_PROGRAM)


@pytest.mark.parametrize("value", [{"dag_id": 5}, {"map_index": "3"}, {"command": []}])
def test_what_is_no_writer_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=" is "):
        Writer.from_json(value)
