from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.errors import ConfigurationError, GpuNotAvailableError
from airflow_mullama.gpus import Gpu, GpuRequest
from airflow_mullama.gpus.devices import Inventory

TWO = Inventory((Gpu("GPU-aa", 0, "NVIDIA H200"), Gpu("GPU-bb", 1, "NVIDIA H200")), "nvidia-smi lists them")
NONE = Inventory((), "there is no nvidia-smi")


@pytest.mark.parametrize("gpus", [0, -1, True, 1.0, "", "two", "0", [], [1.5], [True], [-1], [""], ["first"], {0: 1}])
def test_anything_else_is_refused_with_what_it_may_be(gpus: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"gpus (is|has) .*; (it|its entries) must be"):
        GpuRequest(gpus)


@pytest.mark.parametrize(
    ("gpus", "candidates", "count"),
    [
        (None, [], 0),
        ("auto", [0, 1], 1),
        ("all", [0, 1], 2),
        (1, [0, 1], 1),
        (2, [0, 1], 2),
        ([1], [1], 1),
        (["GPU-bb", 0], [1, 0], 2),
        ((0, "GPU-a"), [0], 1),
    ],
)
def test_what_would_do_and_how_many(gpus: Any, candidates: list[int], count: int) -> None:
    found, needed = GpuRequest(gpus).candidates(TWO)
    assert ([gpu.index for gpu in found], needed) == (candidates, count)


def test_a_request_can_be_compared_and_hashed() -> None:
    assert GpuRequest([0, "GPU-bb"]) == GpuRequest((0, "GPU-bb"))
    assert len({GpuRequest([0]), GpuRequest((0,))}) == 1


def test_auto_and_all_mean_nothing_where_there_is_none() -> None:
    assert GpuRequest("auto").candidates(NONE) == ((), 0)
    assert GpuRequest("all").candidates(NONE) == ((), 0)


@pytest.mark.parametrize(
    ("gpus", "inventory", "sentence"),
    [
        (3, TWO, "gpus=3 and this task may use GPU 0 (NVIDIA H200) = GPU-aa, GPU 1 (NVIDIA H200) = GPU-bb"),
        (1, NONE, "gpus=1 and this task may use no GPU (there is no nvidia-smi)"),
        ([2], TWO, "gpus has 2 and this task may use GPU 0"),
        (["GPU-ab"], TWO, "gpus has 'GPU-ab' and this task may use"),
    ],
)
def test_what_is_not_there_is_said(gpus: Any, inventory: Inventory, sentence: str) -> None:
    with pytest.raises(GpuNotAvailableError) as caught:
        GpuRequest(gpus).candidates(inventory)
    assert sentence in str(caught.value)
