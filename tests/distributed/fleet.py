"""An Airflow past one machine: CeleryExecutor over PostgreSQL and Redis, and two workers that stand for two hosts."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg2
import redis

from airflow_mullama.demo.airflow.client import AirflowClient
from airflow_mullama.demo.airflow.environment import HOST, airflow_environment
from airflow_mullama.demo.airflow.server import free_port
from tests.distributed.services import PATIENCE_SECONDS, TAIL_LINES, Service, airflow, broker, postgresql, wait_for

DAG = Path(__file__).parents[2] / "dags" / "many_partitions.py"
# Airflow's own times are fractions of their defaults, in the same order, and long enough for a busy machine.
# The visibility timeout is shorter than a task, which it must never be.
HEARTBEAT_TIMEOUT_SECONDS = 20
QUEUED_TIMEOUT_SECONDS = 45
VISIBILITY_TIMEOUT_SECONDS = 5
GPU_QUEUE = "gpu"
SLOTS = 2
# What a platform team writes into $AIRFLOW_HOME/config/airflow_local_settings.py: no DAG needs to know of it. More
# attempts, as a lost host costs each of its tasks one.
POLICY = """
from datetime import timedelta

ENGINE_TASKS = {"MullamaGenerateOperator", "MullamaEmbedOperator", "MullamaClassifyOperator"}
SETTINGS = {"queue": "gpu", "gpus": "auto", "retries": 9, "retry_delay": timedelta(seconds=2)}


def task_policy(task):
    if task.task_type in ENGINE_TASKS:
        if hasattr(task, "partial_kwargs"):  # one that is mapped
            task.partial_kwargs.update(SETTINGS)
        else:
            vars(task).update(SETTINGS)
