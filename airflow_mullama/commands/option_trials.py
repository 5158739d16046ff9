"""Trying engine options on a sample of the user's own rows: what ``airflow-mullama tune`` does.

Each trial is a whole run (:func:`airflow_mullama.run.run_partition`) of the same few rows into a temporary
folder, with a worker process of its own. One option after the other is varied around the best so far: that finds most
of what a full grid would, in a few trials instead of hundreds.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.engines.resources import usable_cores
from airflow_mullama.errors import ConfigurationError, JobStoppedError, MullamaError
from airflow_mullama.jobs.job import Job
from airflow_mullama.progress import Snapshot
from airflow_mullama.run import run_partition
from airflow_mullama.storage.partitions import discover_partitions

log = logging.getLogger(__name__)

Options = Mapping[str, Any]
# A sample is taken from this many places of the partition, because rows that lie together are often alike.
SAMPLE_PLACES = 8
LEAST_TRIAL_SECONDS = 3.0
# A gain smaller than this may as well be noise.
LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Trial:
    """What one set of options did with the sample.

    Args:
        options: those that were tried, besides the user's own.
        rows: that came back.
        failed: rows of them without a result.
        rows_per_second, tokens_per_second: while the engine was loaded.
        whole: whether all rows came back; if not, time was up.
        error: why there is no result.
    """

    options: Options
    rows: int = 0
    failed: int = 0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    whole: bool = False
    error: str | None = None


class Deadline(threading.Event):
    """Set when it is set, when another event is, or when time is up."""

    def __init__(self, seconds: float, interrupted: threading.Event) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds
        self._interrupted = interrupted

    def is_set(self) -> bool:
        return super().is_set() or self._interrupted.is_set() or time.monotonic() > self._end


class _LastSnapshot:
    """Keeps the latest numbers of a run that may not end."""

    snapshot: Snapshot | None = None

    def announce(self, message: str) -> None:
        log.debug("%s", message)

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def advance(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot


def take_sample(job: Job, input_path: str, rows: int) -> pa.Table:
    """Rows from several places of the first partition, only the columns that the job's template has.

    Args:
        job: whose template is rendered.
        input_path: what :func:`airflow_mullama.storage.partitions.discover_partitions` understands.
        rows: how many at most.

    Raises:
        MullamaError: the input is not there, cannot be read, lacks a column or has no rows.
    """
    with tempfile.TemporaryDirectory() as folder:  # never written to: only its name is needed
        partition = discover_partitions(input_path, folder)[0]
    source = partition.open(job.schema_drift)
    job.template.require_columns(source.schema.names)
    job.template.require_types(source.schema)
    if source.rows == 0:
        raise ConfigurationError(f"The partition {partition.input} has no rows to try anything on; name another input.")
    rows = min(rows, source.rows)
    places = min(SAMPLE_PLACES, rows)
    columns = job.template.distinct_columns
    parts = []
    for place in range(places):
        wanted = rows * (place + 1) // places - rows * place // places
        for batch in source.batches(columns, first_row=source.rows * place // places):
            parts.append(pa.Table.from_batches([batch.slice(0, wanted)]))
            wanted -= parts[-1].num_rows
            if not wanted:
                break
    return pa.concat_tables(parts)


def default_alternatives(job: Job) -> list[list[Options]]:
    """What is tried without being asked for: for each option its alternatives, in the order in which they matter."""
    cores = usable_cores()
    threads = [count for count in dict.fromkeys((cores, max(1, cores // 2))) if count != max(1, cores - 1)]
    by_option: dict[str, Sequence[Any]] = {
        "n_parallel": (4, 16) if job.task == "embed" else (4, 8, 32),
        "n_threads": threads,
        "n_ubatch": (1024,) if job.task == "embed" else (256, 1024),
        "flash_attn": (False,),
    }
    return alternatives(job, by_option)


def alternatives(job: Job, by_option: Mapping[str, Sequence[Any]]) -> list[list[Options]]:
    """One list of option sets for each option that the engine knows and the user has not decided."""
    known = job.engine_spec.checks
    return [
        [{name: value} for value in values]
        for name, values in by_option.items()
        if name in known and name not in job.engine_options and values
    ]


def run_trial(job: Job, options: Options, sample: pa.Table, stop: threading.Event) -> Trial:
    """Run the sample with these options on top of the job's own.

    Args:
        job: what to do.
        options: engine options to try.
        sample: rows.
        stop: ends the trial; what came back until then counts.
    """
    listener = _LastSnapshot()
    with tempfile.TemporaryDirectory(prefix="airflow-mullama-tune-") as folder:
        source = Path(folder, "sample.parquet")
        pq.write_table(sample, source)
        try:
            tried = replace(job, engine_options={**job.engine_options, **options}, max_error_ratio=1.0)
            manifest = run_partition(tried, source, Path(folder, "output.parquet"), listeners=[listener], stop=stop)
        except JobStoppedError:
            last = listener.snapshot
            if last is None or not last.done:
                return Trial(options, error="no row came back in time")
            return Trial(options, last.done, last.errors, last.rows_per_second, last.tokens_per_second)
        except MullamaError as error:
            return Trial(options, error=str(error))
    tokens_per_second = manifest.to_json()["tokens_per_second"]
    return Trial(options, manifest.rows, manifest.failed_rows, manifest.rows_per_second, tokens_per_second, whole=True)


def tune(
    job: Job,
    sample: pa.Table,
    dimensions: Sequence[Sequence[Options]],
    seconds: float,
    interrupted: threading.Event,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try the defaults, then one option after the other around the best so far, then the best and the defaults again.

    Args:
        job: what to do; its own engine options stay as they are.
        sample: rows to try with; if the defaults do not get through them in time, the others get only as many.
        dimensions: for each option its alternatives.
        seconds: for everything together; each trial gets an equal share of what is left.
        interrupted: ends it; what is known until then is returned.
        tell: called after each trial.

    Returns:
        The trials in order; the first is the defaults'.
    """
    end = time.monotonic() + seconds
    trials_left = 3 + sum(map(len, dimensions))  # the defaults, and both finalists once more

    def run(options: Options) -> Trial:
        nonlocal trials_left
        share = max(LEAST_TRIAL_SECONDS, (end - time.monotonic()) / max(1, trials_left))
        trials_left -= 1
        trial = run_trial(job, options, sample, Deadline(share, interrupted))
        if not interrupted.is_set():
            tell(trial)
        return trial

    trials = [run({})]
    if trials[0].error is None and not trials[0].whole:
        sample = sample.slice(0, trials[0].rows)
    for options_of_dimension in dimensions:
        best = best_trial(trials)
        for options in options_of_dimension:
            if interrupted.is_set() or time.monotonic() + LEAST_TRIAL_SECONDS > end:
                return trials
            trials.append(run({**(best.options if best else {}), **options}))
    for finalist in dict.fromkeys((trials.index(best_trial(trials) or trials[0]), 0)):
        if finalist == 0 and best_trial(trials) is trials[0]:
            break  # there is nothing to compare the others with
        if interrupted.is_set() or time.monotonic() + LEAST_TRIAL_SECONDS > end:
            break
        trials[finalist] = _better(trials[finalist], run(trials[finalist].options))
    return trials


