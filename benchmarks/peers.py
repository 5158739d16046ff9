"""The same rows through the same llama.cpp server: this package's engine `openai`, and what users would pick instead.

The peers are the openai client (threads, or asyncio), Daft's `prompt` and Ray Data's HTTP processor, with as many
requests in flight, each in a process of its own that reads Parquet and writes Parquet. `make peers` installs and runs
them; what is not installed is named and not measured. A client runs a few rows, all of them, and the few again. What
all take longer than the second few is the cost of the rows, and the first few are the cost of a start. CPU seconds are
the client's own, of all its processes, without the server's; on a shared machine they say more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from _clients import CLIENTS, NO_TELEMETRY, OURS, Client, Work, command
from _llama_server import MODEL_NAME, LlamaServer, llama_server
from _process_tree import Reading, readings
from _tickets import ticket_texts

from airflow_mullama.demo.tickets import PROMPT_TEMPLATE
from airflow_mullama.models.resolve import resolve_model

FEW_ROWS = 32
LIMIT_SECONDS = 600.0
HEADER = (
    "client",
    "own CPU a row, ms",
    "of ours",
    "wall a row, ms",
    "of ours",
    "start: wall, CPU, s",
    "server's CPU a row, ms",
    "answers unlike ours",
)


@dataclass(frozen=True)
class Measured:
    """One client, once.

    Attributes:
        client: its name.
        repetition: from 0 on.
        start: seconds from nothing to the first rows written, and of its end.
        row: seconds of one row.
        responses: in the order of the rows.
    """

    client: str
    repetition: int
    start: Reading
    row: Reading
    responses: Sequence[str | None]


def not_measured(clients: Mapping[str, Client]) -> Iterator[str]:
    """What to say of the clients that are not installed."""
    for name, client in clients.items():
        if client.missing:
            yield f"{name}: not measured, it is not installed ({client.install}; all of them: make peers)"


def measure(name: str, repetition: int, texts: Sequence[str], server: LlamaServer, in_flight: int) -> Measured:
    """
    Raises:
        RuntimeError: the client fails, or does not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        works = []
        for part, rows in (("few", FEW_ROWS), ("all", len(texts)), ("few-again", FEW_ROWS)):
            source = f"{folder}/{part}.parquet"
            pq.write_table(pa.table({"id": range(rows), "text": texts[:rows]}), source)
            target = f"{folder}/{part}-out.parquet"
            works.append(Work(source, target, server.url, MODEL_NAME, PROMPT_TEMPLATE, in_flight))
        environment = {**os.environ, **NO_TELEMETRY}
        log = Path(folder, "log")
        first, all_rows, again, end = readings(command(name, works), environment, log, server.process, LIMIT_SECONDS)
        answered = pq.read_table(works[1].target, columns=["id", "response"], partitioning=None).sort_by("id")
    more, rows = (all_rows - first) - (again - all_rows), len(texts) - FEW_ROWS
    row = Reading(more.wall / rows, more.cpu / rows, more.beside / rows)
    ended = end - again
    start = Reading(first.wall + ended.wall, first.cpu + ended.cpu, first.beside + ended.beside)
    return Measured(name, repetition, start, row, answered["response"].to_pylist())


def compare(
    names: Sequence[str], texts: Sequence[str], server: LlamaServer, in_flight: int, repetitions: int
) -> Iterator[Measured]:
    """Every client in turn, every second time in the opposite order; a peer that fails is told of and left out."""
    for repetition in range(repetitions):
        for name in names if repetition % 2 == 0 else names[::-1]:
            try:
                yield measure(name, repetition, texts, server, in_flight)
            except RuntimeError as error:
                if name == OURS:
                    raise
                print(f"{name}, run {repetition + 1}: {error}")


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratio(its: float, ours: float) -> float:
    """Of two costs; of a few rows, ours may be too little to be measured."""
    return its / ours if ours > 0 else math.nan


def rows_of_table(measured: Sequence[Measured]) -> Iterator[Sequence[str]]:
    """The cells; a ratio is taken within each repetition."""
    ours = {one.repetition: one for one in measured if one.client == OURS}
    for name, client in CLIENTS.items():
        its = [one for one in measured if one.client == name]
        if not its:
            continue
        beside_ours = [(one, ours[one.repetition]) for one in its]
        unlike = sum(a != b for one in its for a, b in zip(one.responses, ours[0].responses, strict=True))
        starts = (statistics.median(one.start.wall for one in its), statistics.median(one.start.cpu for one in its))
        yield (
            client.title,
            spread([1e3 * one.row.cpu for one in its], 2),
            spread([ratio(one.row.cpu, of_ours.row.cpu) for one, of_ours in beside_ours], 2),
            spread([1e3 * one.row.wall for one in its], 1),
            spread([ratio(one.row.wall, of_ours.row.wall) for one, of_ours in beside_ours], 2),
            f"{starts[0]:.1f}, {starts[1]:.1f}",
            spread([1e3 * one.row.beside for one in its], 1),
            f"{unlike} of {sum(len(one.responses) for one in its)}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", action="append", choices=sorted(CLIENTS), help="these clients (repeatable)")
    parser.add_argument("--json", type=Path, help="write every run's figures to this file")
    arguments = parser.parse_args()
    if arguments.rows <= FEW_ROWS:
        parser.error(f"--rows must be more than {FEW_ROWS}")
    clients = {name: CLIENTS[name] for name in CLIENTS if name in (arguments.only or CLIENTS)}
    for line in not_measured(clients):
        print(line)
    names = [name for name, client in clients.items() if not client.missing]
    if names == [OURS] and not arguments.only:
        return
    if OURS not in names:
        names.insert(0, OURS)
    texts = ticket_texts(arguments.rows)
    with llama_server(resolve_model("demo:ticket-tagger").path, arguments.in_flight) as server:
        measured = list(compare(names, texts, server, arguments.in_flight, arguments.repetitions))
    print(
        f"{arguments.rows} rows, {arguments.in_flight} in flight, {arguments.repetitions} runs of each: "
        "the median (least–most)"
    )
    for cells in (HEADER, ["---"] * len(HEADER), *rows_of_table(measured)):
        print(f"| {' | '.join(cells)} |")
    if arguments.json:
        figures = [{**asdict(one), "responses": len(one.responses)} for one in measured]
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
