"""A stage is trusted only as far as it proves itself: anything else is said, set aside and computed again."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from airflow_mullama.errors import OutputNotWritableError
from airflow_mullama.fail_points import STEPS
from airflow_mullama.storage.staging import commit, replacing
from airflow_mullama.storage.staging.stage import STAGE_FOLDER

BREAK_AFTER_CHUNKS = 10
DAMAGED = 3


def flip_a_byte_in_the_middle(file: Path, others: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


def flip_the_first_byte(file: Path, others: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 0x01
    file.write_bytes(content)


def cut_in_half(file: Path, others: list[Path]) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_within_the_digest(file: Path, others: list[Path]) -> None:
    file.write_bytes(file.read_bytes()[:7])


def zero_the_beginning_only(file: Path, others: list[Path]) -> None:
    file.write_bytes(bytes(16))


def empty(file: Path, others: list[Path]) -> None:
    file.write_bytes(b"")


def append(file: Path, others: list[Path]) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def replace_with_the_next_chunk(file: Path, others: list[Path]) -> None:
    shutil.copyfile(others[others.index(file) + 1], file)


DAMAGES = (
    flip_a_byte_in_the_middle,
    flip_the_first_byte,
    cut_in_half,
    zero_the_beginning_only,
    cut_within_the_digest,
    empty,
    append,
    replace_with_the_next_chunk,
)


@pytest.fixture
def break_after_some_chunks(observe: Callable[..., None], injected_error: type[Exception]) -> Callable[..., list[Path]]:
    """Run until a third of the chunks are durable; the chunks' files."""

    def run(work: Any, **arguments: Any) -> list[Path]:
        staged = 0

        def observer(step: str) -> None:
            nonlocal staged
            staged += step == "staged"
            if staged == BREAK_AFTER_CHUNKS:
                raise injected_error

        observe(observer)
        with pytest.raises(injected_error):
            work.run(**arguments)
        observe(lambda step: None)
        return sorted((work.output.parent / STAGE_FOLDER).glob("*/*/rows-*.arrow"))

    return run


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def rows_of(file: Path) -> range:
    _, start, stop = file.stem.split("-")
    return range(int(start), int(stop))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("place", [0, DAMAGED])
def test_a_damaged_chunk_is_said_and_computed_again(
    place: int,
    damage: Callable[[Path, list[Path]], None],
    work: Any,
    break_after_some_chunks: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
):
    files = break_after_some_chunks(work)
    durable, asked_before = work.staged_rows(), work.asked()
    damaged = files[place]
    damage(damaged, files)

    work.run()

    work.assert_finished()
    assert any(damaged.name in message and "computed again" in message for message in warnings_of(caplog))
    lost = set(rows_of(damaged)) - work.null_rows
    asked_again = set(work.asked() - asked_before) & durable
    assert asked_again == lost


def test_every_chunk_damaged_costs_everything_and_nothing_more(
    work: Any, break_after_some_chunks: Callable[..., list[Path]]
):
    files = break_after_some_chunks(work)
    for file in files:
        cut_in_half(file, files)

    manifest = work.run()

    work.assert_finished()
    assert manifest.resumed_rows == 0


def test_a_chunk_of_another_template_is_not_mixed_in(
    work: Any, break_after_some_chunks: Callable[..., list[Path]], caplog: pytest.LogCaptureFixture
):
    other = replace(work, job_settings={**work.job_settings, "prompt_template": "Say: {text}"})
    foreign = break_after_some_chunks(other)
    own = break_after_some_chunks(work)
    own = [file for file in own if file not in foreign]
    assert foreign[DAMAGED].name == own[DAMAGED].name
    shutil.copyfile(foreign[DAMAGED], own[DAMAGED])

    work.run()

    work.assert_finished()
    assert any(
        own[DAMAGED].name in message and "other input, model or settings" in message for message in warnings_of(caplog)
    )