"""


class Fleet:
    """A context manager: everything is started in it, and killed at its end.

    Args:
        folder: for the logs, and for what the components and the hosts keep.
        variables: further environment of Airflow's components and of the tasks.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.started_at = time.monotonic()
        self._database_folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._database_port, self._broker_port, api_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{api_port}"
        self.client = AirflowClient(self.url, timeout=PATIENCE_SECONDS)
        database = f"airflow@127.0.0.1:{self._database_port}/airflow"
        sections = {
            "CORE": {"EXECUTOR": "CeleryExecutor"},
            "DATABASE": {"SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}"},
            "CELERY": {
                "BROKER_URL": f"redis://127.0.0.1:{self._broker_port}/0",
                "RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
                "WORKER_CONCURRENCY": SLOTS,
            },
            "CELERY_BROKER_TRANSPORT_OPTIONS": {
                "VISIBILITY_TIMEOUT": VISIBILITY_TIMEOUT_SECONDS,
                # By default a worker looks for what has become visible every 100 s.
                "UNACKED_RESTORE_INTERVAL": 1,
                "UNACKED_RESTORE_THROTTLE": 1,
            },
            # After an outage a task asks the API server again at once, and not after up to 90 s.
            "WORKERS": {"EXECUTION_API_RETRY_WAIT_MAX": 4},
            "SCHEDULER": {
                "TASK_INSTANCE_HEARTBEAT_TIMEOUT": HEARTBEAT_TIMEOUT_SECONDS,
                "TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
                "TASK_QUEUED_TIMEOUT": QUEUED_TIMEOUT_SECONDS,
                "TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 2,
                # By default a task that was queued in vain three times fails for good, whatever its retries.
                "NUM_STUCK_IN_QUEUED_RETRIES": 20,
            },
        }
        further = {
            f"AIRFLOW__{section}__{name}": str(value)
            for section, settings in sections.items()
            for name, value in settings.items()
        }
        home = folder / "home"
        home.mkdir(mode=0o700)
        dags = folder / "dags"
        dags.mkdir()
        shutil.copy(DAG, dags)  # it alone: reading the others takes the two cores' time
        self._home = home
        (home / "config").mkdir()
        (home / "config" / "airflow_local_settings.py").write_text(POLICY)
        # One more than both workers have room for, so that there is something in the queue.
        self.environment = airflow_environment(
            home, dags=dags, url=self.url, parallelism=2 * SLOTS + 1, further={**further, **variables}
        )
        self.redis = broker(folder, self._broker_port)
        self.database = postgresql(self._database_folder, folder, self._database_port)
        self.api_server = self._component("api-server", "--host", HOST, "--port", str(api_port), "--workers", "1")
        self.scheduler = self._component("scheduler", "--skip-serve-logs")
        self.dag_processor = self._component("dag-processor")
        self.workers = [self._worker(0, f"default,{GPU_QUEUE}"), self._worker(1, GPU_QUEUE)]

    @property
    def services(self) -> list[Service]:
        return [self.scheduler, *self.workers, self.dag_processor, self.api_server, self.redis, self.database]

    def _component(self, name: str, *arguments: str) -> Service:
        return airflow(name, name, *arguments, environment=self.environment, home=self._home)

    def _worker(self, number: int, queues: str) -> Service:
        """A host of its own: nothing of its GPUs, their locks and its temporary files is the other's."""
        name = f"worker-{number}"
        own = self.folder / name
        (own / "tmp").mkdir(parents=True)
        environment = {
            **self.environment,
            "AIRFLOW_MULLAMA_GPUS": str(number),
            "AIRFLOW_MULLAMA_GPU_LOCKS": str(own / "gpu-locks"),
            "TMPDIR": str(own / "tmp"),
        }
        arguments = ("celery", "worker", "--queues", queues, "--celery-hostname", name, "--skip-serve-logs")
        return airflow(name, *arguments, environment=environment, home=self._home)

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self._show()
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self._show()
        self.close()

    def _start(self) -> None:
        self.redis.start()
        self.database.start()
        wait_for(self._database_answers, "PostgreSQL")
        self._ask("CREATE DATABASE airflow", database="postgres")
        migration = airflow("migration", "db", "migrate", environment=self.environment, home=self._home)
        migration.start()
        wait_for(lambda: not migration.is_running, "the migration of the database")
        self.say("database")
        for service in (self.api_server, self.scheduler, self.dag_processor, *self.workers):
            service.start()
        wait_for(lambda: self.client.dag("many_partitions"), "the DAG")
        self.client.warm()  # it answers once it has imported what it needs
        for worker in self.workers:
            wait_for(lambda worker=worker: " ready." in worker.text(), f"{worker.name}")
        self.say("fleet is up")

    def say(self, what: str) -> None:
        """For the report of a failure, and of ``pytest -s``."""
        sys.stdout.write(f"{time.monotonic() - self.started_at:6.1f} s  {what}\n")

    def queues(self) -> redis.Redis:
        return redis.Redis(port=self._broker_port)

    def running_tasks(self) -> int:
        """Tasks of which Airflow believes that they run."""
        return int(str(self.query("SELECT count(*) FROM task_instance WHERE state = 'running'")[0][0]))

    def task_logs(self) -> list[Path]:
        return sorted((self._home / "logs").rglob("attempt=*.log"))

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Ask Airflow's database."""
        return self._ask(statement, database="airflow")

    def _ask(self, statement: str, database: str) -> list[tuple[object, ...]]:
        connection = psycopg2.connect(host="127.0.0.1", port=self._database_port, user="airflow", dbname=database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def _database_answers(self) -> bool:
        """PostgreSQL listens before it answers: for a moment it only says that it is starting up."""
        try:
            return bool(self._ask("SELECT 1", database="postgres"))
        except psycopg2.OperationalError:
            return False

    def close(self) -> None:
        for service in self.services:
            service.kill()
        shutil.rmtree(self._database_folder, ignore_errors=True)

    def _show(self) -> None:
        for service in self.services:
            state = "runs" if service.is_running else "has ended"
            lines = service.text().splitlines()[-TAIL_LINES:]
            sys.stdout.write(f"\n== {service.name} {state}; its log ends with:\n" + "\n".join(lines) + "\n")
