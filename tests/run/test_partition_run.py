"""One partition's run where more than rows in and rows out is at stake: places, types, writers that fail."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import fail_points as steps
from airflow_mullama import run_job, run_partition
from airflow_mullama.engines.echo import hash_vector
from airflow_mullama.errors import (
    InputChangedError,
    JobStoppedError,
    OutputNotWritableError,
    StorageUnavailableError,
)
from airflow_mullama.manifest import FOOTER_KEY
from airflow_mullama.progress import Snapshot
from airflow_mullama.run import inference, partition_run
from airflow_mullama.run.budget import Budget
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.run.examination import PartitionWork
from airflow_mullama.run.partition_run import PartitionRun
from airflow_mullama.run.prepare import engine_settings, prepare_model
from airflow_mullama.storage.filesystems import resolve_location
from airflow_mullama.storage.parquet.output import read_published
from airflow_mullama.storage.partitions import discover_partitions
from airflow_mullama.worker.session import EngineSession

pytestmark = pytest.mark.usefixtures("no_worker_left")

Write = Callable[..., Path]
Texts = Callable[..., list[str]]


def read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


@pytest.mark.parametrize("strike_at", [2, 22])
def test_a_chunk_that_cannot_be_staged_is_the_tasks_error_also_if_it_is_the_last(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, recorder: Any, strike_at: int
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(25))
    stage = tmp_path / "out" / "_mullama_stage"

    def strike(snapshot: Snapshot) -> None:
        if snapshot.done >= strike_at and stage.is_dir():
            stage.rename(tmp_path / "moved away")
            stage.write_text("in the way")

    job = echo_job(chunk_rows=10, delay_s=0.03, n_parallel=1)
    with pytest.raises(OutputNotWritableError, match=r"_mullama_stage.*rows-"):
        run_partition(job, source, tmp_path / "out" / "a.parquet", listeners=[recorder(strike)])
    assert not (tmp_path / "out" / "a.parquet").exists()


def test_a_stage_that_is_removed_meanwhile_costs_time_and_no_rows(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, recorder: Any
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(40))
    output = tmp_path / "out" / "a.parquet"
    struck: list[int] = []

    def strike(snapshot: Snapshot) -> None:
        if snapshot.done >= 30 and not struck:
            struck.append(snapshot.done)
            (output.parent / "_mullama_stage").rename(tmp_path / "moved away")

    manifest = run_partition(echo_job(chunk_rows=5, delay_s=0.01), source, output, listeners=[recorder(strike)])
    assert struck
    assert manifest.status_counts == {"success": 40}
    assert read(output).column("response").to_pylist() == texts(40)


def test_two_attempts_at_once_end_with_one_whole_output(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(60))
    output = tmp_path / "out" / "a.parquet"
    results: list[Any] = []

    def work(delay: float) -> None:
        results.append(run_partition(echo_job(chunk_rows=7, delay_s=delay), source, output, listeners=[]))

    attempts = [threading.Thread(target=work, args=(delay,)) for delay in (0.005, 0.012)]
    for attempt in attempts:
        attempt.start()
    for attempt in attempts:
        attempt.join()
    assert [one.status_counts for one in results] == [{"success": 60}] * 2
    assert read(output).column("response").to_pylist() == texts(60)
    assert [path.name for path in output.parent.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(("dtype", "data_type"), [("float32", pa.float32()), ("float16", pa.float16())])
def test_vectors_are_stored_as_the_job_says(
    echo_embed_job: Any, tmp_path: Path, write_parquet: Write, dtype: str, data_type: pa.DataType
) -> None:
    source = write_parquet(tmp_path / "a.parquet", ["one", None, "two"])
    job = echo_embed_job(dtype=dtype, dimensions=3, normalize=False, options={"dimensions": 5}, chunk_rows=2)
    manifest = run_partition(job, source, tmp_path / "out.parquet")
    output = read(tmp_path / "out.parquet")
    assert manifest.status_counts == {"success": 2, "skipped": 1}
    assert output.schema.field("embedding").type == pa.list_(data_type, 3)
    first, null, last = output.column("embedding").to_pylist()
    assert null is None
    for vector, text in ((first, "one"), (last, "two")):
        np.testing.assert_allclose(np.array(vector, np.float32), hash_vector(text, 5)[:3], rtol=1e-3, atol=1e-3)


def test_a_published_output_is_known_by_its_footer(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(5))
    manifest = run_partition(echo_job(), source, tmp_path / "out.parquet")
    published = read_published(resolve_location(tmp_path / "out.parquet"))
    assert published is not None
    assert published.manifest.fingerprint == manifest.fingerprint
    assert published.manifest.status_counts == {"success": 5}
    assert read_published(resolve_location(source)) is None
    assert read_published(resolve_location(tmp_path / "missing.parquet")) is None


@pytest.mark.parametrize("footer", [b"", b"not json", b"[]", b"{}", b'{"rows": 5, "seconds": 1}'])
def test_a_footer_that_makes_no_sense_is_somebody_elses(tmp_path: Path, footer: bytes) -> None:
    table = pa.table({"text": ["x"]}).replace_schema_metadata({FOOTER_KEY: footer})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_published(resolve_location(tmp_path / "a.parquet")) is None


def test_row_groups_of_the_output_are_of_a_sound_size(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(30_000), row_group_size=100)
    run_partition(echo_job(chunk_rows=777), source, tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert metadata.num_rows == 30_000
    assert metadata.num_row_groups <= 3
    assert read(tmp_path / "out.parquet").column("id").to_pylist() == list(range(30_000))


def test_a_job_stopped_again_and_again_gets_there(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, recorder: Any, request_log: Any
) -> None:
    source = write_parquet(tmp_path / "a.parquet", [*texts(30), None, *texts(29, 31)], row_group_size=7)
    output = tmp_path / "out.parquet"
    for limit in (10, 20, 35, 50):
        stop = threading.Event()

        def strike(snapshot: Snapshot, limit: int = limit, stop: threading.Event = stop) -> None:
            if snapshot.done >= limit:
                stop.set()

        with pytest.raises(JobStoppedError):
            run_partition(
                echo_job(chunk_rows=9, delay_s=0.02, n_parallel=2),
                source,
                output,
                listeners=[recorder(strike)],
                stop=stop,
            )
    asked = len(request_log.rows())
    manifest = run_partition(echo_job(chunk_rows=9), source, output)
    assert manifest.resumed_rows >= 50
    assert manifest.status_counts == {"success": 59, "skipped": 1}
    assert read(output).column("response").to_pylist() == [*texts(30), None, *texts(29, 31)]
    # What is asked twice is what was in flight at each stop: the window of two times two rows.
    assert asked + manifest.computed_rows <= 59 + 4 * 4


def test_any_filesystem_that_fsspec_knows_will_do(echo_job: Any, texts: Texts) -> None:
    filesystem = fsspec.filesystem("memory")
    for day in ("1", "2"):
        with filesystem.open(f"/lake/in/ds={day}/a.parquet", "wb") as file:
            pq.write_table(pa.table({"text": texts(12)}), file)
    try:
        manifest = run_job(echo_job(chunk_rows=5), "memory://lake/in", "memory://lake/out")
        assert manifest.status_counts == {"success": 24}
        assert sorted(filesystem.find("/lake/out")) == [f"/lake/out/ds={day}/part-00000.parquet" for day in (1, 2)]
        assert run_job(echo_job(), "memory://lake/in", "memory://lake/out").skipped == "up_to_date"
    finally:
        filesystem.rm("/lake", recursive=True)


def test_vectors_are_stored_without_a_dictionary_and_with_their_bytes_split(
    echo_embed_job: Any, write_parquet: Any, texts: Any, tmp_path: Path
) -> None:
    nested = pa.table(
        {
            "text": texts(50),
            "a.b": ["x", "y"] * 25,
            "tags": pa.array([[{"name": "n"}]] * 50),
            "old": pa.FixedSizeListArray.from_arrays(pa.array(range(100), pa.int32()), 2),
        }
    )
    source = write_parquet(tmp_path / "in.parquet", nested)
    run_partition(echo_embed_job(), source, tmp_path / "out.parquet")
    group = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0)
    encodings = {group.column(n).path_in_schema: group.column(n).encodings for n in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["embedding.list.element"]
    assert "RLE_DICTIONARY" in encodings["a.b"]
    assert "RLE_DICTIONARY" not in encodings["old.list.element"]
    assert pq.read_table(tmp_path / "out.parquet", columns=nested.schema.names).equals(nested)


@pytest.fixture
def written_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no chunk gets into the output; and none is kept at hand, as if there were too many of them."""
    go = threading.Event()
    take = DurableChunks._take

    def take_late(self: DurableChunks, chunk: Any) -> Any:
        assert go.wait(60)
        return take(self, chunk)

    monkeypatch.setattr(DurableChunks, "_take", take_late)
    monkeypatch.setattr("airflow_mullama.run.durable_chunks.DURABLE_CHUNKS_BYTES", 0)
    return go


