"""What the operators share: templating, the connection's defaults, running, stopping, reporting."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_mullama.arguments import Number, OrNone, Whole, from_text
from airflow_mullama.compat import (
    AirflowFailException,
    AirflowSkipException,
    is_mapped,
    mapped_arguments,
    name_mapped_task,
)
from airflow_mullama.errors import (
    BudgetSpentError,
    ChatTemplateMissingError,
    ColumnClashError,
    ConfigurationError,
    CredentialsRefusedError,
    DependencyMissingError,
    EngineNotAvailableError,
    ErrorBudgetExceededError,
    MissingColumnError,
    ModelMismatchError,
    ModelNotFoundError,
    ModelUnreadableError,
    MullamaError,
    OutputExistsError,
    SupersededAttemptError,
    TableFormatError,
    UnsupportedColumnError,
)
from airflow_mullama.hooks.mullama import MullamaHook
from airflow_mullama.operators.keys import keys_apart
from airflow_mullama.operators.links import MullamaOutputLink, MullamaTabLink
from airflow_mullama.operators.output_checks import (
    refuse_credentials_in_paths,
    refuse_nested_outputs,
    require_if_input_missing,
)
from airflow_mullama.operators.supervisor_watch import SupervisorWatch
from airflow_mullama.operators.task_state import MANIFEST_KEY, leave_manifest, leaving_why_it_failed
from airflow_mullama.operators.templates import options_from_text, render_prompt
from airflow_mullama.storage.addresses import shown_address

log = logging.getLogger(__name__)

# Asking again cannot mend these: the task fails at once, whatever its retries. An input that is not there may yet come.
NOT_RETRIED: tuple[type[MullamaError], ...] = (
    BudgetSpentError,
    ChatTemplateMissingError,
    ColumnClashError,
    ConfigurationError,
    CredentialsRefusedError,
    DependencyMissingError,
    EngineNotAvailableError,
    MissingColumnError,
    ModelMismatchError,
    ModelNotFoundError,
    ModelUnreadableError,
    OutputExistsError,
    TableFormatError,
    UnsupportedColumnError,
)
# Airflow keeps XComs and the values of its state store in its database, and warns of larger ones.
MOST_ACCOUNT_BYTES = 64_000


class MullamaOperator(BaseOperator):
    """Runs a job over partitions: what the operators that generate, embed and classify have in common.

    Args:
        input_path: a Parquet file, a directory of them, or a list; local or an object store's URL, or a table's address
            such as ``delta:///path`` (docs/tables.md; templated).
        output_path: where the outputs go: see :func:`airflow_mullama.storage.partitions.discover_partitions`
            (templated).
        model: a GGUF file's path, ``hf://owner/repo/file.gguf``, an object-store URL, ``demo:NAME`` or ``echo``; to
            embed also a folder or ``owner/repo`` on the Hub, with the engine ``sentence_transformers``; for the engine
            ``openai``, the name that the server knows (templated). ``None``: the connection's.
        model_sha256: of the model file's content; another file is refused (templated). ``None``: the connection's,
            where the model is the connection's too.
        engine: ``auto`` or an engine's name. ``None``: the connection's, else ``auto``.
        engine_options: the engine's settings, over those of the connection (templated, but for a key).
        require_gpu: fail where layers are to go to a GPU and the engine sees none.
        max_retries: further tries of a row whose error is retryable.
        row_timeout: seconds the engine may spend on one row.
        load_timeout: seconds in which the engine must be ready, its model loaded or its server reached.
        max_error_ratio: the share of rows that may fail before the task does, after the output is written (templated).
        chunk_rows: rows made durable together.
        chunk_seconds: how long a finished row may wait until it is durable, however few are.
        if_exists: ``resume``, ``overwrite`` or ``error``.
        max_seconds: seconds that the engine may work; of mapped tasks, of all together, divided evenly. Then the task
            fails with what is finished durable, and the next run goes on (templated).
        max_tokens_total: tokens of prompts and answers; the same (templated).
        limit: only the first rows of all partitions, so many of them (templated).
        sample: only so many rows, drawn evenly from all partitions (templated).
        sample_seed: of the drawing (templated).
        reuse_from: an output of the same job over other rows, such as a sample: what it answered is not asked again
            (templated).
        schema_drift: what to do about files of one partition whose schemas differ: ``promote`` or ``refuse``.
        if_input_missing: where there is no input: ``fail`` (a retry looks again), ``skip`` the task, or end it well
            with an ``empty`` manifest; no output is written. Of a list, those that are there are processed.
        output_prefix: put before each added column's name (templated).
        gpus: which GPUs the task has for itself, a worker on each: ``"auto"`` for a free one, a number of them,
            ``"all"``, a list, or ``None`` to lease none (docs/gpus.md).
        mullama_conn_id: connection with defaults for model, engine and engine options; it need not exist.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        "input_path",
        "output_path",
        "model",
        "model_sha256",
        "mullama_conn_id",
        "output_prefix",
        "max_error_ratio",
        "engine_options",
        "max_seconds",
        "max_tokens_total",
        "limit",
        "sample",
        "sample_seed",
        "reuse_from",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "engine_options": "json",
        "sampling": "json",
        "output_schema": "json",
        "examples": "json",
        "lora": "json",
    }
    prompt_fields: ClassVar[tuple[str, ...]] = ()
    """Templated arguments in which ``{column}`` is a placeholder, and other braces are doubled."""
    json_fields: ClassVar[tuple[str, ...]] = ()
    """Arguments that may name a file of JSON."""
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
        model_sha256: str | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        require_gpu: bool = False,
        max_retries: int = 2,
        row_timeout: float | None = None,
        load_timeout: float = 1800.0,
        max_error_ratio: float | str = 0.1,
        chunk_rows: int = 1000,
        chunk_seconds: float = 60.0,
        if_exists: str = "resume",
        max_seconds: float | str | None = None,
        max_tokens_total: int | str | None = None,
        limit: int | str | None = None,
        sample: int | str | None = None,
        sample_seed: int | str = 0,
        reuse_from: str | None = None,
        schema_drift: str = "promote",
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
        self.model_sha256 = model_sha256
        self.engine = engine
        # Keys are no templates. Kept apart, they are in no field that Airflow stores and shows.
        self._keys, self.engine_options = keys_apart(engine_options)
        self.require_gpu = require_gpu
        self.max_retries = max_retries
        self.row_timeout = row_timeout
        self.load_timeout = load_timeout
        self.max_error_ratio = max_error_ratio
        self.chunk_rows = chunk_rows
        self.chunk_seconds = chunk_seconds
        self.if_exists = if_exists
        self.max_seconds = max_seconds
        self.max_tokens_total = max_tokens_total
        self.limit = limit
        self.sample = sample
        self.sample_seed = sample_seed
        self.reuse_from = reuse_from
        self.schema_drift = schema_drift
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

    @leaving_why_it_failed
    def execute(self, context: Any) -> dict[str, Any]:
        """Run the job; the returned manifest becomes the task's XCom.

        Raises:
            AirflowFailException: the arguments can never work, so that no retry is spent on them.
            AirflowSkipException: there is no input, and ``if_input_missing="skip"``.
            MullamaError: anything else that ends the task; a retry goes on from what is durable.
        """
        # Heavy imports wait until here: a DAG file is parsed every few seconds.
        from airflow_mullama.hooks.filesystems import resolve_in_task
        from airflow_mullama.manifest import INPUT_MISSING
        from airflow_mullama.operators.mapped_outputs import refuse_meeting_outputs
        from airflow_mullama.operators.reporting import report
        from airflow_mullama.operators.task_progress import TaskProgress
        from airflow_mullama.run import run_job
        from airflow_mullama.storage.mapped_tasks import partition_name

        self._stop = threading.Event()
        try:
            require_if_input_missing(self.if_input_missing)
            refuse_credentials_in_paths(self)
            refuse_nested_outputs(self)
            refuse_meeting_outputs(self, context, resolve_in_task)
            self._warn_of_stored_key()
            context["partition"] = partition_name(self.input_path)
            name_mapped_task(context)
            job = self.make_job({**self._common_arguments(context), **self.job_arguments()})
            with SupervisorWatch(self._stop), TaskProgress(context) as progress:
                manifest = run_job(
                    job,
                    self.input_path,
                    self.output_path,
                    resolver=resolve_in_task,
                    listeners=[progress],
                    stop=self._stop,
                    leave_out_missing=self.if_input_missing != "fail",
                    writer=_writer(context["ti"]),
                )
        except NOT_RETRIED as error:
            raise AirflowFailException(str(error)) from error
        except SupersededAttemptError as error:
            if error.by_newer:
                raise AirflowFailException(str(error)) from error
            raise
        except ErrorBudgetExceededError as error:
            if error.manifest is not None:
                account = self._account(error.manifest)
                context["ti"].xcom_push(key=MANIFEST_KEY, value=account)
                leave_manifest(context, account)
                report(self, context, job, error.manifest)
            if not error.may_pass:
                raise AirflowFailException(str(error)) from error
            raise
        if manifest.skipped == INPUT_MISSING and self.if_input_missing == "skip":
            raise AirflowSkipException(f"There is no input at {shown_address(manifest.input_path)}: nothing to do.")
        report(self, context, job, manifest)
        account = self._account(manifest)
        leave_manifest(context, account)
        return account

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

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Any, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Where Airflow lets an operator render fields in its own way: prompts have braces of their own."""
        fields = list(template_fields)
        if parent is self:
            fields = [name for name in fields if name not in self.json_fields]
            self._read_named_files()
        macros = getattr(self.get_dag(), "user_defined_macros", None) or {}
        for name in set(fields).intersection(self.prompt_fields) if parent is self else ():
            if isinstance(text := getattr(self, name), str):  # or, from another task, whatever that returned
                try:
                    rendered = render_prompt(
                        name,
                        text,
                        lambda expression: self.render_template(expression, context, jinja_env),
                        further_names=macros,
                    )
                except ConfigurationError as error:
                    raise AirflowFailException(str(error)) from error
                setattr(self, name, rendered)
                fields.remove(name)
        super()._do_render_template_fields(parent, fields, context, jinja_env, seen_oids)
        if parent is self:
            self._refuse_names_of_files()

    def _refuse_names_of_files(self) -> None:
        """Which file of the worker is read is for the DAG's author to say, not for a parameter or another task."""
        from airflow_mullama.jobs.text_files import names_a_text_file

        for name in self.prompt_fields:
            if names_a_text_file(value := getattr(self, name, None)):
                raise AirflowFailException(
                    f"{name} is {value!r} once it is rendered, and only a name that stands in the DAG is taken for a "
                    "file's: write the file's name there as it is, or end the text with a line end."
                )

    def _read_named_files(self) -> None:
        """Put in place of files' names what the files hold, so that Airflow's rendered view shows that too."""
        from airflow_mullama.operators.template_files import read_named_files

        try:
            read_named_files(self, self.prompt_fields, self.json_fields)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error

    def _account(self, manifest: Any) -> dict[str, Any]:
        """The manifest, and what a reader must know besides: names of columns, and how long an answer may be."""
        from airflow_mullama.manifest import account_within

        # Airflow takes a field of this name for a secret, and shows it nowhere else.
        max_tokens = from_text(getattr(self, "max_tokens", None), Whole(1))
        told = {"output_prefix": self.output_prefix} | ({"max_tokens": max_tokens} if max_tokens else {})
        return {**account_within(manifest, MOST_ACCOUNT_BYTES - len(json.dumps(told))), **told}

    def _warn_of_stored_key(self) -> None:
        if self._keys and is_mapped(self):
            log.warning(
                "engine_options['%s'] of a mapped task lies readable in Airflow's database, as part of the DAG: "
                "move it into the connection %r (field 'API key', or engine_options in its extra), and change the key.",
                next(iter(self._keys)),
                self.mullama_conn_id,
            )

    def _share_of_budget(self, context: Any) -> dict[str, Any]:
        """Of mapped tasks each has its part of what all may spend."""
        seconds: Any = from_text(self.max_seconds, OrNone(Number(0.0, float("inf"))))
        tokens: Any = from_text(self.max_tokens_total, OrNone(Whole(1)))
        count = len(mapped_arguments(self, context)) or 1
        if count > 1:
            seconds = seconds / count if isinstance(seconds, (int, float)) else seconds
            tokens = max(1, tokens // count) if isinstance(tokens, int) else tokens
        return {"max_seconds": seconds, "max_tokens_total": tokens}

    def _common_arguments(self, context: Any) -> dict[str, Any]:
        from airflow_mullama.engines.registry import engine_spec

        options = self.engine_options
        if self._keys and isinstance(options, Mapping):
            options = {**options, **self._keys}
        engine = MullamaHook(self.mullama_conn_id).engine_arguments(self.model, self.engine, options, self.model_sha256)
        checks = engine_spec(engine["engine"], engine["model"]).checks
        return {
            **engine,
            "engine_options": options_from_text(engine["engine_options"], checks),
            "require_gpu": self.require_gpu,
            "max_retries": self.max_retries,
            "row_timeout": self.row_timeout,
            "load_timeout": self.load_timeout,
            "max_error_ratio": from_text(self.max_error_ratio, Number(0.0, 1.0)),
            "chunk_rows": self.chunk_rows,
            "chunk_seconds": self.chunk_seconds,
            "if_exists": self.if_exists,
            **self._share_of_budget(context),
            "limit": from_text(self.limit, OrNone(Whole(1))),
            "sample": from_text(self.sample, OrNone(Whole(1))),
            "sample_seed": from_text(self.sample_seed, Whole(0)),
            "reuse_from": self.reuse_from or None,
            "schema_drift": self.schema_drift,
            "output_prefix": self.output_prefix,
            "gpus": self.gpus,
        }


def _writer(task_instance: Any) -> Any:
    from airflow_mullama.writer import Writer

    index = task_instance.map_index
    return Writer(task_instance.dag_id, task_instance.task_id, None if index is None or index < 0 else index)
