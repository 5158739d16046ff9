"""One Airflow home for all tests of a process: its first `dag.test()` takes seconds, every further one a moment."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama import fail_points
from airflow_mullama.demo.airflow.server import DATABASE_NAME

REPOSITORY = Path(__file__).parents[2]
DAGS = REPOSITORY / "dags"


@pytest.fixture(scope="session")
def airflow_home(airflow_database: Path) -> Path:
    """An Airflow of this process's own, with its database."""
    from airflow.sdk.execution_time import supervisor

    # Airflow 3.1 builds an API server for every task, with more than a second of CPU; newer ones keep theirs.
    if not hasattr(supervisor.in_process_api_server, "cache_info"):
        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
    home = Path(os.environ["AIRFLOW_HOME"])
    shutil.copy(airflow_database / DATABASE_NAME, home)
    return home


@pytest.fixture
def run_dag(airflow_home: Path) -> Callable[..., Any]:
    """Run a DAG in this process, with its tasks as Airflow runs them; returns the run."""

    def run(dag: Any, conf: dict[str, Any] | None = None, **arguments: Any) -> Any:
        _store(dag)
        return dag.test(run_conf=conf, **arguments)

    return run


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The `execution_timeout` of a task of this process ends once two chunks are durable, however long it is.

    Airflow measures it by an alarm, whose signal comes here without one.
    """
    durable = 0

    def count(step: str) -> None:
        nonlocal durable
        durable += step == "staged"
        if step == "staged" and durable == 2:
            os.kill(os.getpid(), signal.SIGALRM)

    usual = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(fail_points, "observer", count)
    yield
    signal.signal(signal.SIGALRM, usual)


@pytest.fixture
def shipped_dag(airflow_home: Path) -> Callable[[str], Any]:
    """A DAG of `dags/`, read as the DAG processor reads it."""
    bundle = {"bundle_path": DAGS, "bundle_name": "dags-folder"}
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag

        del bundle["bundle_name"]

    def load(dag_id: str) -> Any:
        bag = DagBag(str(DAGS), **bundle, collect_dags=True)
        assert bag.import_errors == {}
        return bag.dags[dag_id]

    return load


def _store(dag: Any) -> None:
    """Put a DAG where the database knows DAGs from, as the DAG processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    try:
        from airflow.serialization.definitions.dag import SerializedDAG
    except ImportError:  # Airflow 3.1
        from airflow.serialization.serialized_objects import SerializedDAG

    with create_session() as session:
        DagBundlesManager().sync_bundles_to_db(session=session)
        session.commit()
        serialized = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db("dags-folder", None, [serialized], session=session)
        session.commit()
        SerializedDagModel.write_dag(serialized, bundle_name="dags-folder", session=session)
