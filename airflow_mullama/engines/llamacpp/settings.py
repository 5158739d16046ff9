"""What the engine ``llamacpp`` is started with: the user's options, and sound values for what they leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mullama.arguments import Check, OfType, OneOf, Whole
from airflow_mullama.engines.base import ROWS_PER_WORKER, EngineSettings
from airflow_mullama.engines.llamacpp.memory import Memory, is_gpu, kv_bytes_per_token
from airflow_mullama.engines.model_checks import row_context
from airflow_mullama.engines.resources import usable_cores
from airflow_mullama.errors import GpuNotAvailableError
from airflow_mullama.models.gguf_header import GgufHeader

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")

# Ranges outside of which llama.cpp aborts, hangs or swaps the machine, as measured.
CHECKS: Mapping[str, Check] = {
    "n_ctx": Whole(32, 1_048_576),
    "n_batch": Whole(32, 65_536),
    "n_ubatch": Whole(32, 65_536),
    "n_parallel": Whole(1, 256),
    "n_gpu_layers": Whole(-1, 10_000),
    "n_threads": Whole(1, 1024),
    "main_gpu": Whole(0, 63),
    "flash_attn": OneOf((True, False)),
    "cache_type_k": OneOf(KV_TYPES),
    "cache_type_v": OneOf(KV_TYPES),
    "tokenizer": OfType(str, "the path of a tokenizer.json"),
}
# The others decide speed and memory, and an answer only between near ties (docs/jobs.md). A tokenizer counts with the
# model, by its content.
OUTPUT_OPTIONS = frozenset({"n_ctx", "cache_type_k", "cache_type_v"})

DEFAULT_N_CTX = 4096
DEFAULT_N_PARALLEL = 16
# A GPU evaluates the tokens of many rows in the time of one's: memory decides how many, up to here. Argued, from
# llama.cpp's own figures for large batches; benchmarks/gpu measures what it reaches of the best.
DEFAULT_N_PARALLEL_ON_GPU = 128
DEFAULT_N_BATCH = 2048
DEFAULT_N_UBATCH = 512
EMBED_ROWS_PER_CALL = 128
EMBED_CALLS = 2  # while one call's vectors are unpacked, the engine has the other's texts
EMBED_SLOTS_ON_GPU = 16
# Tokens evaluated in one step of an encoder: enough short texts together to fill a GPU. Argued likewise.
EMBED_N_UBATCH_ON_GPU = 4096
# Tokens of one embedding call: a second or two of a CPU core, so that progress is seen and a stop loses little.
EMBED_TOKENS_PER_CALL = 2048
EMBED_TOKENS_PER_CALL_ON_GPU = 32_768
POOLING_LAST = 3


@dataclass(frozen=True)
class ServerSettings:
    """llama.cpp's settings, all decided.

    Args:
        n_ctx: tokens of one row.
        slot_tokens: what the server gets for it, times ``n_parallel``.
        in_pieces: whether a text to embed may be evaluated in several pieces.
        calls: threads that call the server at once.
        rows_per_call: rows each call brings at most.
        tokens_per_call: tokens that the rows of one call have together at most.
        words: the settings in one line, with the reasons of those that were chosen here.
        notes: warnings for the task's log.
    """

    n_ctx: int
    slot_tokens: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    n_threads: int
    in_pieces: bool
    calls: int
    rows_per_call: int
    tokens_per_call: int | None
    words: str
    notes: tuple[str, ...]


def choose_settings(
    settings: EngineSettings, header: GgufHeader, devices: Sequence[Mapping[str, Any]], model_bytes: int = 0
) -> ServerSettings:
    """Decide every setting. What may change an outcome never depends on the machine.

    Args:
        settings: their options win.
        header: of the model.
        devices: as ``xllamacpp.get_device_info()`` lists them.
        model_bytes: size of the model's files.

    Raises:
        GpuNotAvailableError: ``require_gpu``, and the engine sees none.
    """
    options = settings.options
    notes: list[str] = []
    gpus = [device for device in devices if is_gpu(device)]
    n_gpu_layers = _gpu_layers(settings, gpus, notes)
    on_gpu = bool(gpus and n_gpu_layers)
    n_ctx = _row_context(settings, header, notes)
    n_threads, threads_reason = _threads(options, settings.workers)
    if settings.task == "embed":
        n_parallel, slots_reason = _slots_of_embedding(settings, on_gpu)
        n_ubatch = _ubatch_of_embedding(settings, header, n_ctx, on_gpu)
        n_batch = max(options.get("n_batch") or 0, n_ubatch)
        calls, rows_per_call = EMBED_CALLS, max(EMBED_ROWS_PER_CALL, n_parallel)
        if settings.one_at_a_time:
            calls = rows_per_call = 1
    else:
        # Each worker sees only its own GPU.
        memory = Memory.of(devices, n_gpu_layers, header, model_bytes, 1 if on_gpu else settings.workers)
        n_parallel, slots_reason = _slots_of_generation(settings, header, n_ctx, memory, notes, n_gpu_layers)
        n_batch = options.get("n_batch") or DEFAULT_N_BATCH
        n_ubatch = min(options.get("n_ubatch") or DEFAULT_N_UBATCH, n_batch)
        calls, rows_per_call = n_parallel, 1
    return ServerSettings(
        n_ctx=n_ctx,
        slot_tokens=_slot_tokens(settings, header, n_ctx),
        n_parallel=n_parallel,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_gpu_layers=n_gpu_layers,
        n_threads=n_threads,
        in_pieces=_reads_in_pieces(settings, header),
        calls=calls,
        rows_per_call=rows_per_call,
        tokens_per_call=_tokens_per_call(settings, on_gpu),
        words=(
            f"n_parallel {n_parallel}{slots_reason}, n_ctx {n_ctx}{_context_reason(options, header)}, "
            f"n_threads {n_threads}{threads_reason}, n_batch {n_batch}, n_ubatch {n_ubatch}"
        ),
        notes=tuple(notes),
    )


def most_context_tokens(settings: EngineSettings, header: GgufHeader) -> int:
    """The largest context that :func:`choose_settings` gives all rows together, on whatever machine."""
    slots = settings.options.get("n_parallel") or max(DEFAULT_N_PARALLEL, EMBED_SLOTS_ON_GPU)
    return int(slots) * _row_context(settings, header, [])


def _row_context(settings: EngineSettings, header: GgufHeader, notes: list[str]) -> int:
    # An encoder's context costs memory only while a text that long is computed: no text is refused needlessly. A
    # decoder's is reserved for every slot.
    default = (header.context_length or DEFAULT_N_CTX) if header.is_encoder else DEFAULT_N_CTX
    asked = settings.options.get("n_ctx")
    return row_context(None if asked is None else int(asked), header, default, notes)


def _slot_tokens(settings: EngineSettings, header: GgufHeader, n_ctx: int) -> int:
    """A text that is embedded in pieces leaves one place of its slot free: it gets one more, where the model has it."""
    if settings.task == "generate" or not _reads_in_pieces(settings, header):
        return n_ctx
    return min(n_ctx + 1, header.context_length or n_ctx + 1)


def _context_reason(options: Mapping[str, Any], header: GgufHeader) -> str:
    if options.get("n_ctx"):
        return ""
    trained = header.context_length
    return " (the model's)" if trained and (header.is_encoder or trained <= DEFAULT_N_CTX) else f" (of {trained})"


def _rows_per_worker(rows: int, workers: int) -> int:
    """Only as many workers are started as have their share of rows."""
    started = min(workers, max(1, -(-rows // ROWS_PER_WORKER)))
    return max(1, -(-rows // started))


def _threads(options: Mapping[str, Any], workers: int) -> tuple[int, str]:
    if asked := options.get("n_threads"):
        return int(asked), ""
    # One core is left to everything else: llama.cpp's threads wait for each other by spinning, and where one of them
    # has to share its core, all are slow (measured on two busy cores: 398 rows/s with one thread, 8 to 63 with two).
    cores = usable_cores()
    threads = max(1, (cores - 1) // workers)
    shared = f" shared by {workers} workers" if workers > 1 else ""
    return threads, f" ({cores} cores{shared}{', one left free' if cores > 1 else ''})"


def _slots_of_embedding(settings: EngineSettings, on_gpu: bool) -> tuple[int, str]:
    if settings.one_at_a_time:
        return 1, " (each text alone)"
    if asked := settings.options.get("n_parallel"):
        return int(asked), ""
    # On a CPU one slot is as fast as many and gives the same numbers whoever shares the batch.
    return (EMBED_SLOTS_ON_GPU, " (on a GPU)") if on_gpu else (1, " (more gain nothing on a CPU)")


def _ubatch_of_embedding(settings: EngineSettings, header: GgufHeader, n_ctx: int, on_gpu: bool) -> int:
    usual = EMBED_N_UBATCH_ON_GPU if on_gpu and header.is_encoder else DEFAULT_N_UBATCH
    n_ubatch = int(settings.options.get("n_ubatch") or usual)
    return n_ubatch if _reads_in_pieces(settings, header) else max(n_ubatch, n_ctx)


def _reads_in_pieces(settings: EngineSettings, header: GgufHeader) -> bool:
    """Whether llama.cpp takes a text in several pieces: to embed, only where the vector is the last token's."""
    if settings.task == "generate":
        return True
    pooling = settings.settings.get("pooling") or header.pooling_type
    return not header.is_encoder and pooling in ("last", POOLING_LAST)


