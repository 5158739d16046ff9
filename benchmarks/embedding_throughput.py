"""Embedded rows per second: each engine against its own limit, and the engines against each other.

The limit of ``llamacpp`` is a bare xllamacpp server with the same model and threads, called with lists of ready token
ids, at the best of a few list sizes. That of ``sentence_transformers`` is the ``encode`` of sentence-transformers on
the same weights, which sorts by length, at the best of a few batch sizes; both are left out where PyTorch is not
installed (``make test-torch`` installs it, and runs the short form). Seconds of CPU count as well as seconds of the
clock, because on a shared machine only they are steady; what starting costs is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SEED = 20_261_125
LIST_SIZES = (1, 8, 32, 128)
BATCH_SIZES = (4, 8, 16, 32)
# What the short form holds, loosely: other work on the machine must not fail it.
LEAST_OF_PEER, LEAST_OF_LLAMACPP, LEAST_COSINE = 0.85, 1.7, 0.99999


def mixed_texts(rows: int) -> list[str]:
    """One to twelve tickets each: mostly short, some near the model's limit."""
    from airflow_mullama.demo.tickets import generate_tickets

    chance = random.Random(SEED)
    tickets = [ticket.text for ticket in generate_tickets(2 * rows, seed=SEED)]
    counts = [min(12, max(1, int(chance.lognormvariate(0.6, 0.9)))) for _ in range(rows)]
    return [" ".join(chance.choice(tickets) for _ in range(count)) for count in counts]


@dataclass
class Speed:
    """Rows per second of the clock and of CPU."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} rows/s, {self.cpu:.1f} rows per CPU-second"


def cpu_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


# -- in processes of their own ---------------------------------------------------------------------------------------


def bare_engine(texts: list[str], model: str, tokenizer: str, list_size: int) -> None:
    """Print the speed of bare calls, and leave without tearing the server down."""
    import xllamacpp
    from tokenizers import Tokenizer

    encodings = Tokenizer.from_file(tokenizer).encode_batch(texts)
    tokens = [encoding.ids for encoding in encodings]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.embedding = True
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.fit_params = parameters.warmup = False
    parameters.cache_ram_mib = 0
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    cpu, clock = cpu_seconds(resource.RUSAGE_SELF), time.perf_counter()
    for start in range(0, len(tokens), list_size):
        body = {"input": tokens[start : start + list_size], "encoding_format": "base64", "embd_normalize": -1}
        assert "data" in server.handle_embeddings(body)
    clock, cpu = time.perf_counter() - clock, cpu_seconds(resource.RUSAGE_SELF) - cpu
    print(json.dumps({"clock": len(texts) / clock, "cpu": len(texts) / cpu}), flush=True)
    os._exit(0)


PEER = """
import json, os, resource, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
texts, sizes = json.load(open(sys.argv[2])), json.loads(sys.argv[3])
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
def encode(texts, size):
    cpu, clock = used(), time.perf_counter()
    vectors = model.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
    clock, cpu = time.perf_counter() - clock, used() - cpu
    return {"clock": len(texts) / clock, "cpu": len(texts) / cpu}, vectors
