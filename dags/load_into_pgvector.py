"""Embedded tickets into PostgreSQL with pgvector, a partition at a time: a DAG to copy.

It needs Airflow's provider (pip install apache-airflow-providers-postgres), a connection to a database that has the
extension `vector` or whose user may create it, and the outputs of `embed_tickets`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import IO, Any

from airflow.sdk import Param, dag, task

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")
CONNECTION = os.environ.get("AIRFLOW_MULLAMA_POSTGRES", "postgres_default")

CREATE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS {table} (
    ticket_id bigint PRIMARY KEY,
    partition text NOT NULL,
    content_hash text NOT NULL,
    text text NOT NULL,
    embedding vector({dimensions}) NOT NULL
);
CREATE INDEX IF NOT EXISTS {partition_index} ON {table} (partition);
"""
# The partition's rows as they are now, seen by this transaction alone.
STAGE = "CREATE TEMPORARY TABLE stage (LIKE {table}) ON COMMIT DROP"
COPY = "COPY stage (ticket_id, partition, content_hash, text, embedding) FROM STDIN (FORMAT csv)"
# A row whose text and vector are as before is left alone: an update would write its vector and its index anew.
UPSERT = """
INSERT INTO {table} AS old SELECT * FROM stage
ON CONFLICT (ticket_id) DO UPDATE SET
    partition = excluded.partition, content_hash = excluded.content_hash,
    text = excluded.text, embedding = excluded.embedding
WHERE (old.content_hash, old.partition) IS DISTINCT FROM (excluded.content_hash, excluded.partition)
"""
DELETE = """
DELETE FROM {table} AS old
WHERE old.partition = %s AND NOT EXISTS (SELECT FROM stage WHERE stage.ticket_id = old.ticket_id)
"""
# Built once over what is there, which is many times faster than row by row; later loads keep it up.
INDEX = "CREATE INDEX IF NOT EXISTS {vector_index} ON {table} USING hnsw (embedding vector_cosine_ops)"


def statement(text: str, table: str, **more: Any) -> str:
    """A statement with the table's name and its indexes' in it, quoted."""

    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    indexes = {f"{kind}_index": quoted(f"{table}_{kind}") for kind in ("partition", "vector")}
    return text.format(table=quoted(table), **indexes, **more)


def copy(cursor: Any, file: IO[str]) -> None:
    """Send a file to the stage, with whichever driver the provider uses."""
    if hasattr(cursor, "copy_expert"):  # psycopg2
        cursor.copy_expert(COPY, file)
        return
    with cursor.copy(COPY) as target:
        while block := file.read(1 << 16):
            target.write(block)


@dag(
    schedule=None,
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    params={
        "embedded": Param(f"{LAKE}/tickets_embedded", type="string", description="the output of embed_tickets"),
        "table": Param("ticket_vectors", type="string"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
)
def load_into_pgvector() -> None:
    """Load each day's vectors, one mapped task for each partition, then build the index."""

    @task
    def partitions(params: dict[str, Any]) -> list[str]:
        """The partitions there are, once the table is."""
        import pyarrow.dataset as ds
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        found = ds.dataset(params["embedded"], format="parquet")  # passes over _mullama_stage, as every reader does
        dimensions = found.schema.field("embedding").type.list_size
        create = statement(CREATE, params["table"], dimensions=dimensions)
        PostgresHook(CONNECTION).run(create, split_statements=True)
        return sorted({os.path.basename(os.path.dirname(file)) for file in found.files})

    @task(map_index_template="{{ partition }}")
    def load(partition: str, params: dict[str, Any]) -> dict[str, int]:
        """One transaction: whoever searches sees the partition as it was, or as it is now."""
        import csv
        import hashlib
        import json
        import tempfile

        import pyarrow.dataset as ds
        from airflow.providers.postgres.hooks.postgres import PostgresHook
        from airflow.sdk import get_current_context

        get_current_context()["partition"] = partition  # type: ignore[typeddict-unknown-key]
        rows = ds.dataset(f"{params['embedded']}/{partition}", format="parquet")
        columns = ["ticket_id", "text", "embedding"]
        with tempfile.TemporaryFile("w+", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for batch in rows.to_batches(columns=columns, filter=ds.field("status") == "success", batch_size=1000):
                for ticket in batch.to_pylist():
                    text, vector = ticket["text"].replace("\0", ""), json.dumps(ticket["embedding"])
                    content = hashlib.sha256(f"{text}\n{vector}".encode()).hexdigest()
                    writer.writerow([ticket["ticket_id"], partition, content, text, vector])
            file.seek(0)
            with PostgresHook(CONNECTION).get_conn() as connection, connection.cursor() as cursor:
                cursor.execute(statement(STAGE, params["table"]))
                copy(cursor, file)
                staged = cursor.rowcount
                cursor.execute(statement(UPSERT, params["table"]))
                written = cursor.rowcount
                cursor.execute(statement(DELETE, params["table"]), (partition,))
                deleted = cursor.rowcount
        return {"rows": staged, "written": written, "deleted": deleted}

    @task
    def build_index(params: dict[str, Any]) -> None:
        """For the nearest vectors by cosine: ORDER BY embedding <=> '[...]' LIMIT 10."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        PostgresHook(CONNECTION).run(statement(INDEX, params["table"]))

    load.expand(partition=partitions()) >> build_index()


load_into_pgvector()
