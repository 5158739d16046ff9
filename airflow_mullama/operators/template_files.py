"""Prompts, schemas and examples in files of their own: found as Airflow finds its templates, read when the task runs.

Airflow's own ``template_ext`` is of no use here: it would take an ``input_path`` that ends so for a template too, and
render all braces of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from airflow_mullama.jobs.text_files import find_file, names_a_text_file, read_text_file
from airflow_mullama.schemas.sources import read_json_file


def read_named_files(operator: Any, prompt_fields: Iterable[str], json_fields: Iterable[str]) -> None:
    """Replace each argument that names a file by what the file holds.

    Args:
        operator: has the arguments.
        prompt_fields: arguments that are a text or name a file of text.
        json_fields: arguments of which any text names a file of JSON.

    Raises:
        ConfigurationError: a file is not there, or holds something else.
    """
    folders = _folders(operator)
    for name in prompt_fields:
        if names_a_text_file(value := getattr(operator, name, None)):
            setattr(operator, name, read_text_file(name, value, folders))
    for name in json_fields:
        if isinstance(value := getattr(operator, name), (str, os.PathLike)):
            # A JSON text is told apart from a path where it is read.
            is_path = not os.fspath(value).lstrip().startswith(("{", "["))
            setattr(operator, name, read_json_file(name, find_file(name, value, folders) if is_path else value))


def _folders(operator: Any) -> list[str]:
    """Where the files of the operator's DAG lie: beside the DAG file, and in its ``template_searchpath``."""
    if not operator.has_dag():
        return ["."]
    dag = operator.get_dag()
    return [dag.folder, *(dag.template_searchpath or ())]
