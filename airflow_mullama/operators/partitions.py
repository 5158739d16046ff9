"""The operator that lists partitions for mapped tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from airflow_mullama.arguments import OneOf, OrNone, Whole, from_text
from airflow_mullama.compat import AirflowFailException, AirflowSkipException
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.operators.output_checks import require_if_input_missing


class MullamaListPartitionsOperator(BaseOperator):
    """List partitions as arguments for mapped tasks: ``Operator.partial(...).expand_kwargs(listing.output)``.

    Args:
        input_path: a file, a directory or a list of them, local or an object store's URL (templated).
        output_path: the directory below which the outputs go (templated).
        where: only partitions with these values of hive keys: ``{"ds": "{{ ds }}"}``, ``{"ds": [...]}`` or, both ends
            included, ``{"ds": {"from": "2026-01-01", "to": "{{ ds }}"}}`` (templated).
        max_tasks: at most this many tasks, among which the partitions are balanced; ``None``: one for each partition.
            Never more than ``[core] max_map_length`` (templated).
        balance: what is evened out among the tasks: ``bytes`` of the files, or ``rows``, for which the footer of
            every file is read.
        if_input_missing: where there is no partition, or none that ``where`` wants: ``fail`` (a retry looks again),
            ``skip`` this task and those after it, or return an ``empty`` list, over which Airflow maps no task.
        incremental: only partitions that changed since their output was made, or whose output has rows to be tried
            again. The outputs say of what they were made (templated).
        **kwargs: of Airflow's ``BaseOperator``.
    """

    template_fields: ClassVar[Sequence[str]] = ("input_path", "output_path", "where", "max_tasks", "incremental")  # type: ignore[misc]
    template_fields_renderers: ClassVar[dict[str, str]] = {"where": "json"}
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        input_path: str | list[str],
        output_path: str,
        where: Mapping[str, Any] | None = None,
        max_tasks: int | str | None = None,
        balance: Literal["bytes", "rows"] = "bytes",
        if_input_missing: Literal["fail", "skip", "empty"] = "fail",
        incremental: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_path = input_path
        self.output_path = output_path
        self.where = where
        self.max_tasks = max_tasks
        self.balance = balance
        self.if_input_missing = if_input_missing
        self.incremental = incremental

    def execute(self, context: Any) -> list[Any]:
        """List the partitions.

        Raises:
            AirflowFailException: the arguments can never work, so that no retry is spent on them.
            AirflowSkipException: there is no partition, and ``if_input_missing="skip"``.
            MullamaError: no input, or the store does not answer.
        """
        from airflow_mullama.storage.mapped_tasks import list_partitions

        try:
            require_if_input_missing(self.if_input_missing)
            found = list_partitions(
                self.input_path,
                self.output_path,
                where=self.where,
                max_tasks=from_text(self.max_tasks, OrNone(Whole(1))),  # type: ignore[arg-type]
                balance=self.balance,
                if_input_missing="fail" if self.if_input_missing == "fail" else "empty",
                incremental=from_text(self.incremental, OneOf((True, False))),  # type: ignore[arg-type]
            )
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        if not found and self.if_input_missing == "skip":
            raise AirflowSkipException(f"There is no partition to list at {self.input_path!r}: nothing to do.")
        return found
