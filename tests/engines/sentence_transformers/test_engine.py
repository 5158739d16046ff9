"""The engine over PyTorch, on models of a few kilobytes; `make test-torch` has what it needs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_folder import CHARACTERS, SPECIAL, write_folder, write_plain_folder, write_static_folder

from airflow_mullama import EmbedJob, run_partition
from airflow_mullama.engines.base import Embedding, EngineLostError, EngineSettings, Outcome, Request
from airflow_mullama.engines.registry import load_spec
from airflow_mullama.errors import ConfigurationError, GpuNotAvailableError, ModelLoadError
from airflow_mullama.rows import ErrorType, RowError

if not load_spec("sentence_transformers").available:
    pytest.skip("the package sentence_transformers is not installed (make test-torch)", allow_module_level=True)

pytestmark = pytest.mark.integration

TEXTS = [
    "a parcel",
    "x",
    "an invoice, paid twice; nobody has answered for three weeks",
    "a parcel that never came",
    "b " * 200,
]
Vectors = npt.NDArray[np.float32]
Start = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    before = os.environ.get("HF_HUB_OFFLINE")
    yield
    os.environ.pop("HF_HUB_OFFLINE") if before is None else os.environ.update(HF_HUB_OFFLINE=before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def start() -> Iterator[Start]:
    from airflow_mullama.engines.sentence_transformers.engine import SentenceTransformersEngine

    engines = []

    def begin(folder: Path, options: dict[str, Any] | None = None, *, require_gpu: bool = False, **of_job: Any) -> Any:
        settings = {"pooling": None, "dimensions": None, "truncate": "error", **of_job}
        given = {"device": "cpu", "n_threads": 1, **(options or {})}
        engines.append(
            SentenceTransformersEngine(EngineSettings("embed", str(folder), given, settings, require_gpu=require_gpu))
        )
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def outcomes(engine: Any, texts: Sequence[str]) -> list[Outcome]:
    prepared = engine.prepare([Request(row, 1, text) for row, text in enumerate(texts)])
    asked = [one for one in prepared if isinstance(one, Request)]
    answers = iter(engine.run(asked) if asked else [])
    return [one if isinstance(one, RowError) else next(answers) for one in prepared]


def vectors(engine: Any, texts: Sequence[str]) -> Vectors:
    answered = outcomes(engine, texts)
    assert all(isinstance(one, Embedding) for one in answered), answered
    return np.stack([one.vector for one in answered if isinstance(one, Embedding)])


def reference(folder: Path, texts: Sequence[str], **arguments: Any) -> Vectors:
    """What sentence-transformers itself makes of them."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: Vectors = model.encode(list(texts), show_progress_bar=False, **arguments)
    return found


# -- the same vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling": "mean"},
        {"pooling": "cls"},
        {"pooling": "last", "padding_side": "left"},
        {"pooling": "max", "dense": 12},
        {"settings": {"prompts": {"query": "query: "}, "default_prompt_name": "query"}},
        {"settings": {"prompts": {"query": "query: "}, "default_prompt_name": "query"}, "include_prompt": False},
        {"settings": {"truncate_dim": 8}},
        {"max_seq_length": 512},
        {"max_seq_length": 10},
    ],
    ids=str,
)
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, start: Start, arguments: dict[str, Any]) -> None:
    folder = write_folder(tmp_path, **arguments)
    engine = start(folder, truncate="end")
    ours = vectors(engine, TEXTS)
    np.testing.assert_allclose(ours, reference(folder, TEXTS), atol=1e-5)
    assert ours.shape[1] == engine.info.dimensions
    assert engine.info.n_ctx == arguments.get("max_seq_length", 256)


def test_a_static_embedding_is_one_too(tmp_path: Path, start: Start) -> None:
    folder = write_static_folder(tmp_path)
    engine = start(folder)
    np.testing.assert_allclose(vectors(engine, TEXTS), reference(folder, TEXTS), atol=1e-6)
    assert (engine.info.n_ctx, engine.info.pads_rows) == (None, False)
    assert [one.error_type for one in outcomes(engine, ["", "a"]) if isinstance(one, RowError)] == [
        ErrorType.EMPTY_INPUT
    ]


