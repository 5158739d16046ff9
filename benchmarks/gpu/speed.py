"""How fast it is: each figure against a limit or a peer in the same run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from bench import TOKENS_OUT, Bench, Figure, Parts, prompts

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 40}}, "required": ["a"]}


def generation(bench: Bench) -> Parts:
    """Rows per second against the bare engine with the same slots; the task's own CPU for a row beside it."""
    for shape in bench.shapes:
        for slots in bench.slots:
            yield partial(_generation, bench, shape, slots)


def _generation(bench: Bench, shape: str, slots: int) -> Figure:
    source = bench.table("prompts", prompts(max(2 * slots, 4 if bench.dry_run else 96)))
    model = bench.model(shape)
    bare = bench.child(
        "bare_generation", texts=source, model=model, slots=slots, max_tokens=TOKENS_OUT, options=bench.options
    )
    ours = bench.generate(source, model=model, engine_options={"n_parallel": slots})
    ratio = ours["rows_per_second"] / bare["rows_per_second"]
    words = (
        f"{ours['rows_per_second']:.1f} rows/s, {ours['tokens_per_second']:.0f} tokens/s; bare "
        f"{bare['rows_per_second']:.1f} rows/s; {bare['prompt_tokens']:.0f} tokens in, {bare['completion_tokens']:.0f} "
        f"out; task {ours['task_cpu_us_per_row'] / 1000:.1f} ms CPU/row with its start"
    )
    return Figure(f"generation {shape} {slots} slots", words, ratio, 0.97, numbers={"ours": ours, "bare": bare})


def defaults(bench: Bench) -> Parts:
    """What the defaults reach of the best of a sweep."""
    for shape in bench.shapes:
        yield partial(_defaults, bench, shape)


def _defaults(bench: Bench, shape: str) -> Figure:
    rows = 6 if bench.dry_run else 512
    source, model = bench.table("sweep", prompts(rows)), bench.model(shape)
    chosen = bench.generate(source, model=model)
    sweep: list[Mapping[str, Any]] = [{"n_parallel": slots} for slots in bench.slots[1:]]
    sweep += [{"n_parallel": bench.slots[-1], "flash_attn": flash} for flash in (True, False)]
    sweep.append({"n_parallel": bench.slots[-1], "n_ubatch": 1024})
    sweep.append({"n_parallel": bench.slots[-1], "cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": True})
    tried = [
        (bench.generate(source, model=model, engine_options=options)["rows_per_second"], options) for options in sweep
    ]
    best, options = max(tried, key=lambda one: one[0])
    words = f"{chosen['rows_per_second']:.1f} rows/s; best {best:.1f} with {dict(options)}"
    return Figure(f"defaults {shape}", words, chosen["rows_per_second"] / best, 0.9, numbers={"sweep": tried})


def prefix(bench: Bench) -> Parts:
    """One shared beginning of the prompts: rows per second with it over rows of as many tokens without."""
    yield partial(_prefix, bench)


def _prefix(bench: Bench) -> Figure:
    rows, words = (6, 40) if bench.dry_run else (512, 180)
    shared = "def " + " ".join(["value"] * words) + " "
    apart = bench.generate(bench.table("apart", prompts(rows, words + 20)), max_tokens=4)
    together = bench.generate(bench.table("together", prompts(rows, 20, shared=shared)), max_tokens=4)
    ratio = together["rows_per_second"] / apart["rows_per_second"]
    text = f"{together['rows_per_second']:.1f} rows/s with a shared beginning, {apart['rows_per_second']:.1f} without"
    return Figure("shared prefix", text, ratio, 1.0, numbers={"together": together, "apart": apart})


def duplicates(bench: Bench) -> Parts:
    """Nine rows of ten ask what another asks."""
    yield partial(_duplicates, bench)


