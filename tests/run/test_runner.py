"""Whole jobs with a real worker process: faults, stops, resume, repair, budgets."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import run_job, run_partition
from airflow_mullama.errors import (
    ColumnClashError,
    ConfigurationError,
    EngineFailedError,
    ErrorBudgetExceededError,
    InputNotFoundError,
    InputUnreadableError,
    JobStoppedError,
    MissingColumnError,
    ModelNotFoundError,
    ModelUnreadableError,
    MullamaError,
    OutputExistsError,
    OutputNotWritableError,
    WorkerCrashError,
)
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.progress import Snapshot
from airflow_mullama.storage.filesystems import Location, resolve_location
from airflow_mullama.storage.staging.stage import Stage

pytestmark = pytest.mark.usefixtures("no_worker_left")

Job = Callable[..., GenerateJob]
Write = Callable[..., Path]
Texts = Callable[..., list[str]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        return file.read().to_pylist()


def modification(path: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, path.read_bytes()


@pytest.fixture
def source(tmp_path: Path, write_parquet: Write, texts: Texts) -> Path:
    return write_parquet(tmp_path / "in" / "a.parquet", texts(60), row_group_size=25)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "a.parquet"


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


# --- what can be known before a row is spent --------------------------------------------------------------------------


def refused(
    expected: type[MullamaError], job: GenerateJob, source: Any, output: Any, *named: str, started: Any
) -> None:
    with pytest.raises(expected) as caught:
        run_job(job, source, output)
    message = str(caught.value)
    for text in named:
        assert text in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(started) == 0


def test_a_missing_column_is_named_with_those_there_are(
    echo_job: Job, source: Path, output: Path, started_workers: Any
) -> None:
    job = echo_job(prompt_template="{subject}")
    refused(MissingColumnError, job, source, output, "'subject'", "id, text", started=started_workers)
    assert not output.parent.exists()


def test_a_missing_input_is_named(echo_job: Job, tmp_path: Path, output: Path, started_workers: Any) -> None:
    missing = tmp_path / "missing.parquet"
    refused(InputNotFoundError, echo_job(), missing, output, str(missing), "input_path", started=started_workers)


def test_an_empty_directory_is_named(echo_job: Job, tmp_path: Path, output: Path, started_workers: Any) -> None:
    (tmp_path / "empty").mkdir()
    named = (str(tmp_path / "empty"), "no data file")
    refused(InputNotFoundError, echo_job(), tmp_path / "empty", output, *named, started=started_workers)


@pytest.mark.parametrize("damage", ["corrupt", "truncated", "empty"])
def test_damaged_parquet_is_named(echo_job: Job, source: Path, output: Path, started_workers: Any, damage: str) -> None:
    content = source.read_bytes()
    source.write_bytes({"corrupt": b"x" * 500, "truncated": content[: len(content) // 2], "empty": b""}[damage])
    named = (str(source), "not a readable Parquet file", "write it again")
    refused(InputUnreadableError, echo_job(), source, output, *named, started=started_workers)


def test_one_damaged_partition_of_several_is_found_before_the_first_is_spent(
    echo_job: Job, tmp_path: Path, write_parquet: Write, started_workers: Any
) -> None:
    good = write_parquet(tmp_path / "in" / "a.parquet", ["x"])
    bad = tmp_path / "in" / "b.parquet"
    bad.write_bytes(b"x" * 100)
    job = echo_job()
    refused(InputUnreadableError, job, [good, bad], tmp_path / "out", str(bad), started=started_workers)
    assert not (tmp_path / "out").exists()


def test_columns_that_are_there_already_are_named(
    echo_job: Job, tmp_path: Path, output: Path, started_workers: Any
) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"], "status": ["open"]}), source)
    refused(ColumnClashError, echo_job(), source, output, "'status'", "output_prefix", started=started_workers)
    assert rows_of(source) == [{"text": "x", "status": "open"}]
    run_partition(echo_job(output_prefix="tag_"), source, output)
    assert rows_of(output)[0]["status"] == "open"
    assert rows_of(output)[0]["tag_status"] == "success"


def real_job(model: str | Path, **settings: Any) -> GenerateJob:
    return GenerateJob(model=str(model), engine="llamacpp", prompt_template="{text}", **settings)


def test_a_missing_model_is_named(source: Path, output: Path, tmp_path: Path, started_workers: Any) -> None:
    model = tmp_path / "model.gguf"
    refused(ModelNotFoundError, real_job(model), source, output, str(model), "does not exist", started=started_workers)


# A header of version 3 with one tensor "a" of 1,000 float32 numbers, of which there are none.
TRUNCATED = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"a", 1, 1000, 0, 0)


@pytest.mark.parametrize("content", [b"", b"not a model, though long enough to be looked into", TRUNCATED])
def test_a_file_that_is_no_model_is_named(
    source: Path, output: Path, tmp_path: Path, started_workers: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_MULLAMA_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model.gguf"
    model.write_bytes(content)
    named = (str(model), "not a whole GGUF file", "download it again")
    refused(ModelUnreadableError, real_job(model), source, output, *named, started=started_workers)


@pytest.mark.parametrize("if_exists", ["resume", "error"])
def test_a_foreign_output_is_not_touched(
    echo_job: Job, source: Path, output: Path, started_workers: Any, write_parquet: Write, if_exists: Any
) -> None:
    write_parquet(output, ["somebody else's"])
    before = modification(output)
    named = (str(output), "overwrite")
    refused(OutputExistsError, echo_job(if_exists=if_exists), source, output, *named, started=started_workers)
    assert modification(output) == before


def test_a_foreign_output_is_replaced_where_the_job_says_so(
    echo_job: Job, source: Path, output: Path, write_parquet: Write
) -> None:
    write_parquet(output, ["somebody else's"])
    assert run_partition(echo_job(if_exists="overwrite"), source, output).rows == 60
    assert len(rows_of(output)) == 60


def test_an_output_that_is_a_directory_is_refused_before_work_is_spent(
    echo_job: Job, source: Path, output: Path, started_workers: Any
) -> None:
    (output / "child").mkdir(parents=True)
    for if_exists in ("resume", "error", "overwrite"):
        with pytest.raises((OutputExistsError, OutputNotWritableError), match=str(output)):
            run_job(echo_job(if_exists=if_exists), source, output)
    assert len(started_workers) == 0


def test_an_output_below_a_file_is_refused(echo_job: Job, source: Path, tmp_path: Path, started_workers: Any) -> None:
    (tmp_path / "file").write_text("x")
    below = tmp_path / "file" / "out.parquet"
    refused(OutputNotWritableError, echo_job(), source, below, "is a file", "output_path", started=started_workers)


def test_an_output_that_cannot_be_written_is_refused(echo_job: Job, source: Path, started_workers: Any) -> None:
    refused(OutputNotWritableError, echo_job(), source, "/proc/self/out.parquet", "/proc/self", started=started_workers)


def test_inputs_with_one_output_are_refused(
    echo_job: Job, tmp_path: Path, write_parquet: Write, started_workers: Any
) -> None:
    sources = [write_parquet(tmp_path / day / "a.parquet", ["x"]) for day in ("1", "2")]
    refused(ConfigurationError, echo_job(), sources, tmp_path / "out", "both be written", started=started_workers)


def test_one_partition_is_asked_for_and_several_are_there(
    echo_job: Job, tmp_path: Path, write_parquet: Write, started_workers: Any
) -> None:
    for day in ("ds=1", "ds=2"):
        write_parquet(tmp_path / "in" / day / "a.parquet", ["x"])
    with pytest.raises(ConfigurationError, match="stands for 2 partitions"):
        run_partition(echo_job(), tmp_path / "in", tmp_path / "out")
    assert len(started_workers) == 0


def test_a_fault_that_makes_no_sense_is_a_configuration_error(echo_job: Job, source: Path, output: Path) -> None:
    with pytest.raises(ConfigurationError, match="'explode'"):
        run_partition(echo_job(faults={"explode": [1]}), source, output)


# --- the plain case ---------------------------------------------------------------------------------------------------


def test_zero_rows_are_a_whole_output_without_a_worker(
    echo_job: Job, tmp_path: Path, output: Path, write_parquet: Write, started_workers: Any
) -> None:
    source = write_parquet(tmp_path / "a.parquet", [])
    manifest = run_partition(echo_job(), source, output)
    assert (manifest.rows, manifest.status_counts) == (0, {})
    with pq.ParquetFile(output) as file:
        assert file.schema_arrow.names[:3] == ["id", "text", "response"]
        assert file.metadata.num_rows == 0
    assert run_partition(echo_job(), source, output).skipped == "up_to_date"
    assert len(started_workers) == 0


def test_only_nulls_are_a_whole_output_without_a_worker(
    echo_job: Job, tmp_path: Path, output: Path, write_parquet: Write, started_workers: Any
) -> None:
    source = write_parquet(tmp_path / "a.parquet", [None, None])
    manifest = run_partition(echo_job(max_error_ratio=0.0), source, output)
    assert manifest.status_counts == {"skipped": 2}
    assert len(started_workers) == 0


@pytest.mark.parametrize("rows", [10, 9000])
def test_a_partition_without_rows_costs_the_next_one_nothing(
    echo_job: Job,
    tmp_path: Path,
    write_parquet: Write,
    texts: Texts,
    request_log: Any,
    caplog: pytest.LogCaptureFixture,
    rows: int,
) -> None:
    sources = [
        write_parquet(tmp_path / "in" / f"{name}.parquet", texts(count))
        for name, count in (("a", 0), ("b", rows), ("c", 0), ("d", 5))
    ]
    manifest = run_job(echo_job(), sources, tmp_path / "out")
    assert manifest.status_counts == {"success": rows + 5}
    assert len(request_log.rows()) == rows + 5
    assert "gone" not in caplog.text


def test_the_account_stands_in_the_manifest_and_in_the_footer(echo_job: Job, source: Path, output: Path) -> None:
    manifest = run_partition(echo_job(), source, output)
    assert manifest.rows == 60
    assert manifest.status_counts == {"success": 60}
    assert (manifest.computed_rows, manifest.resumed_rows, manifest.attempts) == (60, 0, 60)
    assert (manifest.prompt_tokens, manifest.completion_tokens) == (180, 180)
    assert manifest.bytes_in == source.stat().st_size
    assert manifest.bytes_out == output.stat().st_size
    assert manifest.seconds.total >= manifest.seconds.engine > 0
    with pq.ParquetFile(output) as file:
        assert manifest.fingerprint.encode() in file.metadata.metadata[b"airflow_mullama"]
    assert [path.name for path in output.parent.iterdir()] == ["a.parquet"]


def test_steps_are_announced_and_the_last_line_is_the_whole(
    echo_job: Job, source: Path, output: Path, recorder: Any
) -> None:
    listener = recorder()
    run_partition(echo_job(), source, output, listeners=[listener])
    said = " | ".join(listener.announcements)
    assert said.index("loading echo") < said.index("is ready") < said.index(f"publishing {output}")
    assert listener.snapshots[-1].line().startswith("[60/60] 100.0% |")
    assert all(seen.done < 60 for seen in listener.snapshots[:-1])


def test_partitions_of_one_job_share_a_worker(
    echo_job: Job, tmp_path: Path, write_parquet: Write, started_workers: Any, texts: Texts
) -> None:
    for day in ("1", "2", "3"):
        write_parquet(tmp_path / "in" / f"ds={day}" / "a.parquet", texts(20))
    manifest = run_job(echo_job(), tmp_path / "in", tmp_path / "out")
    assert len(started_workers) == 1
    assert [one.rows for one in manifest.partitions] == [20, 20, 20]
    assert manifest.rows == 60
    assert len(list((tmp_path / "out").rglob("part-00000.parquet"))) == 3


def test_a_step_may_follow_another_on_its_output(
    echo_job: Job, echo_embed_job: Any, source: Path, output: Path, tmp_path: Path
) -> None:
    run_partition(echo_job(), source, output)
    embed = echo_embed_job(text_column="response", output_prefix="vector_")
    first = run_partition(embed, output, tmp_path / "second.parquet")
    assert run_partition(embed, output, tmp_path / "second.parquet").skipped == "up_to_date"
    assert first.status_counts == {"success": 60}
    names = list(rows_of(tmp_path / "second.parquet")[0])
    assert names[:3] == ["id", "text", "response"]
    assert "vector_embedding" in names


# --- nothing finished is done twice -----------------------------------------------------------------------------------


def test_an_unchanged_partition_costs_nothing(
    echo_job: Job, source: Path, output: Path, started_workers: Any, request_log: Any
) -> None:
    first = run_partition(echo_job(), source, output)
    before = modification(output)
    request_log.clear()
    again = run_partition(echo_job(), source, output)
    assert again.skipped == "up_to_date"
    assert (again.rows, again.status_counts, again.fingerprint) == (60, {"success": 60}, first.fingerprint)
    assert (again.computed_rows, again.bytes_out) == (0, first.bytes_out)
    assert modification(output) == before
    assert request_log.rows() == []
    assert len(started_workers) == 1


def test_overwrite_does_everything_again(echo_job: Job, source: Path, output: Path, request_log: Any) -> None:
    run_partition(echo_job(), source, output)
    request_log.clear()
    manifest = run_partition(echo_job(if_exists="overwrite"), source, output)
    assert manifest.computed_rows == 60
    assert sorted(request_log.rows()) == list(range(60))


def test_only_rows_with_a_retryable_error_are_repaired(
    echo_job: Job, source: Path, output: Path, request_log: Any
) -> None:
    broken = {"fail": [3, 31], "crash": [40]}
    job = echo_job(faults=broken, max_retries=0, chunk_rows=10)
    first = run_partition(job, source, output)
    assert first.error_types == {"engine_error": 2, "engine_crash": 1}
    request_log.clear()
    second = run_partition(echo_job(chunk_rows=10), source, output)
    assert sorted(request_log.rows()) == [3, 31]
    assert (second.computed_rows, second.repaired_rows, second.skipped) == (2, 2, None)
    assert second.status_counts == {"success": 59, "failed": 1}
    rows = rows_of(output)
    assert [row["response"] for row in rows if row["id"] != 40] == [row["text"] for row in rows if row["id"] != 40]
    assert run_partition(echo_job(), source, output).skipped == "up_to_date"


def test_a_partition_that_failed_whole_is_repaired_whole(
    echo_job: Job, source: Path, output: Path, request_log: Any
) -> None:
    with pytest.raises(ErrorBudgetExceededError):
        run_partition(echo_job(faults={"fail": list(range(60))}, max_retries=0), source, output)
    request_log.clear()
    manifest = run_partition(echo_job(), source, output)
    assert (manifest.computed_rows, manifest.repaired_rows) == (60, 60)
    assert manifest.status_counts == {"success": 60}


def test_a_changed_template_runs_every_row(echo_job: Job, source: Path, output: Path, request_log: Any) -> None:
    run_partition(echo_job(), source, output)
    request_log.clear()
    manifest = run_partition(echo_job(prompt_template="Say: {text}"), source, output)
    assert manifest.skipped is None
    assert sorted(request_log.rows()) == list(range(60))
    assert rows_of(output)[7]["response"] == "Say: ticket number 7"


def test_a_changed_input_runs_only_the_rows_whose_request_is_new(
    echo_job: Job, source: Path, output: Path, request_log: Any, write_parquet: Write, texts: Texts
) -> None:
    run_partition(echo_job(), source, output)
    request_log.clear()
    changed = [*texts(30), "a new one", None, *texts(28, 32), "grown"]
    write_parquet(source, changed)
    manifest = run_partition(echo_job(), source, output)
    assert manifest.skipped is None
    assert sorted(request_log.rows()) == [30, 60]
    assert (manifest.rows, manifest.computed_rows) == (61, 2)
    assert [row["response"] for row in rows_of(output)] == changed


# --- bad rows and bad days --------------------------------------------------------------------------------------------


def test_a_poison_row_gets_engine_crash_and_the_others_their_results(
    echo_job: Job, source: Path, output: Path, started_workers: Any
) -> None:
    manifest = run_partition(echo_job(faults={"crash": [17]}), source, output)
    assert manifest.status_counts == {"success": 59, "failed": 1}
    assert manifest.error_types == {"engine_crash": 1}
    bad = rows_of(output)[17]
    assert (bad["status"], bad["error_type"], bad["response"]) == ("failed", "engine_crash", None)
    assert "SIGKILL" in bad["error"]
    assert len(started_workers) >= 2


def test_several_poison_rows_are_each_found(echo_job: Job, source: Path, output: Path) -> None:
    poison = [0, 1, 30, 59]
    manifest = run_partition(echo_job(faults={"crash": poison}, chunk_rows=7), source, output)
    assert manifest.error_types == {"engine_crash": 4}
    assert [row["id"] for row in rows_of(output) if row["status"] != "success"] == poison


def test_poison_rows_are_each_found_however_many_stand_together(echo_job: Job, source: Path, output: Path) -> None:
    poison = list(range(48, 60))
    manifest = run_partition(echo_job(faults={"crash": poison}, max_error_ratio=1.0), source, output)
    assert manifest.error_types == {"engine_crash": 12}
    assert [row["id"] for row in rows_of(output) if row["status"] != "success"] == poison


def test_rows_are_not_blamed_for_an_engine_that_is_dead(echo_job: Job, source: Path, output: Path) -> None:
    everything = {"crash": list(range(-1, 60))}  # what it is asked for on trial, too
    with pytest.raises(WorkerCrashError, match="SIGKILL"):
        run_partition(echo_job(faults=everything), source, output)
    manifest = run_partition(echo_job(), source, output)
    assert manifest.status_counts == {"success": 60}


def test_a_crash_that_does_not_come_again_costs_no_row(echo_job: Job, source: Path, output: Path) -> None:
    manifest = run_partition(echo_job(faults={"crash_once": [17]}), source, output)
    assert manifest.status_counts == {"success": 60}


def test_a_crash_that_does_not_come_again_costs_no_row_that_was_alone_either(
    echo_job: Job, tmp_path: Path, output: Path, write_parquet: Write
) -> None:
    source = write_parquet(tmp_path / "a.parquet", ["alone"])
    manifest = run_partition(echo_job(faults={"crash_once": [0]}, max_error_ratio=1.0), source, output)
    assert manifest.status_counts == {"success": 1}


def test_a_row_that_hangs_gets_timeout_and_the_others_their_results(echo_job: Job, source: Path, output: Path) -> None:
    manifest = run_partition(echo_job(faults={"hang": [5]}, row_timeout=0.2, max_retries=0), source, output)
    assert manifest.status_counts == {"success": 59, "failed": 1}
    assert manifest.error_types == {"timeout": 1}
    bad = rows_of(output)[5]
    assert (bad["error_type"], bad["attempts"]) == ("timeout", 1)
    assert "row_timeout" in bad["error"]


def test_a_row_that_fails_once_is_tried_again(echo_job: Job, source: Path, output: Path) -> None:
    manifest = run_partition(echo_job(faults={"fail_once": [5, 6]}), source, output)
    assert manifest.status_counts == {"success": 60}
    assert [row["attempts"] for row in rows_of(output)] == [2 if row in (5, 6) else 1 for row in range(60)]
    assert manifest.attempts == 62


def test_a_row_that_fails_always_is_tried_as_often_as_allowed(
    echo_job: Job, source: Path, output: Path, request_log: Any
) -> None:
    manifest = run_partition(echo_job(faults={"fail": [5]}, max_retries=1), source, output)
    assert manifest.error_types == {"engine_error": 1}
    bad = rows_of(output)[5]
    assert (bad["attempts"], bad["error"]) == (2, "scripted failure of row 5")
    assert request_log.rows().count(5) == 2


def test_an_over_long_row_is_that_rows_error_and_is_not_tried_again(
    echo_job: Job, tmp_path: Path, output: Path, write_parquet: Write, request_log: Any
) -> None:
    source = write_parquet(tmp_path / "a.parquet", ["short", "long " * 50])
    job = GenerateJob(
        model="echo",
        prompt_template="{text}",
        max_error_ratio=0.5,
        engine_options={"n_ctx": 10, "request_log": str(request_log.path)},
    )
    manifest = run_partition(job, source, output)
    assert manifest.error_types == {"prompt_too_long": 1}
    assert request_log.rows() == [0]
    assert run_partition(job, source, output).skipped == "up_to_date"


def test_the_error_budget_fails_the_task_after_the_output_is_written(echo_job: Job, source: Path, output: Path) -> None:
    job = echo_job(faults={"fail": list(range(0, 60, 2))}, max_retries=0, max_error_ratio=0.4)
    with pytest.raises(ErrorBudgetExceededError) as caught:
        run_partition(job, source, output)
    message = str(caught.value)
    for text in ("30 of 60 rows", str(source), "30 engine_error", "max_error_ratio=0.4", str(output)):
        assert text in message
    assert caught.value.manifest.status_counts == {"success": 30, "failed": 30}  # type: ignore[attr-defined]
    assert [row["status"] for row in rows_of(output)] == ["failed", "success"] * 30


@pytest.mark.parametrize(
    ("failing", "max_error_ratio", "may_pass"),
    [
        ({"n_ctx": 4}, 0.1, False),  # every row is too long
        ({"n_ctx": 4}, 0.99, False),
        ({"faults": {"fail": list(range(60))}}, 0.1, True),
    ],
)
def test_a_budget_says_whether_another_attempt_could_keep_to_it(
    source: Path, output: Path, failing: dict[str, Any], max_error_ratio: float, may_pass: bool
) -> None:
    options: dict[str, Any] = {"max_retries": 0, "max_error_ratio": max_error_ratio, "engine_options": failing}
    with pytest.raises(ErrorBudgetExceededError) as caught:
        run_partition(GenerateJob(model="echo", prompt_template="one two three {text}", **options), source, output)
    assert caught.value.may_pass is may_pass
    assert ("running again would not mend it" in str(caught.value)) is not may_pass


def test_the_error_budget_is_a_share_that_may_be_used_up(echo_job: Job, source: Path, output: Path) -> None:
    job = echo_job(faults={"fail": list(range(0, 60, 2))}, max_retries=0, max_error_ratio=0.5)
    assert run_partition(job, source, output).failed_rows == 30


def test_samples_of_what_went_wrong_are_in_the_log(
    echo_job: Job, source: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_partition(echo_job(faults={"fail": [1, 2, 3, 4]}, max_retries=0), source, output)
    samples = [message for message in caplog.messages if "scripted failure" in message]
    assert len(samples) == 3
    assert all(str(source) in message for message in samples)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("workers_by_command")  # a forked one is ready too soon to be killed first
def test_a_worker_that_never_comes_up_is_one_error(
    echo_job: Job, source: Path, output: Path, recorder: Any, workers: Any
) -> None:
    class Killer:
        """Kills every worker before it is ready."""

        def __init__(self) -> None:
            self.over = threading.Event()
            self.thread = threading.Thread(target=self.work)

        def work(self) -> None:
            while not self.over.wait(0.005):
                for worker in workers():
                    worker.kill()

    killer = Killer()
    killer.thread.start()
    try:
        with pytest.raises(WorkerCrashError, match="while it loaded the model"):
            run_partition(echo_job(), source, output)
    finally:
        killer.over.set()
        killer.thread.join()
    assert not output.exists()


def test_a_worker_killed_from_outside_costs_no_row(
    echo_job: Job, source: Path, output: Path, recorder: Any, workers: Any, started_workers: Any
) -> None:
    killed: list[int] = []

    def strike(snapshot: Snapshot) -> None:
        if snapshot.done >= 20 and not killed:
            (worker,) = workers()
            killed.append(worker.pid)
            kill(worker)

    manifest = run_partition(echo_job(delay_s=0.01), source, output, listeners=[recorder(strike)])
    assert killed
    assert manifest.status_counts == {"success": 60}
    assert [row["response"] for row in rows_of(output)] == [row["text"] for row in rows_of(output)]
    assert len(started_workers) == 2


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stopped_job_keeps_what_is_finished_and_the_next_one_goes_on(
    echo_job: Job, source: Path, output: Path, tmp_path: Path, recorder: Any, workers: Any, request_log: Any
) -> None:
    undisturbed = tmp_path / "undisturbed.parquet"
    run_partition(echo_job(chunk_rows=7), source, undisturbed)
    request_log.clear()
    stop = threading.Event()

    def strike(snapshot: Snapshot) -> None:
        if snapshot.done >= 25:
            stop.set()

    with pytest.raises(JobStoppedError) as caught:
        run_partition(
            echo_job(chunk_rows=7, delay_s=0.05, n_parallel=2),
            source,
            output,
            listeners=[recorder(strike)],
            stop=stop,
        )
    assert "of 60 rows" in str(caught.value)
    assert workers() == []
    assert not output.exists()
    assert list((output.parent / "_mullama_stage").rglob("rows-*.arrow"))

    request_log.clear()
    manifest = run_partition(echo_job(chunk_rows=7), source, output)
    assert manifest.resumed_rows >= 25
    assert manifest.computed_rows == 60 - manifest.resumed_rows
    assert len(request_log.rows()) == len(set(request_log.rows())) == manifest.computed_rows
    assert rows_of(output) == rows_of(undisturbed)
    assert [path.name for path in output.parent.iterdir()] == ["a.parquet"]


@pytest.mark.timeout(60)
def test_a_stop_is_heard_while_every_row_hangs(
    echo_job: Job, source: Path, output: Path, eventually: Any, workers: Any
) -> None:
    stop, ended = threading.Event(), []

    def work() -> None:
        try:
            run_partition(echo_job(faults={"hang": list(range(60))}), source, output, stop=stop)
        except JobStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(workers)
    stop.set()
    eventually(lambda: ended, seconds=5)
    thread.join()
    assert workers() == []


def test_a_stop_before_the_start_does_nothing(echo_job: Job, source: Path, output: Path, started_workers: Any) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(JobStoppedError, match="0 of 60"):
        run_partition(echo_job(), source, output, stop=stop)
    assert len(started_workers) == 0
    assert not output.exists()


@pytest.mark.timeout(60)
def test_a_stop_is_heard_while_the_model_is_waited_for(source: Path, output: Path) -> None:
    stop, answer = threading.Event(), threading.Event()

    def resolver(url: Any) -> Location:
        if "models" in str(url):
            stop.set()
            answer.wait()
        return resolve_location(url)

    job = GenerateJob(model="s3://models/large.gguf", engine="llamacpp", prompt_column="text")
    try:
        with pytest.raises(JobStoppedError, match="while the model was looked for"):
            run_partition(job, source, output, resolver=resolver, stop=stop)
    finally:
        answer.set()


@pytest.mark.timeout(60)
def test_a_stop_does_not_wait_for_the_removal_of_a_stage(
    echo_job: Job, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, answer = threading.Event(), threading.Event()
    remove = Stage.remove

    def hang(self: Stage) -> None:
        stop.set()
        answer.wait()
        remove(self)

    monkeypatch.setattr(Stage, "remove", hang)
    try:
        assert run_partition(echo_job(), source, output, stop=stop).rows == 60  # it is published
    finally:
        answer.set()


def test_a_damaged_stage_is_computed_again(
    echo_job: Job, source: Path, output: Path, recorder: Any, request_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 40 else None)
    with pytest.raises(JobStoppedError):
        run_partition(echo_job(chunk_rows=10, delay_s=0.01), source, output, listeners=[strike], stop=stop)
    chunks = sorted((output.parent / "_mullama_stage").rglob("rows-*.arrow"))
    chunks[1].write_bytes(chunks[1].read_bytes()[:-3])
    request_log.clear()
    manifest = run_partition(echo_job(chunk_rows=10), source, output)
    assert set(range(10, 20)) <= set(request_log.rows())
    assert not set(range(10)) & set(request_log.rows())
    assert manifest.status_counts == {"success": 60}
    assert "damaged" in caplog.text


def test_a_stage_of_another_job_is_not_mixed_in(
    echo_job: Job, source: Path, output: Path, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 40 else None)
    with pytest.raises(JobStoppedError):
        run_partition(
            echo_job(chunk_rows=10, delay_s=0.01, prompt_template="Other: {text}"),
            source,
            output,
            listeners=[strike],
            stop=stop,
        )
    manifest = run_partition(echo_job(chunk_rows=10), source, output)
    assert manifest.resumed_rows == 0
    assert all(row["response"] == row["text"] for row in rows_of(output))
    assert "are not used" in caplog.text


def test_an_input_that_is_replaced_meanwhile_is_not_published(
    echo_job: Job, source: Path, output: Path, recorder: Any, write_parquet: Write, texts: Texts
) -> None:
    replaced: list[bool] = []

    def strike(snapshot: Snapshot) -> None:
        if not replaced:
            replaced.append(True)
            write_parquet(source, texts(60, 1000))

    with pytest.raises(MullamaError, match=str(source)):
        run_partition(echo_job(delay_s=0.005), source, output, listeners=[recorder(strike)])
    assert not output.exists()


# --- an object store --------------------------------------------------------------------------------------------------


def test_partitions_on_an_object_store_are_read_staged_and_published_there(
    echo_job: Job, object_store: Any, texts: Texts, recorder: Any, request_log: Any
) -> None:
    for day in (1, 2):
        object_store.write(object_store.url("in", f"ds={day}", "a.parquet"), pa.table({"text": texts(30, 100 * day)}))
    where = (object_store.url("in"), object_store.url("out"))
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 15 else None)
    with pytest.raises(JobStoppedError):
        run_job(
            echo_job(chunk_rows=5, delay_s=0.01), *where, resolver=object_store.resolve, listeners=[strike], stop=stop
        )
    staged = object_store.objects(object_store.url("out"))
    assert staged
    assert all("/_mullama_stage/" in path for path in staged)

    request_log.clear()
    manifest = run_job(echo_job(chunk_rows=5), *where, resolver=object_store.resolve)
    assert manifest.partitions[0].resumed_rows >= 15
    assert len(request_log.rows()) == manifest.computed_rows == 60 - manifest.resumed_rows
    assert object_store.objects(object_store.url("out")) == [
        f"{object_store.bucket}/out/ds={day}/part-00000.parquet" for day in (1, 2)
    ]
    for day in (1, 2):
        output = object_store.read(object_store.url("out", f"ds={day}", "part-00000.parquet"))
        assert output.column("response").to_pylist() == texts(30, 100 * day)
    assert run_job(echo_job(), *where, resolver=object_store.resolve).skipped == "up_to_date"


def test_an_output_at_the_root_of_a_bucket_works(echo_job: Job, object_store: Any, source: Path) -> None:
    url = object_store.url("out.parquet")
    assert run_partition(echo_job(), source, url, resolver=object_store.resolve).rows == 60
    assert object_store.objects(object_store.url()) == [f"{object_store.bucket}/out.parquet"]


def test_a_bucket_that_is_not_there_is_named(
    echo_job: Job, object_store: Any, source: Path, output: Path, started_workers: Any
) -> None:
    with pytest.raises(InputNotFoundError, match="s3://no-such-bucket-here/in"):
        run_partition(echo_job(), "s3://no-such-bucket-here/in", output, resolver=object_store.resolve)
    assert len(started_workers) == 0


def test_a_dead_engine_is_told_by_its_rows_failing_alike(tmp_path: Path, write_parquet: Write, texts: Texts) -> None:
    # The request log cannot be written, so that echo fails on every row for a reason that is not the row's.
    job = GenerateJob(
        model="echo", prompt_template="{text}", engine_options={"request_log": str(tmp_path / "missing" / "log")}
    )
    source = write_parquet(tmp_path / "a.parquet", texts(500))
    with pytest.raises(EngineFailedError, match=r"'echo' is not working.*FileNotFoundError"):
        run_partition(job, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_failures_that_may_pass_are_asked_again_by_the_next_attempt(
    echo_job: Job, source: Path, output: Path, recorder: Any, request_log: Any
) -> None:
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 30 else None)
    broken = echo_job(faults={"fail": [3], "crash": [6]}, chunk_rows=5, delay_s=0.005, max_retries=0)
    with pytest.raises(JobStoppedError):
        run_partition(broken, source, output, listeners=[strike], stop=stop)

    request_log.clear()
    manifest = run_partition(echo_job(chunk_rows=5), source, output)

    assert 3 in request_log.rows()
    assert 6 not in request_log.rows()
    assert manifest.error_types == {"engine_crash": 1}


def test_a_template_that_asks_every_row_the_same_is_noted(
    echo_job: Job, source: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_partition(echo_job(prompt_template="Write a haiku."), source, output)
    assert "no {column} placeholder" in caplog.text


def test_vectors_shorter_than_the_dimensions_asked_for_are_refused_before_the_run(
    echo_embed_job: Job, source: Path, output: Path, started_workers: Any
) -> None:
    with pytest.raises(ConfigurationError, match="dimensions is 16 and the vectors of 'echo' have 8 numbers"):
        run_partition(echo_embed_job(dimensions=16), source, output)
    assert len(started_workers) == 0


def test_a_disk_that_does_not_answer_cannot_keep_the_task_from_stopping(
    echo_job: Job, source: Path, output: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    write = Stage.write

    def slow_write(stage: Stage, *arguments: Any) -> None:
        answered.wait(60)
        write(stage, *arguments)

    monkeypatch.setattr(Stage, "write", slow_write)
    stop = threading.Event()
    strike = recorder(lambda snapshot: stop.set() if snapshot.done >= 8 else None)
    with pytest.raises(JobStoppedError, match=r"could not be kept: The stage takes too long"):
        run_partition(echo_job(chunk_rows=5, delay_s=0.01), source, output, listeners=[strike], stop=stop)
    assert not answered.is_set()
    answered.set()
