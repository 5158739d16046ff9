"""One job over partitions, one after the other: what keeps every promise to the rows. Other rooms import from here."""

from airflow_mullama.run.prepare import engine_settings, prepare_model
from airflow_mullama.run.runner import run_job, run_partition
from airflow_mullama.run.shown_rows import ShownRow, show_rows

__all__ = ["ShownRow", "engine_settings", "prepare_model", "run_job", "run_partition", "show_rows"]
