"""Models of the Hub through the real huggingface_hub, against a hub that serves a file and a folder on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

MODEL = Path(__file__).parents[2] / "airflow_mullama" / "demo" / "models" / "ticket-tagger.gguf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOLDER = {
    "config.json": b"{}",
    "1_Pooling/config.json": b'{"a": 1}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickled",
    "onnx/model.onnx": b"exported",
    "README.md": b"# About",
}
PROGRAM = """
import json, sys
from airflow_mullama.errors import MullamaError
from airflow_mullama.models.folder import resolve_folder
from airflow_mullama.models.names import may_be_folder
from airflow_mullama.models.resolve import resolve_model
from airflow_mullama.storage.filesystems import resolve_location
try:
    resolve = resolve_folder if may_be_folder(sys.argv[1]) and sys.argv[2:] else resolve_model
    resolve(sys.argv[1], resolve_location)
    model = resolve(sys.argv[1], resolve_location)
    print(json.dumps({"sha256": model.sha256, "path": model.path}))
except MullamaError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Hub(ThreadingHTTPServer):
    """Serves ``acme/tagger`` and ``acme/encoder`` at main; ``acme/secret`` only with a token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = MODEL.read_bytes()
        self.downloads = 0
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.path.startswith("/api/models/acme/encoder/revision/"):
            siblings = [{"rfilename": name} for name in FOLDER]
            self._send(json.dumps({"id": "acme/encoder", "sha": COMMIT, "siblings": siblings}).encode(), with_body)
            return
        if self.path.startswith("/api/models/acme/encoder/tree/"):
            files = [{"type": "file", "path": name, "size": len(FOLDER[name]), "oid": name} for name in FOLDER]
            self._send(json.dumps(files).encode(), with_body)
            return
        _, _, name = self.path.partition(f"/acme/encoder/resolve/{COMMIT}/")
        if name in FOLDER:
            if with_body:
                self.server.fetched.append(name)
            self._send(FOLDER[name], with_body)
            return
        allowed = "secret" not in self.path or self.headers.get("Authorization") == "Bearer hf_test"
        known = self.path.startswith(("/acme/tagger/resolve/", "/acme/secret/resolve/"))
        if not (allowed and known and self.path.endswith("/model.gguf")):
            self.send_response(404 if allowed else 401)
            code = "EntryNotFound" if known and allowed else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.downloads += with_body
        self._send(self.server.content, with_body)

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def resolve(hub: Hub, tmp_path: Path, name: str, *kind: str, **environment: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, *kind],
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "AIRFLOW_MULLAMA_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    answer["log"] = done.stderr
    return answer


def test_a_model_is_fetched_once_and_then_taken_from_the_hubs_cache(hub: Hub, tmp_path: Path) -> None:
    first = resolve(hub, tmp_path, "hf://acme/tagger/model.gguf")
    assert first["sha256"] == hashlib.sha256(hub.content).hexdigest()
    assert resolve(hub, tmp_path, "hf://acme/tagger/model.gguf") == first
    assert hub.downloads == 1


def test_a_name_without_a_revision_is_told_of_once(hub: Hub, tmp_path: Path) -> None:
    log = resolve(hub, tmp_path, "hf://acme/tagger/model.gguf")["log"]
    assert log.count("names no revision, so it is whatever its owner puts there") == 1
    assert f"hf://acme/tagger@{COMMIT}/model.gguf" in log
    assert "names no revision" not in resolve(hub, tmp_path, f"hf://acme/tagger@{COMMIT}/model.gguf")["log"]


def test_offline_mode_uses_the_cache_and_else_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    missing = resolve(hub, tmp_path, "hf://acme/tagger/model.gguf", HF_HUB_OFFLINE="1")
    assert missing["error"] == "ModelUnavailableError"
    assert "fetch it once with network" in missing["message"]
    fetched = resolve(hub, tmp_path, "hf://acme/tagger/model.gguf")
    assert resolve(hub, tmp_path, "hf://acme/tagger/model.gguf", HF_HUB_OFFLINE="1") == fetched


def test_a_token_opens_a_private_model(hub: Hub, tmp_path: Path) -> None:
    refused = resolve(hub, tmp_path, "hf://acme/secret/model.gguf")
    assert refused["error"] == "ModelNotFoundError"
    assert "HF_TOKEN" in refused["message"]
    assert "sha256" in resolve(hub, tmp_path, "hf://acme/secret/model.gguf", HF_TOKEN="hf_test")


@pytest.mark.parametrize("name", ["hf://acme/tagger/other.gguf", "hf://acme/nothing/model.gguf"])
def test_what_is_not_there_is_one_sentence(hub: Hub, tmp_path: Path, name: str) -> None:
    answer = resolve(hub, tmp_path, name)
    assert answer["error"] == "ModelNotFoundError"
    assert name in answer["message"]


def test_a_name_without_a_file_is_refused(hub: Hub, tmp_path: Path) -> None:
    answer = resolve(hub, tmp_path, "hf://acme/tagger")
    assert answer["error"] == "ConfigurationError"
    assert "hf://owner/repo/file.gguf" in answer["message"]


@pytest.mark.parametrize("name", ["acme/encoder", "hf://acme/encoder@main"])
def test_a_folder_is_fetched_once_without_what_decides_nothing_and_without_pickles(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    first = resolve(hub, tmp_path, name, "folder")
    wanted = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert sorted(hub.fetched) == wanted
    assert sorted(str(path.relative_to(first["path"])) for path in Path(first["path"]).rglob("*.*")) == wanted
    assert resolve(hub, tmp_path, name, "folder") == first
    assert len(hub.fetched) == 3
    assert (f"to keep this one write {name}@{COMMIT}" in first["log"]) == ("@" not in name)
    offline = resolve(hub, tmp_path, name, "folder", HF_HUB_OFFLINE="1")
    assert offline["sha256"] == first["sha256"]


def test_a_repository_that_is_not_there_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    answer = resolve(hub, tmp_path, "acme/nothing", "folder")
    assert answer["error"] == "ModelNotFoundError"
    assert "acme/nothing" in answer["message"]
