"""Reads a Parquet file over and over, until its standard input ends; then says what it saw, as JSON.

Every version of the file is whole: ``rows`` rows, all of one round, each answered with its own text.
"""

from __future__ import annotations

import json
import sys
import threading

import pyarrow.parquet as pq


def main() -> None:
    path, rows = sys.argv[1], int(sys.argv[2])
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    reads, rounds, wrong = 0, set(), []
    while not ended.is_set() and not wrong:
        try:
            with open(path, "rb") as file:  # once: one footer and the data that belong to it
                table = pq.ParquetFile(file).read()
        except FileNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 - any other is what this looks for
            wrong.append(f"{type(error).__name__}: {error}")
            break
        reads += 1
        seen = set(table.column("round").to_pylist())
        if table.num_rows != rows or len(seen) != 1:
            wrong.append(f"{table.num_rows} rows of the rounds {sorted(seen)}")
        if table.column("response").to_pylist() != table.column("text").to_pylist():
            wrong.append(f"answers in round {sorted(seen)} are not those of their rows")
        rounds |= seen
    print(json.dumps({"reads": reads, "rounds": sorted(rounds), "wrong": wrong}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
