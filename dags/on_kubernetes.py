"""Each day in a pod of its own, with a GPU of its own: a DAG to copy, for the KubernetesExecutor.

Under any other executor the pod is ignored, and the DAG runs as it is. What each setting of the pod is for, and what
happens when Kubernetes takes the pod away, is in docs/kubernetes.md.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_mullama.operators import (
    MullamaGenerateOperator,
    MullamaListPartitionsOperator,
    MullamaSummaryOperator,
)

# A directory that every pod mounts, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")


def models_on_a_claim() -> Any:
    """The models on a volume that many pods may read at once (ReadOnlyMany)."""
    from kubernetes.client import models as k8s

    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name="models", read_only=True)
    return k8s.V1Volume(name="models", persistent_volume_claim=claim)


def models_in_an_image() -> Any:
    """The models as an image, which a node pulls once (switched on by default since Kubernetes 1.35)."""
    from kubernetes.client import models as k8s

    image = k8s.V1ImageVolumeSource(reference="registry.example.com/models/qwen3-8b:q4_k_m", pull_policy="IfNotPresent")
    return k8s.V1Volume(name="models", image=image)


def gpu_pod() -> Any:
    """What a task's pod has beyond the executor's template, whose image has airflow-mullama and the engine for CUDA."""
    from kubernetes.client import models as k8s

    base = k8s.V1Container(
        name="base",  # the container in which Airflow runs the task has this name
        resources=k8s.V1ResourceRequirements(
            requests={"cpu": "4", "memory": "16Gi"},
            limits={"memory": "16Gi", "nvidia.com/gpu": "1"},
        ),
        env=[k8s.V1EnvVar(name="AIRFLOW_MULLAMA_CACHE", value="/cache")],
        volume_mounts=[
            k8s.V1VolumeMount(name="models", mount_path="/models", read_only=True),
            k8s.V1VolumeMount(name="cache", mount_path="/cache"),
            k8s.V1VolumeMount(name="shared-memory", mount_path="/dev/shm"),  # noqa: S108
        ],
    )
    in_memory = k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit="1Gi")  # part of the container's memory limit
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}),
        spec=k8s.V1PodSpec(
            containers=[base],
            volumes=[
                models_on_a_claim(),  # or models_in_an_image()
                k8s.V1Volume(name="cache", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="50Gi")),
                k8s.V1Volume(name="shared-memory", empty_dir=in_memory),
            ],
            node_selector={"nvidia.com/gpu.present": "true"},
            tolerations=[k8s.V1Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
            termination_grace_period_seconds=60,  # from SIGTERM to SIGKILL
        ),
    )


def on_a_gpu() -> dict[str, Any] | None:
    """The ``executor_config`` of a task; nothing where there is no Kubernetes client, as no pod is started there."""
    try:
        return {"pod_override": gpu_pod()}
    except ImportError:
        return None


with DAG(
    "on_kubernetes",
    schedule=None,
    tags=["airflow-mullama", "tickets"],
    params={
        "tickets": Param(f"{LAKE}/tickets", type="string", description="Parquet, in directories ds=YYYY-MM-DD"),
        "tagged": Param(f"{LAKE}/tickets_tagged_in_pods", type="string", description="where the tagged tickets go"),
        "max_tasks": Param(3, type="integer", minimum=1, description="pods; each loads the model once"),
    },
    # A pod that was taken away is an attempt that failed: the next one goes on where it stopped.
    default_args={"retries": 5, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
) as dag:
    partitions = MullamaListPartitionsOperator(
        task_id="partitions",
        input_path="{{ params.tickets }}",
        output_path="{{ params.tagged }}",
        max_tasks="{{ params.max_tasks }}",
        balance="rows",
    )

    tagged = MullamaGenerateOperator.partial(
        task_id="tag",
        map_index_template="{{ partition }}",
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",  # or /models/qwen3-8b-q4_k_m.gguf, on the pod's volume
        max_tokens=48,
        gpus="auto",
        executor_config=on_a_gpu(),
    ).expand_kwargs(partitions.output)

    MullamaSummaryOperator(task_id="summary", manifests=tagged.output, max_error_ratio=0.05)