def _duplicates(bench: Bench) -> Figure:
    rows = 40 if bench.dry_run else 4000
    different = prompts(rows)
    repeated = [different[row // 10] for row in range(rows)]
    few = bench.generate(bench.table("few", different[: rows // 10]))
    many = bench.generate(bench.table("repeated", repeated))
    ratio = many["rows_per_second"] / (10 * few["rows_per_second"])
    words = f"{many['rows_per_second']:.1f} rows/s; a tenth of the rows, all different, {few['rows_per_second']:.1f}"
    return Figure("nine of ten duplicates", words, ratio, 0.8)


def constrained(bench: Bench) -> Parts:
    """Decoding held to a schema over free decoding, tokens per second."""
    yield partial(_constrained, bench)


def _constrained(bench: Bench) -> Figure:
    source = bench.table("schema", prompts(6 if bench.dry_run else 256, 60))
    free = bench.generate(source, max_tokens=24)
    held = bench.generate(source, max_tokens=24, output_schema=SCHEMA, max_error_ratio=1.0, max_retries=0)
    words = f"{held['tokens_per_second']:.0f} tokens/s held to a schema, {free['tokens_per_second']:.0f} free"
    return Figure("schema-held decoding", words, held["tokens_per_second"] / free["tokens_per_second"])


def ceiling(bench: Bench) -> Parts:
    """Where the pipeline's own ceiling lies: the echo engine, rows per second over 64,000."""
    for kind in ("generate", "embed"):
        yield partial(_ceiling, bench, kind)


def _ceiling(bench: Bench, kind: str) -> Figure:
    rows = 2000 if bench.dry_run else 1_000_000
    source = bench.table("echo", [f"ticket {row}: the parcel did not come" for row in range(rows)])
    column = "prompt_column" if kind == "generate" else "text_column"
    arguments: dict[str, Any] = {"model": "echo", column: "text", "if_exists": "overwrite"}
    if kind == "embed":
        arguments["engine_options"] = {"dimensions": 384}
    ours = bench.child("job", kind=kind, source=source, target=f"{source}.out", arguments=arguments)
    words = f"{ours['rows_per_second']:.0f} rows/s; task {ours['task_cpu_us_per_row']:.1f} us CPU/row with its start"
    return Figure(f"ceiling {kind}", words, ours["rows_per_second"] / 64_000, 1.0, numbers=ours)


# -- embedding -------------------------------------------------------------------------------------------------------


def embedding(bench: Bench) -> Parts:
    """MiniLM in half precision: llamacpp against sentence-transformers on the same texts."""
    yield partial(_embedding, bench)


def _embedding(bench: Bench) -> Figure:
    name = "embedding MiniLM f16"
    if bench.minilm is None:
        return Figure(name, "", None, skipped="MiniLM was not carried along (--minilm)")
    chance = random.Random(7)
    lengths = [int(chance.lognormvariate(3.2, 0.8)) + 3 for _ in range(200 if bench.dry_run else 60_000)]
    texts = [text for length in lengths for text in prompts(1, min(200, length))]
    source = bench.table("embed", [f"{row} {text}" for row, text in enumerate(texts)])
    arguments = {"model": str(bench.minilm / "minilm-f16.gguf"), "text_column": "text", "if_exists": "overwrite"}
    arguments["truncate"] = "end"
    ours = bench.child("job", kind="embed", source=source, target=f"{source}.out", arguments=arguments)
    device = "cpu" if bench.dry_run else "cuda"
    peers = {
        batch: bench.child(
            "bare_encode", texts=source, model=str(bench.minilm / "all-MiniLM-L6-v2"), batch=batch, device=device
        )["rows_per_second"]
        for batch in (128, 512)
    }
    batch = max(peers, key=lambda one: peers[one])
    words = f"llamacpp {ours['rows_per_second']:.0f} rows/s; sentence-transformers {peers[batch]:.0f} (batch {batch})"
    return Figure(name, words, ours["rows_per_second"] / peers[batch], numbers={"ours": ours, "peers": peers})
