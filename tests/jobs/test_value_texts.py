from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.jobs.value_texts import NoText, value_texts

DAY = datetime.timedelta(days=1)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([7], pa.int8()), "7"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([True]), "true"),
        (pa.array([False]), "false"),
        (pa.array([0.1]), "0.1"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([2.0], pa.float16()), "2.0"),
        (pa.array([math.nan]), "NaN"),
        (pa.array([-math.inf]), "-Infinity"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
        (pa.array([decimal.Decimal("0E-10")], pa.decimal128(20, 10)), "0.0000000000"),
        (pa.array([datetime.date(2026, 1, 31)]), "2026-01-31"),
        (pa.array([86_400_000], pa.date64()), "1970-01-02"),
        (pa.array([4_000_000], pa.date32()), "12921-08-18"),
        (pa.array([datetime.time(1, 2, 3)]), "01:02:03"),
        (pa.array([86_399_999], pa.time32("ms")), "23:59:59.999000"),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([0], pa.timestamp("us", "UTC")), "1970-01-01T00:00:00+00:00"),
        (pa.array([-500], pa.timestamp("ms", "Europe/Berlin")), "1970-01-01T00:59:59.500000+01:00"),
        (pa.array([0], pa.timestamp("s", "+05:30")), "1970-01-01T05:30:00+05:30"),
        (pa.array([0], pa.timestamp("s", "Nowhere/City")), "1970-01-01T00:00:00+00:00"),
        (pa.array([0], pa.timestamp("ms")), "1970-01-01T00:00:00"),
        (pa.array([1_000_000_001], pa.timestamp("ns")), "1970-01-01T00:00:01.000000001"),
        (pa.array([1_000_001_000], pa.timestamp("ns", "UTC")), "1970-01-01T00:00:01.000001+00:00"),
        (pa.array([253_402_300_800], pa.timestamp("s", "UTC")), "10000-01-01T00:00:00+00:00"),
        (pa.array([datetime.timedelta(hours=1)]), "PT1H"),
        (pa.array([2 * DAY]), "P2D"),
        (pa.array([datetime.timedelta(0)]), "PT0S"),
        (pa.array([-(DAY + datetime.timedelta(minutes=1, milliseconds=500))]), "-P1DT1M0.5S"),
        (pa.array([b"caf\xc3\xa9"]), "café"),
        (pa.array([b"abc"], pa.binary(3)), "abc"),
        (pa.array([b"x"], pa.large_binary()), "x"),
        (pa.array([b"x"], pa.binary_view()), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array(['"x"']).dictionary_encode(), '"x"'),
        (pa.RunEndEncodedArray.from_arrays([1], ["x"]), "x"),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
        (pa.array([["é", None]]), '["é", null]'),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "[1, 2]"),
        (pa.array([[1, 2]], pa.list_view(pa.int8())), "[1, 2]"),
        (pa.array([[[1], None], []], pa.large_list(pa.list_(pa.int8()))), "[[1], null]"),
        (pa.array([{"k": 1, "s": "ü"}]), '{"k": 1, "s": "ü"}'),
        (pa.array([[("k", 1.5), ("l", None)]], pa.map_(pa.string(), pa.float64())), '{"k": 1.5, "l": null}'),
        (pa.array([[(7, "x")]], pa.map_(pa.int8(), pa.string())), '{"7": "x"}'),
        (pa.array([[datetime.date(2026, 1, 31)]]), '["2026-01-31"]'),
        (pa.array([[b"x"]]), '["x"]'),
        (pa.array([{"at": datetime.time(1), "for": DAY}]), '{"at": "01:00:00", "for": "P1D"}'),
        (pa.array([[decimal.Decimal("1.50")]]), "[1.50]"),
        (pa.array([[math.nan, math.inf, 1.0]]), '["NaN", "Infinity", 1.0]'),
        (pa.array([["x"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), '["x"]'),
        (pa.array([[True, None]]), "[true, null]"),
        (pa.array([[None]], pa.list_(pa.null())), "[null]"),
    ],
)
def test_values_are_written_as_people_write_them(array: pa.Array, text: str) -> None:
    assert value_texts(array)[0] == text


@pytest.mark.parametrize("inside", [False, True])
def test_bytes_that_are_no_text_are_the_error_of_their_row_alone(inside: bool) -> None:
    values: list[Any] = [b"fine", b"\xff\xfe", None]
    fine, broken, null = value_texts(pa.array([value and {"a": [value]} for value in values] if inside else values))
    assert fine == ('{"a": ["fine"]}' if inside else "fine")
    assert broken == NoText("holds bytes that are not UTF-8: invalid start byte")
    assert null is None


def test_a_type_without_a_text_says_so() -> None:
    (text,) = value_texts(pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]))
    assert isinstance(text, NoText)
    assert "for which there is no text" in text.reason


scalars = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(st.characters(codec="utf-8"), max_size=5),
    pa.binary(): st.binary(max_size=3),
    pa.date32(): st.dates(),
    pa.timestamp("us", "Asia/Kolkata"): st.integers(-(2**62), 2**62),
    pa.timestamp("ns"): st.integers(-(2**62), 2**62),
    pa.duration("us"): st.timedeltas(DAY * -1000, DAY * 1000),
    pa.decimal128(20, 4): st.decimals(-(10**9), 10**9, places=4),
}


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array:
    kind, values = draw(st.sampled_from(list(scalars.items())))
    values = st.none() | values
    for _ in range(draw(st.integers(0, 3))):
        shape = draw(st.sampled_from(["list", "struct", "map"]))
        if shape == "list":
            kind, values = pa.list_(kind), st.none() | st.lists(values, max_size=3)
        elif shape == "struct":
            kind, values = pa.struct([("a", kind)]), st.none() | st.fixed_dictionaries({"a": values})
        else:
            kind = pa.map_(pa.string(), kind)
            values = st.none() | st.lists(st.tuples(st.text("kl", max_size=2), values), max_size=2)
    array = pa.array(draw(st.lists(values, max_size=6)), kind)
    start = draw(st.integers(0, len(array)))
    return array.slice(start)


@given(arrays())
def test_what_holds_other_values_is_json_and_each_value_stands_for_itself(array: pa.Array) -> None:
    texts = value_texts(array)
    assert [text is None for text in texts] == array.is_null().to_pylist()
    # A value's text does not depend on its neighbours.
    assert texts == [text for place in range(len(array)) for text in value_texts(array.slice(place, 1))]
    for text in texts:
        if isinstance(text, str) and pa.types.is_nested(array.type):
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
