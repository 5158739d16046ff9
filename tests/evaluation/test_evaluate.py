from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.errors import ConfigurationError, InputNotFoundError, InputUnreadableError, MissingColumnError
from airflow_mullama.evaluation.calibration import Calibration
from airflow_mullama.evaluation.evaluate import evaluate

SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["a", "b"]}, "count": {"type": "integer"}, "urgent": {"type": "boolean"}},
    "required": ["team", "count", "urgent"],
}


def fields(team: str, count: int, urgent: bool) -> str:
    return json.dumps({"team": team, "count": count, "urgent": urgent})


def test_a_label_is_right_wrong_or_missing(labelled: Callable[..., Path]):
    answers = ["billing", "shipping", "nonsense", None, "billing", "technical"]
    truths = ["billing", "billing", "billing", "billing", None, "technical"]

    found = evaluate(labelled(answers, truths), "truth")

    assert (found.rows, found.without_expected, found.without_answer) == (6, 1, 2)
    assert found.figures()["accuracy"].value == pytest.approx(2 / 5)
    assert found.figures()["label.accuracy"].rows == 5


def test_typed_fields_are_each_held_against_their_own_column(answered: Callable[..., Path]):
    output = answered(
        {
            "answer": [fields("a", 3, True), fields("b", 5, False), fields("a", 9, True)],
            "true_team": ["a", "a", "a"],
            "true_count": [3, 6, None],
            "true_urgent": [True, True, True],
        },
        output_schema=SCHEMA,
    )

    found = evaluate(output, {"team": "true_team", "count": "true_count", "urgent": "true_urgent"})

    figures = found.figures()
    assert figures["team.accuracy"].value == pytest.approx(2 / 3)
    assert figures["accuracy"].value == figures["team.accuracy"].value
    assert figures["count.mean_absolute_error"].value == pytest.approx(0.5)
    assert figures["urgent.accuracy"].value == pytest.approx(2 / 3)


def test_an_input_column_with_an_answers_name_is_never_taken_for_the_answer(answered: Callable[..., Path]):
    schema = {"type": "object", "properties": {"topic": {"enum": ["a", "b"]}}, "required": ["topic"]}
    output = answered(
        {"answer": ['{"topic": "a"}'] * 3, "label": ["b"] * 3, "embedding": [[1.0]] * 3}, output_schema=schema
    )

    assert evaluate(output, "label").figures()["accuracy"].value == 0.0


def test_free_text_is_compared_as_text(answered: Callable[..., Path]):
    output = answered({"answer": ["Paris.", "Rome"], "truth": ["paris", "Oslo"]})

    assert evaluate(output, "truth").figures()["normalized_match"].value == 0.5


def test_a_directory_of_partitions_is_one_evaluation(labelled: Callable[..., Path], tmp_path: Path):
    for day in ("1", "2"):
        labelled(["billing", "billing"], ["billing", "shipping"], name=f"all/ds={day}/part.parquet")

    found = evaluate(tmp_path / "all", "truth")

    assert (found.rows, found.figures()["accuracy"].value) == (4, 0.5)


def test_of_several_answers_one_must_be_named(answered: Callable[..., Path]):
    output = answered({"answer": [fields("a", 1, True)], "truth": ["a"]}, output_schema=SCHEMA)

    with pytest.raises(
        ConfigurationError, match=r"several answers \(team, count, urgent\): say which is meant, as team=t"
    ):
        evaluate(output, "truth")


def test_what_cannot_be_compared_is_refused_by_name(answered: Callable[..., Path], tmp_path: Path):
    output = answered({"answer": [fields("a", 1, True)], "truth": ["a"]}, output_schema=SCHEMA)

    with pytest.raises(ConfigurationError, match=r"'count' is int64 and the column 'truth' is string"):
        evaluate(output, {"count": "truth"})
    with pytest.raises(ConfigurationError, match="has no answer 'town'; it has team, count, urgent"):
        evaluate(output, {"town": "truth"})
    with pytest.raises(MissingColumnError, match="has no column 'nothing'"):
        evaluate(output, {"team": "nothing"})
    with pytest.raises(InputNotFoundError, match="no output at"):
        evaluate(tmp_path / "nothing.parquet", "truth")
    with pytest.raises(InputUnreadableError, match="was not published by this package"):
        evaluate(tmp_path / "inputs" / "out.parquet", "truth")


def test_of_an_output_of_an_output_the_last_answers_are_meant(answered: Callable[..., Path], tmp_path: Path):
    first = answered({"answer": ["x", "y"], "truth": ["x", "y"]})
    from airflow_mullama import GenerateJob, run_partition

    job = GenerateJob(model="echo", prompt_template="again {response}", output_prefix="second_")
    run_partition(job, first, tmp_path / "second.parquet")

    assert evaluate(tmp_path / "second.parquet", "truth").figures()["exact_match"].value == 0
    assert evaluate(tmp_path / "second.parquet", "truth", output_prefix="").figures()["exact_match"].value == 1
    with pytest.raises(ConfigurationError, match="prefix 'third_' \\(those there are '', 'second_'\\)"):
        evaluate(tmp_path / "second.parquet", "truth", output_prefix="third_")


def test_a_vector_is_nothing_to_be_right_about(tmp_path: Path, write_parquet: Any):
    from airflow_mullama import EmbedJob, run_partition

    source = write_parquet(tmp_path / "in.parquet", ["a"])
    run_partition(EmbedJob(model="echo", text_column="text"), source, tmp_path / "out.parquet")

    with pytest.raises(ConfigurationError, match="vector cannot be held against"):
        evaluate(tmp_path / "out.parquet", "text")


def test_a_confidence_is_calibrated_if_it_is_right_as_often_as_it_says():
    calibration = Calibration()
    for number in range(100):
        calibration.add(0.85, number < 85)
        calibration.add(1.0, True)

    assert calibration.expected_error == pytest.approx(0.0)
    assert calibration.brier_score == pytest.approx((85 * 0.15**2 + 15 * 0.85**2) / 200)
    assert [(one["from"], one["accuracy"]["value"]) for one in calibration.to_json()["bins"]] == [
        (0.8, 0.85),
        (0.9, 1.0),
    ]


def test_numbers_of_any_arrow_type_are_numbers(answered: Callable[..., Path]):
    schema = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    truth = pa.array([1.5, 2.5], pa.float32())
    output = answered({"answer": ['{"price": 1.5}', '{"price": 2}'], "truth": truth}, output_schema=schema)

    assert evaluate(output, "truth").figures()["price.mean_error"].value == pytest.approx(-0.25)
