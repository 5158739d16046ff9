from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.gpus.devices import (
    Gpu,
    list_gpus,
    parse_nvidia_smi,
    restrict,
    visible_ids,
    worker_environment,
)

UUIDS = ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-5d5c1111-0000-4444-8888-cafecafecafe", "GPU-8c1a2222-1")
GPUS = tuple(Gpu(uuid, index, "NVIDIA H200") for index, uuid in enumerate(UUIDS))

# As NVIDIA's MIG User Guide shows it.
NVIDIA_SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb      Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> dict[str, str]:
    """An environment whose nvidia-smi says what NVIDIA_SMI_SAYS says."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -L ] || exit 2\nprintf "%s" "$NVIDIA_SMI_SAYS"\nexit ${NVIDIA_SMI_STATUS:-0}\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "NVIDIA_SMI_SAYS": NVIDIA_SMI}


@pytest.fixture(autouse=True)
def _search_path(nvidia_smi: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", nvidia_smi["PATH"])  # where subprocess looks


def test_whole_gpus_and_parts_are_listed() -> None:
    parts = parse_nvidia_smi(NVIDIA_SMI)
    assert [(gpu.id, gpu.index) for gpu in parts] == [
        ("MIG-c7384736-a75d-5afc-978f-d2f1294409fd", 0),
        ("MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d", None),
        ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", 1),
    ]
    assert str(parts[2]) == "GPU 1 (NVIDIA A100-SXM4-40GB)"
    assert "MIG 1g.5gb" in str(parts[1])


def test_nvidia_smi_is_asked(nvidia_smi: dict[str, str]) -> None:
    assert list_gpus(nvidia_smi).gpus == parse_nvidia_smi(NVIDIA_SMI)


def test_a_driver_that_does_not_answer_is_no_gpu_and_the_reason(nvidia_smi: dict[str, str]) -> None:
    says = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.1"
    inventory = list_gpus({**nvidia_smi, "NVIDIA_SMI_SAYS": says, "NVIDIA_SMI_STATUS": "18"})
    assert inventory.gpus == ()
    assert inventory.reason == "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"


def test_a_machine_without_nvidia_smi_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    inventory = list_gpus({"PATH": str(tmp_path / "nothing")})
    assert (inventory.gpus, inventory.reason) == ((), "there is no nvidia-smi")


def test_named_gpus_stand_for_what_nvidia_smi_says(nvidia_smi: dict[str, str]) -> None:
    named = {**nvidia_smi, "AIRFLOW_MULLAMA_GPUS": " 4, GPU-77 ,4"}
    assert list_gpus(named).gpus == (Gpu("4", 4), Gpu("GPU-77", 1))
    assert list_gpus({**named, "CUDA_VISIBLE_DEVICES": "GPU-77"}).gpus == (Gpu("GPU-77", 1),)
    assert list_gpus({**named, "AIRFLOW_MULLAMA_GPUS": ""}).gpus == ()


@pytest.mark.parametrize(
    ("value", "indexes"),
    [
        ("0,2", [0, 2]),
        ("2,0", [2, 0]),
        (" 1 , 0 ", [1, 0]),
        ("1,1", [1]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        (UUIDS[2], [2]),
        ("GPU-8", [2]),
        ("gpu-8", []),
        ("GPU-5d5b,GPU-5d5c", [0, 1]),
        ("GPU-5d5,2", []),  # of two
        ("GPU-ffff,2", []),
    ],
)
def test_cuda_visible_devices_restricts(value: str, indexes: list[int]) -> None:
    environment = {"AIRFLOW_MULLAMA_GPUS": ",".join(UUIDS), "CUDA_VISIBLE_DEVICES": value}
    inventory = list_gpus(environment)
    assert [gpu.index for gpu in inventory.gpus] == indexes
    assert inventory.reason == f"CUDA_VISIBLE_DEVICES is {value!r}"


def test_a_part_may_be_named_that_is_not_listed() -> None:
    old_name = "MIG-GPU-5d5ba0d6-d33d/1/0"
    assert restrict(GPUS, [old_name]) == (Gpu(old_name, name="MIG instance"),)


def test_a_container_without_gpus_has_none(nvidia_smi: dict[str, str]) -> None:
    assert list_gpus({**nvidia_smi, "NVIDIA_VISIBLE_DEVICES": "none"}).gpus == ()
    # Numbers are the machine's there, and the container counts its own from 0.
    assert len(list_gpus({**nvidia_smi, "NVIDIA_VISIBLE_DEVICES": "5"}).gpus) == 3


def test_a_worker_sees_its_gpu_alone() -> None:
    environment = worker_environment(GPUS[1])
    assert environment["CUDA_VISIBLE_DEVICES"] == environment["HIP_VISIBLE_DEVICES"] == UUIDS[1]
    inside = {"AIRFLOW_MULLAMA_GPUS": ",".join(UUIDS), **environment}
    assert [gpu.id for gpu in list_gpus(inside).gpus] == [UUIDS[1]]


ids = st.one_of(st.integers(0, 5).map(str), st.sampled_from([*UUIDS, "GPU-8c1a", "GPU-5d5"]))
junk = st.one_of(st.sampled_from(["-1", "", "all", "1.0", "0x1", "GPU", "٣"]), st.text(max_size=6))
spaces = st.text(" ", max_size=2)


@given(st.lists(st.tuples(spaces, st.one_of(ids, junk), spaces), max_size=6))
def test_no_more_is_visible_than_stands_before_the_first_wrong_id(parts: list[tuple[str, str, str]]) -> None:
    value = ",".join("".join(part) for part in parts)
    found = visible_ids(value)
    assert found is not None
    tokens = [token.strip() for token in value.split(",")]
    assert list(found) == tokens[: len(found)]
    gpus = restrict(GPUS, found)
    assert len(set(gpus)) == len(gpus) <= len(found)
    assert set(gpus) <= set(GPUS)
    for place, token in enumerate(tokens[: len(found)]):
        meant = [gpu for gpu in GPUS if token == str(gpu.index) or gpu.id.startswith(token)]
        if len(meant) != 1:
            assert len(gpus) <= place
            break
        assert meant[0] in gpus


@given(st.lists(st.integers(0, 2), unique=True))
def test_valid_ids_of_either_kind_mean_the_same(indexes: list[int]) -> None:
    by_number = restrict(GPUS, [str(index) for index in indexes])
    by_uuid = restrict(GPUS, [UUIDS[index] for index in indexes])
    assert by_number == by_uuid == tuple(GPUS[index] for index in indexes)
