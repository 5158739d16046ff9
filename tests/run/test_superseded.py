"""Two attempts at one partition of which one publishes while the other stands still, whatever each was to do."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from airflow_mullama import fail_points
from airflow_mullama.errors import OutputChangedError, OutputExistsError, SupersededAttemptError
from airflow_mullama.manifest import FOOTER_KEY, PartitionManifest
from airflow_mullama.run import run_job, run_partition
from airflow_mullama.storage.staging.stage import STAGE_FOLDER
from airflow_mullama.writer import Writer

ROWS, CHUNK_ROWS = 20, 10
TASK, OTHER_TASK = Writer("nightly", "tag"), Writer("nightly", "other")


@pytest.fixture
def source(tmp_path: Path, write_parquet: Callable[..., Path], texts: Callable[..., list[str]]) -> Path:
    return write_parquet(tmp_path / "in.parquet", texts(ROWS))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "answers.parquet"


@pytest.fixture
def job(echo_job: Callable[..., Any]) -> Callable[..., Any]:
    def job(prompt_template: str = "{text}", **settings: Any) -> Any:
        return echo_job(prompt_template=prompt_template, chunk_rows=CHUNK_ROWS, **settings)

    return job


@contextmanager
def meanwhile(step: str, *happenings: Callable[[], Any]) -> Iterator[list[Any]]:
    """While attempts stand still at a step, other things happen: one at each arrival. Gives what they returned."""
    left, results, lock = list(happenings), [], threading.Lock()

    def observer(reached: str) -> None:
        if reached == step and left and lock.acquire(blocking=False):  # not within what happens itself
            try:
                results.append(left.pop(0)())
            finally:
                lock.release()

    outer, fail_points.observer = fail_points.observer, observer
    try:
        yield results
    finally:
        fail_points.observer = outer
    assert not left


def account(path: Path) -> PartitionManifest:
    return PartitionManifest.from_footer(pq.read_metadata(path).metadata[FOOTER_KEY])


def first_response(path: Path) -> str:
    return str(pq.read_table(path).column("response")[0].as_py())


def test_one_that_stood_still_does_not_replace_newer_work_and_says_whose_it_is(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    run_job(job("old {text}"), source, output, writer=TASK)
    with (
        meanwhile("publish", lambda: run_job(job("new {text}"), source, output, writer=TASK)),
        pytest.raises(SupersededAttemptError) as ended,
    ):
        run_job(job("late {text}"), source, output, writer=TASK)
    assert first_response(output).startswith("new ")
    there, said = account(output), str(ended.value)
    assert there.attempt.split(":")[:2] == [platform.node(), str(os.getpid())]
    assert f"another one ({there.attempt} of task 'tag' of DAG 'nightly', begun {there.started_at}) published" in said
    assert "other work there (another input, prompt, model or other settings). This one stopped before it pub" in said
    assert "The other one began later, so that its output is taken for what is wanted" in said
    assert ended.value.by_newer


def test_the_newer_of_two_keeps_what_is_durable_and_when_run_again_only_writes(
    source: Path, output: Path, job: Callable[..., Any], request_log: Any
) -> None:
    waiting, go_on = threading.Event(), threading.Event()
    older = threading.Thread(target=lambda: run_job(job("older {text}"), source, output, writer=TASK))

    def hold(step: str) -> None:
        if step == "publish" and not waiting.is_set():  # the older one
            waiting.set()
            assert go_on.wait(60)
        elif step == "publish":  # the newer one
            go_on.set()
            older.join(60)

    fail_points.observer = hold
    try:
        older.start()
        assert waiting.wait(60)
        with pytest.raises(SupersededAttemptError, match="The other one began earlier: run this again") as ended:
            run_job(job("newer {text}"), source, output, writer=TASK)
    finally:
        fail_points.observer = None
    assert not ended.value.by_newer
    assert first_response(output).startswith("older ")
    request_log.clear()
    again = run_job(job("newer {text}"), source, output, writer=TASK)
    assert (again.resumed_rows, request_log.rows()) == (ROWS, [])
    assert first_response(output).startswith("newer ")
    assert not (output.parent / STAGE_FOLDER).exists()


def test_what_another_writer_published_is_refused_as_ever(source: Path, output: Path, job: Callable[..., Any]) -> None:
    with (
        meanwhile("publish", lambda: run_job(job("other {text}"), source, output, writer=OTHER_TASK)),
        pytest.raises(OutputExistsError, match="was written by task 'other'"),
    ):
        run_job(job(), source, output, writer=TASK)
    assert first_response(output).startswith("other ")


@pytest.mark.parametrize("if_exists", ["resume", "overwrite", "error"])
def test_the_same_work_is_published_once_and_both_tell_of_one_output(
    if_exists: str, source: Path, output: Path, job: Callable[..., Any]
) -> None:
    def run() -> PartitionManifest:
        return run_job(job(if_exists=if_exists), source, output)

    if if_exists == "overwrite":
        run()
    with meanwhile("publish", run) as quick:
        late = run()
    assert (quick[0].skipped, late.skipped) == (None, "up_to_date")
    assert account(output).attempt == late.attempt == quick[0].attempt
    assert not (output.parent / STAGE_FOLDER).exists()


def test_two_that_overwrite_do_not_take_the_old_output_for_each_others(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    run_job(job(), source, output)
    old = account(output).attempt

    def damage_stage() -> None:
        shutil.rmtree(output.parent / STAGE_FOLDER)

    with meanwhile("publish", damage_stage):
        overwritten = run_job(job(if_exists="overwrite"), source, output)
    assert overwritten.skipped is None
    assert account(output).attempt == overwritten.attempt != old


def run_faulty(job: Callable[..., Any], source: Path, output: Path) -> PartitionManifest:
    """The same work, of which a row fails, without what another attempt made durable."""
    for chunk in output.parent.glob(f"{STAGE_FOLDER}/{output.name}/*/rows-*.arrow"):
        chunk.unlink()
    return run_job(job(faults={"fail": [3]}, max_retries=0, max_error_ratio=1.0), source, output)


def test_rows_that_failed_in_the_others_output_are_repaired(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    with meanwhile("publish", lambda: run_faulty(job, source, output)) as quick:
        late = run_job(job(), source, output)
    assert (quick[0].failed_rows, late.failed_rows, late.repaired_rows, late.skipped) == (1, 0, 1, None)
    assert account(output).attempt == late.attempt


def test_rows_that_failed_in_the_others_output_are_left_by_one_that_was_to_overwrite(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    with (
        meanwhile("publish", lambda: run_faulty(job, source, output)),
        pytest.raises(SupersededAttemptError, match="the same work there, in which 1 of 20 rows failed and may pass"),
    ):
        run_job(job(if_exists="overwrite"), source, output)


def test_an_output_that_somebody_removed_or_copied_meanwhile_hinders_nobody(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    run_job(job("old {text}"), source, output)

    def copy() -> None:
        shutil.copy2(output, output.with_name("copy"))
        os.replace(output.with_name("copy"), output)

    with meanwhile("publish", copy, output.unlink):
        manifest = run_job(job("new {text}"), source, output)
    assert first_response(output).startswith("new ")
    assert account(output).attempt == manifest.attempt


def test_an_output_that_changes_all_the_time_ends_the_attempt(
    source: Path, output: Path, job: Callable[..., Any]
) -> None:
    run_job(job("old {text}"), source, output)

    def touch() -> None:
        changes.append(1)
        os.utime(output, ns=(len(changes), len(changes)))

    changes: list[int] = []
    with meanwhile("publish", *[touch] * 3), pytest.raises(OutputChangedError):
        run_job(job("new {text}"), source, output)
    assert first_response(output).startswith("old ")


def test_a_stage_of_work_that_began_since_is_left(source: Path, output: Path, job: Callable[..., Any]) -> None:
    """Whoever does that work needs it; older ones go with one's own."""

    def stop() -> None:
        raise KeyboardInterrupt

    def begin_other_work(template: str) -> None:
        with meanwhile("commit", stop), pytest.raises(KeyboardInterrupt):
            run_job(job(template), source, output)

    begin_other_work("older {text}")
    (older,) = (output.parent / STAGE_FOLDER / output.name).iterdir()
    other: list[Path] = []

    def begin_newer() -> None:
        before = set((output.parent / STAGE_FOLDER / output.name).iterdir())
        run = threading.Thread(target=begin_other_work, args=("newer {text}",))
        run.start()
        run.join()
        other.extend(set((output.parent / STAGE_FOLDER / output.name).iterdir()) - before)

    with meanwhile("publish", begin_newer):
        run_job(job(), source, output)
    assert list((output.parent / STAGE_FOLDER / output.name).iterdir()) == other
    assert older not in other
    assert len(list(other[0].glob("rows-*.arrow"))) == ROWS // CHUNK_ROWS