def test_a_stage_of_other_work_is_said_left_alone_and_removed_at_the_end(
    work: Any, break_after_some_chunks: Callable[..., list[Path]], caplog: pytest.LogCaptureFixture
):
    other = replace(work, job_settings={**work.job_settings, "prompt_template": "Say: {text}"})
    folder = break_after_some_chunks(other)[0].parent

    manifest = work.run()

    assert manifest.resumed_rows == 0
    assert any(str(folder) in message for message in warnings_of(caplog))
    work.assert_finished()


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "rows-1-x.arrow", "rows--.arrow", "rows-a-b.arrow", ".DS_Store", "rows-000-020.arrow.1-ab.tmp"],
)
def test_a_file_that_is_no_chunk_is_passed_over(
    name: str, work: Any, break_after_some_chunks: Callable[..., list[Path]]
):
    folder = break_after_some_chunks(work)[0].parent
    durable = work.staged_rows()
    (folder / name).write_bytes(b"not a chunk")

    manifest = work.run()

    assert manifest.resumed_rows == len(durable)
    work.assert_finished()


@pytest.mark.parametrize("step", [step for step in STEPS if step != "published"])
def test_a_stage_that_is_removed_meanwhile_costs_rows_and_nothing_else(
    step: str, work: Any, observe: Callable[..., None]
):
    arrivals = 0
    at = {"read": 9, "render": 18, "stage": 12, "staged": 12}.get(step, 1 if step in STEPS[7:] else 50)

    def remove_the_stage(reached: str) -> None:
        nonlocal arrivals
        arrivals += reached == step
        if reached == step and arrivals == at:
            shutil.rmtree(work.stage_folder, ignore_errors=True)  # a chunk may be written meanwhile

    observe(remove_the_stage)

    manifest = work.run()

    assert arrivals >= at
    assert sum(manifest.status_counts.values()) == work.rows
    work.assert_finished()
    assert max(work.asked().values()) <= 2


def test_a_stage_that_is_removed_while_a_chunk_is_written_costs_rows_and_nothing_else(
    work: Any, monkeypatch: pytest.MonkeyPatch
):
    make_folders, calls = os.makedirs, 0

    def make_folders_that_vanish(path: Any, *arguments: Any, **options: Any) -> None:
        nonlocal calls
        make_folders(path, *arguments, **options)
        calls += STAGE_FOLDER in str(path)
        if calls == BREAK_AFTER_CHUNKS:
            shutil.rmtree(work.stage_folder)

    monkeypatch.setattr(commit.os, "makedirs", make_folders_that_vanish)

    work.run()

    assert calls > BREAK_AFTER_CHUNKS
    work.assert_finished()
    assert max(work.asked().values()) <= 2


def test_a_stage_that_is_removed_at_the_moment_of_publishing_costs_rows_and_nothing_else(
    work: Any, monkeypatch: pytest.MonkeyPatch
):
    link, removed = os.link, []

    def link_too_late(source: Any, target: Any, **options: Any) -> None:
        if str(target) == str(work.output) and not removed:
            removed.append(source)
            shutil.rmtree(work.stage_folder)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", link_too_late)

    work.run()

    assert len(removed) == 1
    work.assert_finished()
    assert max(work.asked().values()) <= 2


def test_a_full_disk_ends_with_one_sentence_and_what_was_staged_is_kept(
    work: Any, observe: Callable[..., None], monkeypatch: pytest.MonkeyPatch, disk_full: Callable[..., None]
):
    staged = 0

    def observer(step: str) -> None:
        nonlocal staged
        staged += step == "staged"
        if staged == BREAK_AFTER_CHUNKS:
            disk_full(monkeypatch)  # and it stays full

    observe(observer)
    with pytest.raises(OutputNotWritableError, match=r"^Cannot write .*: the disk is full: free space and run again"):
        work.run()
    monkeypatch.undo()
    observe(lambda step: None)
    durable = work.staged_rows()
    assert len(durable) == BREAK_AFTER_CHUNKS * work.chunk_rows
    assert not list(work.stage_folder.rglob("*.tmp"))

    manifest = work.run()

    assert manifest.resumed_rows == len(durable)
    work.assert_finished()


# --- an object store --------------------------------------------------------------------------------------------------


