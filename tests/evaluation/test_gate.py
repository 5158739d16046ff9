from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError, InputUnreadableError
from airflow_mullama.evaluation import accepted_file
from airflow_mullama.evaluation.accepted_file import write_accepted_file
from airflow_mullama.evaluation.evaluate import evaluate
from airflow_mullama.evaluation.gate import judge, read_accepted
from airflow_mullama.storage.filesystems import resolve_location


@pytest.fixture
def evaluation(labelled: Callable[..., Path]) -> dict[str, Any]:
    """Eight of ten rows are right."""
    return evaluate(labelled(["billing"] * 8 + ["shipping", None], ["billing"] * 10), "truth").to_json()


@pytest.mark.parametrize(
    ("figure", "threshold", "holds"),
    [
        ("accuracy", 0.8, True),
        ("accuracy", 0.81, False),
        ("label.accuracy", "0.8", True),
        ("accuracy.low", ">= 0.8", False),
        ("accuracy.high", "<= 0.9", False),
        ("without_answer", 0.1, True),
        ("without_answer", 0.05, False),
        ("without_answer", ">= 0.05", True),
    ],
)
def test_a_threshold_holds_or_does_not(evaluation: dict[str, Any], figure: str, threshold: Any, holds: bool):
    (verdict,) = judge(evaluation, {figure: threshold})

    assert verdict.holds is holds


@pytest.mark.parametrize("threshold", ["much", "> 0.5", "1.2.3", ".", None, True, ""])
def test_a_threshold_that_is_none_is_refused(evaluation: dict[str, Any], threshold: Any):
    with pytest.raises(ConfigurationError, match=r"must be a number, or a text such as '>= 0\.9'"):
        judge(evaluation, {"accuracy": threshold})


def test_a_figure_that_there_is_not_is_refused_with_those_that_there_are(evaluation: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=r"names 'acuracy', and the evaluation has accuracy, accuracy\.low"):
        judge(evaluation, {"acuracy": 0.9})


def test_what_was_accepted_last_is_what_the_next_is_held_against(evaluation: dict[str, Any], tmp_path: Path):
    place = resolve_location(tmp_path / "folder" / "accepted.json")
    assert read_accepted(place) is None
    write_accepted_file(place, evaluation)
    better = {**evaluation, "answers": {"label": {"accuracy": {"value": 0.9, "low": 0.6, "high": 0.98, "rows": 10}}}}
    write_accepted_file(place, better)

    (close,) = judge(evaluation, {}, read_accepted(place), max_drop=0.11)
    (far,) = judge(evaluation, {}, read_accepted(place), max_drop=0.05)

    assert (close.holds, far.holds) == (True, False)
    assert "last accepted" in far.wanted


@pytest.mark.parametrize("content", ['{"answers": 3}', "[" * 100_000, '{"answers": {}, "far too long": 0}'])
def test_a_file_that_holds_something_else_is_not_taken_for_an_evaluation(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
):
    if "long" in content:
        monkeypatch.setattr(accepted_file, "MOST_BYTES", 20)
    (tmp_path / "accepted.json").write_text(content)

    with pytest.raises(InputUnreadableError, match="holds no evaluation"):
        read_accepted(resolve_location(tmp_path / "accepted.json"))
