"""The machine-readable account of finished work: what goes to XCom and, for each partition, into the Parquet footer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from airflow_mullama.row_counts import FIGURES, OF_ATTEMPT, RowCounts, add_up, figures_from_json
from airflow_mullama.version import __version__
from airflow_mullama.writer import A_PROGRAM, Writer

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


@dataclass(frozen=True, kw_only=True)
class PartitionManifest(RowCounts):
    """The account of one partition: what became of its rows, from what, with what and how long it took.

    Args:
        skipped: ``"up_to_date"`` where nothing was done because the output is already right; ``"input_missing"`` where
            there was no input, and no output was written.
        request_fingerprint: the part of the fingerprint that is not the input's.
        output_rows: rows of the output, where it has one for each chunk (``chunk_output="rows"``); ``None``: as many
            as the input.
        output_schema: the JSON Schema of an answer, if there is one.
        constrained: whether the engine's decoding was held to it; ``None`` where no engine ran.
        lora: adapters that changed the model, each its ``path``, ``scale`` and ``sha256``.
        mmproj: the projector that brought pictures to the model, its ``path`` and ``sha256``.
        sampled: whether it has only those rows of the input that a limit or a sample chose.
        input_location: where the input lies, whatever the folder the run was started in; in the footer only.
        input_identity: what tells the state of the input that was read from others; in the footer only.
        writer: who wrote the output; in the footer only.
        attempt: which attempt of the writer's it was (:func:`airflow_mullama.writer.new_attempt`); in the footer only.
    """

    task: str
    input_path: str
    output_path: str
    engine: str
    model: str
    model_sha256: str
    fingerprint: str
    seconds: Seconds
    bytes_in: int
    bytes_out: int
    started_at: str
    ended_at: str
    request_fingerprint: str = ""
    output_rows: int | None = None
    output_schema: Mapping[str, Any] | None = None
    constrained: bool | None = None
    lora: Sequence[Mapping[str, Any]] = field(default_factory=list)
    mmproj: Mapping[str, Any] | None = None
    skipped: str | None = None
    engine_version: str | None = None
    package_version: str = __version__
    manifest_version: int = MANIFEST_VERSION
    sampled: bool = False
    input_location: str = ""
    input_identity: str = ""
    writer: Writer = A_PROGRAM
    attempt: str = ""
    partitions: Sequence[PartitionManifest] = field(default=())

    @property
    def rows_of_output(self) -> int:
        """How many rows the output has."""
        return self.rows if self.output_rows is None else self.output_rows

    @property
    def rows_per_second(self) -> float:
        """Rows done in this attempt over the seconds the engine had rows."""
        return _rate(self.computed_rows + self.deduplicated_rows, self.seconds.engine)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this attempt over the seconds the engine had rows."""
        return _rate((self.prompt_tokens + self.completion_tokens) * self.computed_share, self.seconds.engine)

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom: only texts, numbers, lists and dictionaries."""
        value = asdict(self)
        value.update({"rows": self.rows, **{name: value.pop(name) for name in FIGURES}})  # after what they are about
        value["seconds"] = {name: round(amount, 3) for name, amount in value["seconds"].items()}
        value["rows_per_second"] = round(self.rows_per_second, 2)
        value["tokens_per_second"] = round(self.tokens_per_second, 2)
        for name in ("partitions", *_IN_FOOTER_ONLY):
            del value[name]
        if self.partitions:
            value["partition_count"] = len(self.partitions)
            value["partitions"] = [partition.to_json() for partition in self.partitions]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PartitionManifest:
        """The reverse of :meth:`to_json`; unknown keys of a later version are ignored.

        Raises:
            KeyError, TypeError, ValueError: it is not such an account.
        """
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        for name, kind in _KINDS.items():
            if name in known and not isinstance(known[name], kind):
                raise ValueError(f"{name} is {known[name]!r}")
        known.update(figures_from_json(value))
        seconds = {name: value["seconds"][name] for name in Seconds.__dataclass_fields__ if name in value["seconds"]}
        if not all(isinstance(amount, (int, float)) for amount in seconds.values()):
            raise ValueError(f"seconds are {seconds!r}")
        known["seconds"] = Seconds(**seconds)
        known["writer"] = Writer.from_json(value.get("writer", {}))
        known["partitions"] = tuple(cls.from_json(partition) for partition in value.get("partitions", ()))
        return cls(**known)

    def to_footer(self) -> bytes:
        """As it is written into the Parquet footer: also which input it was, and who wrote it."""
        origin = {name: getattr(self, name) for name in _IN_FOOTER_ONLY} | {"writer": self.writer.to_json()}
        return json.dumps({**self.to_json(), **origin}, sort_keys=True).encode()

    @classmethod
    def from_footer(cls, footer: bytes) -> PartitionManifest:
        """The reverse of :meth:`to_footer`.

        Raises:
            KeyError, TypeError, ValueError: it is not such an account.
        """
        try:
            value = json.loads(footer)
            if not isinstance(value, Mapping) or value.get("partitions"):
                raise ValueError("not the account of one partition")
            return cls.from_json(value)
        except RecursionError:
            raise ValueError("nested too deep") from None

    def as_up_to_date(self) -> PartitionManifest:
        """The stored account of an output that needs nothing, marked so: nothing was computed this time."""
        nothing: dict[str, Any] = dict.fromkeys(OF_ATTEMPT, 0)
        return replace(self, skipped="up_to_date", seconds=Seconds(), **nothing)


_IN_FOOTER_ONLY = ("input_location", "input_identity", "writer", "attempt")
_TEXT, _TEXT_OR_NONE = (str,), (str, type(None))
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "input_path", "output_path", "engine", "model", "model_sha256"), _TEXT),
    **dict.fromkeys(("fingerprint", "request_fingerprint", "started_at", "ended_at"), _TEXT),
    **dict.fromkeys(("input_location", "input_identity", "attempt"), _TEXT),
    **dict.fromkeys(("package_version",), _TEXT),
    **dict.fromkeys(("skipped", "engine_version"), _TEXT_OR_NONE),
    **dict.fromkeys(("bytes_in", "bytes_out", "manifest_version"), (int,)),
    "output_schema": (dict, type(None)),
    "output_rows": (int, type(None)),
    "constrained": (bool, type(None)),
    "sampled": (bool,),
    "lora": (list, tuple),
    "mmproj": (dict, type(None)),
    "partitions": (list, tuple),
    **dict.fromkeys(("seconds", "writer"), (dict,)),
}


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
        seconds=Seconds(**{name: sum(one[name] for one in times) for name in times[0]}),
        bytes_in=sum(one.bytes_in for one in manifests),
        bytes_out=sum(one.bytes_out for one in manifests),
        started_at=min(one.started_at for one in worked),
        ended_at=max(one.ended_at for one in worked),
        output_rows=_sum_of_known([one.output_rows for one in manifests]),
        skipped=first.skipped if len(same_skip) == 1 else None,
        partitions=tuple(manifests),
        **add_up(manifests).figures(),
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
    missing = partition_count = 0
    for value in manifests:
        if value is None:
            missing += 1
            continue
        one = PartitionManifest.from_json(value)
        if one.skipped != INPUT_MISSING:
            found.append(one)
            partition_count += value.get("partition_count") or len(one.partitions) or 1  # its list may be cut
    if not found:
        return {"partition_count": 0, "missing_count": missing}
    summary = merge_manifests(found).to_json()
    del summary["partitions"]
    return {**summary, "partition_count": partition_count, "missing_count": missing}


def account_within(manifest: PartitionManifest, most_bytes: int) -> dict[str, Any]:
    """A manifest as :meth:`PartitionManifest.to_json` has it, with as many of its partitions as there is room for.

    Those with the most failed rows are kept, in the order they have. The sums and ``partition_count`` are of all.

    Args:
        manifest: of several partitions, or of one.
        most_bytes: of the whole as JSON.
    """
    value = manifest.to_json()
    partitions = value.pop("partitions", [])
    room = most_bytes - len(json.dumps({**value, "partitions": []}))
    kept = []
    for index in sorted(range(len(partitions)), key=lambda index: -manifest.partitions[index].failed_rows):
        room -= len(json.dumps(partitions[index])) + len(", ")
        if room < 0:
            break
        kept.append(index)
    if partitions:
        value["partitions"] = [partitions[index] for index in sorted(kept)]
    return value


def utc_now() -> str:
    """Now, as ISO 8601 with zone."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _sum_of_known(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _common(paths: Iterable[str]) -> str:
    """The folder that all paths share."""
    segments = [path.split("/") for path in paths]
    shared = []
    for column in zip(*segments, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "/".join(shared)
