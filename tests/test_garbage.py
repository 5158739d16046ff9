from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from airflow_mullama.garbage import THRESHOLD, seldom_collected


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("usual", "meanwhile"), [(700, THRESHOLD), (50_000, 50_000), (0, 0)])
def test_garbage_is_looked_for_no_more_often_than_before(usual: int, meanwhile: int) -> None:
    gc.set_threshold(usual, 11, 12)
    with seldom_collected():
        assert gc.get_threshold()[0] == meanwhile
    assert gc.get_threshold() == (usual, 11, 12)


def test_an_error_leaves_no_trace() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), seldom_collected():
        raise KeyError
    assert gc.get_threshold() == before
