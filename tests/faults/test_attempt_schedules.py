"""Attempts at one partition, at once, in orders that hypothesis chooses: each ends as the model says (docs/fencing.md).

The attempts are real, but for the engine: every row's outcome is durable before they begin. Each runs on threads of its
own and stands still wherever the model has a border between two actions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import hypothesis
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from airflow_mullama import fail_points
from airflow_mullama.errors import SupersededAttemptError
from airflow_mullama.jobs.generate import GenerateJob
from airflow_mullama.run.runner import run_partition
from airflow_mullama.storage.filesystems import Location, local_location, resolve_location
from airflow_mullama.storage.staging.stage import STAGE_FOLDER
from tests.faults.attempts_model import At, Attempt, Store, World

ROWS, CHUNK_ROWS = 12, 6
MANY = 100
PATIENCE_SECONDS = 60.0
# Where an attempt stands still, as the steps of fail_points call it, and what the model calls that.
PLACES = {"commit": At.WORKING, "publish": At.READY, "checked": At.CHECKED, "published": At.PUBLISHED}


class KilledError(BaseException):
    """Ends an attempt where it stands."""


def job(work: str) -> GenerateJob:
    return GenerateJob(model="echo", prompt_template=work + " {text}", chunk_rows=CHUNK_ROWS)


class RunningAttempt:
    """An attempt on threads of its own, which goes from place to place when it is told to."""

    def __init__(self, work: str, source: str, output: str, resolver: Callable[[Any], Location]) -> None:
        self._arrived, self._go_on = threading.Semaphore(0), threading.Semaphore(0)
        self._at, self._is_killed = "", False
        self._arguments = (job(work), source, output)
        self._resolver = resolver
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.attempt = self  # type: ignore[attr-defined]

    def _run(self) -> None:
        try:
            manifest = run_partition(*self._arguments, resolver=self._resolver, listeners=[])
            self._at = At.LEFT if manifest.skipped else At.DONE
        except KilledError:
            self._at = At.DEAD
        except SupersededAttemptError as error:
            self._at = At.SUPERSEDED_BY_NEWER if error.by_newer else At.SUPERSEDED_BY_OLDER
        except BaseException as error:  # noqa: BLE001 - what it was is for the test to judge
            self._at = repr(error)
        self._arrived.release()

    def reached(self, step: str) -> None:
        """Called on the attempt's threads."""
        if self._is_killed or step not in PLACES:
            return
        self._at = PLACES[step]
        self._arrived.release()
        assert self._go_on.acquire(timeout=PATIENCE_SECONDS)
        if self._is_killed:
            raise KilledError

    def proceed(self, *, kill: bool = False) -> str:
        """Go on to the next place, or die; returns where it is then."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._is_killed = kill
            self._go_on.release()
        assert self._arrived.acquire(timeout=PATIENCE_SECONDS)
        return self._at


@contextmanager
def attempts_told_apart() -> Iterator[None]:
    """A thread that an attempt starts is that attempt's too, and what it reaches is told to it."""
    start = threading.Thread.start

    def start_as_own(thread: threading.Thread) -> None:
        if (attempt := getattr(threading.current_thread(), "attempt", None)) is not None:
            thread.attempt = attempt  # type: ignore[attr-defined]
        start(thread)

    threading.Thread.start = start_as_own  # type: ignore[method-assign]
    fail_points.observer = lambda step: (
        attempt.reached(step) if (attempt := getattr(threading.current_thread(), "attempt", None)) else None
    )
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        fail_points.observer = None


