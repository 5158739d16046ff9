from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.models.resolve import locate_model

sys.path.insert(0, str(Path(__file__).parent))  # for tiny_gguf and the like, with importlib import mode

from openai_server import Asked, Reply, ScriptedServer, start_llama_server
from tiny_gguf import write_tiny_gguf

pytest.register_assert_rewrite("conformance")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def held_servers() -> Iterator[list[Any]]:
    """Servers of this process that stay until its tests are over: those that hold answers to a JSON schema.

    llama.cpp keeps what llguidance knows of a vocabulary by the vocabulary's address (common/llguidance.cpp). A model
    that is loaded where an earlier one lay gets what is known of that one: wrong answers, or an assertion that ends the
    process. A worker loads one model in its life.
    """
    held: list[Any] = []
    yield held
    held.clear()


@pytest.fixture
def start_engine(tmp_path: Path, held_servers: list[Any]) -> Iterator[Callable[..., Any]]:
    """Start the engine in this process, for what only shows from inside; it is deleted when the test ends."""
    from airflow_mullama.engines.llamacpp.engine import LlamaCppEngine

    engines: list[Any] = []

    def start(
        model: Path,
        *,
        task: str = "generate",
        options: dict[str, Any] | None = None,
        row_timeout: float | None = None,
        projector: Path | None = None,
        **settings: Any,
    ) -> Any:
        folder = tmp_path / f"scratch-{len(engines)}"
        folder.mkdir(mode=0o700)
        if task == "generate":
            defaults = {"system_prompt": None, "chat": None, "max_tokens": 16, "sampling": {}}
        else:
            defaults = {
                "normalize": True,
                "pooling": None,
                "dimensions": None,
                "dtype": "float32",
                "truncate": "error",
            }
        engine = LlamaCppEngine(
            EngineSettings(
                task=task,  # type: ignore[arg-type]
                model=str(model),
                options={"n_parallel": 2, "n_threads": 1, **(options or {})},
                settings={**defaults, **settings},
                row_timeout=row_timeout,
                projector=None if projector is None else str(projector),
                scratch=str(folder),
            )
        )
        engines.append(engine)
        if settings.get("output_schema") is not None:
            held_servers.append(engine._server)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def scripted_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a server that answers as the given function says; what that leaves to it, it answers soundly."""
    servers: list[ScriptedServer] = []

    def start(answer: Callable[[Asked], Reply | None] = lambda asked: None) -> ScriptedServer:
        servers.append(ScriptedServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def tagger_server() -> Iterator[str]:
    """The address of a llama.cpp server that has the demo's tagger as ``tagger``."""
    server = start_llama_server(locate_model("demo:ticket-tagger")[0], name="tagger")
    yield server.listening_address
    del server


@pytest.fixture(scope="session")
def embedding_server(tiny_model: Path) -> Iterator[str]:
    """The address of a llama.cpp server that embeds with the tiny model as ``tiny``; its key is ``sekret``."""
    server = start_llama_server(tiny_model, name="tiny", embedding=True, api_key="sekret")
    yield server.listening_address
    del server
