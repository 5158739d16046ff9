"""The operator that adds up what mapped tasks did, and decides whether the run may be green."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.bases.xcom import BaseXCom

from airflow_mullama.arguments import Number, OrNone, Whole, from_text, require
from airflow_mullama.compat import AirflowFailException
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.operators.links import MullamaTabLink
from airflow_mullama.operators.task_state import MANIFEST_KEY, leave_manifest, leaving_why_it_failed

log = logging.getLogger(__name__)

SUMMARY_KEY = "summary"
MISSING_NAMES = 20
MOST_DIFFERENCES = 20
# Of a task that did what it should, of one that had nothing to do, and of one that a shorter mapping no longer has.
ENDED_WELL = frozenset({"success", "skipped", "removed"})

Instance = tuple[str, int]
"""A task's id and a map index; -1 where it is not mapped."""
States = Mapping[str, Mapping[int, Any]]
"""The states of a task's instances, by the task's id and the map index."""


class MullamaSummaryOperator(BaseOperator):
    """Reduce the manifests of earlier tasks into one, and fail where too much of the whole did.

    It also runs after a task that failed (trigger rule ``all_done``), so that there is an account of every run. As the
    last task of a run decides its state, this one must not end well where another did not: with ``max_missing=0`` it
    fails when a task failed. (A teardown would leave the run's state to the others, but could not fail it itself.)

    The XCom is one manifest without its partitions, with ``partition_count``, ``missing_count`` (tasks that did not end
    well or left no manifest), ``missing`` (the first of them, as ``task_id[map_index]``) and ``skipped_count``. A task
    that failed over its own ``max_error_ratio`` is missing, and its rows count, since its output is written. Where this
    task fails, the same lies under the key ``summary``.

    Args:
        manifests: the ``.output`` of a task, mapped or not, or a list of several (templated).
        max_error_ratio: the share of all rows, 0 to 1, that may have failed; ``None``: as many as the tasks let pass
            (templated).
        max_missing: how many tasks need not have ended well (templated).
        accepted_path: a JSON file, local or an object store's URL, in which the summary keeps how many rows had each
            status, error type and label. Where a partition's shares differ from those, it warns, with the numbers, and
            keeps them under ``differences``; where none does, and the run is good, they become the accepted ones
            (templated).
        **kwargs: of Airflow's ``BaseOperator``.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        "manifests",
        "max_error_ratio",
        "max_missing",
        "accepted_path",
    )
    ui_color = "#e8f0fe"
    operator_extra_links = (MullamaTabLink(),)

    def __init__(
        self,
        *,
        manifests: Any,
        max_error_ratio: float | str | None = None,
        max_missing: int | str = 0,
        accepted_path: str | None = None,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.manifests = manifests
        self.max_error_ratio = max_error_ratio
        self.max_missing = max_missing
        self.accepted_path = accepted_path
        # Known here only: when the task runs, the manifests are in their place.
        self._sources = _sources(manifests)

    @leaving_why_it_failed
    def execute(self, context: Any) -> dict[str, Any]:
        """Add up.

        Raises:
            AirflowFailException: too many tasks or rows failed, or an argument cannot work: no retry mends that.
        """
        try:
            limits = self._limits()
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        task_instance = context["ti"]
        states = {task_id: _states(task_instance, task_id) for task_id in sorted(_task_ids(self._sources))}
        missing = sorted({*_not_ended_well(states), *self._left_nothing(task_instance, states)})
        summary = _summarized([*_flattened(self.manifests), *_manifests_of_failed(task_instance, states)])
        summary.update(
            missing_count=len(missing) if states else summary["missing_count"],
            missing=[_shown(instance) for instance in missing[:MISSING_NAMES]],
            skipped_count=sum(state == "skipped" for of_task in states.values() for state in of_task.values()),
        )
        log.info("%s", _sentence(summary))
        problem = _problem(summary, *limits)
        if self.accepted_path:
            summary["differences"] = self._compare_shares(good=problem is None)
        leave_manifest(context, summary)
        if problem:
            task_instance.xcom_push(key=SUMMARY_KEY, value=summary)
            raise AirflowFailException(problem)
        return summary

    def _compare_shares(self, *, good: bool) -> list[dict[str, Any]]:
        """Warn of shares that are not what they were; where all are, these become the accepted ones."""
        from airflow_mullama.evaluation.accepted_file import write_accepted_file
        from airflow_mullama.evaluation.shares import added, differences, read_shares
        from airflow_mullama.hooks.filesystems import resolve_in_task

        place = resolve_in_task(str(self.accepted_path))
        accepted = read_shares(place)
        counts = dict(_counted_outputs(_flattened(self.manifests)))
        found = [
            one for path, of_one in counts.items() for one in (differences(path, of_one, accepted) if accepted else ())
        ]
        for one in found[:MOST_DIFFERENCES]:
            log.warning("%s; if that is right, remove %s", one, place)
        if good and counts and not found:
            write_accepted_file(place, added(list(counts.values())))
        return [one.to_json() for one in found[:MOST_DIFFERENCES]]

    def _limits(self) -> tuple[float | None, int]:
        ratio, missing = OrNone(Number(0.0, 1.0)), Whole(0)
        max_error_ratio: Any = from_text(self.max_error_ratio, ratio)
        max_missing: Any = from_text(self.max_missing, missing)
        require("max_error_ratio", max_error_ratio, ratio)
        require("max_missing", max_missing, missing)
        return max_error_ratio, max_missing

    def _left_nothing(self, task_instance: Any, states: States) -> Iterator[Instance]:
        """Those that ended with success and left no manifest: what became of their rows cannot be known."""
        for source, found in _beside(self._sources, self.manifests):
            succeeded = [
                (task_id, map_index)
                for task_id in source
                for map_index, state in states[task_id].items()
                if state == "success"
            ]
            if len(succeeded) == 1 and succeeded[0][1] < 0:
                if found is None:
                    yield succeeded[0]
            elif len(succeeded) > _count(found):
                yield from (one for one in succeeded if _pulled(task_instance, one, BaseXCom.XCOM_RETURN_KEY) is None)


def _sources(manifests: Any) -> Any:
    """The ids of the tasks that ``manifests`` come from: of each item of a list its own."""
    if isinstance(manifests, (list, tuple)):
        return [_sources(one) for one in manifests]
    return frozenset(source.task_id for source, _ in XComArg.iter_xcom_references(manifests))


def _task_ids(sources: Any) -> frozenset[str]:
    return sources if isinstance(sources, frozenset) else frozenset().union(*map(_task_ids, sources))


def _beside(sources: Any, found: Any) -> Iterator[tuple[frozenset[str], Any]]:
    """The ids of tasks, and what is there of them."""
    if isinstance(sources, frozenset):
        yield sources, found
    else:
        for source, one in zip(sources, found, strict=True):
            yield from _beside(source, one)


def _states(task_instance: Any, task_id: str) -> dict[int, str | None]:
    """The state of each instance of a task, by map index (-1: not mapped).

    Of one task at a time: Airflow names an instance by its task's id, followed by ``_`` and the index if it is mapped,
    so that of several tasks two instances may have one name.
    """
    by_run = task_instance.get_task_states(
        dag_id=task_instance.dag_id, task_ids=[task_id], run_ids=[task_instance.run_id]
    )
    states = by_run.get(task_instance.run_id) or {task_id: None}
    return {-1 if name == task_id else int(name.removeprefix(f"{task_id}_")): states[name] for name in sorted(states)}


def _not_ended_well(states: States) -> Iterator[Instance]:
    for task_id, of_task in states.items():
        yield from ((task_id, map_index) for map_index, state in of_task.items() if state not in ENDED_WELL)


def _manifests_of_failed(task_instance: Any, states: States) -> list[Any]:
    """What tasks over their own error budget left beside their failure."""
    found = (_pulled(task_instance, instance, MANIFEST_KEY) for instance in _not_ended_well(states))
    return [value for value in found if isinstance(value, Mapping)]


def _pulled(task_instance: Any, instance: Instance, key: str) -> Any:
    task_id, map_index = instance
    return task_instance.xcom_pull(task_ids=task_id, key=key, map_indexes=None if map_index < 0 else map_index)


def _summarized(manifests: Sequence[Any]) -> dict[str, Any]:
    from airflow_mullama.manifest import summarize_manifests

    try:
        return summarize_manifests(manifests)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AirflowFailException(
            f"manifests holds something that is no manifest ({error!r}): give the output of tasks that return one, and "
            "keep their XComs where a task can read them."
        ) from error


def _counted_outputs(manifests: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The outputs that manifests name, and what is counted in each."""
    from airflow_mullama.evaluation.outputs import open_output
    from airflow_mullama.evaluation.shares import counts_of
    from airflow_mullama.hooks.filesystems import resolve_in_task
    from airflow_mullama.manifest import INPUT_MISSING

    for manifest in manifests:
        for one in (manifest or {}).get("partitions") or [manifest or {}]:
            path = one.get("output_path")
            if path and one.get("skipped") != INPUT_MISSING:
                prefix = manifest.get("output_prefix")
                (file,) = open_output(path, output_prefix=prefix, resolver=resolve_in_task)
                yield path, counts_of(file)