@pytest.mark.parametrize("other_publishes", [True, False])
def test_a_stage_that_another_attempt_takes_away_under_the_engine_mixes_no_rows_of_two_partitions(
    echo_job: Any,
    tmp_path: Path,
    write_parquet: Write,
    written_late: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    other_publishes: bool,
) -> None:
    names = {name: [f"{name} {number}" for number in range(48)] for name in "ab"}
    sources = [write_parquet(tmp_path / "in" / f"{name}.parquet", texts) for name, texts in names.items()]
    job = echo_job(chunk_rows=4, delay_s=0.2, n_parallel=8)
    written_late.set()
    run_partition(job, sources[0], tmp_path / "other.parquet")
    written_late.clear()
    staged: list[str] = []

    def another_attempt(step: str) -> None:
        if step == "staged":
            staged.append(step)
            if len(staged) == 2:
                if other_publishes:
                    shutil.copy(tmp_path / "other.parquet", tmp_path / "out" / "a.parquet")
                # At once: a chunk that is written meanwhile would be left in a folder that is emptied.
                (tmp_path / "out" / "_mullama_stage" / "a.parquet").rename(tmp_path / "taken away")
                written_late.set()

    monkeypatch.setattr(steps, "observer", another_attempt)
    manifest = run_job(job, sources, tmp_path / "out")
    assert manifest.status_counts == {"success": 96}
    for name, texts in names.items():
        output = read(tmp_path / "out" / f"{name}.parquet")
        assert output.column("text").to_pylist() == output.column("response").to_pylist() == texts
    assert not (tmp_path / "out" / "_mullama_stage").exists()