def _tokens_per_call(settings: EngineSettings, on_gpu: bool) -> int | None:
    if settings.task != "embed":
        return None
    return EMBED_TOKENS_PER_CALL_ON_GPU if on_gpu else EMBED_TOKENS_PER_CALL


def _slots_of_generation(
    settings: EngineSettings, header: GgufHeader, n_ctx: int, memory: Memory, notes: list[str], n_gpu_layers: int
) -> tuple[int, str]:
    asked = settings.options.get("n_parallel")
    # Layers that stay on the CPU set the pace. Where nobody knows how much memory there is, nothing is risked.
    whole = n_gpu_layers < 0 or 0 < int(header.of_architecture("block_count") or 0) <= n_gpu_layers
    most = DEFAULT_N_PARALLEL_ON_GPU if whole and memory.for_context is not None else DEFAULT_N_PARALLEL
    slot_bytes = kv_bytes_per_token(header, settings.options) * n_ctx
    # Slots beyond the rows would only take memory.
    rows = most if settings.rows is None else _rows_per_worker(settings.rows, settings.workers)
    wanted = int(asked or min(most, rows))
    few = f" (for {settings.rows} rows)" if not asked and wanted < most else ""
    if memory.for_context is None or not slot_bytes:
        return wanted, few
    fitting = memory.for_context // slot_bytes
    slots = wanted if asked else int(max(1, min(wanted, fitting)))
    sizes = (
        f"each row's {n_ctx} tokens of context take {slot_bytes / 1e6:,.0f} MB, and {memory.free / 1e9:.1f} GB are "
        f"free for them and {memory.weights / 1e9:.1f} GB of weights"
    )
    if slots > fitting:
        notes.append(f"memory may not suffice for n_parallel {slots}: {sizes}; a smaller n_ctx needs less")
    elif slots < min(wanted, DEFAULT_N_PARALLEL):
        notes.append(f"n_parallel is {slots} instead of {wanted}: {sizes}; a smaller n_ctx allows more")
    elif few:
        return slots, few
    return slots, f" ({slots * slot_bytes / 1e9:.1f} of {memory.free / 1e9:.1f} GB free)"


def devices_words(devices: Sequence[Mapping[str, Any]], n_gpu_layers: int) -> tuple[str, ...]:
    """What it computes on, for people."""
    gpus = [device for device in devices if is_gpu(device)]
    chosen = gpus if gpus and n_gpu_layers else [device for device in devices if not is_gpu(device)]
    return tuple(f"{device.get('name')}: {device.get('description')}" for device in chosen)


def _gpu_layers(settings: EngineSettings, gpus: Sequence[Mapping[str, Any]], notes: list[str]) -> int:
    asked = settings.options.get("n_gpu_layers")
    if gpus:
        return -1 if asked is None else int(asked)
    sentence = (
        "xllamacpp sees no GPU here: its wheel on the package index computes on the CPU only; install the wheel for "
        "your GPU (README, 'GPU wheels'), or set n_gpu_layers to 0 to compute on the CPU on purpose"
    )
    if settings.require_gpu:
        raise GpuNotAvailableError(f"require_gpu=True, and {sentence} (and leave require_gpu out).")
    if asked:
        notes.append(f"n_gpu_layers is {asked}, and {sentence}")
    return 0
