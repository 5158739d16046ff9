from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.llamacpp import memory as llamacpp_memory
from airflow_mullama.engines.llamacpp import settings as llamacpp_settings
from airflow_mullama.engines.llamacpp.settings import ServerSettings, choose_settings
from airflow_mullama.models.gguf_header import GgufHeader

GB = 1_000_000_000
CPU = {"name": "CPU", "type": "GGML_BACKEND_DEVICE_TYPE_CPU", "memory_free": 500 * GB}
# 8B: a token's context takes 32 layers * 8 heads * 128 numbers * 2 * 2 bytes = 131 kB, 4096 of them 537 MB.
DECODER = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.embedding_length": 4096,
    "llama.context_length": 131_072,
}
ENCODER = {
    "general.architecture": "bert",
    "bert.context_length": 8192,
    "bert.attention.causal": False,
    "bert.pooling_type": 1,
    "bert.block_count": 6,
    "bert.embedding_length": 384,
}


def gpu(free_gb: float) -> dict[str, Any]:
    return {"name": "CUDA0", "type": "GGML_BACKEND_DEVICE_TYPE_GPU", "memory_free": int(free_gb * GB)}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 cores and 16 GB free, whatever machine this is."""
    monkeypatch.setattr(llamacpp_settings, "usable_cores", lambda: 8)
    monkeypatch.setattr(llamacpp_memory, "free_memory", lambda: 16 * GB)


def choose(
    metadata: dict[str, Any],
    *devices: dict[str, Any],
    task: Any = "generate",
    model_gb: float = 5,
    rows: int | None = None,
    workers: int = 1,
    **options: Any,
) -> ServerSettings:
    settings = EngineSettings(task=task, model="m.gguf", options=options, settings={}, rows=rows, workers=workers)
    return choose_settings(settings, GgufHeader(metadata), devices or (CPU,), int(model_gb * GB))


def test_slots_are_those_whose_context_fits_beside_the_weights() -> None:
    roomy = choose(DECODER, CPU, gpu(24))
    assert roomy.n_parallel == 28  # (24 * 0.85 - 5) / 0.537
    assert roomy.notes == ()
    assert choose(DECODER, CPU, gpu(141)).n_parallel == 128
    tight = choose(DECODER, CPU, gpu(12))
    assert tight.n_parallel == 9  # (12 * 0.85 - 5) / 0.537
    assert "n_parallel is 9 instead of 128" in tight.notes[0]
    assert choose(DECODER, CPU, gpu(5)).n_parallel == 1


def test_two_gpus_share_the_layers() -> None:
    assert choose(DECODER, CPU, gpu(6), gpu(6)).n_parallel == 9


def test_on_a_cpu_what_the_machine_has_left_counts_and_not_what_llama_cpp_reports() -> None:
    assert choose(DECODER, model_gb=5).n_parallel == 16
    assert choose(DECODER, model_gb=12).n_parallel == 2  # (16 * 0.85 - 12) / 0.537


def test_a_smaller_cache_type_gives_more_slots_and_a_larger_context_fewer() -> None:
    assert choose(DECODER, CPU, gpu(12), cache_type_k="q8_0", cache_type_v="q8_0").n_parallel == 18
    assert choose(DECODER, CPU, gpu(24), n_ctx=32_768).n_parallel == 3


def test_layers_that_stay_on_the_cpu_take_memory_there() -> None:
    assert choose(DECODER, CPU, gpu(6), n_gpu_layers=8).n_parallel == 16
    # Half of everything must fit into 4 GB of GPU: 2 * 4 * 0.85 - 5 GB are left for context.
    assert choose(DECODER, CPU, gpu(4), n_gpu_layers=16).n_parallel == 3


def test_what_the_user_says_wins_with_a_warning_where_it_cannot_fit() -> None:
    chosen = choose(DECODER, CPU, gpu(12), n_parallel=32, n_threads=3, n_batch=512)
    assert (chosen.n_parallel, chosen.n_threads, chosen.n_batch, chosen.n_ubatch) == (32, 3, 512, 512)
    assert "memory may not suffice for n_parallel 32" in chosen.notes[0]


def test_the_context_of_a_row_never_depends_on_the_machine() -> None:
    assert {choose(DECODER, CPU, gpu(size)).n_ctx for size in (5, 12, 80)} == {4096}


def test_a_model_whose_header_says_nothing_gets_the_default() -> None:
    assert choose({"general.architecture": "unheard-of"}).n_parallel == 16


def test_workers_share_cores_and_the_memory_of_a_cpu() -> None:
    chosen = choose(DECODER, workers=2)
    assert chosen.n_threads == 3
    assert chosen.n_parallel == 3  # (8 * 0.85 - 5) / 0.537
    assert choose(DECODER, CPU, gpu(24), workers=2).n_parallel == 28


def test_there_are_no_more_slots_than_rows() -> None:
    assert choose(DECODER, CPU, gpu(24), rows=3).n_parallel == 3
    assert choose(DECODER, CPU, gpu(24), rows=0).n_parallel == 1
    assert choose(DECODER, CPU, gpu(24), rows=1_000_000).n_parallel == 28
    assert choose(DECODER, CPU, gpu(24), rows=20, workers=2).n_parallel == 10
    assert choose(DECODER, CPU, gpu(24), rows=9, workers=2).n_parallel == 9  # only one of them is started
    assert choose(DECODER, CPU, gpu(24), rows=3, n_parallel=8).n_parallel == 8
    assert "n_parallel is 1 instead of 3" in choose(DECODER, CPU, gpu(7), rows=3).notes[0]
    assert choose(DECODER, CPU, gpu(24), rows=3).words.startswith("n_parallel 3 (for 3 rows), ")
    assert choose(DECODER, CPU, gpu(24), rows=3).notes == ()


def test_an_encoder_reads_all_its_positions_at_once() -> None:
    chosen = choose(ENCODER, task="embed")
    assert (chosen.n_ctx, chosen.n_batch, chosen.n_ubatch, chosen.n_parallel) == (8192, 8192, 8192, 1)
    assert choose(ENCODER, task="embed", n_ctx=100_000).n_ctx == 8192
    assert choose(ENCODER, task="embed", n_ctx=256).n_ubatch == 512


def test_a_decoder_that_takes_the_last_tokens_vector_reads_in_pieces() -> None:
    last = {**DECODER, "llama.pooling_type": 3}
    assert choose(last, task="embed", n_ctx=16_384).n_ubatch == 512
    assert choose({**last, "llama.pooling_type": 1}, task="embed", n_ctx=16_384).n_ubatch == 16_384


def test_one_line_says_what_was_chosen_and_why() -> None:
    assert choose(DECODER).words == (
        "n_parallel 16 (8.6 of 16.0 GB free), n_ctx 4096 (of 131072), n_threads 7 (8 cores, one left free), "
        "n_batch 2048, n_ubatch 512"
    )
    assert choose(ENCODER, task="embed").words == (
        "n_parallel 1 (more gain nothing on a CPU), n_ctx 8192 (the model's), n_threads 7 (8 cores, one left free), "
        "n_batch 8192, n_ubatch 8192"
    )
    assert choose(DECODER, n_parallel=4, n_ctx=512, n_threads=2).words.startswith(
        "n_parallel 4 (0.3 of 16.0 GB free), n_ctx 512, n_threads 2, "
    )


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_a_context_beyond_what_the_model_was_made_for_is_cut_and_named(task: Any) -> None:
    for metadata, trained in ((DECODER, 131_072), (ENCODER, 8192)):
        if task == "generate" and metadata is ENCODER:
            continue
        chosen = choose(metadata, task=task, n_ctx=1_000_000, n_parallel=1)
        assert chosen.n_ctx == trained
        assert f"n_ctx {trained}" in chosen.words
        assert chosen.notes[0] == (
            f"n_ctx is 1000000, and the model was made for {trained} tokens: a row may use {trained}"
        )


def test_a_text_that_is_embedded_in_pieces_has_a_free_place_in_its_slot_where_the_model_has_one() -> None:
    last = {**DECODER, "llama.pooling_type": 3}
    assert choose(last, task="embed", n_ctx=1000).slot_tokens == 1001
    assert choose({**last, "llama.context_length": 1000}, task="embed", n_ctx=1000).slot_tokens == 1000
    assert choose(ENCODER, task="embed", n_ctx=1000).slot_tokens == 1000
    assert choose(last, n_ctx=1000).slot_tokens == 1000


def test_one_text_at_a_time_means_one_slot_and_one_call() -> None:
    settings = EngineSettings(task="embed", model="m.gguf", options={"n_parallel": 8}, settings={}, one_at_a_time=True)
    chosen = choose_settings(settings, GgufHeader(ENCODER), (CPU,))
    assert (chosen.n_parallel, chosen.calls, chosen.rows_per_call) == (1, 1, 1)