@pytest.mark.integration
def test_an_answer_that_is_lost_on_the_way_is_no_other_attempt(
    source: Path, object_store: Any, job: Callable[..., Any]
) -> None:
    url = object_store.url("out", "answers.parquet")
    port = int(object_store.endpoint.rpartition(":")[2])
    proxy = ForgetfulProxy(port, f"PUT /{object_store.bucket}/out/answers.parquet".encode())
    filesystem = pafs.S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=proxy.endpoint, region="us-east-1"
    )
    behind_proxy = replace(object_store, filesystem=filesystem)
    manifest = run_partition(job(), source, url, resolver=behind_proxy.resolve)
    proxy.close()
    assert proxy.losses == 1
    assert (manifest.skipped, manifest.rows) == (None, ROWS)
    assert object_store.objects(object_store.url("out")) == [url.removeprefix("s3://")]


class ForgetfulProxy:
    """Passes requests on to a server and loses the answer to the first that begins with some bytes."""

    def __init__(self, port: int, lost: bytes) -> None:
        self._port, self._lost = port, lost
        self.losses = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            request = client.recv(65_536)
            lose = request.startswith(self._lost) and not self.losses
            self.losses += lose
            server.sendall(request)
            back = threading.Thread(target=self._pass_back, args=(server, client, lose), daemon=True)
            back.start()
            while back.is_alive() and (more := client.recv(65_536)):
                server.sendall(more)
            back.join()

    @staticmethod
    def _pass_back(server: socket.socket, client: socket.socket, lose: bool) -> None:
        while answer := server.recv(65_536):
            if lose and not answer.startswith(b"HTTP/1.1 100"):
                break
            client.sendall(answer)
        client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
