"""What the operators share: templating, the connection's defaults, running, stopping, reporting."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_mullama.compat import AirflowFailException, AirflowSkipException
from airflow_mullama.errors import (
    ChatTemplateMissingError,
    ColumnClashError,
    ConfigurationError,
    CredentialsRefusedError,
    DependencyMissingError,
    EngineNotAvailableError,
    ErrorBudgetExceededError,
    MissingColumnError,
    ModelNotFoundError,
    ModelUnreadableError,
    MullamaError,
    OutputExistsError,
)
from airflow_mullama.hooks.mullama import MullamaHook
from airflow_mullama.operators.links import MullamaOutputLink, MullamaTabLink
from airflow_mullama.operators.paths import refuse_nested_outputs, require_if_input_missing

# Asking again cannot mend these: the task fails at once, whatever its retries. An input that is not there may yet come.
NOT_RETRIED: tuple[type[MullamaError], ...] = (
    ChatTemplateMissingError,
    ColumnClashError,
    ConfigurationError,
    CredentialsRefusedError,
    DependencyMissingError,
    EngineNotAvailableError,
    MissingColumnError,
    ModelNotFoundError,
    ModelUnreadableError,
    OutputExistsError,
)
MANIFEST_KEY = "manifest"


class MullamaOperator(BaseOperator):
    """Runs a job over partitions; see its two children.

    Args:
        input_path: a Parquet file, a directory of them, or a list; local or an object store's URL (templated).
        output_path: where the outputs go: see :func:`airflow_mullama.storage.partitions.discover_partitions`
            (templated).
        model: a GGUF file's path, ``hf://owner/repo/file.gguf``, an object-store URL, ``demo:NAME`` or ``echo``; for
            the engine ``openai``, the name that the server knows (templated). ``None``: the connection's.
        engine: ``auto`` or an engine's name. ``None``: the connection's, else ``auto``.
        engine_options: the engine's settings, over those of the connection.
        require_gpu: fail where layers are to go to a GPU and the engine sees none.
        max_retries: further tries of a row whose error is retryable.
        row_timeout: seconds the engine may spend on one row.
        max_error_ratio: the share of rows that may fail before the task does, after the output is written.
        chunk_rows: rows made durable together.
        if_exists: ``resume``, ``overwrite`` or ``error``.
        if_input_missing: where there is no input: ``fail`` (a retry looks again), ``skip`` the task, or end it well
            with an ``empty`` manifest; no output is written. Of a list, those that are there are processed.
        output_prefix: put before each added column's name.
        gpus: which GPUs the task has for itself, a worker on each: ``"auto"`` for a free one, a number of them,
            ``"all"``, a list, or ``None`` to lease none (docs/gpus.md).
        mullama_conn_id: connection with defaults for model, engine and engine options; it need not exist.
    """

    template_fields: ClassVar[Sequence[str]] = ("input_path", "output_path", "model", "mullama_conn_id")  # type: ignore[misc]
    ui_color = "#e8f0fe"
    operator_extra_links = (MullamaOutputLink(), MullamaTabLink())

    manifest: Any = None
    """Of what the last ``execute`` wrote."""

    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        input_path: str | list[str],
        output_path: str | list[str],
        model: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        require_gpu: bool = False,
        max_retries: int = 2,
        row_timeout: float | None = None,
        max_error_ratio: float = 0.1,
        chunk_rows: int = 1000,
        if_exists: str = "resume",
        if_input_missing: str = "fail",
        output_prefix: str = "",
        gpus: str | int | Sequence[int | str] | None = None,
        mullama_conn_id: str = MullamaHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_path = input_path
        self.output_path = output_path
        self.model = model
        self.engine = engine
        self.engine_options = engine_options
        self.require_gpu = require_gpu
        self.max_retries = max_retries
        self.row_timeout = row_timeout
        self.max_error_ratio = max_error_ratio
        self.chunk_rows = chunk_rows
        self.if_exists = if_exists
        self.if_input_missing = if_input_missing
        self.output_prefix = output_prefix
        self.gpus = gpus
        self.mullama_conn_id = mullama_conn_id

    def job_arguments(self) -> dict[str, Any]:
        """The arguments that only this operator's kind of job has."""
        raise NotImplementedError

    def make_job(self, arguments: Mapping[str, Any]) -> Any:
        """Build the job of this operator's kind."""
        raise NotImplementedError

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the job; the returned manifest becomes the task's XCom.

        Raises:
            AirflowFailException: the arguments can never work, so that no retry is spent on them.
            AirflowSkipException: there is no input, and ``if_input_missing="skip"``.
            MullamaError: anything else that ends the task; a retry goes on from what is durable.
        """
        # Heavy imports wait until here: a DAG file is parsed every few seconds.
        from airflow_mullama.manifest import INPUT_MISSING
        from airflow_mullama.mapping import partition_name
        from airflow_mullama.operators.filesystems import resolve_in_task
        from airflow_mullama.operators.progress import TaskListener
        from airflow_mullama.operators.reporting import report
        from airflow_mullama.runner import run_job

        self._stop = threading.Event()
        try:
            require_if_input_missing(self.if_input_missing)
            refuse_nested_outputs(self)
            context["partition"] = partition_name(self.input_path)
            job = self.make_job({**self._common_arguments(), **self.job_arguments()})
            manifest = run_job(
                job,
                self.input_path,
                self.output_path,
                resolver=resolve_in_task,
                listeners=[TaskListener(context, self.input_path)],
                stop=self._stop,
                leave_out_missing=self.if_input_missing != "fail",
            )
        except NOT_RETRIED as error:
            raise AirflowFailException(str(error)) from error
        except ErrorBudgetExceededError as error:
            if error.manifest is not None:
                context["ti"].xcom_push(key=MANIFEST_KEY, value=self._account(error.manifest))
                report(self, context, job, error.manifest)
            raise
        if manifest.skipped == INPUT_MISSING and self.if_input_missing == "skip":
            raise AirflowSkipException(f"There is no input at {manifest.input_path}: nothing to do.")
        report(self, context, job, manifest)
        return self._account(manifest)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Asked for by the OpenLineage provider when the task has ended well."""
        from airflow_mullama.operators.lineage import operator_lineage

        return operator_lineage(self)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Asked for by the OpenLineage provider when the task has failed."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def on_kill(self) -> None:
        """Called in a signal handler: only say that it is time to stop; the loop makes durable what is finished."""
        if self._stop is not None:
            self._stop.set()

    def _account(self, manifest: Any) -> dict[str, Any]:
        """The manifest, and what a reader of the output must know besides: how its columns are named."""
        return {**manifest.to_json(), "output_prefix": self.output_prefix}

    def _common_arguments(self) -> dict[str, Any]:
        return {
            **MullamaHook(self.mullama_conn_id).engine_arguments(self.model, self.engine, self.engine_options),
            "require_gpu": self.require_gpu,
            "max_retries": self.max_retries,
            "row_timeout": self.row_timeout,
            "max_error_ratio": self.max_error_ratio,
            "chunk_rows": self.chunk_rows,
            "if_exists": self.if_exists,
            "output_prefix": self.output_prefix,
            "gpus": self.gpus,
        }
