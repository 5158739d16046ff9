"""The operator that adds up what mapped tasks did, and decides whether the run may be green."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, XComArg

from airflow_mullama.compat import AirflowFailException
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.operators.base import MANIFEST_KEY
from airflow_mullama.operators.links import MullamaTabLink

log = logging.getLogger(__name__)

SUMMARY_KEY = "summary"
MISSING_NAMES = 20
# Of a task that did what it should, of one that had nothing to do, and of one that a shorter mapping no longer has.
ENDED_WELL = frozenset({"success", "skipped", "removed"})


class MullamaSummaryOperator(BaseOperator):
    """Reduce the manifests of earlier tasks into one, and fail where too much of the whole did.

    It runs also after a task that failed (trigger rule ``all_done``), so that there is an account of every run. As the
    last task of a run decides its state, this one must not end well where another did not: with ``max_missing=0`` it
    fails when a task failed. (A teardown would leave the run's state to the others, but could not fail it itself.)

    The XCom is one manifest without its partitions, with ``partition_count``, ``missing_count`` (tasks that did not end
    well), ``missing`` (the first of them, as ``task_id[map_index]``) and ``skipped_count``. A task that failed over
    its own ``max_error_ratio`` is missing, and its rows count, since its output is written. Where this task fails, the
    same lies under the key ``summary``.

    Args:
        manifests: the ``.output`` of a task, mapped or not, or a list of several (templated).
        max_error_ratio: the share of all rows, 0 to 1, that may have failed; ``None``: as many as the tasks let pass.
        max_missing: how many tasks need not have ended well.
        **kwargs: of Airflow's ``BaseOperator``.
    """

    template_fields: ClassVar[Sequence[str]] = ("manifests",)  # type: ignore[misc]
    ui_color = "#e8f0fe"
    operator_extra_links = (MullamaTabLink(),)

    def __init__(
        self,
        *,
        manifests: Any,
        max_error_ratio: float | None = None,
        max_missing: int = 0,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.manifests = manifests
        self.max_error_ratio = max_error_ratio
        self.max_missing = max_missing
        # Known here only: when the task runs, the manifests stand in their place.
        self._source_ids = sorted({source.task_id for source, _ in XComArg.iter_xcom_references(manifests)})

    def execute(self, context: Any) -> dict[str, Any]:
        """Add up.

        Raises:
            AirflowFailException: too many tasks or rows failed, or an argument cannot work: no retry mends that.
        """
        from airflow_mullama.manifest import summarize_manifests

        try:
            self._check_arguments()
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        task_instance = context["ti"]
        states = self._states(task_instance)
        missing = [name for name, state in states if state not in ENDED_WELL]
        manifests = [*_flattened(self.manifests), *self._manifests_of_failed(task_instance, states)]
        summary = summarize_manifests(manifests)
        summary.update(
            missing_count=len(missing) if states else summary["missing_count"],
            missing=[_shown(name) for name in missing[:MISSING_NAMES]],
            skipped_count=sum(state == "skipped" for _, state in states),
        )
        log.info("%s", _sentence(summary))
        if problem := self._problem(summary):
            task_instance.xcom_push(key=SUMMARY_KEY, value=summary)
            raise AirflowFailException(problem)
        return summary

    def _check_arguments(self) -> None:
        ratio, missing = self.max_error_ratio, self.max_missing
        if ratio is not None and (
            isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1
        ):
            raise ConfigurationError(f"max_error_ratio is {ratio!r}; it must be a number from 0 to 1, or None.")
        if isinstance(missing, bool) or not isinstance(missing, int) or missing < 0:
            raise ConfigurationError(f"max_missing is {missing!r}; it must be a whole number from 0.")

    def _states(self, task_instance: Any) -> list[tuple[tuple[str, int], str | None]]:
        """Each instance of the tasks before: task id, map index (-1: not mapped) and state, in order."""
        if not self._source_ids:
            return []
        by_run = task_instance.get_task_states(
            dag_id=task_instance.dag_id, task_ids=self._source_ids, run_ids=[task_instance.run_id]
        )
        states = by_run.get(task_instance.run_id, {})
        return sorted((_instance(name, self._source_ids), state) for name, state in states.items())

    def _manifests_of_failed(
        self, task_instance: Any, states: Iterable[tuple[tuple[str, int], str | None]]
    ) -> list[Any]:
        """What tasks over their own error budget left beside their failure."""
        found = []
        for (task_id, map_index), state in states:
            if state in ENDED_WELL:
                continue
            value = task_instance.xcom_pull(
                task_ids=task_id, key=MANIFEST_KEY, map_indexes=None if map_index < 0 else map_index
            )
            if isinstance(value, Mapping):
                found.append(value)
        return found

    def _problem(self, summary: Mapping[str, Any]) -> str | None:
        missing, rows = summary["missing_count"], summary.get("rows", 0)
        if missing > self.max_missing:
            named = ", ".join(summary["missing"])
            return (
                f"{missing} task(s) did not end well{f' ({named})' if named else ''} and max_missing is "
                f"{self.max_missing}: see their logs and clear them; what is finished is kept."
            )
        counts = summary.get("status_counts", {})
        failed = counts.get("failed", 0) + counts.get("invalid_output", 0)
        if self.max_error_ratio is not None and rows and failed / rows > self.max_error_ratio:
            kinds = ", ".join(
                f"{count} {name}" for name, count in sorted(summary["error_types"].items()) if name != "null_input"
            )
            return (
                f"{failed} of {rows} rows of all {summary['partition_count']} partition(s) failed ({kinds}), which is "
                f"more than max_error_ratio={self.max_error_ratio:g} allows. The outputs are written: their columns "
                "error_type and error say why."
            )
        return None


def _flattened(manifests: Any) -> Iterator[Any]:
    """Manifests of tasks, mapped or not, and of several; ``None`` for one that left none."""
    if manifests is None or isinstance(manifests, Mapping):
        yield manifests
    elif isinstance(manifests, Iterable) and not isinstance(manifests, str):
        for one in manifests:
            yield from _flattened(one)


def _instance(name: str, task_ids: Sequence[str]) -> tuple[str, int]:
    """Airflow names an instance's state by its task, and ``_`` and the index if it is mapped."""
    if name in task_ids:
        return name, -1
    for task_id in task_ids:
        index = name.removeprefix(f"{task_id}_")
        if index != name and index.isdecimal():
            return task_id, int(index)
    return name, -1


def _shown(instance: tuple[str, int]) -> str:
    task_id, map_index = instance
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def _sentence(summary: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.get("status_counts", {}).items()))
    return (
        f"{summary['partition_count']} partition(s), {summary.get('rows', 0)} rows"
        + (f" ({counts})" if counts else "")
        + f"; {summary['missing_count']} task(s) missing, {summary['skipped_count']} skipped"
    )
