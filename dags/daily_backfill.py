"""Each day's tickets, tagged once the day is over, and past days by a backfill: a DAG to copy."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_mullama.operators import MullamaGenerateOperator

# A directory, or an object store's URL such as s3://bucket/lake.
LAKE = os.environ.get("AIRFLOW_MULLAMA_LAKE", "/data/lake")

with DAG(
    "daily_backfill",
    # The run of a day starts when that day has ended, and {{ ds }} is that day. (With schedule="@daily" alone Airflow 3
    # starts a run at midnight and names it after the day that begins then.)
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 3, 2, tzinfo=timezone.utc),  # the first day there is data of
    catchup=True,  # days that passed while Airflow was down are made up for
    max_active_runs=2,  # as many days, and models in memory, at once
    is_paused_upon_creation=True,  # once unpaused, it begins with every day since start_date
    tags=["airflow-mullama", "tickets"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
) as dag:
    # Run the past again, for instance after a correction of the input; unchanged days cost nothing, and of changed ones
    # only the changed rows run:
    #   airflow backfill create --dag-id daily_backfill --from-date 2026-03-02 --to-date 2026-03-08 \
    #       --reprocess-behavior completed
    MullamaGenerateOperator(
        task_id="tag",
        input_path=f"{LAKE}/tickets/ds={{{{ ds }}}}",
        output_path=f"{LAKE}/tickets_tagged_daily",  # the day's own ds=... below it
        if_input_missing="skip",  # a day without tickets; "fail" would retry, for data that comes late
        prompt_template="Tag this ticket: {text}",
        model="demo:ticket-tagger",  # or /models/qwen3-8b-q4_k_m.gguf, or hf://owner/repo/file.gguf
        max_tokens=48,
    )
