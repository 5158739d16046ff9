"""``@task.mullama_generate`` and ``@task.mullama_embed``: the function says which rows, the task does the rest."""

from __future__ import annotations

from airflow_mullama.decorators.tasks import mullama_embed_task, mullama_generate_task

__all__ = ["mullama_embed_task", "mullama_generate_task"]