class Lake:
    """A place for outputs, where every row's outcome is known for each work.

    Args:
        store: how outputs are replaced there.
        root: of the place, on ``filesystem``.
        resolver: opens paths in it.
        source: the input.
    """

    def __init__(self, store: str, root: Location, resolver: Callable[[Any], Location], source: Path) -> None:
        self.store, self._root, self._resolver, self._source = store, root, resolver, source
        self._filesystem = root.filesystem
        self._outputs = 0
        self._chunks: dict[str, tuple[str, dict[str, bytes]]] = {}

    def attempt(self, work: str, output: Location) -> RunningAttempt:
        return RunningAttempt(work, str(self._source), output.address, self._resolver)

    def new_output(self) -> Location:
        self._outputs += 1
        return self._root.join(str(self._outputs), "answers.parquet")

    def compute(self, work: str) -> None:
        """Have every row's outcome of a work, as an attempt makes it durable that is killed when it publishes."""
        output = self.new_output()
        with attempts_told_apart():
            attempt = self.attempt(work, output)
            assert attempt.proceed() == At.WORKING
            assert attempt.proceed(kill=True) == At.DEAD
        chunks = {path.rsplit("/", 1)[1]: self._read(path) for path in self._staged(output)}
        (folder,) = self.stages(output)
        self._chunks[work] = folder, chunks

    def restore(self, work: str, output: Location) -> None:
        """Put the outcomes of a work into its stage, as if an earlier attempt had left them."""
        folder, chunks = self._chunks[work]
        stage = output.parent.join(STAGE_FOLDER, output.name, folder)
        self._filesystem.create_dir(stage.path, recursive=True)
        for name, content in chunks.items():
            with self._filesystem.open_output_stream(f"{stage.path}/{name}") as file:
                file.write(content)

    def stages(self, output: Location) -> set[str]:
        """Of which works there are stages with outcomes."""
        return {path.rsplit("/", 2)[1] for path in self._staged(output)}

    def folder_of(self, work: str) -> str:
        return self._chunks[work][0]

    def remove(self, output: Location) -> None:
        self._filesystem.delete_file(output.path)

    def response(self, output: Location) -> str | None:
        """What the first row of the output was answered; ``None`` where there is no output."""
        if output.info().type == pafs.FileType.NotFound:
            return None
        table = pq.read_table(output.path, filesystem=self._filesystem)
        assert table.num_rows == ROWS
        return str(table.column("response")[0].as_py())

    def _staged(self, output: Location) -> list[str]:
        selector = pafs.FileSelector(
            output.parent.join(STAGE_FOLDER, output.name).path, recursive=True, allow_not_found=True
        )
        return [info.path for info in self._filesystem.get_file_info(selector) if info.path.endswith(".arrow")]

    def _read(self, path: str) -> bytes:
        with self._filesystem.open_input_stream(path) as file:
            return bytes(file.read())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "texts.parquet"
    pq.write_table(pa.table({"text": [f"text {row}" for row in range(ROWS)]}), path)
    return path


WORKS = ("A", "B")


def with_outcomes(lake: Lake) -> Lake:
    for work in WORKS:
        lake.compute(work)
    return lake


@st.composite
def schedules(draw: st.DrawFn, store: str) -> tuple[World, list[tuple[str, int]]]:
    """Attempts, and an order of what they do until all have ended, as far as the model lets them."""
    works = draw(st.lists(st.sampled_from(WORKS), min_size=2, max_size=3))
    start = world = World(store, tuple(Attempt(work) for work in works))
    done = []
    while actions := list(world.actions(removals=1)):
        weighted = [action for action in actions if action[0] not in ("die", "remove")]
        rare = [action for action in actions if action[0] in ("die", "remove")]
        action = draw(st.sampled_from(weighted * 4 + rare))
        done.append(action)
        world = world.after(*action)
    return start, done


def follow(lake: Lake, world: World, schedule: list[tuple[str, int]]) -> None:
    """Do what a schedule says; after each action everything is as the model has it."""
    output = lake.new_output()
    attempts = [lake.attempt(one.work, output) for one in world.attempts]
    with attempts_told_apart():
        for name, number in schedule:
            world = world.after(name, number)
            if name == "remove":
                lake.remove(output)
            else:
                if name == "begin" and world.attempts[number].at is At.WORKING:
                    lake.restore(world.attempts[number].work, output)
                assert attempts[number].proceed(kill=name == "die") == world.attempts[number].at
            there = None if world.output is None else f"{world.attempts[world.output.attempt].work} text 0"
            assert lake.response(output) == there
            assert lake.stages(output) == {lake.folder_of(work) for work in world.stages}


def settings(examples: int) -> Any:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < MANY,  # the quick ones are the same every time
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.fixture(scope="module")
def local_lake(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root = local_location(str(tmp_path_factory.mktemp("lake")))
    return with_outcomes(Lake(Store.LOCAL, root, resolve_location, source))


@pytest.fixture(scope="module")
def memory_lake(source: Path) -> Iterator[Lake]:
    root = resolve_location(f"memory://attempts-{os.urandom(4).hex()}")
    yield with_outcomes(Lake(Store.UNCONDITIONAL, root, resolve_location, source))
    fsspec.filesystem("memory").rm(root.path, recursive=True)


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_on_a_local_filesystem(examples: int, local_lake: Lake) -> None:
    @settings(examples)
    @hypothesis.given(schedules(Store.LOCAL))
    def each(schedule: Any) -> None:
        follow(local_lake, *schedule)

    each()


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_on_a_store_that_takes_no_conditions(examples: int, memory_lake: Lake) -> None:
    """Here the model has the moment in which an output can be lost, and so has the code."""

    @settings(examples)
    @hypothesis.given(schedules(Store.UNCONDITIONAL))
    def each(schedule: Any) -> None:
        follow(memory_lake, *schedule)

    each()


@pytest.mark.integration
@pytest.mark.parametrize("examples", [10, pytest.param(400, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_on_a_store_that_takes_conditions(examples: int, object_store: Any, source: Path) -> None:
    root = object_store.resolve(object_store.url("lake"))
    lake = with_outcomes(Lake(Store.CONDITIONAL, root, object_store.resolve, source))

    @settings(examples)
    @hypothesis.given(schedules(Store.CONDITIONAL))
    def each(schedule: Any) -> None:
        follow(lake, *schedule)

    each()
