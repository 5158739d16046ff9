"""Pictures behind a server: llama.cpp's own with a projector, and one that answers as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai_server import MODEL, Asked, Reply, ScriptedServer, error, generation, start_llama_server
from tiny_gguf import write_tiny_gguf
from tiny_mmproj import PICTURE_TOKENS, write_tiny_mmproj

from airflow_mullama import ClassifyJob, GenerateJob, run_job, run_partition
from airflow_mullama.engines.pictures import trial_picture
from airflow_mullama.errors import ConfigurationError, InputNotFoundError
from airflow_mullama.manifest import PartitionManifest
from tests.made_pictures import BLUE, FILES, GREEN, RED, png, png_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_worker_left")]

A, B, C = png(RED), png(GREEN), png(BLUE)
Start = Callable[..., ScriptedServer]
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["red", "green"]}}, "required": ["label"]}


@pytest.fixture(scope="session")  # see held_servers
def seeing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("seeing")
    model, mmproj = write_tiny_gguf(folder / "tiny.gguf"), write_tiny_mmproj(folder / "mmproj.gguf")
    server = start_llama_server(model, name=MODEL, mmproj=mmproj)
    yield server.listening_address
    del server


class Run:
    """Runs a job on a table; keeps the last manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.target = folder, folder / "in.parquet", folder / "out.parquet"
        self.manifest: PartitionManifest | None = None

    def __call__(self, url: str, table: pa.Table, kind: type[GenerateJob] = GenerateJob, **arguments: Any) -> list[Any]:
        if not self.source.exists() or pq.read_table(self.source) != table:
            pq.write_table(table, self.source)
        defaults: dict[str, Any] = {"image_columns": ["photo"], "max_error_ratio": 1.0, "max_tokens": 8}
        if kind is GenerateJob and not {"prompt_column", "messages_column"} & arguments.keys():
            defaults["prompt_template"] = "What is it?"
        defaults["engine_options"] = {"endpoint": url}
        job = kind(model=MODEL, engine="openai", **{**defaults, **arguments})
        self.manifest = run_partition(job, self.source, self.target, listeners=[])
        rows: list[dict[str, Any]] = pq.read_table(self.target).to_pylist()
        assert sum(self.manifest.status_counts.values()) == table.num_rows
        return rows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def photos(*pictures: bytes | None) -> pa.Table:
    return pa.table({"photo": pa.array(pictures, pa.binary())})


def asked_rows(server: ScriptedServer) -> list[Asked]:
    return [one for one in server.asked if one.path.endswith("completions") and one.text != "Say hello."]


def test_llama_server_answers_by_what_a_picture_shows(run: Run, seeing_server: str) -> None:
    rows = run(seeing_server, photos(A, B, A, C))
    first, second, again, third = (row["response"] for row in rows)
    assert first == again
    assert len({first, second, third}) == 3
    assert {row["prompt_tokens"] for row in rows} == {rows[0]["prompt_tokens"]}
    assert run.manifest is not None
    assert run.manifest.deduplicated_rows == 1
    (two,) = run(seeing_server, pa.table({"photo": [[A, B]]}))
    assert two["prompt_tokens"] == rows[0]["prompt_tokens"] + PICTURE_TOKENS


def test_llama_server_reads_png_and_jpeg_whatever_a_file_is_called(run: Run, seeing_server: str) -> None:
    (run.folder / "a.gif").write_bytes(A)
    (run.folder / "b.png").write_bytes((FILES / "baseline.jpg").read_bytes())
    rows = run(seeing_server, pa.table({"photo": ["a.gif", "b.png"]}))
    assert [row["status"] for row in rows] == ["success"] * 2
    assert [row["photo"] for row in rows] == ["a.gif", "b.png"]


def test_a_picture_that_only_its_decoder_finds_broken_costs_no_other_row_anything(run: Run, seeing_server: str) -> None:
    cut = png_of((b"IHDR", A[16:29]), (b"IDAT", b"noise"), (b"IEND", b""))
    good, bad, other = run(seeing_server, photos(A, cut, B))
    assert (bad["status"], bad["error_type"], bad["attempts"]) == ("failed", "request_refused", 1)
    assert "Failed to load image" in bad["error"]
    assert good["status"] == other["status"] == "success"