def _problem(summary: Mapping[str, Any], max_error_ratio: float | None, max_missing: int) -> str | None:
    from airflow_mullama.row_counts import RowCounts, figures_from_json, listed

    missing = summary["missing_count"]
    if missing > max_missing:
        named = ", ".join(summary["missing"])
        return (
            f"{missing} task(s) did not end well or left no manifest{f' ({named})' if named else ''}, and "
            f"max_missing is {max_missing}: see their logs and clear them; what is finished is kept. (With "
            "do_xcom_push=False a task leaves no manifest.)"
        )
    if max_error_ratio is None or not summary["partition_count"]:
        return None
    counts = RowCounts(**figures_from_json(summary))
    if counts.error_ratio > max_error_ratio:
        return (
            f"{counts.failed_rows} of {counts.rows} rows of all {summary['partition_count']} partition(s) failed "
            f"({listed(counts.failure_types)}), which is more than max_error_ratio={max_error_ratio:g} "
            "allows. The outputs are written: their columns error_type and error say why."
        )
    return None


def _flattened(manifests: Any) -> Iterator[Any]:
    """Manifests of tasks, mapped or not, and of several; ``None`` for one that left none."""
    if isinstance(manifests, Iterable) and not isinstance(manifests, (str, Mapping)):
        for one in manifests:
            yield from _flattened(one)
    else:
        yield manifests


def _count(found: Any) -> int:
    """How many of several instances left something."""
    if isinstance(found, Iterable) and not isinstance(found, (str, Mapping)):
        return sum(one is not None for one in found)
    return int(found is not None)


def _shown(instance: Instance) -> str:
    task_id, map_index = instance
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def _sentence(summary: Mapping[str, Any]) -> str:
    from airflow_mullama.row_counts import listed

    counts = listed(summary.get("status_counts", {}))
    return (
        f"{summary['partition_count']} partition(s), {summary.get('rows', 0)} rows"
        + (f" ({counts})" if counts else "")
        + f"; {summary['missing_count']} task(s) missing, {summary['skipped_count']} skipped"
    )
