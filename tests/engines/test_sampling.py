from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.engines.sampling import MAX_STOP_STRINGS, Sampling
from airflow_mullama.errors import ConfigurationError


def test_the_default_is_greedy() -> None:
    assert Sampling.from_mapping(None) == Sampling() == Sampling.from_mapping({})
    assert Sampling().temperature == 0.0


def test_none_means_the_default() -> None:
    assert Sampling.from_mapping({"top_k": None, "seed": 7}) == Sampling(seed=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 11),
        ("temperature", float("nan")),
        ("temperature", "0.5"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", False),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("min_p", 2),
        ("repeat_penalty", -1),
        ("presence_penalty", 11),
        ("frequency_penalty", float("inf")),
        ("seed", -1),
        ("seed", 2**31),
        ("seed", "7"),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", ["x"] * (MAX_STOP_STRINGS + 1)),
        ("stop", 5),
        ("stop", {"a": 1}),
    ],
)
def test_a_value_out_of_range_is_named_with_what_it_may_be(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Sampling.from_mapping({name: value})
    message = str(caught.value)
    assert f"sampling[{name!r}] is {value!r}" in message
    assert "must be" in message


def test_an_unknown_parameter_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no parameter 'temprature'; there are: temperature, top_k"):
        Sampling.from_mapping({"temprature": 0.5})


def test_anything_but_a_dictionary_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a dictionary"):
        Sampling.from_mapping([("temperature", 0)])  # type: ignore[arg-type]


def test_one_stop_text_may_stand_without_a_list() -> None:
    assert Sampling.from_mapping({"stop": "\n"}).stop == ("\n",)
    assert Sampling.from_mapping({"stop": ["a", "b"]}).stop == ("a", "b")


def test_a_rows_seed_depends_on_its_request_and_attempt_and_on_nothing_else() -> None:
    sampling = Sampling(seed=7)
    assert sampling.row_seed("text", 1) == Sampling(seed=7, temperature=1.0).row_seed("text", 1)
    different = {sampling.row_seed("text", 1), sampling.row_seed("text", 2), sampling.row_seed("other", 1)}
    assert len({*different, Sampling(seed=8).row_seed("text", 1)}) == 4
    assert all(0 <= seed < 2**31 for seed in different)
