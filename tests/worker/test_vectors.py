from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.rows import ErrorType
from airflow_mullama.worker.vectors import finish_vectors

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


def finish(rows: list[list[float]], *, normalize: bool = True, dimensions: int | None = None, dtype: str = "float32"):
    return finish_vectors(np.array(rows, np.float32), normalize=normalize, dimensions=dimensions, dtype=dtype)


@given(st.lists(st.lists(float32s, min_size=4, max_size=4).filter(any), min_size=1, max_size=5))
def test_normalised_vectors_have_length_one_and_their_direction(rows: list[list[float]]) -> None:
    kept, errors = finish(rows)
    for row, vector, error in zip(rows, kept, errors, strict=True):
        assert error is None
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1.0, abs=1e-5)
        wanted = np.array(row, np.float32).astype(np.float64)
        assert float(vector @ (wanted / np.linalg.norm(wanted))) == pytest.approx(1.0, abs=1e-5)


def test_the_largest_numbers_do_not_overflow() -> None:
    kept, errors = finish([[3e38, 3e38, 3e38]])
    assert errors == [None]
    np.testing.assert_allclose(kept[0], 1 / np.sqrt(3), rtol=1e-6)


def test_without_normalising_numbers_stay_as_they_are() -> None:
    kept, errors = finish([[1.5, -2.0]], normalize=False)
    assert errors == [None]
    assert kept.tolist() == [[1.5, -2.0]]


def test_vectors_are_cut_before_they_are_normalised() -> None:
    kept, _ = finish([[3.0, 4.0, 100.0]], dimensions=2)
    np.testing.assert_allclose(kept, [[0.6, 0.8]], rtol=1e-6)
    assert kept.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_costs_its_row_alone(bad: float) -> None:
    _, (fine, broken) = finish([[1.0, 2.0], [bad, 1.0]])
    assert fine is None
    assert broken is not None
    assert broken.error_type is ErrorType.NON_FINITE_EMBEDDING


def test_a_vector_of_zeros_is_an_error_of_its_own() -> None:
    _, (error, fine) = finish([[0.0, -0.0], [0.0, 1.0]], normalize=False)
    assert fine is None
    assert error is not None
    assert error.error_type is ErrorType.ZERO_EMBEDDING


def test_what_float16_cannot_hold_is_an_error_where_float16_is_stored() -> None:
    assert finish([[70_000.0]], normalize=False)[1] == [None]
    (error,) = finish([[70_000.0]], normalize=False, dtype="float16")[1]
    assert error is not None
    assert error.error_type is ErrorType.NON_FINITE_EMBEDDING
    assert "float16" in error.message
    assert finish([[70_000.0]], dtype="float16")[1] == [None]


def test_vectors_are_not_copied() -> None:
    raw = np.array([[3.0, 4.0]], np.float32)
    kept, _ = finish_vectors(raw, normalize=True, dimensions=None, dtype="float32")
    assert np.shares_memory(kept, raw)
    assert kept.tolist() == [[np.float32(0.6), np.float32(0.8)]]