def test_answers_to_the_rows_of_a_run_that_ended_early_never_reach_the_next_one(
    echo_job: Any, tmp_path: Path, write_parquet: Write, recorder: Any
) -> None:
    job = echo_job(chunk_rows=10, delay_s=0.3, n_parallel=4)
    model = prepare_model(job)
    stop = threading.Event()
    session = EngineSession(job.engine_spec.name, engine_settings(job, model))

    def run(name: str, listeners: list[Any], should_stop: Callable[[], bool]) -> None:
        source = write_parquet(tmp_path / f"{name}.parquet", [f"{name} {number}" for number in range(20)])
        (partition,) = discover_partitions(source, tmp_path / f"{name}-out.parquet")
        PartitionRun(PartitionWork(job, partition, model), listeners, should_stop).run(session, Budget.of(job))

    try:
        with pytest.raises(JobStoppedError):
            run("a", [recorder(lambda snapshot: stop.set() if snapshot.done else None)], stop.is_set)
        run("b", [], lambda: False)
    finally:
        session.close()
    assert read(tmp_path / "b-out.parquet").column("response").to_pylist() == [f"b {number}" for number in range(20)]


@pytest.mark.parametrize("other_columns", [False, True])
def test_an_input_that_is_replaced_under_the_engine_is_what_the_error_says(
    echo_job: Any,
    tmp_path: Path,
    write_parquet: Write,
    texts: Texts,
    written_late: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    other_columns: bool,
) -> None:
    source = write_parquet(tmp_path / "in.parquet", texts(40))
    output = tmp_path / "out" / "a.parquet"

    def replaced(step: str) -> None:
        if step == "staged" and not written_late.is_set():
            new = {"text": texts(40), "more": [1.5] * 40} if other_columns else {"text": list(range(40))}
            write_parquet(tmp_path / "new.parquet", pa.table(new)).replace(source)
            written_late.set()

    monkeypatch.setattr(steps, "observer", replaced)
    with pytest.raises(InputChangedError, match=r"in\.parquet' has other columns than before: it was replaced"):
        run_partition(echo_job(chunk_rows=4, delay_s=0.02, n_parallel=2), source, output)
    assert not output.exists()


def test_a_run_that_is_stopped_lets_go_of_the_output_before_it_saves_rows(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_parquet(tmp_path / "in.parquet", texts(40))
    stop = threading.Event()
    order: list[str] = []
    rescue, abandon = (
        "airflow_mullama.run.chunk_collector.ChunkCollector.rescue",
        "airflow_mullama.run.durable_chunks.DurableChunks",
    )
    original = DurableChunks.abandon
    monkeypatch.setattr(rescue, lambda self: order.append("rescued"))
    monkeypatch.setattr(f"{abandon}.abandon", lambda self: (order.append("abandoned"), original(self)))
    with pytest.raises(JobStoppedError):
        run_partition(
            echo_job(chunk_rows=4, delay_s=0.05, n_parallel=2),
            source,
            tmp_path / "out.parquet",
            listeners=[recorder(lambda snapshot: stop.set() if snapshot.done >= 8 else None)],
            stop=stop,
        )
    assert order[:2] == ["abandoned", "rescued"]


def test_a_store_that_does_not_take_the_output_ends_the_task_and_keeps_what_is_finished(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_parquet(tmp_path / "a.parquet", texts(5)), tmp_path / "out" / "a.parquet"
    answered = threading.Event()
    monkeypatch.setattr(partition_run, "PUBLISH_SECONDS", 0.2)
    monkeypatch.setattr(steps, "observer", lambda step: answered.wait() if step == "publish" else None)
    with pytest.raises(StorageUnavailableError, match=r"was not written within 0.2 s of its last row.*next attempt"):
        run_partition(echo_job(), source, output)
    assert not output.exists()
    monkeypatch.undo()
    answered.set()
    assert run_partition(echo_job(), source, output).rows == 5


def test_an_input_that_gives_nothing_more_ends_the_task(
    echo_job: Any, tmp_path: Path, write_parquet: Write, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_parquet(tmp_path / "a.parquet", texts(5))
    answered = threading.Event()
    monkeypatch.setattr(inference, "INPUT_SECONDS", 0.2)
    monkeypatch.setattr(steps, "observer", lambda step: answered.wait() if step == "read" else None)
    with pytest.raises(StorageUnavailableError, match=r"a.parquet' gave no row for 0.2 s: its store does not answer"):
        run_partition(echo_job(), source, tmp_path / "out.parquet")
    answered.set()
