from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.engines.log_probabilities import LogProbabilities


def tokens(*logprobs: Any) -> list[dict[str, Any]]:
    return [{"token": "x", "logprob": logprob} for logprob in logprobs]


def test_mean_and_least_are_those_of_the_tokens() -> None:
    assert LogProbabilities.of(tokens(-1.0, -3.0, 0)) == LogProbabilities(mean=-4 / 3, least=-3.0)


def test_the_token_that_ends_the_answer_does_not_count() -> None:
    assert LogProbabilities.of([*tokens(-1.0), {"token": "", "logprob": -9.0}]) == LogProbabilities(-1.0, -1.0)


@pytest.mark.parametrize(
    "bad", [[], [{"token": "", "logprob": -1.0}], tokens(None), tokens(-1.0, "x"), tokens(float("-inf"))]
)
def test_what_is_not_said_is_not_made_up(bad: list[dict[str, Any]]) -> None:
    assert LogProbabilities.of(bad) is None


def test_a_rounding_error_makes_nothing_more_than_certain() -> None:
    assert LogProbabilities.of(tokens(1e-9)) == LogProbabilities(0.0, 0.0)
