"""The tickets nearest to a question, found by DuckDB in the output folder itself: a DAG to copy.

It needs DuckDB (pip install duckdb) and the outputs of `embed_tickets`. DuckDB compares the question with every vector;
for many questions load them into a database that has an index (`load_into_pgvector`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_mullama.operators import MullamaEmbedOperator

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")

SEARCH = """
SELECT
    ticket_id, ds::VARCHAR AS ds, text,
    array_cosine_similarity(embedding::FLOAT[{dimensions}], $question::FLOAT[{dimensions}]) AS cosine
FROM read_parquet($files, hive_partitioning = true)
WHERE status = 'success'
ORDER BY cosine DESC, ticket_id
LIMIT $most
"""


@dag(
    schedule=None,
    catchup=False,
    tags=["airflow-mullama", "tickets"],
    params={
        "embedded": Param(f"{LAKE}/tickets_embedded", type="string", description="the output of embed_tickets"),
        "questions": Param(f"{LAKE}/questions", type="string", description="where the question and its vector go"),
        "question": Param("Where is my parcel?", type="string"),
        "most": Param(5, type="integer", minimum=1, maximum=100),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
)
def search_vectors() -> None:
    """Embed a question with the model of the tickets, and find those that are nearest to it."""

    @task
    def ask(params: dict[str, Any], run_id: str) -> str:
        """The question as a partition of one row."""
        import pyarrow as pa
        import pyarrow.fs as pafs
        import pyarrow.parquet as pq

        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in run_id)
        filesystem, folder = pafs.FileSystem.from_uri(params["questions"])
        filesystem.create_dir(f"{folder}/asked")
        pq.write_table(
            pa.table({"text": [params["question"]]}), f"{folder}/asked/{name}.parquet", filesystem=filesystem
        )
        return f"{name}.parquet"

    name = ask()
    embedded = MullamaEmbedOperator(
        task_id="embed",
        input_path="{{ params.questions }}/asked/{{ ti.xcom_pull(task_ids='ask') }}",
        output_path="{{ params.questions }}/embedded/{{ ti.xcom_pull(task_ids='ask') }}",
        text_column="text",
        model="demo:minilm",  # the model of the tickets: vectors of two models have nothing to do with each other
    )

    @task
    def search(name: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        """The nearest tickets, the nearest first."""
        import duckdb
        import pyarrow.parquet as pq

        vector = pq.read_table(f"{params['questions']}/embedded/{name}")["embedding"][0].as_py()
        with duckdb.connect() as database:
            found = database.execute(
                SEARCH.format(dimensions=len(vector)),
                {"question": vector, "files": f"{params['embedded']}/ds=*/*.parquet", "most": params["most"]},
            )
            names = [column[0] for column in found.description or ()]
            nearest = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        for ticket in nearest:
            print(f"{ticket['cosine']:.3f}  {ticket['ds']}  {ticket['text'][:100]}")  # noqa: T201 - to the task's log
        return nearest

    embedded >> search(name=name)


search_vectors()