def _better(first: Trial, second: Trial) -> Trial:
    """What else runs on a machine only ever makes a run slower, so that the faster of two is nearer to the truth."""
    return max(first, second, key=lambda trial: (trial.error is None, trial.rows_per_second))


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The fastest that fails no more rows than the defaults do, if it is clearly faster than they are.

    Returns:
        ``None`` if nothing came back at all.
    """
    good = [trial for trial in trials if trial.error is None]
    if not good:
        return None
    defaults = trials[0]
    if defaults.error is not None:
        return max(good, key=lambda trial: trial.rows_per_second)
    allowed = defaults.failed / defaults.rows
    fastest = max(
        (trial for trial in good if trial.failed / trial.rows <= allowed), key=lambda trial: trial.rows_per_second
    )
    return fastest if fastest.rows_per_second >= LEAST_GAIN * defaults.rows_per_second else defaults


def describe_options(options: Options) -> str:
    """``n_parallel=8 n_threads=4``, as the command line's ``--option`` takes each."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in options.items())


def report_lines(job: Job, trials: Sequence[Trial]) -> list[str]:
    """The table, and the best options as they are written in a DAG and on a command line."""
    lines = [f"{'rows/s':>10}  {'tokens/s':>10}  {'rows':>6}  {'failed':>6}  options"]
    for trial in trials:
        words = describe_options(trial.options) or "(defaults)"
        if trial.error is not None:
            lines.append(f"{'-':>10}  {'-':>10}  {'-':>6}  {'-':>6}  {words}: {trial.error}")
            continue
        numbers = f"{trial.rows_per_second:>10.1f}  {trial.tokens_per_second:>10.0f}  {trial.rows:>6}"
        lines.append(f"{numbers}  {trial.failed:>6}  {words}{'' if trial.whole else ' (time was up)'}")
    best = best_trial(trials)
    if best is None:
        return [*lines, "", "no options brought a row back: give it more time (--seconds) or mend what it says above"]
    options = {**job.engine_options, **best.options}
    if best is trials[0]:
        lines += ["", "nothing tried was clearly faster than the defaults"]
    elif trials[0].error is None:
        gain = best.rows_per_second / trials[0].rows_per_second
        lines += ["", f"best: {gain:.2f} times the rows/s of the defaults"]
    else:
        lines += ["", f"best: {best.rows_per_second:.1f} rows/s"]
    if options:
        flags = " ".join(f"--option {part}" for part in describe_options(options).split(" "))
        lines += [f"engine_options={options!r}", flags]
    return lines