encode(texts[:16], 4)
few = texts[: max(16, len(texts) // 4)]
tried = {size: encode(few, size)[0]["cpu"] for size in sizes}
best = max(tried, key=tried.get)
speed, vectors = encode(texts, best)
print(json.dumps({"speed": speed, "vectors": vectors.tolist(), "tried": tried, "best": best}))
"""


# -- measuring -------------------------------------------------------------------------------------------------------


class Bench:
    """The texts and models of one comparison."""

    def __init__(self, folder: Path, rows: int, model: Path, tokenizer: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.texts = mixed_texts(rows)
        (folder / "texts.json").write_text(json.dumps(self.texts))
        pq.write_table(pa.table({"text": self.texts}), folder / "all.parquet")

    def bare(self, list_size: int, rows: int | None = None) -> Speed:
        command = [sys.executable, __file__, "--bare", str(list_size), "--rows", str(rows or len(self.texts))]
        command += ["--files", str(self.folder / "texts.json"), str(self.model), str(self.tokenizer)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the worker has it
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return Speed(**json.loads(done.stdout.splitlines()[-1]))

    def best_list_size(self) -> int:
        """Of bare calls, on a part of the texts."""
        rows = max(1, len(self.texts) // 4)
        speeds = {size: self.bare(size, rows) for size in LIST_SIZES}
        print("bare, by list size: " + "; ".join(f"{size}: {speed.cpu:.1f}" for size, speed in speeds.items()))
        return max(speeds, key=lambda size: speeds[size].cpu)

    def ours(self, engine: str) -> Speed:
        """A whole run; its CPU is that of both processes from when the engine is ready."""
        from airflow_mullama import EmbedJob, run_partition

        options: dict[str, object] = {"n_threads": 1}
        if engine == "llamacpp":
            model = str(self.model)
            options["tokenizer"] = str(self.tokenizer)
        else:
            model = str(weights_folder())
            options["device"] = "cpu"
        ready = WhenReady()
        job = EmbedJob(
            model=model,
            engine=engine,
            text_column="text",
            truncate="end",
            if_exists="overwrite",
            engine_options=options,
        )
        manifest = run_partition(
            job, self.folder / "all.parquet", self.folder / f"{engine}-out.parquet", listeners=[ready]
        )
        used = sum(map(cpu_seconds, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))) - ready.cpu
        return Speed(manifest.rows_per_second, len(self.texts) / used)

    def vectors(self, engine: str) -> object:
        import numpy as np
        import pyarrow.parquet as pq

        return np.stack(pq.read_table(self.folder / f"{engine}-out.parquet")["embedding"].to_numpy())

    def peer(self) -> tuple[Speed, object, str]:
        """Its speed at the best batch size, its vectors, and what it was at others."""
        import numpy as np

        command = [sys.executable, "-c", PEER, str(weights_folder()), str(self.folder / "texts.json")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, json.dumps(BATCH_SIZES)], check=True, capture_output=True, text=True, env=environment
        )
        answer = json.loads(done.stdout.splitlines()[-1])
        tried = "; ".join(f"{size}: {speed:.1f}" for size, speed in answer["tried"].items())
        return Speed(**answer["speed"]), np.array(answer["vectors"]), f"{answer['best']} (of {tried})"


class WhenReady:
    """Takes note of the CPU seconds that were used until the engine was ready, by this process and its children."""

    def __init__(self) -> None:
        self.cpu = 0.0

    def announce(self, message: str) -> None:
        import psutil

        if " is ready after " not in message:
            return
        running = [sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True)]
        self.cpu = sum(map(cpu_seconds, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))) + sum(running)

    def progress(self, snapshot: object) -> None:
        pass

    def advance(self, snapshot: object) -> None:
        pass


def weights_folder() -> Path:
    from airflow_mullama.models.minilm import packaged_folder

    return packaged_folder()


def quantized(source: Path, target: Path) -> Path:
    """The same model with its matrices in Q8_0."""
    import gguf
    import numpy as np

    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "bert")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:])
    for tensor in reader.tensors:
        values = np.array(tensor.data, np.float32)
        if len(tensor.shape) > 1 and (tensor.name.startswith("blk.") or tensor.name == "token_embd.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def median(speeds: list[Speed]) -> Speed:
    import statistics

    return Speed(statistics.median(one.clock for one in speeds), statistics.median(one.cpu for one in speeds))


def compare_llamacpp(bench: Bench, name: str, rounds: int) -> Speed:
    """With the bare engine; returns our own speed."""
    size = bench.best_list_size()
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(bench.bare(size))
        ours.append(bench.ours("llamacpp"))
    limit, own = median(bare), median(ours)
    print(f"llamacpp, {name}: bare engine, lists of {size}: {limit}")
    print(f"llamacpp, {name}: airflow-mullama: {own}")
    print(
        f"llamacpp, {name}: airflow-mullama / bare engine = {own.cpu / limit.cpu:.2f} by CPU, "
        f"{own.clock / limit.clock:.2f} by clock"
    )
    return own


def compare_sentence_transformers(bench: Bench, rounds: int, llamacpp: Speed) -> list[str]:
    """With sentence-transformers itself, and with what ``llamacpp`` does; returns what is worse than it should be."""
    import numpy as np

    peers, ours, cosines = [], [], []
    for _ in range(rounds):
        speed, vectors, best = bench.peer()
        peers.append(speed)
        print(f"sentence-transformers: encode, sorted, best batch size {best}: {speed}")
        ours.append(bench.ours("sentence_transformers"))
        cosines.append(float(np.einsum("ij,ij->i", bench.vectors("sentence_transformers"), vectors).min()))
    peer, own, cosine = median(peers), median(ours), min(cosines)
    print(f"sentence_transformers: airflow-mullama: {own}")
    of_peer, of_llamacpp = own.cpu / peer.cpu, own.cpu / llamacpp.cpu
    print(
        f"sentence_transformers: airflow-mullama / sentence-transformers = {of_peer:.2f} by CPU, "
        f"{own.clock / peer.clock:.2f} by clock; least cosine {cosine:.6f}"
    )
    print(f"sentence_transformers: airflow-mullama / its llamacpp, F32 = {of_llamacpp:.2f} by CPU")
    checks = {
        f"rows per CPU second over sentence-transformers ({of_peer:.2f})": of_peer >= LEAST_OF_PEER,
        f"rows per CPU second over llamacpp ({of_llamacpp:.2f})": of_llamacpp >= LEAST_OF_LLAMACPP,
        f"least cosine ({cosine:.6f})": cosine >= LEAST_COSINE,
    }
    return [name for name, good in checks.items() if not good]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one round of few rows, F32 only; fails if much worse")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        texts, model, tokenizer = arguments.files
        bare_engine(json.loads(Path(texts).read_text())[: arguments.rows], model, tokenizer, arguments.bare)
    if arguments.short:
        arguments.rows, arguments.rounds = 200, 1

    from airflow_mullama.cache import cache_directory
    from airflow_mullama.engines.registry import load_spec
    from airflow_mullama.models.minilm import ensure_minilm

    minilm = ensure_minilm(cache_directory() / "models")
    worse: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, arguments.rows, minilm.gguf, minilm.tokenizer)
        own = bench.ours("llamacpp") if arguments.short else compare_llamacpp(bench, "F32", arguments.rounds)
        if not arguments.short:
            smaller = Bench(folder, arguments.rows, quantized(minilm.gguf, folder / "q8_0.gguf"), minilm.tokenizer)
            compare_llamacpp(smaller, "Q8_0", arguments.rounds)
        if load_spec("sentence_transformers").available:
            worse = compare_sentence_transformers(bench, arguments.rounds, own)
        else:
            print("sentence-transformers is not installed (make test-torch installs it), so that it is not compared")
    if arguments.short and worse:
        sys.exit("Worse than it should be: " + "; ".join(worse) + ".")


if __name__ == "__main__":
    main()
