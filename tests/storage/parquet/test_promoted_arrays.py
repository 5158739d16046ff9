from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mullama.storage.parquet.common_types import common_type
from airflow_mullama.storage.parquet.promoted_arrays import promoted

INNER = pa.struct([("a", pa.int8())])
WIDER = pa.struct([("b", pa.string()), ("a", pa.int64())])
WORDS = pa.dictionary(pa.int8(), pa.string())


@pytest.mark.parametrize(
    ("values", "own", "other"),
    [
        ([1, None, -3], pa.int8(), pa.uint32()),
        ([1, None, -3], pa.int32(), pa.float64()),
        ([1, None, -3], pa.int64(), pa.decimal128(10, 2)),
        ([1, None, 3], pa.timestamp("s"), pa.timestamp("ns")),
        (["a", None, "b"], pa.string(), pa.large_string()),
        (["a", None, "b"], pa.string_view(), pa.string()),
        (["a", None, "b"], WORDS, pa.string()),
        (["a", None, "b"], WORDS, pa.dictionary(pa.int32(), pa.large_string())),
        ([b"ab", None, b"cd"], pa.binary(2), pa.binary(3)),
        ([None, None, None], pa.null(), WORDS),
        ([None, None, None], pa.null(), pa.map_(pa.string(), INNER)),
        ([{"a": 1}, None, {"a": None}], INNER, WIDER),
        ([{"x": {"a": 1}}, None, {"x": None}], pa.struct([("x", INNER)]), pa.struct([("y", INNER), ("x", WIDER)])),
        ([[{"a": 1}, None], None, []], pa.list_(INNER), pa.list_(WIDER)),
        ([[{"a": 1}, None], None, []], pa.list_(INNER), pa.large_list(WIDER)),
        ([[None], None, []], pa.list_(pa.null()), pa.list_(INNER)),
        ([["a"], None, ["b", "a"]], pa.list_(WORDS), pa.list_(pa.string())),
        ([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2), pa.list_(pa.int64())),
        ([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2), pa.list_(pa.int64(), 2)),
        ([[("k", {"a": 1})], None, []], pa.map_(pa.string(), INNER), pa.map_(pa.large_string(), WIDER)),
    ],
)
def test_values_stay_what_they_are_wherever_the_array_begins(values: list[Any], own: pa.DataType, other: Any) -> None:
    array = pa.array([values[0], *values], own)
    kind = common_type(own, other)
    for start in range(len(array)):
        made = promoted(array.slice(start), kind)
        made.validate(full=True)
        assert made.type == kind
        assert promoted(made, kind) is made
        # A field that the values did not have is null in them.
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        assert made.to_pylist() == pa.array(array.slice(start).to_pylist(), plain).to_pylist()


def test_a_short_float_stays_the_number_it_is() -> None:
    array = pa.array([np.float16(0.1), None, np.float16(np.inf)], pa.float16())
    assert promoted(array.slice(0, 2), pa.float64()).to_pylist() == [float(np.float16(0.1)), None]
    assert promoted(array, pa.float32()).to_pylist()[2] == np.inf


def test_a_moment_that_a_finer_unit_cannot_count_is_no_other_moment() -> None:
    with pytest.raises(pa.ArrowInvalid, match="out of bounds"):
        promoted(pa.array([10**12], pa.timestamp("s")), pa.timestamp("ns"))