def test_a_folder_of_transformers_alone_is_pooled_as_it_is_told(tmp_path: Path, start: Start) -> None:
    plain = write_plain_folder(tmp_path / "plain")
    for pooling in ("mean", "cls", "last"):
        told = write_folder(tmp_path / pooling, pooling=pooling)
        np.testing.assert_allclose(vectors(start(plain, pooling=pooling), TEXTS), reference(told, TEXTS), atol=1e-5)


def test_prompts_are_put_before_each_text(tmp_path: Path, start: Start) -> None:
    folder = write_folder(tmp_path, settings={"prompts": {"query": "query: ", "passage": "passage: "}})
    prompted = [f"query: {text}" for text in TEXTS[:4]]
    for options in ({"prompt": "query: "}, {"prompt_name": "query"}):
        np.testing.assert_allclose(vectors(start(folder, options), TEXTS[:4]), reference(folder, prompted), atol=1e-5)


def test_a_prompt_may_hold_no_control_token(folder: Path, start: Start) -> None:
    with pytest.raises(ConfigurationError, match=r"holds '\[MASK\]', which is a control token"):
        start(folder, {"prompt": "this means [MASK]: "})


def test_what_a_row_spells_out_is_no_control_token(folder: Path, start: Start) -> None:
    engine = start(folder)
    plain, *spelled = engine.prepare([Request(row, 1, f"a{token}b") for row, token in enumerate(["", *SPECIAL])])
    for request, token in zip(spelled, SPECIAL, strict=True):
        assert len(request.tokens) == len(plain.tokens) + len(token)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_text_that_is_too_long_fails_alone_or_is_cut(folder: Path, start: Start) -> None:
    long, huge = "ab " * 200, "a " * 2_500_000
    short, *errors = outcomes(start(folder), ["a", long, huge])
    assert isinstance(short, Embedding)
    for error, words in zip(errors, ("402 tokens and the model reads 256", "5,000,000 characters"), strict=True):
        assert isinstance(error, RowError)
        assert error.error_type is ErrorType.PROMPT_TOO_LONG
        assert words in error.message
    cutting = start(folder, truncate="end")
    short, *cut = outcomes(cutting, ["a", long, huge])
    assert [one.truncated for one in (short, *cut) if isinstance(one, Embedding)] == [False, True, True]
    assert [one.prompt_tokens for one in cut if isinstance(one, Embedding)] == [256, 256]
    np.testing.assert_allclose(cut[0].vector, reference(folder, [long])[0], atol=1e-5)


# -- what goes wrong -------------------------------------------------------------------------------------------------


def fail_if(engine: Any, condition: Callable[[Any], bool], error: Exception) -> list[tuple[int, int]]:
    """Let the model raise on some batches; returns the shapes of all that were tried."""
    shapes = []

    def before(module: Any, arguments: Any) -> None:
        ids = arguments[0]["input_ids"]
        shapes.append(tuple(ids.shape))
        if condition(ids):
            raise error

    engine._model.register_forward_pre_hook(before)
    return shapes


def test_out_of_memory_halves_the_call_and_those_to_come(folder: Path, start: Start) -> None:
    import torch

    engine = start(folder)
    before = vectors(engine, TEXTS)
    shapes = fail_if(engine, lambda ids: ids.numel() > 450, torch.OutOfMemoryError("CUDA out of memory."))
    np.testing.assert_allclose(vectors(engine, TEXTS), before, atol=1e-5)
    assert shapes[0] == (5, 202)
    assert [rows for rows, width in shapes[1:] if width == 202] == [3, 2]
    assert engine.info.tokens_per_call == 202


def test_a_text_that_never_fits_is_an_error_of_its_own(folder: Path, start: Start) -> None:
    import torch

    engine = start(folder)
    fail_if(engine, lambda ids: ids.shape[1] > 100, torch.OutOfMemoryError("CUDA out of memory."))
    answered = outcomes(engine, TEXTS)
    assert [isinstance(one, Embedding) for one in answered] == [True] * 4 + [False]
    assert "not enough memory for one text of 202 tokens" in getattr(answered[4], "message", "")


