"""A task that takes seconds, by two executors."""

import datetime
import os

from airflow.sdk import DAG

from airflow_mullama.operators import MullamaGenerateOperator

try:
    from kubernetes.client import models as k8s
except ImportError:
    pod = None
else:  # for an executor that is not there: the others pass over it
    base = k8s.V1Container(name="base", image="none", resources=k8s.V1ResourceRequirements(limits={"none": "1"}))
    pod = {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[base]))}

FOLDER = os.environ["AIRFLOW_MULLAMA_TEST_FOLDER"]

for dag_id, executor in (("killed", None), ("in_a_pod", "PodExecutor")):
    with DAG(dag_id, schedule=None):
        MullamaGenerateOperator(
            task_id="job",
            executor=executor,
            executor_config=pod,
            input_path=f"{FOLDER}/in.parquet",
            output_path=f"{FOLDER}/{dag_id}/out.parquet",
            prompt_template="say {text}",
            model="echo",
            engine_options={"delay_s": 0.1, "n_parallel": 4, "request_log": f"{FOLDER}/{dag_id}/requests"},
            chunk_rows=20,
            retries=2,
            retry_delay=datetime.timedelta(seconds=1),
        )
