"""The pod of the DAG for Kubernetes: what Airflow and the executor make of it is what the API takes."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mullama.cache import CACHE_VARIABLE
from airflow_mullama.demo.run import dags_directory

pytestmark = pytest.mark.integration

DAG_FILE = dags_directory() / "on_kubernetes.py"


@pytest.fixture
def client() -> Any:
    return pytest.importorskip("kubernetes.client", reason="Kubernetes' client is not installed")


@pytest.fixture
def in_dag_file(airflow_home: Path) -> dict[str, Any]:
    return runpy.run_path(str(DAG_FILE))


def as_the_api_reads_it(client: Any, pod: Any) -> dict[str, Any]:
    """A pod as JSON, read into the client's model of the API and written again.

    The model drops what the API has no name for, raises for what it requires and misses, and turns a value of another
    type into its own, so that only what is in order comes out as it went in.
    """
    api = client.ApiClient()
    sent = api.sanitize_for_serialization(pod)
    read = api.deserialize(SimpleNamespace(data=json.dumps(sent)), "V1Pod")
    assert api.sanitize_for_serialization(read) == sent
    return dict(sent)


def test_the_pod_is_one_that_the_api_knows(client: Any, in_dag_file: dict[str, Any]) -> None:
    spec = as_the_api_reads_it(client, in_dag_file["gpu_pod"]())["spec"]
    (base,) = spec["containers"]
    assert base["name"] == "base"
    assert base["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["terminationGracePeriodSeconds"] >= 30
    volumes = {volume.pop("name"): volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in base["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes["models"] == {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
    assert mounts["/models"]["readOnly"] is True
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    (cache,) = base["env"]
    assert cache["name"] == CACHE_VARIABLE
    assert "emptyDir" in volumes[mounts[cache["value"]]["name"]]


def test_models_may_come_as_an_image(client: Any, in_dag_file: dict[str, Any]) -> None:
    pod = in_dag_file["gpu_pod"]()
    pod.spec.volumes[0] = in_dag_file["models_in_an_image"]()
    volume = as_the_api_reads_it(client, pod)["spec"]["volumes"][0]
    assert volume["image"]["reference"].startswith("registry.example.com/")


def test_a_name_that_the_api_does_not_know_is_found(client: Any, in_dag_file: dict[str, Any]) -> None:
    pod = client.ApiClient().sanitize_for_serialization(in_dag_file["gpu_pod"]())
    pod["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(AssertionError):
        as_the_api_reads_it(client, pod)
    del pod["spec"]["terminationGracePeriod"], pod["spec"]["containers"][0]["name"]
    with pytest.raises(ValueError, match="name"):
        as_the_api_reads_it(client, pod)


def test_the_executor_merges_it_with_its_own(
    client: Any, shipped_dag: Callable[[str], Any], in_dag_file: dict[str, Any]
) -> None:
    """By the provider's own code, over its own template: the task's command, and what the DAG asks for."""
    generator = pytest.importorskip("airflow.providers.cncf.kubernetes.pod_generator")
    from airflow.serialization.serialized_objects import BaseSerialization

    stored = BaseSerialization.serialize(shipped_dag("on_kubernetes").get_task("tag").partial_kwargs["executor_config"])
    override = generator.PodGenerator.from_obj(BaseSerialization.deserialize(stored))
    assert override == in_dag_file["gpu_pod"]()
    template = Path(generator.__file__).parent / "kubernetes_executor_templates" / "basic_template.yaml"
    command = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "{}"]
    pod = generator.PodGenerator.construct_pod(
        dag_id="on_kubernetes",
        task_id="tag",
        pod_id="on-kubernetes-tag-1",
        try_number=1,
        kube_image="airflow-with-mullama:cuda",
        date=None,
        args=command,
        pod_override_object=override,
        base_worker_pod=generator.PodGenerator.deserialize_model_file(str(template)),
        namespace="airflow",
        scheduler_job_id="1",
        map_index=0,
    )
    spec = as_the_api_reads_it(client, pod)["spec"]
    (base,) = spec["containers"]
    assert (base["name"], base["args"], base["image"]) == ("base", command, "airflow-with-mullama:cuda")
    assert {mount["mountPath"] for mount in base["volumeMounts"]} > {"/models", "/cache", "/dev/shm"}
    assert {mount["name"] for mount in base["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert base["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["terminationGracePeriodSeconds"] == 60  # the template's 30 gave way
    assert spec["restartPolicy"] == "Never"


def test_without_kubernetes_client_the_dag_has_no_pod(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    dag = runpy.run_path(str(DAG_FILE))["dag"]
    assert not dag.get_task("tag").partial_kwargs["executor_config"]