def test_a_label_of_a_picture_has_its_confidence(run: Run, seeing_server: str) -> None:
    rows = run(seeing_server, photos(A, B), ClassifyJob, labels=["red", "green"], max_tokens=0)
    assert {row["label"] for row in rows} <= {"red", "green"}
    assert all(0 < row["confidence"] <= 1 for row in rows)
    assert rows[0]["confidence"] != rows[1]["confidence"]


def test_a_server_that_sees_nothing_is_refused_before_the_first_row(run: Run, tiny_model: Path) -> None:
    server = start_llama_server(tiny_model, name=MODEL)
    with pytest.raises(ConfigurationError, match=r"takes a request, but not the same one with a picture .*--mmproj"):
        run(server.listening_address, photos(A))
    assert not run.target.exists()


def test_pictures_go_before_the_text_of_a_rows_own_message(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    run(
        server.url,
        pa.table({"photo": [[A, B]], "text": ["hello"]}),
        prompt_template="Say: {text}",
        system_prompt="Be kind.",
        examples=[("one", "two")],
    )
    (asked,) = asked_rows(server)
    system, question, answer, own = asked.body["messages"]
    assert [one["content"] for one in (system, question, answer)] == ["Be kind.", "Say: one", "two"]
    assert [part["type"] for part in own["content"]] == ["image_url", "image_url", "text"]
    assert asked.pictures == [("image/png", A), ("image/png", B)]
    assert asked.text == "Say: hello"


def test_of_a_conversation_they_go_to_the_last_message(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    chat = [{"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yes?"), ("user", "this"))]
    run(server.url, pa.table({"photo": [A], "chat": [json.dumps(chat)]}), messages_column="chat")
    (asked,) = asked_rows(server)
    assert [one["content"] for one in asked.body["messages"][:2]] == ["hi", "yes?"]
    assert (asked.text, asked.pictures) == ("this", [("image/png", A)])


def test_all_three_formats_are_sent_by_their_names(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    names = ["baseline.jpg", "progressive.jpg", "lossy.webp", "lossless.webp", "extended.webp"]
    run(server.url, photos(*((FILES / name).read_bytes() for name in names)))
    sent = [asked.pictures[0] for asked in asked_rows(server)]
    types = {"jpg": "image/jpeg", "webp": "image/webp"}
    assert sorted(sent) == sorted((types[name.partition(".")[2]], (FILES / name).read_bytes()) for name in names)


def test_a_row_is_a_duplicate_only_with_the_same_pictures(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    run(server.url, photos(A, B, A, bytes(bytearray(B)), A))
    assert sorted(one.pictures[0][1] for one in asked_rows(server)) == sorted([A, B])
    assert run.manifest is not None
    assert (run.manifest.computed_rows, run.manifest.deduplicated_rows) == (2, 3)


def test_files_are_duplicates_by_what_they_hold(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    for name, picture in (("a", A), ("copy", A), ("b", B)):
        (run.folder / name).write_bytes(picture)
    run(server.url, pa.table({"photo": ["a", "copy", "b"]}))
    assert run.manifest is not None
    assert (run.manifest.computed_rows, run.manifest.deduplicated_rows) == (2, 1)


def test_rows_without_a_good_picture_have_their_own_error_and_are_never_sent(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    (run.folder / "a.png").write_bytes(A)
    (run.folder / "x.png").write_bytes(b"GIF89a")
    paths = ["a.png", None, "x.png", "gone.png", "../a.png", "/etc/passwd"]
    rows = run(server.url, pa.table({"photo": paths}))
    assert [row["error_type"] for row in rows] == [
        None,
        "null_input",
        "unreadable_image",
        "missing_image",
        "unreadable_image",
        "unreadable_image",
    ]
    assert [row["status"] for row in rows] == ["success", "skipped", *["failed"] * 4]
    assert [row["attempts"] for row in rows] == [1, 0, 0, 0, 0, 0]
    assert len(asked_rows(server)) == 1


def test_a_picture_that_was_missing_is_looked_for_again_and_nothing_else_is(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    (run.folder / "a.png").write_bytes(A)
    table = pa.table({"photo": ["a.png", "b.png", "/etc/passwd"]})
    run(server.url, table)
    (run.folder / "b.png").write_bytes(B)
    rows = run(server.url, table)
    assert [row["error_type"] for row in rows] == [None, None, "unreadable_image"]
    assert [asked.pictures[0][1] for asked in asked_rows(server)] == [A, B]
    assert run.manifest is not None
    assert run.manifest.repaired_rows == 1
    run(server.url, table)
    assert run.manifest.skipped == "up_to_date"


def test_rows_with_the_same_pictures_keep_their_answers_when_the_input_changes(
    run: Run, scripted_server: Start
) -> None:
    server = scripted_server()
    run(server.url, photos(A, B))
    run(server.url, photos(C, B, A))
    assert run.manifest is not None
    assert (run.manifest.reused_rows, run.manifest.computed_rows) == (2, 1)
    assert [asked.pictures[0][1] for asked in asked_rows(server)][2:] == [C]


def test_so_do_rows_with_the_same_paths_and_their_files_are_not_read_for_it(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    (run.folder / "a.png").write_bytes(A)
    (run.folder / "b.png").write_bytes(B)
    run(server.url, pa.table({"photo": ["a.png"]}))
    (run.folder / "a.png").unlink()
    rows = run(server.url, pa.table({"photo": ["b.png", "a.png"]}))
    assert [row["status"] for row in rows] == ["success"] * 2
    assert run.manifest is not None
    assert run.manifest.reused_rows == 1


def test_an_attempt_goes_on_where_another_ended(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    pictures = [png((number, 0, 0)) for number in range(12)]
    failing = {"now": True}

    def answer(asked: Asked) -> Reply | None:
        blocked = asked.path.endswith("completions") and ("image/png", pictures[9]) in asked.pictures
        return error(401, "the key has expired") if blocked and failing["now"] else None

    server.answer = answer
    options = {"chunk_rows": 2, "max_retries": 0}
    rows = run(server.url, photos(*pictures), **options)
    assert [row["status"] for row in rows].count("success") == 11
    failing["now"] = False
    rows = run(server.url, photos(*pictures), **options)
    assert [row["status"] for row in rows] == ["success"] * 12
    sent = [asked.pictures[0][1] for asked in asked_rows(server)]
    assert sorted(sent) == sorted([*pictures, pictures[9]])


def test_a_repair_prompt_keeps_the_picture(run: Run, scripted_server: Start) -> None:
    def answer(asked: Asked) -> Reply | None:
        if not asked.path.endswith("completions"):
            return None
        told = "Your last answer was wrong" in asked.text
        return generation(asked, '{"label": "red"}' if told or asked.text == "Say hello." else '{"label": "pink"}')

    server = scripted_server(answer)
    (row,) = run(server.url, photos(A), output_schema=SCHEMA, repair_prompt=True)
    assert (row["label"], row["attempts"]) == ("red", 2)
    assert [asked.pictures for asked in asked_rows(server)] == [[("image/png", A)]] * 2


def test_the_trial_shows_a_picture_too(run: Run, scripted_server: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = scripted_server()
    run(server.url, photos(A))
    trials = [one for one in server.asked if one.path.endswith("completions") and one.text == "Say hello."]
    assert [one.pictures for one in trials] == [[("image/png", trial_picture().data)], []]
    assert "it may drop pictures without a word" in caplog.text  # this server counts words


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_pictures_is_known_before_the_first_row(
    run: Run, scripted_server: Start, status: int
) -> None:
    def answer(asked: Asked) -> Reply | None:
        seen = asked.path.endswith("completions") and asked.pictures
        return error(status, "image input is not supported") if seen else None

    server = scripted_server(answer)
    with pytest.raises(ConfigurationError, match=r"not the same one with a picture .*image input is not supported"):
        run(server.url, photos(A), max_retries=0)
    assert asked_rows(server) == []


def test_the_mullama_daemon_is_refused_by_name(run: Run, scripted_server: Start) -> None:
    options = {"endpoint": scripted_server().url, "server": "mullama"}
    with pytest.raises(ConfigurationError, match=r"image_columns is given, and the mullama daemon at .* no pictures"):
        run("", photos(A), engine_options=options)


def test_a_plain_completion_takes_no_picture(run: Run, scripted_server: Start) -> None:
    with pytest.raises(ConfigurationError, match=r"image_columns is given and chat=False"):
        run(scripted_server().url, photos(A), chat=False)


def test_paths_begin_in_the_folder_that_is_named(run: Run, scripted_server: Start, object_store: Any) -> None:
    server = scripted_server()
    with object_store.filesystem.open_output_stream(f"{object_store.bucket}/pics/a.png") as stream:
        stream.write(A)
    table = pa.table({"photo": ["a.png", object_store.url("pics", "a.png"), object_store.url("other", "a.png")]})
    pq.write_table(table, run.source)
    job = GenerateJob(
        model=MODEL,
        engine="openai",
        engine_options={"endpoint": server.url},
        prompt_template="What is it?",
        image_columns=["photo"],
        image_root=object_store.url("pics"),
        max_error_ratio=1.0,
    )
    run_job(job, run.source, run.target, resolver=object_store.resolve, listeners=[])
    error_types = [row["error_type"] for row in pq.read_table(run.target).to_pylist()]
    assert error_types == [None, None, "unreadable_image"]
    assert [asked.pictures[0][1] for asked in asked_rows(server)] == [A]


def test_a_folder_that_is_not_there_is_known_before_the_first_row(run: Run, scripted_server: Start) -> None:
    server = scripted_server()
    with pytest.raises(InputNotFoundError, match="image_root"):
        run(server.url, pa.table({"photo": ["a"]}), image_root=run.folder / "nowhere")
    assert server.asked == []


def test_a_directory_of_files_is_the_folder_where_paths_begin(tmp_path: Path, scripted_server: Start) -> None:
    server = scripted_server()
    day = tmp_path / "lake" / "ds=2026-01-01"
    (day / "photos").mkdir(parents=True)
    (day / "photos" / "a.png").write_bytes(A)
    pq.write_table(pa.table({"photo": ["photos/a.png"]}), day / "part-0.parquet")
    job = GenerateJob(
        model=MODEL,
        engine="openai",
        engine_options={"endpoint": server.url},
        prompt_template="What is it?",
        image_columns=["photo"],
    )
    manifest = run_job(job, tmp_path / "lake", tmp_path / "out", listeners=[])
    assert manifest.status_counts == {"success": 1}


@pytest.mark.parametrize("has_root", [False, True])
def test_a_path_beside_another_input_is_another_picture(
    tmp_path: Path, scripted_server: Start, caplog: pytest.LogCaptureFixture, *, has_root: bool
) -> None:
    server = scripted_server()
    for day, picture in (("monday", A), ("tuesday", B)):
        (tmp_path / day).mkdir()
        (tmp_path / day / "front.png").write_bytes(picture)
        pq.write_table(pa.table({"photo": ["front.png"]}), tmp_path / day / "goods.parquet")

    def run_day(day: str, **arguments: Any) -> PartitionManifest:
        job = GenerateJob(
            model=MODEL,
            engine="openai",
            engine_options={"endpoint": server.url},
            prompt_template="What is it?",
            image_columns=["photo"],
            image_root=str(tmp_path / "monday") if has_root else None,
            **arguments,
        )
        return run_partition(job, tmp_path / day / "goods.parquet", tmp_path / f"of {day}", listeners=[])

    run_day("monday")
    manifest = run_day("tuesday", reuse_from=str(tmp_path / "of monday"))
    shown = [asked.pictures for asked in asked_rows(server)]
    assert shown == ([[("image/png", A)]] if has_root else [[("image/png", A)], [("image/png", B)]])
    assert manifest.reused_rows == int(has_root)
    assert ("the same path is another file there; give both the same image_root" in caplog.text) is not has_root
