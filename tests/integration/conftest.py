"""One Airflow home for all tests of a session: its first `dag.test()` takes seconds, every further one a moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
DAGS = REPOSITORY / "dags"


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow of this session's own. Airflow reads the environment when it is imported, and only then."""
    if "airflow" in sys.modules:
        assert "AIRFLOW_HOME" in os.environ, (
            "a test module imports airflow at its top, before there is a home for it: import it inside the test"
        )
        home = Path(os.environ["AIRFLOW_HOME"])
    else:
        for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))]:
            del os.environ[name]  # whatever belongs to another Airflow of this machine
        home = tmp_path_factory.mktemp("airflow")
        os.environ.update(
            AIRFLOW_HOME=str(home),
            AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
        )
    from airflow.utils.db import initdb

    initdb()
    return home


@pytest.fixture
def run_dag(airflow_home: Path) -> Callable[..., Any]:
    """Run a DAG in this process, with its tasks as Airflow runs them; returns the run."""

    def run(dag: Any, conf: dict[str, Any] | None = None) -> Any:
        _store(dag)
        return dag.test(run_conf=conf)

    return run


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
