"""The engine mullama through real worker processes, over the double of its bindings."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_gguf import write_tiny_gguf
from using_mullama import DOUBLE, mullama_double

from airflow_mullama import ClassifyJob, EmbedJob, GenerateJob, run_partition
from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.registry import engine_spec, load_spec
from airflow_mullama.errors import ConfigurationError, EngineNotAvailableError, GpuNotAvailableError, ModelLoadError
from airflow_mullama.worker.client import Exited, Outcomes, Started, Stuck, Worker, request_batch

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("double", "no_worker_left")]


@pytest.fixture
def double() -> Iterator[None]:
    with mullama_double():
        yield


def generate(
    tmp_path: Path, texts: list[str | None], model: Path, **arguments: Any
) -> tuple[Any, list[dict[str, Any]]]:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), source)
    defaults = {
        "engine": "mullama",
        "prompt_column": "text",
        "max_tokens": 60,
        "max_error_ratio": 1.0,
        "max_retries": 0,
    }
    job = GenerateJob(model=str(model), **{**defaults, **arguments})
    manifest = run_partition(job, source, target, listeners=[])
    rows = pq.read_table(target).to_pylist()
    target.unlink()
    return manifest, rows


class TestInterpreterLock:
    """No call of the bindings lets another thread run: what the worker's threads do elsewhere, the kernel does here."""

    def start(self, model: Path, row_timeout: float | None = None) -> tuple[Worker, Any]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        settings = {"system_prompt": None, "chat": None, "max_tokens": 16, "sampling": {}}
        worker = Worker(
            "mullama",
            EngineSettings(task="generate", model=str(model), options={}, settings=settings, row_timeout=row_timeout),
            events.put,
        )
        assert isinstance(events.get(timeout=30), Started)
        return worker, events

    def ask(self, worker: Worker, *texts: str) -> None:
        rows = pa.array(range(len(texts)), pa.int64())
        attempts = pa.array([1] * len(texts), pa.int32())
        worker.send(request_batch(rows, attempts, pa.array(texts, pa.large_string())))

    def test_each_row_is_sent_before_the_next_is_begun(self, tiny_model: Path) -> None:
        worker, events = self.start(tiny_model, row_timeout=0.5)
        self.ask(worker, "say:one;", "hang;")
        first = events.get(timeout=30)
        assert isinstance(first, Outcomes)
        assert first.batch.column("response").to_pylist() == ["one"]
        assert events.get(timeout=30) == Stuck((1,))
        exited = events.get(timeout=30)
        assert isinstance(exited, Exited)
        assert exited.how == "was killed by SIGALRM"
        worker.stop()

    def test_a_row_that_hangs_is_a_timeout_and_costs_no_other_row(self, tmp_path: Path, tiny_model: Path) -> None:
        texts: list[str | None] = ["say:a;", "hang;", "say:b;"]
        _, rows = generate(tmp_path, texts, tiny_model, row_timeout=0.5)
        assert [row["error_type"] for row in rows] == [None, "timeout", None]
        assert [row["response"] for row in rows] == ["a", None, "b"]

    def test_rows_within_their_timeout_are_left_alone(self, tmp_path: Path, tiny_model: Path) -> None:
        _, rows = generate(tmp_path, [f"say:{row};" for row in range(20)], tiny_model, row_timeout=30.0)
        assert [row["response"] for row in rows] == [str(row) for row in range(20)]

    def test_stopping_ends_a_worker_that_hangs(self, tiny_model: Path) -> None:
        worker, _ = self.start(tiny_model)
        self.ask(worker, "hang;")
        worker.stop()
        assert not psutil.pid_exists(worker.pid)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
    def test_a_worker_whose_parent_is_killed_leaves_at_once_while_a_row_hangs(
        self, tmp_path: Path, tiny_model: Path, workers: Any, eventually: Any
    ) -> None:
        source, scratch_root, hangs = tmp_path / "in.parquet", tmp_path / "tmp", tmp_path / "hangs"
        pq.write_table(pa.table({"text": ["hang;"]}), source)
        scratch_root.mkdir()
        program = (
            "import sys\nfrom airflow_mullama import GenerateJob, run_partition\n"
            "job = GenerateJob(model=sys.argv[1], engine='mullama', prompt_column='text')\n"
            "run_partition(job, *sys.argv[2:])\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(tiny_model), str(source), str(tmp_path / "out.parquet")],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(DOUBLE), *filter(None, sys.path)]),
                "TMPDIR": str(scratch_root),
                "MULLAMA_DOUBLE_HANGS": str(hangs),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with parent:
            (worker,) = eventually(lambda: workers(parent.pid))
            eventually(hangs.exists)
            parent.kill()
            parent.wait()
            eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
            assert list(scratch_root.iterdir()) == []


class TestRows:
    def test_a_crash_costs_its_row_only(self, tmp_path: Path, tiny_model: Path) -> None:
        _, rows = generate(tmp_path, ["say:a;", "crash;", "say:b;"], tiny_model)
        assert [row["error_type"] for row in rows] == [None, "engine_crash", None]
        assert "SIGABRT" in rows[1]["error"]

    def test_an_error_of_the_bindings_is_asked_again_and_costs_its_row_only(
        self, tmp_path: Path, tiny_model: Path
    ) -> None:
        _, rows = generate(tmp_path, ["say:a;", "say-long;", "say:b;"], tiny_model, max_retries=1)
        assert [row["error_type"] for row in rows] == [None, "engine_error", None]
        assert rows[1]["attempts"] == 2

    def test_characters_that_the_bindings_lose_are_an_error(self, tmp_path: Path, tiny_model: Path) -> None:
        _, rows = generate(tmp_path, ["sayhex:61e697a5;", "\ufffd sayhex:61e697a5;", "say:a;"], tiny_model)
        assert [row["error_type"] for row in rows] == ["undecodable_text", "undecodable_text", None]

    def test_a_mended_build_gives_them(self, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MULLAMA_DOUBLE_MENDED", "characters_break")
        _, rows = generate(tmp_path, ["sayhex:61e697a5;"], tiny_model)
        assert rows[0]["response"] == "a日"


SCHEMA = {"type": "object", "properties": {"label": {"enum": ["red", "green"]}}, "required": ["label"]}


class TestOutputSchema:
    def test_answers_are_checked_and_the_run_says_that_they_are_not_constrained(
        self, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        texts: list[str | None] = ['say:{"label": "red"};', 'say:{"label": "blue"};', "say:red;"]
        with caplog.at_level("WARNING"):
            manifest, rows = generate(tmp_path, texts, tiny_model, output_schema=SCHEMA, max_retries=1)
        assert manifest.constrained is False
        assert [row["status"] for row in rows] == ["success", "invalid_output", "invalid_output"]
        assert [row["error_type"] for row in rows] == [None, "schema_mismatch", "invalid_json"]
        assert [row["attempts"] for row in rows] == [1, 2, 2]
        assert rows[0]["label"] == "red"
        assert "cannot hold decoding to an output schema" in caplog.text

    def test_a_second_try_is_told_what_was_wrong(self, tmp_path: Path, tiny_model: Path) -> None:
        _, rows = generate(tmp_path, ["say:blue;"], tiny_model, output_schema=SCHEMA, max_retries=1, repair_prompt=True)
        _, again = generate(tmp_path, ["say:blue;"], tiny_model, output_schema=SCHEMA)
        assert rows[0]["prompt_tokens"] > again[0]["prompt_tokens"]

    def test_a_classification_has_labels_and_no_confidence(
        self, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
        pq.write_table(pa.table({"text": ['say:{"label": "red"};']}), source)
        job = ClassifyJob(model=str(tiny_model), engine="mullama", text_column="text", labels=["red", "green"])
        with caplog.at_level("WARNING"):
            run_partition(job, source, target, listeners=[])
        (row,) = pq.read_table(target).to_pylist()
        assert (row["label"], row["confidence"]) == ("red", None)
        assert "no probabilities" in caplog.text


class TestBeforeTheRun:
    def test_the_engine_is_chosen_by_name_and_auto_prefers_llamacpp(self) -> None:
        assert engine_spec("mullama", "m.gguf").available
        assert engine_spec("auto", "m.gguf").name == "llamacpp"

    @pytest.mark.parametrize(
        "options", [{"n_workers": 0}, {"n_workers": "2"}, {"n_ctx": 0}, {"n_threads": 0}, {"n_parallel": 2}]
    )
    def test_options_that_cannot_work_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            GenerateJob(model="m.gguf", engine="mullama", prompt_column="text", engine_options=options)

    def test_n_ctx_decides_outcomes_and_the_number_of_workers_does_not(self) -> None:
        def fingerprint(**options: int) -> str:
            job = GenerateJob(model="m.gguf", engine="mullama", prompt_column="text", engine_options=options)
            return job.request_fingerprint(model_sha256="x")

        assert fingerprint(n_workers=4, n_threads=2) == fingerprint()
        assert fingerprint(n_ctx=512) != fingerprint()

    def test_workers_share_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_mullama.engines.mullama.settings import choose_settings
        from airflow_mullama.models.gguf_header import GgufHeader

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))

        def threads(workers: int = 1, **options: int) -> int:
            settings = EngineSettings(task="generate", model="m", options=options, settings={}, workers=workers)
            return choose_settings(settings, GgufHeader(), sees_gpu=False).n_threads

        assert (threads(), threads(workers=4), threads(workers=20), threads(n_threads=3)) == (8, 2, 1, 3)

    def test_a_model_without_weights_is_refused(self, tmp_path: Path) -> None:
        model = write_tiny_gguf(tmp_path / "m.gguf", vocabulary_only=True)
        with pytest.raises(ConfigurationError, match="no weights"):
            generate(tmp_path, ["hello"], model)

    def test_a_required_gpu_that_is_not_there_is_an_error(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(GpuNotAvailableError, match="require_gpu=True"):
            generate(tmp_path, ["hello"], tiny_model, require_gpu=True)

    def test_an_embedding_that_the_bindings_cannot_do_is_refused_with_the_way_out(
        self, tmp_path: Path, tiny_model: Path
    ) -> None:
        source = tmp_path / "in.parquet"
        pq.write_table(pa.table({"text": ["hello"]}), source)

        def embed(model: Path, pooling: Any) -> None:
            job = EmbedJob(model=str(model), engine="mullama", text_column="text", pooling=pooling)
            run_partition(job, source, tmp_path / "out.parquet", listeners=[])

        with pytest.raises(ConfigurationError, match="engine='llamacpp'"):
            embed(tiny_model, "cls")
        with pytest.raises(ModelLoadError, match="engine='llamacpp'"):
            embed(write_tiny_gguf(tmp_path / "m.gguf", pooling=1), None)


def test_without_the_bindings_the_engine_says_how_to_get_them() -> None:
    # The double is there while a test of this module runs; this is what load_spec says of any package that is not.
    spec = load_spec("mullama")
    missing = type(spec)(**{**vars(spec), "package": "no_such_package_mullama"})
    with pytest.raises(EngineNotAvailableError, match=r"docs/engines/mullama\.md"):
        missing.require_available()
