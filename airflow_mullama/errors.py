"""Every failure of a task, named for its condition.

A row's failure is data and never one of these (see :mod:`airflow_mullama.rows`): an exception of this tree ends the
task. Each message says what was found, why it cannot go on, and what to change.
"""

from __future__ import annotations

from typing import Any

from airflow_mullama.redaction.foreign_text import printable


class MullamaError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: one sentence or a few. Servers, files and paths have their words in it, so it is made printable.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigurationError(MullamaError, ValueError):
    """An argument that cannot work, whatever the data: a wrong name, type, range or combination."""


class TemplateError(ConfigurationError):
    """A prompt template that is not plain text with ``{column}`` placeholders."""


class InputNotFoundError(MullamaError, FileNotFoundError):
    """The input path does not exist, or holds no data file."""


class InputUnreadableError(MullamaError):
    """The input is there but is not readable, or its files do not fit together."""


class TableFormatError(MullamaError):
    """The input is a table of Delta Lake, Iceberg or Hudi, which is more than a folder of Parquet files."""


class UnsupportedColumnError(MullamaError):
    """The input has a column that an output cannot hold as it is."""


class InputChangedError(MullamaError):
    """The input changed or vanished while it was being read."""


class MissingColumnError(MullamaError, KeyError):
    """The input lacks a column that the job names."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the sentence in quotes


class ColumnClashError(MullamaError):
    """The input already has a column with the name of an output column."""


class OutputExistsError(MullamaError, FileExistsError):
    """The output is there and the job says ``if_exists="error"``."""


class StorageUnavailableError(MullamaError, OSError):
    """A filesystem or store does not answer, or refuses to say what is there. It may later."""


class OutputNotWritableError(MullamaError):
    """The output location refuses to be written: permissions, a full disk, a read-only filesystem."""


class OutputUnreadableError(MullamaError):
    """What was written cannot be read back: a defect of this package, or of the disk. Nothing was published."""


class StageVanishedError(MullamaError):
    """Staged chunks disappeared: another attempt of the same partition published it, or somebody removed them."""


class OutputChangedError(MullamaError):
    """What lies at the output's place is not what this attempt found there when it began: it was left as it is."""


class SupersededAttemptError(MullamaError):
    """Another attempt published other work to the same place while this one computed: this one did not publish.

    Args:
        message: the sentence.
        by_newer: whether the other one began later, so that what it published is taken for what is wanted.
    """

    def __init__(self, message: str, *, by_newer: bool) -> None:
        super().__init__(message)
        self.by_newer = by_newer


class ModelNotFoundError(MullamaError, FileNotFoundError):
    """No model at the given path, URL or name."""


class ModelUnavailableError(MullamaError):
    """The model is somewhere else and cannot be fetched now: no network, a store that does not answer."""


class ModelCacheFullError(ModelUnavailableError):
    """There is no room for the model in the cache: the disk, or what the cache may take of it, is too small."""


class ModelUnreadableError(MullamaError):
    """The model file is not a whole GGUF file."""


class ModelMismatchError(MullamaError):
    """The model file has another content than ``model_sha256`` says."""


class ModelLoadError(MullamaError):
    """The engine refused the model or the settings it was given with it."""


class ChatTemplateMissingError(MullamaError):
    """``chat=True`` with a model that carries no chat template."""


class EngineNotAvailableError(MullamaError):
    """The engine's package is not installed, or there is no engine of that name."""


class GpuNotAvailableError(MullamaError):
    """GPU layers are required and the engine sees no GPU."""


class EndpointUnavailableError(MullamaError):
    """The server of the engine ``openai`` does not answer, or has no model yet. It may later."""


class CredentialsRefusedError(MullamaError):
    """The server of the engine ``openai`` refuses the API key, or wants one."""


class DependencyMissingError(MullamaError):
    """An optional package that this use needs is not installed."""


class WorkerCrashError(MullamaError):
    """The worker process died again and again, and no single row explains it."""


class EngineFailedError(MullamaError):
    """The engine is plainly dead: every row fails with the same engine error."""


class ErrorBudgetExceededError(MullamaError):
    """More rows failed than ``max_error_ratio`` allows. The output was written before this was raised.

    Args:
        message: the sentence.
        manifest: the :class:`airflow_mullama.manifest.PartitionManifest` of what was written.
        may_pass: whether another attempt could keep to the budget: it asks again for rows whose error is retryable,
            and for no others.
    """

    def __init__(self, message: str, manifest: Any = None, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.manifest = manifest
        self.may_pass = may_pass


class BudgetSpentError(MullamaError):
    """The job spent ``max_seconds`` or ``max_tokens_total`` and ended, after making what was finished durable."""


class AccountingError(MullamaError):
    """Rows out are not rows in. A defect of this package: nothing was published."""


class JobStoppedError(MullamaError):
    """The job was asked to stop and did, after making what was finished durable."""