def test_a_row_that_the_model_fails_on_costs_no_other_row(folder: Path, start: Start) -> None:
    engine = start(folder)
    bad = len(SPECIAL) + CHARACTERS.index("z")
    fail_if(engine, lambda ids: bool((ids == bad).any()), RuntimeError("index out of range\n  at line 3"))
    answered = outcomes(engine, [*TEXTS[:2], "z", *TEXTS[2:]])
    error = answered.pop(2)
    assert isinstance(error, RowError)
    assert error.message == "sentence-transformers: RuntimeError: index out of range"
    assert all(isinstance(one, Embedding) for one in answered)


def test_a_gpu_that_is_lost_ends_the_worker(folder: Path, start: Start) -> None:
    engine = start(folder)
    fail_if(engine, lambda ids: True, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(EngineLostError, match="lost its GPU"):
        outcomes(engine, TEXTS)


@pytest.mark.parametrize(("options", "error"), [({"device": "cuda:7"}, ConfigurationError), ({}, GpuNotAvailableError)])
def test_a_device_that_is_not_there_is_told_of_before_the_model_is_loaded(
    folder: Path, start: Start, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        start(folder, options, require_gpu=True)


def test_a_model_with_code_of_its_own_is_not_run(tmp_path: Path, start: Start) -> None:
    folder = write_folder(
        tmp_path, model_type="strange", auto_map={"AutoConfig": "strange.Config", "AutoModel": "strange.M"}
    )
    (folder / "strange.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelLoadError, match="runs only if you read it, trust it, and set"):
        start(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path, start: Start) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack encoder\.layer\.1\.output\.dense\.bias: random numbers would"):
        start(folder)


def test_a_tokenizer_that_differs_from_the_models_own_is_noticed(folder: Path, start: Start) -> None:
    from airflow_mullama.engines.sentence_transformers.text_tokens import TextTokens

    module = start(folder)._model[0]
    assert TextTokens(module, "", truncates=False, positions=512).limit == 256
    prepare = module.preprocess
    module.preprocess = lambda texts, **more: prepare([text[::-1] for text in texts], **more)
    with pytest.raises(ModelLoadError, match="prepares texts in a way that this engine does not know"):
        TextTokens(module, "", truncates=False, positions=512)
    module.preprocess = prepare


# -- whole runs ------------------------------------------------------------------------------------------------------


def run(folder: Path, place: Path, texts: Sequence[str | None], **arguments: Any) -> tuple[list[dict[str, Any]], Any]:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), place / "in.parquet")
    options = {"n_threads": 1, "device": "cpu", **arguments.pop("options", {})}
    job = EmbedJob(model=str(folder), text_column="text", max_error_ratio=1.0, engine_options=options, **arguments)
    manifest = run_partition(job, place / "in.parquet", place / "out.parquet", listeners=[])
    return pq.read_table(place / "out.parquet").to_pylist(), manifest


def test_a_vector_of_nan_is_that_rows_error(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_folder(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][len(SPECIAL) + CHARACTERS.index("z")] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    rows, manifest = run(folder, tmp_path, [*TEXTS, "z", None])
    assert [row["error_type"] for row in rows] == [*[None] * 5, "non_finite_embedding", "null_input"]
    assert manifest.engine == "sentence_transformers"


def test_only_other_weights_and_what_decides_a_vector_compute_anew(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    texts = [f"text {number} {'a' * (number % 50)}" for number in range(200)]
    first, _ = run(folder, tmp_path, texts, chunk_rows=16)
    (folder / "README.md").write_text("# About")
    for same in ({"batch_tokens": 64}, {"n_threads": 2}):
        again, manifest = run(folder, tmp_path, texts, chunk_rows=16, options=same)
        assert again == first
        assert manifest.computed_rows == 0
    _, manifest = run(folder, tmp_path, texts, chunk_rows=16, options={"prompt": "query: "})
    assert manifest.computed_rows == 200
    write_folder(tmp_path / "m", seed=1)
    other, manifest = run(folder, tmp_path, texts, chunk_rows=16)
    assert manifest.computed_rows == 200
    assert other[0]["embedding"] != first[0]["embedding"]


@pytest.mark.parametrize(("backend", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_export_gives_nearly_the_same_vectors(tmp_path: Path, backend: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    folder = write_folder(tmp_path / "m")
    rows, _ = run(folder, tmp_path, TEXTS, options={"backend": backend})
    expected = reference(folder, TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=5e-3)
