"""The engine ``openai`` against the real mullama daemon, where there is one: the conformance suite, and its traps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance import LONG_TEXT, TEXTS, Embeds, EngineUnderTest, Generates
from mullama_daemon import API_KEY, Daemon, running_daemon, why_no_daemon
from template_models import write_thinking_model
from tiny_gguf import write_tiny_gguf

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.models.resolve import locate_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.mullama_daemon,
    pytest.mark.usefixtures("no_worker_left"),
]


class MullamaDaemon(EngineUnderTest):
    """A daemon of its own for each class of tests. It reads no seed and holds no answer to a schema."""

    name = "openai"
    samples = False
    knows_n_ctx = False
    counts_tokens = False
    counts_tokens_of_lists = False
    no_logprobs = "the mullama daemon at .* says no probabilities"
    no_pictures = "image_columns is given, and the mullama daemon at "

    def __init__(self, model: str | None = None) -> None:
        self._located = model
        self._name = ""

    def why_not(self) -> str | None:
        return why_no_daemon()

    def set_up(self) -> AbstractContextManager[None]:
        return self._running()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            model = self._located or str(write_tiny_gguf(Path(folder, "tiny.gguf")))
            with daemon_with(model, n_ctx=self.n_ctx) as daemon:
                self._name, self.options = daemon.model, self._asking(daemon)
                yield

    @staticmethod
    def _asking(daemon: Daemon) -> dict[str, Any]:
        return {"endpoint": daemon.url, "api_key": API_KEY, "server": "mullama"}

    @contextmanager
    def thinking(self, folder: Path) -> Iterator[tuple[str, str, int]]:
        """Of a daemon beside the other, for it serves one model."""
        model, text = write_thinking_model(folder / "thinking.gguf"), "more"
        first = self.options
        with daemon_with(str(model), n_ctx=self.n_ctx) as daemon:
            self.options = self._asking(daemon)
            try:
                yield daemon.model, text, 3
            finally:
                self.options = first

    def model(self, folder: Path) -> str:
        return self._name

    def reference_vectors(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
            pq.write_table(pa.table({"text": list(texts)}), source)
            assert self._located is not None
            run_partition(EmbedJob(model=self._located, text_column="text"), source, target, listeners=[])
            return np.array(pq.read_table(target)["embedding"].to_pylist(), np.float32)


@contextmanager
def daemon_with(model: str, *, n_ctx: int = 512) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        # The daemon names a model by its file's stem.
        path = Path(shutil.copy(locate_model(model)[0], Path(folder, "served.gguf")))
        with running_daemon(path, Path(folder, "home"), n_ctx=n_ctx) as daemon:
            yield daemon


class TestMullamaDaemonGenerates(Generates):
    engine = MullamaDaemon()


class TestMullamaDaemonEmbeds(Embeds):
    engine = MullamaDaemon("demo:minilm")

    def test_bad_texts_fail_alone(self) -> None:
        """A text beyond 512 tokens ends the daemon: it is found, and costs no other row its vector."""
        answered = self.ask([TEXTS[0], LONG_TEXT, None, "a\x00b", TEXTS[1]])
        assert answered.column("error_type") == [None, "engine_crash", "null_input", "render_error", None]
        good = self.vectors(self.plain)
        np.testing.assert_allclose(answered.rows[0]["embedding"], good[0], atol=1e-4)
        np.testing.assert_allclose(answered.rows[-1]["embedding"], good[1], atol=1e-4)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.skipif(why_no_daemon() is not None, reason=str(why_no_daemon()))
class TestTemplate:
    """With the model's file, a template that is not the model's is refused; without, the log says what is not known."""

    @staticmethod
    def ask(folder: Path, daemon: Daemon, **options: Any) -> list[dict[str, Any]]:
        pq.write_table(pa.table({"text": TEXTS[:2]}), folder / "in.parquet")
        job = GenerateJob(
            model=daemon.model,
            engine="openai",
            engine_options={"endpoint": daemon.url, "api_key": API_KEY, **options},
            prompt_column="text",
            system_prompt="Be brief.",
            max_tokens=4,
            max_error_ratio=1.0,
        )
        run_partition(job, folder / "in.parquet", folder / "out.parquet", listeners=[])
        rows: list[dict[str, Any]] = pq.read_table(folder / "out.parquet").to_pylist()
        return rows

    def test_another_template_than_the_models_is_refused(self, tmp_path: Path) -> None:
        refused = pytest.raises(ConfigurationError, match="does not use the chat template of")
        with daemon_with("demo:ticket-tagger") as daemon, refused as caught:
            self.ask(tmp_path, daemon, model_file="demo:ticket-tagger")
        assert "engine='llamacpp'" in str(caught.value)
        assert not (tmp_path / "out.parquet").exists()

    @pytest.mark.parametrize("add_bos", [True, False])
    def test_the_models_own_template_is_accepted(self, tmp_path: Path, add_bos: bool) -> None:
        # Its markers are plain text to this vocabulary, as they always are to the daemon.
        model = write_tiny_gguf(tmp_path / "chatml.gguf", chat_template=CHATML, add_bos=add_bos)
        with daemon_with(str(model)) as daemon:
            rows = self.ask(tmp_path, daemon, model_file=str(model))
        assert [row["prompt_tokens"] > 0 for row in rows] == [True, True]

    def test_markers_that_are_spelled_out_are_refused(self, tmp_path: Path) -> None:
        # The daemon knows this template, and takes its markers for text.
        model = write_tiny_gguf(tmp_path / "own.gguf")
        with daemon_with(str(model)) as daemon, pytest.raises(ConfigurationError, match="spells out its markers"):
            self.ask(tmp_path, daemon, model_file=str(model))

    def test_without_the_file_the_log_says_what_is_not_known(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with daemon_with("demo:ticket-tagger") as daemon, caplog.at_level("WARNING"):
            self.ask(tmp_path, daemon)
        assert "it is not known whether it is the model's own" in caplog.text

    def test_a_model_without_a_template_wants_chat_false(self, tmp_path: Path) -> None:
        model = write_tiny_gguf(tmp_path / "none.gguf", chat_template=None)
        with daemon_with(str(model)) as daemon, pytest.raises(ConfigurationError, match="set chat=False"):
            self.ask(tmp_path, daemon, model_file=str(model))


@pytest.mark.skipif(why_no_daemon() is not None, reason=str(why_no_daemon()))
class TestAnswersForEver:
    """What the daemon calls its own failure and will always answer is the row's error after one try."""

    def test_of_rows(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a\x00b", LONG_TEXT, TEXTS[0]]}), tmp_path / "in.parquet")
        with daemon_with("demo:ticket-tagger") as daemon:
            job = GenerateJob(
                model=daemon.model,
                engine="openai",
                engine_options={"endpoint": daemon.url, "api_key": API_KEY},
                prompt_column="text",
                max_tokens=4,
                max_error_ratio=1.0,
            )
            run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
        rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert [row["error_type"] for row in rows] == ["render_error", "prompt_too_long", None]
        assert [row["attempts"] for row in rows] == [1, 1, 1]

    def test_of_a_model_without_pooling(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
        with daemon_with("demo:ticket-tagger") as daemon:
            job = EmbedJob(
                model=daemon.model,
                engine="openai",
                engine_options={"endpoint": daemon.url, "api_key": API_KEY},
                text_column="text",
            )
            with pytest.raises(ConfigurationError, match="declares no pooling"):
                run_partition(job, tmp_path / "in.parquet", tmp_path / "out.parquet", listeners=[])
