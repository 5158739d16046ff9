"""`chunking=` around the engine: what becomes of documents, whatever goes wrong with one of their chunks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.commands.main import main
from airflow_mullama.engines.echo import hash_vector
from airflow_mullama.errors import ColumnClashError, ConfigurationError, MullamaError

pytestmark = pytest.mark.usefixtures("no_worker_left")

LETTER = "The parcel never came. I asked twice, on Monday and on Friday. Nobody answered. "
STORY = "It rained for three days. Then it stopped, and the sun came out. We went for a walk. "
TEXTS = [LETTER + STORY, None, "Short.", STORY + LETTER, "", LETTER + STORY]
CHUNKING = {"tokens": 14, "overlap": 4}


def embed_job(**changes: Any) -> EmbedJob:
    defaults = {"model": "echo", "text_column": "text", "chunking": CHUNKING, "max_error_ratio": 1.0, "max_retries": 0}
    return EmbedJob(**{**defaults, **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": pa.array(TEXTS, pa.string())}), path)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def unit(text: str, dimensions: int = 8) -> np.ndarray:
    vector = hash_vector(text, dimensions)
    return vector / np.linalg.norm(vector)


def test_each_row_has_its_chunks_and_their_vectors(source: Path, target: Path) -> None:
    manifest = run_partition(embed_job(), source, target, listeners=[])
    table = pq.read_table(target)
    assert table.schema.names == ["id", "text", "chunks", "status", "error_type", "error", "attempts", "prompt_tokens"]
    kind = table.schema.field("chunks").type.value_type
    assert [(field.name, field.type) for field in kind] == [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("tokens", pa.int32()),
        ("embedding", pa.list_(pa.float32(), 8)),
    ]
    rows = table.to_pylist()
    assert [row["text"] for row in rows] == TEXTS
    assert [row["status"] for row in rows] == ["success", "skipped", "success", "success", "success", "success"]
    assert rows[1]["chunks"] is None
    for row in rows[:1] + rows[2:]:
        chunks = [row["text"][chunk["start"] : chunk["end"]] for chunk in row["chunks"]]
        assert [chunk["tokens"] for chunk in row["chunks"]] == [len(text.split()) for text in chunks]
        np.testing.assert_allclose(
            [chunk["embedding"] for chunk in row["chunks"]], [unit(text) for text in chunks], atol=1e-6
        )
        assert row["prompt_tokens"] == sum(chunk["tokens"] for chunk in row["chunks"])
    assert rows[5]["chunks"] == rows[0]["chunks"]
    assert manifest.rows == len(TEXTS)
    assert manifest.chunks == sum(len(row["chunks"] or ()) for row in rows)
    assert manifest.to_json()["chunks"] == manifest.chunks


def test_the_pooled_vector_is_the_mean_of_the_chunks_by_their_tokens(source: Path, target: Path) -> None:
    run_partition(embed_job(pooled="mean", dtype="float16"), source, target, listeners=[])
    table = pq.read_table(target)
    assert table.schema.names[2:4] == ["chunks", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    row = table.to_pylist()[0]
    weights = [chunk["tokens"] for chunk in row["chunks"]]
    mean = np.average([chunk["embedding"] for chunk in row["chunks"]], axis=0, weights=weights)
    np.testing.assert_allclose(row["embedding"], mean / np.linalg.norm(mean), atol=2e-3)


def test_what_a_template_puts_around_a_document_is_around_each_chunk(source: Path, target: Path) -> None:
    job = embed_job(
        text_column=None, text_template="row {id} passage: {text} END", chunking={"tokens": 18, "column": "text"}
    )
    run_partition(job, source, target, listeners=[])
    row = pq.read_table(target).to_pylist()[3]
    for chunk in row["chunks"]:
        text = f"row 3 passage: {row['text'][chunk['start'] : chunk['end']]} END"
        assert chunk["tokens"] == len(text.split()) <= 18
        np.testing.assert_allclose(chunk["embedding"], unit(text), atol=1e-6)
    assert "".join(row["text"][chunk["start"] : chunk["end"]] for chunk in row["chunks"]) == row["text"]


def test_one_failing_chunk_is_its_rows_error_and_names_the_chunk(tmp_path: Path, source: Path, target: Path) -> None:
    manifest = run_partition(embed_job(engine_options={"faults": {"fail": [3]}}), source, target, listeners=[])
    rows = pq.read_table(target).to_pylist()
    assert [row["status"] for row in rows] == ["success", "skipped", "success", "failed", "success", "success"]
    assert rows[3]["chunks"] is None
    assert rows[3]["error_type"] == "engine_error"
    # Each of them fails, and any may be the first.
    assert re.fullmatch(r"chunk \d \(characters \d+ to \d+\): scripted failure of row 3", rows[3]["error"])
    repaired = run_partition(embed_job(), source, target, listeners=[])
    assert (repaired.repaired_rows, repaired.computed_rows) == (1, 1)
    assert repaired.status_counts == {"success": 5, "skipped": 1}
    assert repaired.chunks == sum(len(row["chunks"] or ()) for row in pq.read_table(target).to_pylist())
    again = run_partition(embed_job(), source, target, listeners=[])
    assert (again.skipped, again.chunks) == ("up_to_date", repaired.chunks)
    assert manifest.chunks is not None


def test_a_retry_of_a_document_asks_only_for_what_failed(tmp_path: Path, source: Path, target: Path) -> None:
    log = tmp_path / "log"
    options = {"faults": {"fail_once": [0]}, "request_log": str(log), "n_parallel": 1}
    manifest = run_partition(embed_job(engine_options=options, max_retries=1), source, target, listeners=[])
    assert manifest.status_counts == {"success": 5, "skipped": 1}
    assert pq.read_table(target)["attempts"].to_pylist() == [2, 0, 1, 1, 1, 2]  # the last has the first one's outcome


def test_a_document_that_fails_while_it_is_cut_is_asked_again_whole(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "long.parquet"
    long = " ".join(f"Sentence number {number} of a long text, and no two are alike." for number in range(600))
    pq.write_table(pa.table({"text": [long, "Short."]}), path)
    job = embed_job(chunking={"tokens": 14}, engine_options={"faults": {"fail_once": [0]}}, max_retries=2)

    manifest = run_partition(job, path, target, listeners=[])

    assert dict(manifest.status_counts) == {"success": 2}
    assert len(pq.read_table(target)["chunks"][0].as_py()) >= 500


def test_a_chunk_that_several_documents_have_is_asked_once(tmp_path: Path, target: Path) -> None:
    source, log = tmp_path / "in.parquet", tmp_path / "log"
    shared = "This notice stands at the end of every letter that we send. "
    texts = [f"Letter number {number} says this. {shared}" for number in range(40)]
    pq.write_table(pa.table({"text": texts}), source)
    run_partition(
        embed_job(chunking={"tokens": 12}, engine_options={"request_log": str(log)}), source, target, listeners=[]
    )
    rows = pq.read_table(target).to_pylist()
    assert {len(row["chunks"]) for row in rows} == {2}
    assert len(log.read_text().splitlines()) == len(texts) + 1


def test_a_crash_costs_the_document_that_causes_it(source: Path, target: Path) -> None:
    run_partition(embed_job(engine_options={"faults": {"crash": [3]}}), source, target, listeners=[])
    rows = pq.read_table(target).to_pylist()
    assert [row["error_type"] for row in rows] == [None, "null_input", None, "engine_crash", None, None]


def test_a_changed_document_is_asked_again_and_the_others_are_kept(source: Path, target: Path) -> None:
    run_partition(embed_job(), source, target, listeners=[])
    before = pq.read_table(target)["chunks"].to_pylist()
    changed = [*TEXTS[:2], "Another text.", *TEXTS[3:], "One more."]
    pq.write_table(pa.table({"id": range(len(changed)), "text": pa.array(changed, pa.string())}), source)
    manifest = run_partition(embed_job(), source, target, listeners=[])
    assert (manifest.reused_rows, manifest.computed_rows) == (4, 2)
    after = pq.read_table(target)["chunks"].to_pylist()
    assert after[0] == before[0]
    assert after[3:6] == before[3:6]


def test_what_an_earlier_attempt_finished_is_kept(source: Path, target: Path) -> None:
    options = {"faults": {"hang": [4]}, "n_parallel": 1}
    with pytest.raises(MullamaError, match="Stopped"):
        _run_until_hang(embed_job(engine_options=options, chunk_rows=2), source, target)
    manifest = run_partition(embed_job(chunk_rows=2), source, target, listeners=[])
    assert manifest.resumed_rows >= 2
    assert manifest.status_counts == {"success": 5, "skipped": 1}


def _run_until_hang(job: EmbedJob, source: Path, target: Path) -> None:
    import threading

    stop = threading.Event()
    stage = target.parent / "_mullama_stage"

    def watch() -> None:
        while not any(stage.rglob("rows-*")):
            if stop.wait(0.05):
                return
        stop.set()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run_partition(job, source, target, listeners=[], stop=stop)
    finally:
        stop.set()
        thread.join()


def test_a_document_of_megabytes_has_thousands_of_chunks(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "in.parquet"
    sentences = (f"Sentence number {number} of a very long document is here. " for number in range(60_000))
    text = "".join(sentences)
    pq.write_table(pa.table({"text": [text, "Short.", text[: len(text) // 2]]}), source)
    manifest = run_partition(embed_job(chunking={"tokens": 100, "overlap": 10}), source, target, listeners=[])
    lengths = [len(chunks) for chunks in pq.read_table(target)["chunks"].to_pylist()]
    assert lengths[0] == 6667
    assert lengths[1] == 1
    assert manifest.chunks == sum(lengths)


def test_chunks_longer_than_the_model_reads_are_refused_before_any_row(source: Path, target: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"chunking\['tokens'\] is 14, and the model reads 9 tokens"):
        run_partition(embed_job(engine_options={"n_ctx": 10}), source, target, listeners=[])
    assert not target.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunking": {"tokens": 4}}, r"chunking\['tokens'\] is 4; it must be a whole number from 8"),
        ({"chunking": {"tokens": 20, "overlap": 11}}, r"chunking\['overlap'\] is 11; .* 0 to 10"),
        ({"chunking": {"tokens": 20, "by": "page"}}, r"chunking\['by'\] is 'page'"),
        ({"chunking": {"size": 20}}, "it must be a dictionary such as"),
        ({"chunking": 256}, "it must be a dictionary such as"),
        ({"chunking": {"tokens": 20}, "truncate": "end"}, "do not go together"),
        ({"chunking": None, "pooled": "mean"}, "without chunking a text has one vector"),
        ({"pooled": "max"}, "pooled is 'max'"),
        ({"text_column": None, "text_template": "{a} {b}"}, r"name it as chunking\['column'\]"),
        ({"text_column": None, "text_template": "{a} {a}"}, "stands in the text 2 times"),
        ({"chunking": {"tokens": 20, "column": "c"}}, "'c' is to be cut into chunks and stands in the text 0 times"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        embed_job(**changes)


def test_chunking_belongs_to_the_fingerprint_and_its_absence_changes_none() -> None:
    jobs = [
        embed_job(),
        embed_job(chunking={"tokens": 14}),
        embed_job(chunking={**CHUNKING, "by": "token"}),
        embed_job(pooled="mean"),
        embed_job(chunking=None),
    ]
    assert len({job.request_fingerprint(model_sha256="x") for job in jobs}) == len(jobs)
    assert "chunking" not in jobs[-1].engine_settings()


def test_an_input_that_has_the_column_already_is_refused(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a"], "chunks": [True]}), source)
    with pytest.raises(ColumnClashError, match="'chunks'"):
        run_partition(embed_job(), source, target, listeners=[])


def test_the_command_line_cuts_too(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(source), str(target), "--text-column", "text", "--model", "echo", "--json"]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--chunk-tokens", "14", "--chunk-overlap", "4", "--chunk-by", "token", "--pooled", "mean"])
    assert exit_info.value.code == 0
    assert json.loads(capsys.readouterr().out)["chunks"] > 6
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--chunk-overlap", "4"])
    assert exit_info.value.code == 2
    assert "--chunk-overlap needs --chunk-tokens" in capsys.readouterr().err


def test_nobody_else_needs_the_package_that_knows_the_borders() -> None:
    code = "import sys, airflow_mullama.worker.host, airflow_mullama.jobs.embed; sys.exit('regex' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
