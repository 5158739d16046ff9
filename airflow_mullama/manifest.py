"""The machine-readable account of finished work: what goes to XCom and, for each partition, into the Parquet footer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from airflow_mullama import __version__
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, Status

MANIFEST_VERSION = 1
FOOTER_KEY = b"airflow_mullama"
INPUT_MISSING = "input_missing"


@dataclass(frozen=True)
class Seconds:
    """Where the wall-clock time of a partition went.

    Args:
        total: from opening the input to the published output.
        model_load: until the engine was ready (0 if it was already, or was not needed).
        waiting_for_input: the engine was idle because no row was ready.
        waiting_for_gpu: every GPU that would do was taken.
        engine: the engine had rows.
        writing: the output was written and published.
    """

    total: float = 0.0
    model_load: float = 0.0
    waiting_for_input: float = 0.0
    waiting_for_gpu: float = 0.0
    engine: float = 0.0
    writing: float = 0.0


@dataclass(frozen=True)
class PartitionManifest:
    """The account of one partition. ``rows`` is the sum of ``status_counts``; tokens are those of all rows.

    Args:
        skipped: ``"up_to_date"`` where nothing was done because the output is already right; ``"input_missing"`` where
            there was no input, and no output was written.
        computed_rows: rows the engine was asked for in this attempt.
        resumed_rows: rows found in the stage of an earlier attempt.
        repaired_rows: rows of the published output that failed and were asked again.
        reused_rows: rows taken from the published output of an earlier state of the input.
        deduplicated_rows: rows that got the outcome of another row with the same request, in this attempt.
        cached_prompt_tokens: prompt tokens that the engine had evaluated before, for a row with the same beginning, and
            did not evaluate again in this attempt.
        truncated_rows: rows whose text was cut at the model's limit; ``None`` unless the job allows it.
        request_fingerprint: the part of the fingerprint that is not the input's.
        output_schema: the JSON Schema of an answer, if there is one.
        constrained: whether the engine's decoding was held to it; ``None`` where no engine ran.
    """

    task: str
    input_path: str
    output_path: str
    engine: str
    model: str
    model_sha256: str
    fingerprint: str
    rows: int
    status_counts: Mapping[str, int]
    error_types: Mapping[str, int]
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    computed_rows: int
    resumed_rows: int
    repaired_rows: int
    seconds: Seconds
    bytes_in: int
    bytes_out: int
    started_at: str
    ended_at: str
    reused_rows: int = 0
    deduplicated_rows: int = 0
    cached_prompt_tokens: int = 0
    truncated_rows: int | None = None
    request_fingerprint: str = ""
    output_schema: Mapping[str, Any] | None = None
    constrained: bool | None = None
    skipped: str | None = None
    engine_version: str | None = None
    package_version: str = __version__
    manifest_version: int = MANIFEST_VERSION
    partitions: Sequence[PartitionManifest] = field(default=())

    @property
    def failed_rows(self) -> int:
        """Rows with neither a result nor a null input."""
        counts = self.status_counts
        return counts.get(Status.FAILED.value, 0) + counts.get(Status.INVALID_OUTPUT.value, 0)

    @property
    def retryable_rows(self) -> int:
        """Failed rows that another attempt may mend."""
        return sum(self.error_types.get(error_type, 0) for error_type in RETRYABLE_ERROR_TYPES)

    @property
    def rows_per_second(self) -> float:
        """Rows done in this attempt over the seconds the engine had rows."""
        return _rate(self.computed_rows + self.deduplicated_rows, self.seconds.engine)

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom: only texts, numbers, lists and dictionaries."""
        value = asdict(self)
        value["seconds"] = {name: round(amount, 3) for name, amount in value["seconds"].items()}
        value["rows_per_second"] = round(self.rows_per_second, 2)
        # Tokens of resumed rows were paid for in another attempt: the rate scales them out; skipped rows have none.
        asked = self.rows - self.status_counts.get(Status.SKIPPED.value, 0)
        share = self.computed_rows / asked if asked else 0.0
        tokens = (self.prompt_tokens + self.completion_tokens) * share
        value["tokens_per_second"] = round(_rate(tokens, self.seconds.engine), 2)
        value["partitions"] = [partition.to_json() for partition in self.partitions]
        if not self.partitions:
            del value["partitions"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PartitionManifest:
        """The reverse of :meth:`to_json`; unknown keys of a later version are ignored."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        seconds = value["seconds"]
        known["seconds"] = Seconds(**{name: seconds[name] for name in Seconds.__dataclass_fields__ if name in seconds})
        known["partitions"] = tuple(cls.from_json(partition) for partition in value.get("partitions", ()))
        return cls(**known)

    def to_footer(self) -> bytes:
        """As it stands in the Parquet footer."""
        return json.dumps(self.to_json(), sort_keys=True).encode()

    def as_up_to_date(self) -> PartitionManifest:
        """The stored account of an output that needs nothing, marked so: nothing was computed this time."""
        return replace(
            self,
            skipped="up_to_date",
            computed_rows=0,
            resumed_rows=0,
            repaired_rows=0,
            reused_rows=0,
            deduplicated_rows=0,
            cached_prompt_tokens=0,
            seconds=Seconds(),
        )


def manifest_without_input(
    *, task: str, input_path: str, output_path: str, engine: str, model: str
) -> PartitionManifest:
    """The account of work for which there was no input: no row, no output."""
    now = utc_now()
    return PartitionManifest(
        task=task,
        input_path=input_path,
        output_path=output_path,
        engine=engine,
        model=model,
        model_sha256="",
        fingerprint="",
        rows=0,
        status_counts={},
        error_types={},
        attempts=0,
        prompt_tokens=0,
        completion_tokens=0,
        computed_rows=0,
        resumed_rows=0,
        repaired_rows=0,
        seconds=Seconds(),
        bytes_in=0,
        bytes_out=0,
        started_at=now,
        ended_at=now,
        skipped=INPUT_MISSING,
    )


def merge_manifests(manifests: Sequence[PartitionManifest]) -> PartitionManifest:
    """One account of several partitions, with theirs inside. Needs at least one."""
    first = manifests[0]
    # An output that was up to date carries the times of the run that made it.
    worked = [one for one in manifests if not one.skipped] or manifests
    times = [asdict(one.seconds) for one in manifests]
    same_skip = {one.skipped for one in manifests}
    return replace(
        first,
        input_path=_common(one.input_path for one in manifests),
        output_path=_common(one.output_path for one in manifests),
        fingerprint="",
        rows=sum(one.rows for one in manifests),
        status_counts=_add(one.status_counts for one in manifests),
        error_types=_add(one.error_types for one in manifests),
        attempts=sum(one.attempts for one in manifests),
        prompt_tokens=sum(one.prompt_tokens for one in manifests),
        completion_tokens=sum(one.completion_tokens for one in manifests),
        computed_rows=sum(one.computed_rows for one in manifests),
        resumed_rows=sum(one.resumed_rows for one in manifests),
        repaired_rows=sum(one.repaired_rows for one in manifests),
        reused_rows=sum(one.reused_rows for one in manifests),
        deduplicated_rows=sum(one.deduplicated_rows for one in manifests),
        cached_prompt_tokens=sum(one.cached_prompt_tokens for one in manifests),
        truncated_rows=_sum_known(one.truncated_rows for one in manifests),
        seconds=Seconds(**{name: sum(one[name] for one in times) for name in times[0]}),
        bytes_in=sum(one.bytes_in for one in manifests),
        bytes_out=sum(one.bytes_out for one in manifests),
        started_at=min(one.started_at for one in worked),
        ended_at=max(one.ended_at for one in worked),
        skipped=first.skipped if len(same_skip) == 1 else None,
        partitions=tuple(manifests),
    )


def summarize_manifests(
    manifests: Mapping[str, Any] | Iterable[Mapping[str, Any] | None],
) -> dict[str, Any]:
    """Add up what tasks returned: the reduce step after mapped tasks.

    Args:
        manifests: each task's XCom; ``None`` for a task that failed or was skipped and left none.

    Returns:
        One manifest without its partitions, with ``partition_count`` (those that had an input) and ``missing_count``
        (tasks without a manifest); with no partition at all, only those two.
    """
    if isinstance(manifests, Mapping):  # of a task that was not mapped
        manifests = [manifests]
    found: list[PartitionManifest] = []
    missing = 0
    for value in manifests:
        if value is None:
            missing += 1
            continue
        one = PartitionManifest.from_json(value)
        found.extend(part for part in one.partitions or [one] if part.skipped != INPUT_MISSING)
    if not found:
        return {"partition_count": 0, "missing_count": missing}
    summary = merge_manifests(found).to_json()
    del summary["partitions"]
    return {**summary, "partition_count": len(found), "missing_count": missing}


def utc_now() -> str:
    """Now, as ISO 8601 with zone."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _sum_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _add(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _common(paths: Iterable[str]) -> str:
    """The folder that all paths share."""
    segments = [path.split("/") for path in paths]
    shared = []
    for column in zip(*segments, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "/".join(shared)