class StoredWork:
    """The partition's work with its output in an object store."""

    def __init__(self, work: Any, store: Any) -> None:
        self.work, self.store = replace(work), store
        self.url = store.url("out", "answers.parquet")

    def run(self, **settings: Any) -> Any:
        self.work.output = self.url
        self.work.job_settings = {**self.work.job_settings, **settings}
        return self.work.run(resolver=self.store.resolve)

    def objects(self) -> list[str]:
        return self.store.objects(self.store.url("out"))

    def chunks(self) -> list[str]:
        return [path for path in self.objects() if path.endswith(".arrow")]

    def assert_finished(self) -> None:
        assert self.store.read(self.url).equals(pq.read_table(self.work.reference))
        assert self.objects() == [self.url.removeprefix("s3://")]


@pytest.fixture
def stored(work: Any, object_store: Any) -> StoredWork:
    return StoredWork(work, object_store)


def break_at(observe: Callable[..., None], error: type[Exception], step: str, arrival: int) -> None:
    arrivals = 0

    def observer(reached: str) -> None:
        nonlocal arrivals
        arrivals += reached == step
        if reached == step and arrivals == arrival:
            raise error

    observe(observer)


@pytest.mark.integration
@pytest.mark.parametrize(("step", "arrival"), [("staged", BREAK_AFTER_CHUNKS), ("result", 50), ("publish", 1)])
def test_an_attempt_on_an_object_store_goes_on_where_the_last_one_broke(
    step: str, arrival: int, stored: StoredWork, observe: Callable[..., None], injected_error: type[Exception]
):
    break_at(observe, injected_error, step, arrival)
    with pytest.raises(injected_error):
        stored.run()
    assert len(stored.chunks()) >= 1
    assert stored.url.removeprefix("s3://") not in stored.objects()
    asked_before = stored.work.asked()
    seen_before_publishing: list[str] = []
    observe(lambda step: seen_before_publishing.extend(stored.objects()) if step == "publish" else None)

    manifest = stored.run()

    stored.assert_finished()
    assert manifest.resumed_rows > 0
    assert seen_before_publishing
    assert stored.url.removeprefix("s3://") not in seen_before_publishing
    computed = (stored.work.asked() - asked_before).total()
    assert computed <= stored.work.rows - manifest.resumed_rows


@pytest.mark.integration
def test_a_damaged_chunk_on_an_object_store_is_computed_again(
    stored: StoredWork,
    observe: Callable[..., None],
    injected_error: type[Exception],
    caplog: pytest.LogCaptureFixture,
):
    break_at(observe, injected_error, "staged", BREAK_AFTER_CHUNKS)
    with pytest.raises(injected_error):
        stored.run()
    observe(lambda step: None)
    damaged = stored.chunks()[DAMAGED]
    with stored.store.filesystem.open_output_stream(damaged) as stream:
        stream.write(b"half a chu")

    stored.run()

    stored.assert_finished()
    assert any(damaged.rsplit("/", 1)[-1] in message for message in warnings_of(caplog))


@pytest.mark.integration
def test_an_older_output_on_an_object_store_stays_readable_until_it_is_replaced(
    stored: StoredWork, observe: Callable[..., None]
):
    stored.run(prompt_template="Say: {text}")
    older = stored.store.read(stored.url)
    seen: list[Any] = []
    observe(lambda step: seen.append(stored.store.read(stored.url)) if step in ("write", "publish") else None)

    stored.run(prompt_template="{text}")

    assert len(seen) == 2
    assert all(table.equals(older) for table in seen)
    stored.assert_finished()


@pytest.mark.integration
def test_an_upload_that_breaks_off_leaves_no_object(
    stored: StoredWork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def copy_half(source: Any, sink: Any, length: int) -> None:
        content = source.read()
        sink.write(content[: len(content) // 2])
        raise OSError("the local file cannot be read further")

    with monkeypatch.context() as patched:
        patched.setattr(replacing, "conditional_put", lambda target: None)  # as if boto3 were not installed
        patched.setattr(commit.shutil, "copyfileobj", copy_half)
        with pytest.raises(OutputNotWritableError):
            stored.run()
    assert stored.url.removeprefix("s3://") not in stored.objects()

    stored.run()

    stored.assert_finished()
